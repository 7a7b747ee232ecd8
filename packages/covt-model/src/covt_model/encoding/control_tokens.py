"""Control tokens of a tokenizer, which must not come from a row's text.

A tokenizer parses `<|im_end|>` in plain text as the token that ends a turn, and `<|latent_pad|>` as a latent. Training
on such a row would teach something else than the row says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from covt_data.schema import Row


class ControlTokens:
    """The special tokens of a Transformers tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._pattern = re.compile("|".join(map(re.escape, names))) if names else None

    def check_prompt(self, row: Row) -> None:
        """Check what a prompt is rendered from.

        Raises:
            ModelError: naming the row, the place and the token.
        """
        self._check(row.id, "the question", row.question)
        for number, option in enumerate(row.options):
            self._check(row.id, f"option {number}", option)

    def check_steps(self, row: Row) -> None:
        """Check the text of the reasoning steps.

        Raises:
            ModelError: naming the row, the place and the token.
        """
        for number, step in enumerate(row.steps):
            self._check(row.id, f"step {number}", step.text or "")

    def _check(self, row_id: str, place: str, text: str) -> None:
        found = self._pattern.search(text) if self._pattern else None
        if found:
            raise ModelError(
                f"row {row_id}: {place} contains the control token {found[0]}",
                "prepare the data again without such rows, or with other text there",
            )
