"""The record of one graded answer, and the JSON lines that evaluations write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from covt_rollout.client.completions import Spans


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One graded answer: a line of `eval/<label>.<mode>.jsonl`.

    Attributes:
        id: the row's id.
        gold: the expected answer.
        answer: the final answer read from the text; empty when there is none.
        correct: the score, 1 or 0, or a fraction where the grader gives partial credit.
        text: the completion with its latent tokens, but without other special tokens.
        token_ids: the completion's ids.
        latent_spans: half-open ranges of pads in `token_ids`.
        finish_reason: `stop` or `length`.
        meta: the row's metadata.
        category: the row's category.
        sample: index among the row's samples.
        prompt_tokens: length of the expanded prompt.
        seconds: from request to answer; None for continuations, which are not timed.
        judges: scores under other rules, by name.
    """

    id: str
    gold: str
    answer: str
    correct: float
    text: str
    token_ids: tuple[int, ...]
    latent_spans: Spans
    finish_reason: str
    meta: Mapping[str, Any]
    category: str | None = None
    sample: int = 0
    prompt_tokens: int = 0
    seconds: float | None = None
    judges: Mapping[str, float] = field(default_factory=dict[str, float])


def to_line(row: EvalRow) -> str:
    """Format the row as a line of JSON."""
    record = asdict(row)
    record["correct"] = int(row.correct) if row.correct in (0, 1) else row.correct
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_rows(rows: Sequence[EvalRow], path: Path) -> None:
    """Write one JSON object per line; the file is either complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w") as file:
            file.writelines(to_line(row) for row in rows)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
