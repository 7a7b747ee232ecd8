r"""Reading the final answer from a completion: the only reader, for every grader and for `format`.

A final answer is a well-formed `\boxed{…}` with balanced braces or an `<answer>…</answer>` tag; the last of several
counts. Texts without either are read leniently: first the phrase "the answer is …", then a text that is nothing but one
short line. Every search is linear in the text, so that a hostile completion cannot take long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Only what a tokenizer writes for a special token; `<|x|>` inside mathematics has no letters-only run of this shape.
_SPECIAL = re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{0,40}\|>")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(
    r"(?:final\s{1,4}answer|answer|option|choice)\s{0,4}(?:is|are|(?:would|should|must|will)\s{1,4}be|=|:|：)\s{0,4}:?\s{0,4}"
    r"(?=([^\n]{1,400}))|(?:答案|结果)(?:应该|应)?(?:是|为|：|:)\s{0,4}[:：]?\s{0,4}(?=([^\n]{1,400}))",
    re.IGNORECASE,
)
_END_OF_SENTENCE = re.compile(r"[.;!?](?=\s|$)|。")
_END_OF_THINKING = "</think>"
_POINTS_BACK = re.compile(r"\b(?:above|box|boxed|shown|given|earlier|same)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,15})?(?![\d/^.,]\d|[/^])")
_LETTER = re.compile(r"[(\[]?([A-Z])[)\]]?")
_HEDGED = re.compile(r"round|approx|about|nearest|roughly|≈|\bif\b|\bnot\b", re.IGNORECASE)
MAX_LINE_CHARACTERS = 100
"""A text of one line up to this length is an answer by itself."""
MAX_CHARACTERS = 400_000
"""Characters read for marked answers: far more than models write, read in a fraction of a second."""
MAX_TAIL_CHARACTERS = 20_000
"""Characters read from the end for answers without a marker."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One marked answer.

    Attributes:
        kind: `boxed` or `tag`.
        start, end: half-open range of the answer in the text, markers included.
        content: the text between the markers.
    """

    kind: str
    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    r"""The answer read from a completion.

    Attributes:
        text: the answer without its markers, stripped; empty when there is none.
        kind: how it was found: `boxed`, `tag`, `phrase`, `line` or `none`; `open` when the text ends inside a later
            `\boxed{` or `<answer>`.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class MarkedAnswers:
    """All marked answers of a text, in order.

    Attributes:
        candidates: the answers.
        problems: markers that were left open, in words.
    """

    candidates: tuple[Candidate, ...]
    problems: tuple[str, ...] = field(default=())


def strip_special_tokens(text: str) -> str:
    """Remove `<|…|>` tokens, which servers that keep special tokens write into the text."""
    return _SPECIAL.sub("", text) if "<|" in text else text


def find_boxed(text: str) -> tuple[list[Candidate], int]:
    r"""Find all outermost well-formed `\boxed{…}` and `\fbox{…}`, and count those that are never closed."""
    if "boxed" not in text and "fbox" not in text:
        return [], 0
    open_braces: list[tuple[bool, int, int]] = []
    found: list[Candidate] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append((False, match.start(), match.end()))
        elif token == "}":
            if open_braces:
                is_box, start, inner = open_braces.pop()
                if is_box:
                    while found and found[-1].start > start:  # nested boxes belong to this box's content
                        found.pop()
                    found.append(Candidate("boxed", start, match.end(), text[inner : match.start()]))
        elif token.endswith("{") and len(token) > 2:
            open_braces.append((True, match.start(), match.end()))
    return found, sum(is_box for is_box, _, _ in open_braces)


def find_tags(text: str) -> tuple[list[Candidate], int]:
    """Find all `<answer>…</answer>` pairs, and count the tags without a partner."""
    found: list[Candidate] = []
    opened: re.Match[str] | None = None
    strays = 0
    for match in _TAG.finditer(text):
        if not match.group(1):
            strays += opened is not None
            opened = match
        elif opened is None:
            strays += 1
        else:
            found.append(Candidate("tag", opened.start(), match.end(), text[opened.end() : match.start()]))
            opened = None
    return found, strays + (opened is not None)


def first_tag(text: str) -> str | None:
    """Return the content of the first `<answer>…</answer>`, or None. Linear in the text, unlike a regex."""
    start = text.find("<answer>")
    end = text.find("</answer>", start + len("<answer>")) if start >= 0 else -1
    return text[start + len("<answer>") : end] if end >= 0 else None


def marked_answers(text: str) -> MarkedAnswers:
    r"""Find all marked answers; a `\boxed{…}` inside an `<answer>` tag is part of the tag and not counted again.

    Only the end of a text beyond `MAX_CHARACTERS` is read, which is reported as a problem.
    """
    if len(text) > MAX_CHARACTERS:
        found = marked_answers(text[-MAX_CHARACTERS:])
        return MarkedAnswers(found.candidates, (f"longer than {MAX_CHARACTERS} characters", *found.problems))
    tags, open_tags = find_tags(text)
    boxes, open_boxes = find_boxed(text)
    outside: list[Candidate] = []
    i = 0
    for box in boxes:  # both lists are ordered by position, so one sweep finds the boxes inside tags
        while i < len(tags) and tags[i].end < box.end:
            i += 1
        if i == len(tags) or tags[i].start > box.start:
            outside.append(box)
    problems: list[str] = []
    if open_boxes:
        problems.append(f"{open_boxes} \\boxed{{ without its closing brace")
    if open_tags:
        problems.append(f"{open_tags} <answer> or </answer> without its partner")
    return MarkedAnswers(tuple(sorted([*tags, *outside], key=lambda found: found.end)), tuple(problems))


