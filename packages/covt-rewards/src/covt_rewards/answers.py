r"""Where a completion's final answer stands: the one place that decides it, for every grader and for `format`.

A final answer is a well-formed `\boxed{…}` with balanced braces or an `<answer>…</answer>` tag; of several the last
one counts. Texts without either are read leniently: the phrase "the answer is …", then a text that is nothing but a
short line. One pass over the text, so a hostile completion costs time linear in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Only what a tokenizer writes for a special token; `<|x|>` inside mathematics has no letters-only run of this shape.
_SPECIAL = re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{0,40}\|>")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(
    r"(?:final\s{1,4}answer|answer|option|choice)\s{0,4}(?:is|are|=|:|：)\s{0,4}:?\s{0,4}([^\n]{1,400})", re.IGNORECASE
)
_END_OF_SENTENCE = re.compile(r"[.;!?](?=\s|$)|。")
SHORT_LINE = 100
LONGEST = 400_000
"""Characters read for marked answers: far more than models write, read in a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One marked answer: `kind` is `boxed` or `tag`, `start:end` its place in the text, markers included."""

    kind: str
    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The answer read from a completion.

    Attributes:
        text: the answer without its markers, stripped; empty when there is none.
        kind: `boxed`, `tag`, `phrase`, `line` or `none`: how it was found.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class MarkedAnswers:
    """All marked answers of a text in their order, and what was left open."""

    candidates: tuple[Candidate, ...]
    problems: tuple[str, ...] = field(default=())


def strip_special_tokens(text: str) -> str:
    """The text without `<|…|>` tokens, which a server that keeps special tokens writes into it."""
    return _SPECIAL.sub("", text) if "<|" in text else text


def find_boxed(text: str) -> tuple[list[Candidate], int]:
    r"""All outermost well-formed `\boxed{…}` (and `\fbox{…}`), and how many were opened and never closed."""
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
                    while found and found[-1].start > start:  # boxes inside this one belong to its content
                        found.pop()
                    found.append(Candidate("boxed", start, match.end(), text[inner : match.start()]))
        elif token.endswith("{") and len(token) > 2:
            open_braces.append((True, match.start(), match.end()))
    return found, sum(is_box for is_box, _, _ in open_braces)


def find_tags(text: str) -> tuple[list[Candidate], int]:
    """All `<answer>…</answer>` pairs, and how many tags have no partner."""
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
    """What stands in the first `<answer>…</answer>`; None without one. Linear in the text, as a regex is not."""
    start = text.find("<answer>")
    end = text.find("</answer>", start + len("<answer>")) if start >= 0 else -1
    return text[start + len("<answer>") : end] if end >= 0 else None


def marked_answers(text: str) -> MarkedAnswers:
    r"""All marked answers; a `\boxed{…}` inside an `<answer>` tag is that tag's content and not counted again.

    Of a text beyond `LONGEST` characters only the end is read, and that is a problem of its own.
    """
    if len(text) > LONGEST:
        found = marked_answers(text[-LONGEST:])
        return MarkedAnswers(found.candidates, (f"longer than {LONGEST} characters", *found.problems))
    tags, open_tags = find_tags(text)
    boxes, open_boxes = find_boxed(text)
    outside: list[Candidate] = []
    i = 0
    for box in boxes:  # both lists are ordered by place, so one sweep finds the boxes inside tags
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
    r"""The content of the last `\boxed{…}` in it, if it has one: `<answer>\boxed{3}</answer>` answers 3."""
    for _ in range(8):
        boxes, _ = find_boxed(content)
        if not boxes:
            break
        content = boxes[-1].content
    return content.strip()


def unmarked(gold: str) -> str:
    r"""A gold answer without the one `\boxed{…}` or `<answer>…</answer>` it stands in, as many data sets write it."""
    marked = marked_answers(gold)
    if len(marked.candidates) != 1 or marked.problems:
        return gold
    return _unwrap(marked.candidates[0].content) or gold


def final_answer(text: str, lenient: bool = True) -> FinalAnswer:
    """The answer a completion ends on.

    Args:
        text: the completion; special tokens in it are ignored.
        lenient: also accept "the answer is …" and a text that is one short line.
    """
    text = strip_special_tokens(text[-LONGEST:])
    marked = marked_answers(text).candidates
    if marked:
        return FinalAnswer(_unwrap(marked[-1].content), marked[-1].kind)
    if lenient:
        tail = text[-20_000:]
        phrases = _PHRASE.findall(tail)
        if phrases:
            sentence = _END_OF_SENTENCE.split(phrases[-1].strip(), maxsplit=1)[0]
            return FinalAnswer(sentence.strip(), "phrase")
        line = tail.strip()
        if line and len(line) <= SHORT_LINE and "\n" not in line and len(text) <= 20_000:
            return FinalAnswer(line, "line")
    return FinalAnswer("", "none")
