"""One spelling for characters that look or mean alike: full-width forms, quotes, dashes, Markdown around an answer."""

from __future__ import annotations

import re
import unicodedata

from covt_rewards.expressions.latex import strip_text_commands

_ALIKE = str.maketrans(
    {
        "’": "'",
        "‘": "'",
        "´": "'",
        "“": '"',
        "”": '"',
        "‐": "-",
        "‑": "-",
        "–": "-",
        "—": "-",
        "−": "-",
        "【": "[",
        "】": "]",
        "〔": "[",
        "〕": "]",
        "「": '"',
        "」": '"',
        "。": ".",
        "、": ",",
        "〈": "<",
        "〉": ">",
        "《": "<",
        "》": ">",
        "．": ".",
    }
)
_FONT = re.compile(
    r"\\(?:bf|it|rm|sf|tt|cal|bm|boldsymbol|displaystyle|mathcal|mathsf|mathtt|textrm|textsf|underline)(?![A-Za-z])"
)
_HTML = re.compile(r"</?(?:b|i|u|em|strong)>")
_AROUND = re.compile(r"^(?:[\s*_`$#>]|-(?=\s))+|[\s*_`$\\]+$")
_DELIMITERS = ("\\(", "\\)", "\\[", "\\]")


def fold_characters(text: str) -> str:
    """Replace full-width and typographic characters by plain ones; the text keeps its case and its spaces."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text).translate(_ALIKE)


def strip_markup(text: str) -> str:
    r"""Remove LaTeX fonts and delimiters, Markdown and `\text{…}` around and in an answer."""
    if "\\" in text:
        text = _FONT.sub("", strip_text_commands(strip_text_commands(text)))
        for delimiter in _DELIMITERS:
            text = text.replace(delimiter, " ")
        text = re.sub(r"\\[,;:!\s]|\\q?quad(?![A-Za-z])|~", " ", text)
        if text.startswith("{") and text.endswith("}"):
            text = text[1:-1]
    return _AROUND.sub("", _AROUND.sub("", _HTML.sub("", text.replace("**", ""))))
