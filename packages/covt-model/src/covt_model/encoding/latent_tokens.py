"""The three latent tokens, added without ever shrinking the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from covt_model.model_errors import ModelError

START, PAD, END = "<|latent_start|>", "<|latent_pad|>", "<|latent_end|>"
# Embedding matrices are grown to a multiple of this, so that tensor parallelism divides them.
ROW_MULTIPLE = 64


@dataclass(frozen=True)
class LatentIds:
    """Token ids of the latent markers and of the pad."""

    start: int
    pad: int
    end: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.start, self.pad, self.end))


def add_latent_tokens(tokenizer: Any) -> LatentIds:
    """Add the missing latent tokens to a Transformers tokenizer, as special tokens, and return their ids."""
    from tokenizers import AddedToken

    missing = [token for token in (START, PAD, END) if token not in tokenizer.get_added_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    return latent_ids(tokenizer)


def latent_ids(tokenizer: Any) -> LatentIds:
    """Ids of the latent tokens; raises ModelError when the tokenizer lacks one."""
    vocab = tokenizer.get_added_vocab()
    missing = [token for token in (START, PAD, END) if token not in vocab]
    if missing:
        raise ModelError(f"the tokenizer lacks {', '.join(missing)}", "use a checkpoint made by `covt sft`")
    return LatentIds(vocab[START], vocab[PAD], vocab[END])


def rows_needed(current_rows: int, tokenizer_size: int) -> int:
    """Embedding rows for a tokenizer of this size: the current rows when they suffice, never fewer.

    Published models pad their embedding well past the tokenizer's last id, so the three tokens normally take free rows.
    """
    if tokenizer_size <= current_rows:
        return current_rows
    return -(-tokenizer_size // ROW_MULTIPLE) * ROW_MULTIPLE


@torch.no_grad()
def initialize_rows(weight: torch.Tensor, rows: Iterable[int], used_rows: int, generator: torch.Generator) -> None:
    """Fill the rows of new tokens in an embedding or output matrix in place.

    Free rows of a pretrained matrix were never trained. Each new row is drawn around the mean of the `used_rows` first
    rows with a tenth of their standard deviation: near the data, but told apart.

    Args:
        weight: the matrix [V, H].
        rows: ids of the new tokens.
        used_rows: how many rows were trained.
        generator: source of the random numbers.
    """
    used = weight[:used_rows].float()
    mean, std = used.mean(0), used.std(0)
    for row in rows:
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        weight[row] = (mean + 0.1 * std * noise).to(weight.dtype)
