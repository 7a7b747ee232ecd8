"""Reading letters of options: `B`, `(B)`, `A, C`, `AC`, `["A", "C"]`, `both A and C`."""

from __future__ import annotations

import re

from covt_rewards.expressions.characters import fold_characters, strip_markup

MAX_CHARACTERS = 200
MAX_LETTERS = 10
_ONE = re.compile(
    r"(?:(?:options?|choices?|answers?|letter|item)\s{0,3})?[(\[<{\"']{0,2}\s?(?<![A-Za-z])([A-Za-z])(?![A-Za-z])\s?[)\]>}\"']{0,2}"
    r"(?:选?项)?\s?[.:,;!)]{0,2}",
    re.IGNORECASE,
)
# Alternatives that begin differently, so that no text takes more than one pass.
_TOKEN = re.compile(
    r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])|(\b(?:and|both|options?|choices?|answers?|letters?|items?)\b|[,;/&+|.和与及])|[\s()\[\]<>{}\"']+|选?项",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-J]{2,10}")
_LETTER_AND_TEXT = re.compile(r"\(([A-Z])\)\s{0,3}\S.*|([A-Z])[):]\s{1,3}\S.*|([A-Z])\.\s{0,3}[a-z\d].*", re.DOTALL)


def read_letters(text: str) -> tuple[str, ...]:
    """Read the letters in a text that holds nothing else, as capitals in their order; empty for any other text.

    Lower-case letters count where punctuation or brackets separate them: `a, c` but not `a cat`.
    """
    if len(text) > MAX_CHARACTERS:
        return ()
    plain = strip_markup(fold_characters(text)).strip(" \t\r\n'\"")
    if match := _ONE.fullmatch(plain):
        return (match.group(1).upper(),)
    if _RUN.fullmatch(plain):
        return tuple(plain) if len(set(plain)) == len(plain) else ()
    letters = _read_list(plain)
    if not all(letter.isupper() for letter in letters) and not re.search(r"[,;/&+|()\[\]和与及]|\band\b", plain):
        return ()
    return tuple(dict.fromkeys(letter.upper() for letter in letters))


def _read_list(text: str) -> list[str]:
    """Read letters with words, brackets and at most two signs between them; none when there is anything else."""
    letters: list[str] = []
    position, signs = 0, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []
        position = match.end()
        if match.group(1):
            letters.append(match.group(1))
            signs = 0
        elif match.group(2):
            signs += 1
            if not letters and not match.group().isalpha():
                return []
        if signs > 2 or len(letters) > MAX_LETTERS:
            return []
    return letters if len(letters) > 1 else []


def looks_like_letters(gold: str) -> bool:
    r"""Whether a gold answer is read as letters of options even where no options are known.

    `B`, `(B)`, `B)`, `A, C`, `A and C`, `(B) dog` and `Option B` are; `AB` may be a line, `b` a variable.
    """
    plain = strip_markup(fold_characters(gold[:MAX_CHARACTERS])).strip(" '\"")
    letters = read_letters(gold)
    if len(letters) == 1:
        return plain.strip("()[]<>.,:;!'\" ") != letters[0].lower()
    if letters:
        is_sum = any(sign in plain for sign in "/+")
        return not plain.isalpha() and not is_sum and all(each in plain and each <= "J" for each in letters)
    return len(gold) <= MAX_CHARACTERS and _LETTER_AND_TEXT.fullmatch(plain) is not None
