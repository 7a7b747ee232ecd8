r"""The answer inside a sentence: `The answer is 7`, `答案：12`, `I would go with B`, `7 is the answer`, `It is red`."""

from __future__ import annotations

import re

_SO = (
    r"(?:(?:so|thus|therefore|hence|then|and|but|definitely|clearly|certainly|ok|okay|finally|in conclusion|overall"
    r"|因此|所以|故|综上所述|综上|那么|于是)"
    r"\s{0,3}[,，:：]?\s{0,3})?"
)
_KIND = r"(?:(?:final|correct|right|best|most\s\w{1,20}|only|overall)\s{1,3}){0,3}"
_IS = (
    r"(?:(?:is|are|was|would\sbe|will\sbe|should\sbe|must\sbe|has\sto\sbe)(?![A-Za-z])\s{0,4}[:：]?|[:：=]|[-–—](?=\s))"
)
ANSWER_IS = (
    rf"(?:(?:the|my|our|your)\s{{1,3}})?{_KIND}(?:answers?|ans\.?|option|choice|(?:options|choices)(?=\s(?:is|are)))"
    rf"(?:\s(?:here|to\sthe\squestion))?\**\s{{0,4}}{_IS}"
)
_CHINESE_IS = (
    r"(?:我)?(?:认为)?(?:最终|正确|最后)?的?(?:答案|选项|结果)(?:应该|应当|应)?(?:是|为|选)?\s{0,3}[:：]?"
    r"|(?:我|本题|该题|此题)?(?:应该|应当|应|故|可)?(?:选择|选)(?:项)?(?:是|为)?\s{0,3}[:：]?"
)
_I_CHOOSE = (
    r"i(?:'d|'ll|\swould|\swill|\sam|'m)?\s{1,3}(?:choose|pick|select|say|go\s(?:with|for)|going\s(?:with|for)|think|believe|guess)"
    r"(?:\sthat)?(?:\s(?:it|the\sanswer)(?:\sis|'s))?(?:\s(?:option|choice|answer))?(?!\s(?:it|the))"
)
_PRONOUN_IS = r"(?:it|this|that|they|these|there|he|she)(?:'s|\s(?:is|are|was|were|would\sbe|must\sbe|should\sbe))"
_TOTAL = r"(?:(?:a|the)\s)?total(?:\snumber)?(?:\s(?:of|is)(?![A-Za-z])|\s?:)"
_LEAD_IN = re.compile(
    rf"\s*{_SO}(?:{ANSWER_IS}|{_TOTAL}|{_CHINESE_IS}|{_I_CHOOSE}(?![A-Za-z])|{_PRONOUN_IS}(?![A-Za-z]))\s{{0,4}}",
    re.IGNORECASE,
)
_ONLY_SO = re.compile(
    r"\s*(?:so|thus|therefore|hence|definitely|clearly|certainly|因此|所以|综上所述|综上)\s{0,3}[,，:：]?\s{0,3}",
    re.IGNORECASE,
)
_TRAIL = re.compile(
    r"(.{1,120}?)\s{1,3}(?:is|are|would\sbe|must\sbe)\s{1,3}"
    rf"(?:(?:the|my|our)\s{{1,3}})?(?:{_KIND}(?:answers?|options?|choices?)|correct|right)(?:\s(?:one|here|choice|answer|option))?[.!。]?",
    re.IGNORECASE | re.DOTALL,
)
_STATEMENT = re.compile(
    rf"(?:^|(?<=[\n.!?;,:。！？；，]))\s{{0,4}}[*_#>]{{0,4}}\s{{0,2}}(?:{_SO}(?:{ANSWER_IS}|{_I_CHOOSE}(?![A-Za-z]))|{_SO}(?:{_CHINESE_IS}))"
    r"([^\n]{0,200})",
    re.IGNORECASE,
)
NEGATIONS = re.compile(
    r"(?<![A-Za-z])(?:not|no|never|neither|nor|none|without|except|unlike|isn't|aren't|wasn't|doesn't|don't|can't|cannot|"
    r"incorrect|wrong|false|rather|instead|excluding)(?![A-Za-z])|n't(?![A-Za-z])|不是|并非|没有|错误"
)
MAX_CHARACTERS = 400


def strip_sentence(text: str) -> str:
    """Remove what introduces an answer or follows it in a short sentence; other texts are returned unchanged."""
    if len(text) > MAX_CHARACTERS:
        return text
    if match := _LEAD_IN.match(text):
        rest = text[match.end() :].strip()
        if rest:
            return rest
    if match := _TRAIL.fullmatch(text.strip()):
        subject = match.group(1)
        return _ONLY_SO.sub("", subject, count=1).strip() if not NEGATIONS.search(text.lower()) else text
    if match := _ONLY_SO.match(text):
        return text[match.end() :].strip() or text
    return text


def find_statements(text: str) -> list[str]:
    """Find what follows "the answer is", "I choose", 答案, 选 at the beginning of a sentence or clause, in order."""
    return [match.group(1).strip() for match in _STATEMENT.finditer(text)]
