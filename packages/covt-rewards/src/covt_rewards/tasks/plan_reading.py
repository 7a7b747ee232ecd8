r"""Reading the moves of a plan: `R,U,L`, `RUL`, `→ ↑`, `move right twice, then down`, `1. Right 2. Down`, `2R, D2`."""

from __future__ import annotations

import re

MAX_PLAN_CHARACTERS = 20_000
"""`parse_plan` reads no more of a text than this; the longest published plans have a few dozen moves."""
MAX_MOVES = 10_000
MAX_COUNT = 99

_ARROWS = {"←": "L", "→": "R", "↑": "U", "↓": "D"}
_LATEX_ARROWS = {"\\leftarrow": "←", "\\rightarrow": "→", "\\uparrow": "↑", "\\downarrow": "↓"}
_COMPASS = {"north": "U", "south": "D", "east": "R", "west": "L"}
_COUNTS = {"once": 1, "twice": 2, "thrice": 3}
_WORD_COUNTS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
}  # fmt: skip
_SEPARATORS = re.compile(r"[\s,;.\-\[\](){}\"'`$|<>/+&:*=、，；]*")
_MOVE = re.compile(r"(?:left|right|up|down)(?:wards?)?|(?:north|south|east|west)(?![a-z])|[lrud←→↑↓]", re.IGNORECASE)
_FILLER = re.compile(
    r"(?:and|then|next|first|second|third|finally|lastly|after that|now|again|move|moves|moving|go|goes|going"
    r"|head|walk|to the|by|steps?|cells?|squares?|tiles?|spaces?|times?)(?![a-z])",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"(?:step\s{0,3})?\d{1,3}\s?[.):](?!\d)", re.IGNORECASE)
_COUNT_WORD = re.compile(rf"(once|twice|thrice)(?![a-z])|({'|'.join(_WORD_COUNTS)})(?![a-z])", re.IGNORECASE)
_COUNT_AFTER = re.compile(
    r"(?:\s?[x×]\s?)?(\d{1,2})(?![.):\d]|[lrud](?![a-z]))|\s{0,3}(\d{1,2})(?=\s(?:times?|steps?|cells?|squares?))",
    re.IGNORECASE,
)
_COUNT_BEFORE = re.compile(r"(\d{1,2})\s?[x×]?\s{0,3}(?=(?:steps?|cells?|squares?|times?|[lrud←→↑↓]))", re.IGNORECASE)
_COUNT_WORD_AFTER = re.compile(
    rf"\s{{0,3}}(?:(once|twice|thrice)|(?:for |by )?({'|'.join(_WORD_COUNTS)}) (?:times|steps?|cells?|squares?))"
    r"(?![a-z])(?!\s(?:to the )?(?:left|right|up|down))",
    re.IGNORECASE,
)


def parse_plan(text: str) -> list[str] | None:
    r"""Read the moves of a plan in letters, arrows or words, with counts and numbering.

    Returns:
        Moves as `L`, `R`, `U`, `D`; None when anything but moves and the words around them stands in the text.
    """
    text = text[:MAX_PLAN_CHARACTERS].replace("\\text{", "").replace("}", "").replace("->", " ")
    for command, arrow in _LATEX_ARROWS.items():
        text = text.replace(command, arrow)
    moves: list[str] = []
    position, count = _skip_separators(text, 0), 1
    while position < len(text):
        if match := _NUMBERING.match(text, position) or _FILLER.match(text, position):
            position = _skip_separators(text, match.end())
            continue
        if match := _COUNT_BEFORE.match(text, position):
            count, position = int(match.group(1)), _skip_separators(text, match.end())
            continue
        if match := _COUNT_WORD.match(text, position):
            count = _read_count(match.group(1), match.group(2))
            position = _skip_separators(text, match.end())
            continue
        match = _MOVE.match(text, position)
        if match is None:
            return None
        after, position = _count_after(text, match.end())
        moves += [_read_move(match.group())] * min(count * after, MAX_COUNT)
        if len(moves) > MAX_MOVES:
            return None
        position, count = _skip_separators(text, position), 1
    return moves if count == 1 else None


def _read_move(token: str) -> str:
    return _ARROWS.get(token) or _COMPASS.get(token.lower()) or token[0].upper()


def _read_count(word: str | None, number: str | None) -> int:
    return _COUNTS[word.lower()] if word else _WORD_COUNTS[(number or "one").lower()]


def _count_after(text: str, position: int) -> tuple[int, int]:
    """Read a count behind a move, `R2`, `down x2`, `right twice`; 1 without one. Also the position behind it."""
    if match := _COUNT_WORD_AFTER.match(text, position):
        return _read_count(match.group(1), match.group(2)), match.end()
    if match := _COUNT_AFTER.match(text, position):
        return int(match.group(1) or match.group(2)), match.end()
    return 1, position


def _skip_separators(text: str, position: int) -> int:
    match = _SEPARATORS.match(text, position)
    return position if match is None else match.end()
