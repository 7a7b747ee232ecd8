"""Ends the steps of a record with its answer, where the rewards look for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from covt_data.records.parsed_record import ParsedStep

CONCLUSION = re.compile(
    r"(?:^|[\n.!?:;,*\s])(?:so\s|thus,?\s|therefore,?\s|hence,?\s)?(?:the\s+)?(?:final\s+|correct\s+)*answer\s*(?:is|:|=)"
    r"\s*:?\s*(?P<answer>.+)$",
    re.IGNORECASE,
)

LETTER = re.compile(r"\(?([a-z])\)?[.:]?(?:\s+(.+))?")


def end_with_answer(steps: Sequence[ParsedStep], answer: str, options: Sequence[str] = ()) -> tuple[ParsedStep, ...]:
    r"""Return the steps with `\boxed{answer}` as their last text.

    Steps that hold a box are returned as they are. A last line that says `The final answer is: 70°` gets the box around
    the answer instead of a second answer behind it.

    Args:
        steps: the steps.
        answer: the gold answer.
        options: the options that a letter in the last line may stand for.
    """
    if not steps or any("\\boxed{" in (step.text or "") for step in steps):
        return tuple(steps)
    boxed = f"\\boxed{{{answer}}}"
    text = steps[-1].text
    if text is not None:
        body, newline, last = text.rstrip().rpartition("\n")
        found = CONCLUSION.search(last)
        if found and _same(found.group("answer"), answer, options):
            return (*steps[:-1], ParsedStep(f"{body}{newline}{last[: found.start('answer')]}{boxed}"))
    return (*steps, ParsedStep(boxed))


def find_conclusion(text: str) -> str | None:
    """Return what the last line of a text says the answer is, or None."""
    found = CONCLUSION.search(text.rstrip().rpartition("\n")[2])
    return found.group("answer").strip(" .*$`\"'") or None if found else None


def _same(said: str, answer: str, options: Sequence[str]) -> bool:
    """Whether two texts say the same answer: in the same words, with its letter before it, or by the letter alone."""
    return _plain(said) == _plain(answer) or _content(said, options) == _content(answer, options)


def _content(text: str, options: Sequence[str]) -> str:
    """Return what an answer says without its letter; a letter alone stands for its option."""
    plain = _plain(text)
    lettered = LETTER.fullmatch(plain)
    if lettered is None:
        return plain
    number = ord(lettered.group(1)) - ord("a")
    if lettered.group(2) is None and number >= len(options):
        return plain
    return _plain(lettered.group(2) or options[number])


def _plain(text: str) -> str:
    return text.strip(" .*$`\"'°").casefold()
