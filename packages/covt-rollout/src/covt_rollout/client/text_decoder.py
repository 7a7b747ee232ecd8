"""Token ids to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from covt_rollout.rollout_errors import RolloutError

Decode = Callable[[Sequence[int]], str]


def read_decoder(checkpoint: Path | str) -> Decode:
    """A function from ids to text without special tokens, by the checkpoint's tokenizer.json."""
    from tokenizers import Tokenizer

    path = Path(checkpoint) / "tokenizer.json"
    if not path.is_file():
        raise RolloutError(f"{path} is missing", "export the checkpoint again, with its tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)
