"""A faster `math_verify.parse`: skips patterns that cannot match.

math-verify searches a text with a dozen patterns, most of which need the word "answer", a `\\boxed` or other LaTeX in
it. On a long completion without them, this search is most of the work.
"""

# Imported in worker processes only; math-verify ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import re
from functools import cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig
from math_verify.parser import extract_target_from_pred, get_extraction_regexes

Targets = list[tuple[list[tuple[re.Pattern[str], int]], Any]]
_NEEDED = {"(?i:answer)": "answer", "(?i:final answer": "answer", "boxed": "boxed"}


def extract(text: str) -> list[Any]:
    """Return the same list as `math_verify.parse(text)`, without its timer; raises what math-verify raises."""
    folded = text.casefold()
    has_latex = "$" in text or "\\" in text or "[" in text  # every LaTeX pattern begins with one of these
    targets = _find_targets("answer" in folded, "boxed" in text, has_latex)
    return extract_target_from_pred(text, targets, fallback_mode="first_match", extraction_mode="any_match")


@cache
def _find_targets(has_answer: bool, has_boxed: bool, has_latex: bool) -> Targets:
    absent = {word for word, there in (("answer", has_answer), ("boxed", has_boxed)) if not there}
    configs = [*([LatexExtractionConfig()] if has_latex else []), ExprExtractionConfig()]
    return [
        ([(pattern, rank) for pattern, rank in patterns if not _find_needed_words(pattern) & absent], config)
        for patterns, config in get_extraction_regexes(configs)
    ]


def _find_needed_words(pattern: re.Pattern[str]) -> set[str]:
    """Return the words without which one of math-verify's patterns cannot match."""
    return {word for part, word in _NEEDED.items() if part in pattern.pattern}
