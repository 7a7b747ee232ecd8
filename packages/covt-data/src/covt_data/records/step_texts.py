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
    """Whether a text says the answer: in the same words, with its letter before it, or by the letter alone."""
    plain = _plain(said)
    lettered = LETTER.fullmatch(plain)
    if plain == _plain(answer) or lettered is None:
        return plain == _plain(answer)
    number = ord(lettered.group(1)) - ord("a")
    content = lettered.group(2) or (options[number] if number < len(options) else "")
    return bool(content) and _plain(content) == _plain(answer)


def _plain(text: str) -> str:
    return text.strip(" .*$`\"'").casefold()
