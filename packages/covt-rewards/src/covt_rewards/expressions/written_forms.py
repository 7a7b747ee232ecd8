"""Answers that are compared as they are written, or lose words around them before they are read as mathematics."""

from __future__ import annotations

import re
from collections.abc import Callable

from covt_rewards.answer_sentences import strip_sentence
from covt_rewards.expressions.constants import read_constant
from covt_rewards.expressions.latex import compact
from covt_rewards.expressions.quantities import read_quantity
from covt_rewards.expressions.units import read_unit

MAX_CHARACTERS = 400

_NAME = r"(?:m\s?)?(?:\\angle\s?|∠\s?|\\triangle\s?|\\vec\s?\{?)?[A-Za-z]{1,12}\}?(?:_\{?\w{1,3}\}?)?(?:\([a-z]\))?"
_NAME_IS = re.compile(rf"^\s*\$?({_NAME})\s?(?:=|≈|\\approx)\s?(?=\S)")
_POINT = re.compile(r"^\s*[A-Z]'?\s?=?\s?(?=(?:\\left)?\()")
_REMARK = re.compile(
    r"\s{0,4}(?:,\s{0,4})?(?:\\text\{)?\s{0,4}[,(]?\s{0,4}(?:for (?:any|all|some|every|each)|where|with"
    r"|in total|respectively)"
    r"(?![A-Za-z]).{0,200}$",
    re.DOTALL,
)
_DECIMAL_COMMA = re.compile(r"-?(?:\d{1,9},(?:\d{1,2}|\d{4,9})|0,\d{1,9}|\d{1,3}(?:\.\d{3})+,\d{1,9})")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_GROUPS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PARENTHESES = re.compile(r"\(\s?(-?[\d.,/]{1,20})\s?\)")
_Y_IS = re.compile(r"\s*y\s?=")
_F_IS = re.compile(r"^\s*[fg]\(x\)\s?=")
_DOTS = re.compile(r"\\(?:ldots|dots|cdots|dotsc|dotsb)(?![a-z])|…|\.\.\.")
_ANGLE = re.compile(r"\\angle\s?\{?([A-Z]{1,3})\}?|∠\s?([A-Z]{1,3})")
_AT_LEAST = re.compile(
    r"(?:\\[gl]eq?(?:slant)?(?![a-z])|[<>≤≥]=?|\b(?:at least|at most|more than|less than|fewer than"
    r"|greater than|over|under"
    r"|up to|no more than|no less than|between|above|below|minimum|maximum)\b)\s?\S.*|not\s\S{1,20}",
    re.IGNORECASE,
)
_BOUNDED = re.compile(
    r".{1,40}(?:\b(?:or|and) (?:more|less|fewer|greater|above|below|up)\b|\+\s*$|\bto\b.{1,40})", re.IGNORECASE
)
_ASSIGNMENT = re.compile(r"\s*([A-Za-z])\s*=\s*([^=]{1,40}?)\s*")
_LIST = re.compile(r"\s*(?:,|;|\band\b|\\text\s?\{\s*and\s*\})\s*")
_ORDINAL = re.compile(r"\d{1,9}\s?(?:st|nd|rd|th)", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def simplify_answer(answer: str, gold: str) -> str:
    """Remove a sentence, a name, a remark or a decimal comma that the gold answer doesn't have.

    Args:
        answer: the final answer without its marker.
        gold: the gold answer as written.
    """
    answer = answer.replace("{,}", ",")
    if len(answer) > MAX_CHARACTERS or _PLAIN_NUMBER.fullmatch(answer):
        return _read_decimal_comma(answer, gold) if "," in answer else answer
    answer = answer.strip()
    is_bare = answer.startswith(("\\", "$", "-", "(", "{", "[")) or answer[:1].isdigit()
    if not is_bare or " is " in answer:
        answer = strip_sentence(answer)
    if _Y_IS.match(gold):
        answer = _F_IS.sub("y=", answer, count=1)
    signs = answer.count("=") + answer.count("≈") + answer.count("\\approx")
    if "=" not in gold and signs == 1 and "," not in _GROUPS.sub("", answer.replace("\\,", "")):
        answer = _NAME_IS.sub("", answer, count=1)
    if gold.startswith("(") and _POINT.match(answer) and not _POINT.match(gold):
        answer = _POINT.sub("", answer, count=1)
    if not _REMARK.search(gold):
        answer = _REMARK.sub("", answer)
    if match := _PARENTHESES.fullmatch(answer):
        inner = match.group(1)
        answer = inner if "(" not in gold and "," not in inner else answer
    return _read_decimal_comma(answer, gold)


def _read_decimal_comma(answer: str, gold: str) -> str:
    """Read `1,22` as 1.22 where the gold answer is one number; a comma that may mark thousands stays."""
    plain = answer.strip(" $.")
    is_list = "," in gold and not _THOUSANDS.fullmatch(gold.strip(" $"))
    if is_list or not _DECIMAL_COMMA.fullmatch(plain) or read_quantity(gold) is None:
        return answer
    return plain.replace(".", "").replace(",", ".")


def compare_written_forms(gold: str, answer: str) -> bool | None:
    """Compare answers that algebra would misread; None where neither is one of them."""
    if len(gold) > MAX_CHARACTERS or len(answer) > MAX_CHARACTERS:
        return None
    for compare in _COMPARISONS:
        found = compare(gold, answer)
        if found is not None:
            return found
    return None


def _compare_with_dots(gold: str, answer: str) -> bool | None:
    r"""A sequence with `\ldots` is as it is written: algebra would read its first term."""
    if not _DOTS.search(gold):
        return None
    a, b = (compact(_DOTS.sub("...", text)) for text in (gold, answer))
    return a.replace("{...}", "...") == b.replace("{...}", "...")


def _compare_angles(gold: str, answer: str) -> bool | None:
    r"""`\angle ABC` is `\angle CBA` and not `\angle BAC`."""
    a, b = _ANGLE.fullmatch(gold.strip(" $")), _ANGLE.fullmatch(answer.strip(" $"))
    if a is None or b is None:
        return None
    x, y = a.group(1) or a.group(2), b.group(1) or b.group(2)
    return y in (x, x[::-1])


def _compare_bounds(gold: str, answer: str) -> bool | None:
    """A bound, a range or an ordinal, `at least 5`, `5 to 6`, `5th`, is no number."""
    if not _PLAIN_NUMBER.fullmatch(gold.strip(" $")):
        return None
    plain = answer.strip(" $")
    is_other = any(pattern.fullmatch(plain) for pattern in (_AT_LEAST, _BOUNDED, _ORDINAL))
    return False if is_other else None


def _compare_numbers_apart(gold: str, answer: str) -> bool | None:
    """`1 2` is not 12."""
    return (
        False
        if re.fullmatch(r"\d{1,6}(?: \d{1,6})+", answer) and not re.fullmatch(r"\d{1,3}(?: \d{3})+", answer)
        else None
    )


def _compare_variables(gold: str, answer: str) -> bool | None:
    """`x2` is `x_2` and no product; `5ab` is not 5."""
    plain, wanted = (re.sub(r"[\s_{}$]", "", text) for text in (answer, gold))
    if re.fullmatch(r"[A-Za-z]\d{1,3}", plain):
        return plain == wanted
    if (
        _PLAIN_NUMBER.fullmatch(wanted)
        and re.fullmatch(r"\d{1,9}[a-z]{2}", plain)
        and not read_unit(plain.lstrip("0123456789"))
    ):
        return False
    return None


def _order_by_name(text: str) -> str:
    """Order `y=1, x=2` as `x=2,y=1`, for a point as the gold answer."""
    return ",".join(sorted(part.strip() for part in _LIST.split(text.strip(" $"))))


def _compare_assignments(gold: str, answer: str) -> bool | None:
    """`x=1, y=2` is `1, 2` and `(1, 2)` and not `2, 1`: values without names stand in the order of the names."""
    if "=" in answer and "=" not in gold:
        gold, answer = _order_by_name(answer), gold
    wanted = [_ASSIGNMENT.fullmatch(part) for part in _LIST.split(gold.strip(" $"))]
    names = [match.group(1) for match in wanted if match]
    if len(wanted) < 2 or None in wanted or len(set(names)) < len(names) or "=" in answer:
        return None
    values = [read_constant(match.group(2)) for match in wanted if match]
    given = [read_constant(part) for part in _LIST.split(answer.strip(" $").strip("()"))]
    if None in values or None in given:
        return None
    return values == given


_COMPARISONS: tuple[Callable[[str, str], bool | None], ...] = (
    _compare_with_dots,
    _compare_angles,
    _compare_bounds,
    _compare_numbers_apart,
    _compare_variables,
    _compare_assignments,
)
