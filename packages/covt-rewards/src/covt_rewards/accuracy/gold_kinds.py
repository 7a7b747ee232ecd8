"""What a gold answer is judged as: the one rule that data preparation, scoring, adapters and trainings share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from covt_rewards.accuracy.options.option_letters import looks_like_letters
from covt_rewards.accuracy.options.option_reading import read_options
from covt_rewards.answers import unwrap_gold
from covt_rewards.expressions.labels import is_label, is_words

_BOXES = re.compile(r"\s*\[?\s*[\[{].*(?:bbox|point)", re.DOTALL)


def choose_grader(
    answer: str, options: Sequence[str] = (), metadata: Mapping[str, object] | None = None, grader: str = ""
) -> str:
    r"""Choose the grader of a gold answer: `choice`, `vsp`, `boxes`, `text` or `math`.

    - `choice` when there are options and the answer names one or several of them (`B`, `(B) dog`, `Option B`, `Dog`,
      `A,C`, `\boxed{\text{B}}`) or is a letter beyond them, which
      `AccuracyReward.check_gold` refuses; without options for a capital letter;
    - `vsp` with a map in the metadata, `boxes` for JSON of boxes or points;
    - `text` for words, labels, dates, ranges, versions and addresses; `math` for everything else.

    Args:
        answer: the gold answer, with or without a marker around it.
        options: texts of a multiple-choice question.
        metadata: of the row.
        grader: the grader that the row or the user names. A named `math` or `text` is still `choice` when the answer
            names options, and `math` is still `text` for an answer that is no mathematics.

    Returns:
        A name in `covt_rewards.accuracy.graders.GRADERS`, or the named grader.
    """
    gold = unwrap_gold(answer)
    if grader not in ("", "math", "text"):
        return grader
    if options and (read_options(gold, options) or looks_like_letters(gold)):
        return "choice"
    if grader == "text":
        return grader
    if not grader and "rows" in (metadata or {}):
        return "vsp"
    if not grader and _is_boxes(gold):
        return "boxes"
    if not options and looks_like_letters(gold):
        return "choice"
    return "text" if is_words(gold) or is_label(gold) else "math"


def _is_boxes(gold: str) -> bool:
    if not _BOXES.match(gold):
        return False
    try:
        json.loads(gold)
    except (ValueError, RecursionError):
        return False
    return True
