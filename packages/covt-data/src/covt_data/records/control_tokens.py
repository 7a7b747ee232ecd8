"""Control tokens of chat templates and latent segments, which texts of a dataset may not hold.

A tokenizer reads `<|im_end|>` in a text as the end of a turn and `<|image_pad|>` as the place of an image, so that such
a row trains something else than its text says. Texts sampled from a latent model hold its latent markers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from covt_data.records.parsed_record import ParsedRecord
    from covt_data.schema import Row

# As tokenizers spell them. One letter would be mathematics: `<|x|>`.
CONTROL_TOKEN = re.compile(r"<[|｜][A-Za-z][A-Za-z0-9_▁-]{1,60}[|｜]>")


def find_control_token(text: str) -> str | None:
    """Return the first control token in a text, or None."""
    found = CONTROL_TOKEN.search(text) if "<" in text else None
    return found.group() if found else None


def row_texts(row: Row | ParsedRecord) -> Iterator[tuple[str, str]]:
    """Yield the texts of a row that a tokenizer reads, each with the name of its field."""
    yield "question", row.question
    yield "answer", row.answer
    for number, option in enumerate(row.options):
        yield f"options[{number}]", option
    for number, step in enumerate(row.steps):
        if step.text is not None:
            yield f"step {number}", step.text
