r"""The answer inside a sentence: `The answer is 7`, `答案：12`, `I would go with B`, `7 is the answer`, `It is red`."""

from __future__ import annotations

import re

from covt_rewards.expressions.number_words import read_number_words

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
    rf"(?:(?:the|my|our|your)\s{{1,3}})?{_KIND}(?:answers?|ans\.?|option|choice|solution|pick|(?:correct|right)\sone|correct(?=\s?:)|(?:options|choices)(?=\s(?:is|are)))"
    rf"(?:\s(?:here|to\sthe\squestion))?\**\s{{0,4}}{_IS}"
)
_CHINESE_IS = (
    r"(?:我)?(?:认为)?(?:本题|该题|此题)?(?:的)?(?:最终|正确|最后)?的?(?:答案|选项|结果)(?:应该|应当|应)?(?:是|为|选)?\s{0,3}[:：]?"
    r"|(?:我|本题|该题|此题)?(?:应该|应当|应|故|可)?(?:选择|选)(?:项)?(?:是|为)?\s{0,3}[:：]?|(?:我认为|应该|应当)(?:是|为)"
)
_I_CHOOSE = (
    r"i(?:'d|'ll|\swould|\swill|\sam|'m)?\s{1,3}(?:choose|pick|select|say|go\s(?:with|for)|going\s(?:with|for)|think|believe|guess)"
    r"(?:\sthat)?(?:\s(?:it|the\sanswer)(?:\sis|'s))?(?:\s(?:option|choice|answer))?(?!\s(?:it|the))"
)
_PRONOUN_IS = (
    r"(?:(?:it|this|that|they|these|there|he|she)(?:'s|\s(?:is|are|was|were|would\sbe|must\sbe|should\sbe|seems(?:\sto\sbe)?"
    r"|looks|appears(?:\sto\sbe)?))|must\sbe|should\sbe|(?:most\s)?likely|probably|choose|select|pick|going\swith)"
)
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
    r"(.{1,120}?)(?:是正确的|正确|(?:\s{1,3}(?:is|are|would\sbe|must\sbe|seems|looks)\s{1,3}"
    rf"(?:(?:the|my|our)\s{{1,3}})?(?:{_KIND}(?:answers?|options?|choices?)|correct|right|(?:the\s)?best)"
    r"(?:\s(?:one|here|choice|answer|option))?))[.!。]?",
    re.IGNORECASE | re.DOTALL,
)
_STATEMENT = re.compile(
    rf"(?:^|(?<=[\n.!?;,:。！？；，]))\s{{0,4}}[*_#>]{{0,4}}\s{{0,2}}(?:{_SO}(?:{ANSWER_IS}|{_I_CHOOSE}(?![A-Za-z]))|{_SO}(?:{_CHINESE_IS}))"
    r"([^\n]{0,200})",
    re.IGNORECASE,
)
NEGATIONS = re.compile(
    r"(?<![A-Za-z])(?:not|no|never|neither|nor|none|without|except|unlike|isn't|aren't|wasn't|doesn't|don't|can't|cannot|"
    r"incorrect|wrong|false|rather|instead|excluding|(?:anything|everything|all|nothing)\sbut|other\sthan)(?![A-Za-z])|n't(?![A-Za-z])|不是|并非|没有|错误"
)
_ANY_NUMBER = re.compile(
    r"(?<![A-Za-z\d_.,^])[-−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![A-Za-z\d_,])|(?<![A-Za-z\d_.,^])[-−]?\d+(?:\.\d+)?(?![A-Za-z0-9_]|[.,]\d)"
)
_WORD_BEHIND = re.compile(r"\s?(?:[A-Za-z]{2,20}(?:\^?\d)?|[°一-鿿]{1,4})")
_WORD = re.compile(r"[A-Za-z]+")
_HAS_WORD = re.compile(r"[A-Za-z]{2,}|[一-鿿]")
_PROSE = re.compile(r"[A-Za-z一-鿿\s.,:;'\"=$！。，：]*(?<!-)")
_CHANGES_NUMBER = re.compile(
    r"(?<![A-Za-z])(?:not|no|never|neither|nor|or|half|twice|double|triple|thrice|third|quarter|over|under|above|below"
    r"|least|most|more|less|fewer|greater|than|between|from|to|up|until|wrong|incorrect|false|hundred|thousand|million"
    r"|billion|trillion|dozen|dozens|times|squared|cubed|factorial|minus|plus|negative|out|and|per|percent|sqrt|log|ln"
    r"|sin|cos|tan|pi|mod|power|root|square root|except|without|but|instead|rather|about|maybe|if|multiple|divided"
    r"|multiplied|st|nd|rd|th|lakh|crore|pairs|pair|score|gross|tenths|hundredths|halves|thirds|quarters|isn't"
    r"|doesn't|don't|can't|cannot)(?![A-Za-z])|不|非|没|或|万|亿|半|倍|百|千|至|到|分之|以上|以下"
)
MAX_SENTENCE = 120
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


def find_only_number(sentence: str) -> str:
    """Find the only number of a short sentence, with the word behind it: `7 objects` in `I see 7 objects in total`.

    Empty where the sentence has none or several, or words that make the number another one: `half of 7`, `7 or more`.
    """
    if len(sentence) > MAX_SENTENCE or not _HAS_WORD.search(sentence) or _CHANGES_NUMBER.search(sentence):
        return ""
    numbers = list(_ANY_NUMBER.finditer(sentence))
    if len(numbers) != 1:
        return ""
    number = numbers[0]
    behind = _WORD_BEHIND.match(sentence, number.end())
    before, after = sentence[: number.start()], sentence[behind.end() if behind else number.end() :]
    if before.endswith(" (") and after.startswith(")"):
        before, after = before[:-1], after[1:]
    if not (_PROSE.fullmatch(before) and _PROSE.fullmatch(after)) or sentence.count("=") > 1:
        return ""
    if any(read_number_words(word) is not None for word in _WORD.findall(sentence)) and not _says_twice(sentence):
        return ""
    return number.group() + (behind.group() if behind else "")


def _says_twice(sentence: str) -> bool:
    """Whether the words for a number in a sentence, `seven (7)`, are the number in digits."""
    words = {read_number_words(word) for word in _WORD.findall(sentence)} - {None}
    digits = _ANY_NUMBER.findall(sentence)[0]
    return {str(word) for word in words} == {digits}


def says_no_number(sentence: str) -> bool:
    """Whether a short sentence with one number denies or changes it: `not 7`, `half of 7`, `7 is wrong`."""
    is_short = len(sentence) <= 40 and "\\" not in sentence
    return is_short and len(_ANY_NUMBER.findall(sentence)) == 1 and bool(_CHANGES_NUMBER.search(sentence))
