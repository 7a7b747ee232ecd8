"""Finds the options that are written into a question: `(A) cat (B) dog`, or `A. cat` and `B. dog` on lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MARKER = re.compile(
    r"""(?:^|(?<=\s)|(?<=[)>:：.;?!,，。？；])|(?=[（【]))
    (?:[-*•]\ +)?(?:\*\*)?
    (?P<open>[(\[（【])?(?P<letter>[A-Za-zＡ-Ｚ])(?P<close>[)\]）】.．:：、])(?:\*\*)?""",
    re.VERBOSE | re.MULTILINE,
)
NO_SPACE_AFTER = ")]）】．：、"
"""Marks behind a letter that need no space after them; `.` and `:` need one unless they begin a line."""

OPENERS = "\n?:.;!,)>：。？；，"
"""What may stand before the first option on its line."""

_ASKING = (
    r"(?:Please|Answer|Choose|Select|Pick|Give|Respond|Reply|Output|Write|Put|Think|Explain|Show|Hint|Note"
    r"|Your (?:answer|response)|You (?:must|should)|Only (?:give|answer|respond|output))\b"
)
INSTRUCTION = re.compile(
    rf"(?<=[.?!。;])\s*\(?{_ASKING}.*$|(?<=\S)\s+\(?{_ASKING}(?=[:\s]+\S+\s+\S).*$|(?<=\S)\s*请.*$"
)
"""A sentence behind the last option, on the same line, that asks for something."""


MAX_CHARACTERS = 20_000
"""Characters from the end of a question in which options are looked for, so that no question takes long."""

MAX_MARKERS = 200


@dataclass(frozen=True)
class _Marker:
    letter: str
    style: tuple[str, str]
    start: int
    end: int
    line: int
    at_line_start: bool
    opens: bool


def find_options(question: str) -> tuple[str, ...]:
    """Return the options at the end of a question, lettered A, B, … without a gap; empty when there are none.

    The last option ends with its line, so that a sentence on the next line is not part of it.
    """
    question = question[-MAX_CHARACTERS:]
    run = _last_run(_markers(question)[-MAX_MARKERS:])
    if len(run) < 2:
        return ()
    ends = [marker.start for marker in run[1:]]
    texts = [_text(question[marker.end : end]) for marker, end in zip(run, ends, strict=False)]
    last = question[run[-1].end :].strip().partition("\n")[0]
    texts.append(_text(INSTRUCTION.sub("", last)))
    return tuple(texts) if all(texts) else ()


def _text(part: str) -> str:
    """Return the text of an option up to a blank line, without Markdown around it."""
    text = re.split(r"\n\s*\n", part.strip(), maxsplit=1)[0].strip()
    text = re.sub(r"\s{0,8}[;；,，]?\s{0,8}(?:\b(?:or|and))?$", "", text)
    return text.removesuffix("**").strip() if text.count("**") == 1 else text


def _markers(question: str) -> list[_Marker]:
    found: list[_Marker] = []
    for match in MARKER.finditer(question):
        before = question[: match.start()].rstrip(" \t")
        at_line_start = not before or before.endswith("\n")
        letter = match.group("letter")
        small = letter.islower()
        if small and not at_line_start:
            continue
        if match.group("open") is None and match.group("close") in "]】）":
            continue
        spaced = not question[match.end() : match.end() + 1].strip()
        if not spaced and not at_line_start and match.group("close") not in NO_SPACE_AFTER:
            continue
        style = (match.group("open") or "", match.group("close") + ("a" if small else ""))
        line = question.count("\n", 0, match.start("letter"))
        opens = at_line_start or before[-1] in OPENERS
        found.append(_Marker(_capital(letter), style, match.start(), match.end(), line, at_line_start, opens))
    return found


def _capital(letter: str) -> str:
    return chr(ord(letter) - ord("Ａ") + ord("A")) if letter >= "Ａ" else letter.upper()


def _last_run(markers: Sequence[_Marker]) -> list[_Marker]:
    """Return the last run of markers A, B, C, … of one style; empty when a later marker shows a gap in it."""
    best: list[_Marker] = []
    for first, marker in enumerate(markers):
        if marker.letter != "A" or not marker.opens:
            continue
        run = [marker]
        for later in markers[first + 1 :]:
            if _continues(run, later) and ord(later.letter) == ord(run[-1].letter) + 1:
                run.append(later)
        if len(run) > 1:
            best = run
    gap = bool(best) and any(later.start > best[-1].start and _continues(best, later) for later in markers)
    return [] if gap else best


def _continues(run: Sequence[_Marker], later: _Marker) -> bool:
    """Whether a marker stands where an option of the run may begin: on a line of its own, or on the last one's line."""
    last = run[-1]
    return later.style == last.style and (later.at_line_start or later.line == last.line)
