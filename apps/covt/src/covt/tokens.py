"""Counting tokens for the data commands, with the tokenizer of a model folder or hub id."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from covt.error_lines import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenCounter:
    """Callable text → number of tokens. Goes to worker processes, each of which loads the tokenizer once."""

    name: str

    def __call__(self, text: str) -> int:
        return len(_load(self.name).encode(text, add_special_tokens=False))


@lru_cache(maxsize=1)
def _load(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"no tokenizer can be loaded from {name!r}: {reason}", "give the folder or hub id of a model"
        ) from None


def token_counter(name: str) -> TokenCounter | None:
    """The counter of a tokenizer, loaded now so that a wrong name is noticed at once; None without a name."""
    if not name:
        return None
    _load(name)
    return TokenCounter(name)
