"""`reasoning`: the quality of the reasoning before the answer, by rules, and by a judge model where one is named.

Five parts, each 0 to 1, and their mean as the value. They look for what goes wrong in reinforcement learning: loops of
n-grams, repeated sentences, answers without steps, answers given first and argued afterwards, drifting languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from covt_rewards.answers import final_answer, marked_answers, strip_special_tokens
from covt_rewards.reward_errors import RewardError
from covt_rewards.rewards.judge import Judge, Opinion
from covt_rewards.types import Group, RewardResult, Rollout

LONGEST = 50_000
"""Characters looked at, half from the beginning and half from the end: time stays bounded for any text."""
AT_ONCE = 8
"""Requests to the judge under way for one group."""

# Letters of scripts written without spaces count one by one.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|[。！？]|\n+")
_LATEX_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ANSWER_FIRST = re.compile(r"\W{0,10}(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReasoningReward:
    """Mean of `ngrams`, `sentences`, `steps`, `order`, `language`; with a judge, that mean and its grade.

    Attributes:
        ngram: length of the n-grams whose repetition counts, in tokens.
        tolerance: share of repeated n-grams or sentences that costs nothing: arguments do repeat words.
        steps: sentences or lines before the answer that earn the full `steps` part.
        judge_url: an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; empty for rules alone.
        judge_model: the model's name there.
        judge_weight: the judge's share of the value, 0 to 1; the rules have the rest.
        judge_timeout: seconds for one request.
        judge_retries: further attempts after a failure.
        judge_cache: a JSONL file that opinions are kept in; empty for memory alone.
    """

    ngram: int = 6
    tolerance: float = 0.1
    steps: int = 3
    judge_url: str = ""
    judge_model: str = ""
    judge_weight: float = 0.5
    judge_timeout: float = 30.0
    judge_retries: int = 2
    judge_cache: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.judge_weight <= 1:
            raise RewardError(f"reasoning.judge_weight is {self.judge_weight}", "give a share from 0 to 1")
        self._judge()

    def _judge(self) -> Judge | None:
        if not self.judge_url:
            return None
        return Judge(
            self.judge_url,
            self.judge_model,
            timeout=self.judge_timeout,
            retries=self.judge_retries,
            cache=self.judge_cache,
        )

    def __call__(self, group: Group) -> list[RewardResult]:
        """One result per rollout; the judge is asked about all of a group at once."""
        results = [self.by_rules(rollout.text, group.prompt) for rollout in group.rollouts]
        judge = self._judge()
        if judge is None or not results:
            return results

        def ask(rollout: Rollout) -> Opinion:
            return judge.opinion(group.prompt, rollout.text)

        with ThreadPoolExecutor(min(AT_ONCE, len(results))) as pool:
            opinions = pool.map(ask, group.rollouts)
            return [self._with(result, opinion) for result, opinion in zip(results, opinions, strict=True)]

    def _with(self, result: RewardResult, opinion: Opinion) -> RewardResult:
        """Parts: `rules`, and `judge`, or `judge_failed` when it gave no opinion; then the rules alone count."""
        if opinion.score is None:
            parts = {**result.parts, "rules": result.value, "judge_failed": 1.0}
            return RewardResult(result.value, parts, "; ".join(filter(None, (result.reason, opinion.reason))))
        value = (1 - self.judge_weight) * result.value + self.judge_weight * opinion.score
        parts = {**result.parts, "rules": result.value, "judge": opinion.score, "judge_failed": 0.0}
        return RewardResult(value, parts, result.reason)

    def by_rules(self, text: str, prompt: str = "") -> RewardResult:
        """One completion; `prompt` says which language is expected, without it the completion's main one is."""
        text = strip_special_tokens(text)
        if len(text) > LONGEST:
            text = text[: LONGEST // 2] + "\n" + text[-LONGEST // 2 :]
        before = _before_the_answer(text)
        if not text.strip():
            return RewardResult(0.0, dict.fromkeys(("ngrams", "sentences", "steps", "order", "language"), 0.0), "empty")
        sentences = [" ".join(s.split()) for s in _SENTENCE_END.split(before)]
        sentences = [sentence for sentence in sentences if len(sentence) > 3]
        tokens = [token.casefold() for token in _TOKEN.findall(text)]
        grams = [tuple(tokens[i : i + self.ngram]) for i in range(len(tokens) - self.ngram + 1)]
        parts = {
            "ngrams": self._without_repeats(grams),
            "sentences": self._without_repeats([sentence.casefold() for sentence in sentences]),
            "steps": min(1.0, len(sentences) / self.steps) if self.steps else 1.0,
            "order": _order(text, before),
            "language": _language(before or text, prompt),
        }
        low = [name for name, value in parts.items() if value < 0.5]
        return RewardResult(fmean(parts.values()), parts, f"low: {', '.join(low)}" if low else "")

    def _without_repeats(self, items: list[tuple[str, ...]] | list[str]) -> float:
        """1 up to the tolerated share of repeats, falling to 0 where all but one are repeats."""
        if len(items) < 2:
            return 1.0
        repeated = 1.0 - len(set(items)) / len(items)
        return 1.0 - max(0.0, repeated - self.tolerance) / (1.0 - self.tolerance)


def _before_the_answer(text: str) -> str:
    """The text up to the last marked answer, or, without a marker, up to the last line."""
    marked = marked_answers(text).candidates
    if marked:
        return text[: marked[-1].start]
    return text.rstrip().rpartition("\n")[0]


def _order(text: str, before: str) -> float:
    """0 when the answer opens the text, or is marked before half of what is written; else 1."""
    marked = marked_answers(text).candidates
    if _ANSWER_FIRST.match(text):
        return 0.0
    if marked and marked[0].start < len(text) / 2 and len(text) - marked[0].end > 40:
        return 0.0
    answer = final_answer(text).text
    return 0.0 if not before.strip() and answer and len(text) - len(answer) > 40 else 1.0


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    """`LATIN`, `CYRILLIC`, `CJK`…: the first word of the letter's Unicode name; kana and ideographs together."""
    name = unicodedata.name(letter, "OTHER").split(" ", 1)[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "CJK") else name


def _scripts(text: str) -> Counter[str]:
    """Words by script; single letters are variables and not counted, LaTeX commands neither.

    Ideographs have no spaces between words: two of them count as one word.
    """
    counts: Counter[str] = Counter()
    for word in _WORD.findall(_LATEX_COMMAND.sub(" ", text)):
        script = _script(word[0])
        counts[script] += len(word) // 2 if script in ("CJK", "HANGUL") else 1
    return counts


def _language(text: str, prompt: str) -> float:
    """The share of words in the prompt's main script (without a prompt, in the text's own)."""
    counts = _scripts(text)
    if not counts:
        return 1.0
    expected = _scripts(prompt[:LONGEST]) or counts
    return counts[expected.most_common(1)[0][0]] / counts.total()