def _unwrap(content: str) -> str:
    r"""Return the content of the innermost last `\boxed{…}`, if any: `<answer>\boxed{3}</answer>` answers 3."""
    for _ in range(8):
        boxes, _ = find_boxed(content)
        if not boxes:
            break
        content = boxes[-1].content
    return content.strip()


def unwrap_gold(gold: str) -> str:
    r"""Remove the one `\boxed{…}` or `<answer>…</answer>` around a gold answer, which many datasets write."""
    marked = marked_answers(gold)
    if len(marked.candidates) != 1 or marked.problems:
        return gold
    return _unwrap(marked.candidates[0].content) or gold


def _is_withdrawn(rest: str) -> bool:
    r"""Whether the text behind the last whole answer ends where another one begins: `\boxed{5}. No, it is \boxed{`."""
    return rest.rstrip().endswith(("\\boxed{", "<answer>"))


def text_after_answer(text: str) -> str:
    """Return what stands behind the last marked answer, without special tokens."""
    text = strip_special_tokens(text[-MAX_CHARACTERS:])
    marked = marked_answers(text).candidates
    return text[marked[-1].end :] if marked else text


def final_answer(text: str, lenient: bool = True) -> FinalAnswer:
    r"""Read the final answer of a completion.

    Args:
        text: the completion; special tokens in it are ignored.
        lenient: also accept "the answer is …" and a text that is one short line. What follows `</think>` then counts
            before the thinking, and a sentence with a number before another number in an earlier `\boxed{…}`.

    Returns:
        The answer and how it was found; `kind` is `none` when there is no answer.
    """
    text = strip_special_tokens(text[-MAX_CHARACTERS:])
    thinking = text.lower().rfind(_END_OF_THINKING) if lenient else -1
    if thinking >= 0:
        found = _read_final_answer(text[thinking + len(_END_OF_THINKING) :], lenient)
        is_line = found.kind == "line" and not marked_answers(text[:thinking]).candidates
        if is_line or _stands_alone(found):
            return found
    return _read_final_answer(text, lenient)


def _stands_alone(found: FinalAnswer) -> bool:
    """Whether an answer behind the thinking is one, and no remark such as "Done." or "the answer is given above"."""
    if found.kind == "line":
        bare = found.text.strip(" .$*()`")
        return " " not in bare and (len(bare) == 1 or any(character.isdigit() for character in bare))
    return found.kind != "none" and not (found.kind == "phrase" and _POINTS_BACK.search(found.text))


def _read_final_answer(text: str, lenient: bool) -> FinalAnswer:
    marked = marked_answers(text).candidates
    if marked:
        content, rest = _unwrap(marked[-1].content), text[marked[-1].end :]
        if _is_withdrawn(rest):
            return FinalAnswer("", "open")
        if lenient and (corrected := _correction(content, rest[-MAX_TAIL_CHARACTERS:])):
            return corrected
        return FinalAnswer(content, marked[-1].kind)
    if lenient:
        tail = text[-MAX_TAIL_CHARACTERS:]
        if phrase := _last_phrase(tail):
            return FinalAnswer(phrase, "phrase")
        line = tail.strip()
        if line and len(line) <= MAX_LINE_CHARACTERS and "\n" not in line and len(text) <= MAX_TAIL_CHARACTERS:
            return FinalAnswer(line, "line")
    return FinalAnswer("", "none")


def _last_phrase(text: str) -> str | None:
    """What follows the last "the answer is", up to the end of the sentence; None without such a phrase."""
    phrases = _PHRASE.findall(text)
    if not phrases:
        return None
    return _END_OF_SENTENCE.split("".join(phrases[-1]).strip(), maxsplit=1)[0].strip(" \t*_")


def _correction(content: str, rest: str) -> FinalAnswer | None:
    """The answer of a sentence behind a box that names another number or letter; a rounded one corrects nothing."""
    phrase = None if _HEDGED.search(rest) else _last_phrase(rest)
    if not phrase:
        return None
    letters = [_LETTER.fullmatch(each.strip()) for each in (content, phrase)]
    if letters[0] and letters[1]:
        return FinalAnswer(phrase, "phrase") if letters[0][1] != letters[1][1] else None
    boxed, named = _NUMBER.fullmatch(content.strip(" $")), _NUMBER.match(phrase.lstrip("$* "))
    if boxed is None or named is None:
        return None
    values = [float(number.group().replace(",", "")) for number in (boxed, named)]
    return FinalAnswer(phrase, "phrase") if values[0] != values[1] else None
