"""Loading and preparing checkpoints: stock Hugging Face folders with latent settings in their config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from covt_model.checkpoints.hf_folder import NOT_COPIED, SourceWeights, write_shards
from covt_model.decoder.layered_decoder import check_attention
from covt_model.encoding.latent_tokens import add_latent_tokens, initialize_rows, rows_needed
from covt_model.families import find_family
from covt_model.latent_config import KEY, LatentConfig, read_config
from covt_model.latents.heads import attach_head, build_head, save_head

if TYPE_CHECKING:
    from covt_model.decoder.model_types import VisionLanguageModel


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keep Transformers' loading and saving bars off the terminal, which belongs to our own progress display."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(
    checkpoint: Path | str, *, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> VisionLanguageModel:
    """The checkpoint's model in evaluation mode, with the weights of its latent head where it has one.

    attention: `sdpa`, or `flash_attention_2` on a GPU in bf16. Raises ModelError when it is another architecture.
    """
    config = read_config(checkpoint)
    family = find_family(config, checkpoint)
    check_attention(attention, dtype)
    with quiet_progress():
        model = family.model_class().from_pretrained(str(checkpoint), dtype=dtype, attn_implementation=attention).eval()
    if KEY in config:
        attach_head(model, checkpoint, LatentConfig.from_dict(config[KEY]))
    return model


def prepare_checkpoint(
    source: Path | str,
    out: Path | str,
    *,
    size: int = 8,
    head: str = "identity",
    normalize: str = "none",
    seed: int = 0,
) -> Path:
    """Write a copy of a published checkpoint with the three latent tokens and latent settings to `out`.

    The tokens take free rows of the embedding where there are any, as in every published size; only otherwise the
    vocabulary grows. Their rows are drawn near the mean of the others. Weights are copied a tensor at a time.
    """
    from transformers import AutoTokenizer

    out, config = Path(out), read_config(source)
    family = find_family(config, source)
    weights = SourceWeights(source)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in Path(source).iterdir():
            if file.is_file() and not NOT_COPIED.match(file.name):
                shutil.copyfile(file, partial / file.name)
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        used = len(tokenizer)
        ids = add_latent_tokens(tokenizer)
        tokenizer.save_pretrained(partial)
        rows = rows_needed(weights.read(family.vocabulary_weights[0]).shape[0], len(tokenizer))

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for name in weights.names():
                tensor = weights.read(name)
                if name in family.vocabulary_weights:
                    tensor = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])])
                    initialize_rows(tensor, ids, used, torch.Generator().manual_seed(seed))
                yield name, tensor

        write_shards(tensors(), partial, weights.names())
        text = config.get("text_config") or config
        text["vocab_size"] = rows
        if (weighted := build_head(head, text["hidden_size"], seed)) is not None:
            save_head(partial, weighted.state_dict())
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        LatentConfig(
            start_id=ids.start, pad_id=ids.pad, end_id=ids.end, size=size, head=head, normalize=normalize
        ).write(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out
