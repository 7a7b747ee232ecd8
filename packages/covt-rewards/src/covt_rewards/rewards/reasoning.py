"""`reasoning`: the quality of the reasoning before the answer, by rules and, where one is named, by a judge model.

The rules are five parts from 0 to 1; their mean is the value. They detect what goes wrong in reinforcement learning:
loops of n-grams, repeated sentences, answers without steps, answers before their argument, and drifting languages.
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

MAX_CHARACTERS = 50_000
"""Characters read, half from the beginning and half from the end, so that time is bounded for any text."""
MAX_CONCURRENT_REQUESTS = 8
"""Concurrent requests to the judge for one group."""

# In scripts without spaces, each character counts as a token.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|[。！？]|\n+")
_LATEX_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ANSWER_FIRST = re.compile(r"\W{0,10}(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ReasoningReward:
    """The mean of `ngrams`, `sentences`, `steps`, `order`, `language`; with a judge, weighted with its grade.

    Attributes:
        ngram: length of the n-grams whose repetition counts, in tokens.
        tolerance: share of repeated n-grams or sentences without a cost, since arguments do repeat words.
        steps: sentences or lines before the answer that earn the full `steps` part.
        judge_url: an OpenAI-compatible endpoint, such as `http://localhost:8000/v1`; empty for rules only.
        judge_model: the model's name at the endpoint.
        judge_weight: the judge's weight in the value, 0 to 1; the rules have the rest.
        judge_timeout: seconds for one request.
        judge_retries: further attempts after a failure.
        judge_cache: a JSONL file that keeps grades between runs; empty for memory only.
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
            raise RewardError(f"reasoning.judge_weight is {self.judge_weight}", "give a number from 0 to 1")
        self._make_judge()

    def _make_judge(self) -> Judge | None:
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
        """Score every rollout; the judge is asked about all rollouts of the group concurrently."""
        results = [self.score_by_rules(rollout.text, group.prompt) for rollout in group.rollouts]
        judge = self._make_judge()
        if judge is None or not results:
            return results

        def ask(rollout: Rollout) -> Opinion:
            return judge.opinion(group.prompt, rollout.text)

        with ThreadPoolExecutor(min(MAX_CONCURRENT_REQUESTS, len(results))) as pool:
            opinions = pool.map(ask, group.rollouts)
            return [self._combine(result, opinion) for result, opinion in zip(results, opinions, strict=True)]

    def _combine(self, result: RewardResult, opinion: Opinion) -> RewardResult:
        """Combine rules and judge. Parts: `rules`, `judge`, and `judge_failed`, at 1 of which only the rules count."""
        if opinion.score is None:
            parts = {**result.parts, "rules": result.value, "judge_failed": 1.0}
            return RewardResult(result.value, parts, "; ".join(filter(None, (result.reason, opinion.reason))))
        value = (1 - self.judge_weight) * result.value + self.judge_weight * opinion.score
        parts = {**result.parts, "rules": result.value, "judge": opinion.score, "judge_failed": 0.0}
        return RewardResult(value, parts, result.reason)

    def score_by_rules(self, text: str, prompt: str = "") -> RewardResult:
        """Score one completion by the five rules.

        Args:
            text: the completion.
            prompt: decides the expected script; without it the completion's main script is expected.
        """
        text = strip_special_tokens(text)
        if len(text) > MAX_CHARACTERS:
            text = text[: MAX_CHARACTERS // 2] + "\n" + text[-MAX_CHARACTERS // 2 :]
        before = _text_before_answer(text)
        if not text.strip():
            return RewardResult(0.0, dict.fromkeys(("ngrams", "sentences", "steps", "order", "language"), 0.0), "empty")
        sentences = [" ".join(s.split()) for s in _SENTENCE_END.split(before)]
        sentences = [sentence for sentence in sentences if len(sentence) > 3]
        tokens = [token.casefold() for token in _TOKEN.findall(text)]
        grams = [tuple(tokens[i : i + self.ngram]) for i in range(len(tokens) - self.ngram + 1)]
        parts = {
            "ngrams": self._score_repeats(grams),
            "sentences": self._score_repeats([sentence.casefold() for sentence in sentences]),
            "steps": min(1.0, len(sentences) / self.steps) if self.steps else 1.0,
            "order": _score_order(text, before),
            "language": _score_language(before or text, prompt),
        }
        low = [name for name, value in parts.items() if value < 0.5]
        return RewardResult(fmean(parts.values()), parts, f"low: {', '.join(low)}" if low else "")

    def _score_repeats(self, items: list[tuple[str, ...]] | list[str]) -> float:
        """Give 1 up to the tolerated share of repeats, falling to 0 when all but one are repeats."""
        if len(items) < 2:
            return 1.0
        repeated = 1.0 - len(set(items)) / len(items)
        return 1.0 - max(0.0, repeated - self.tolerance) / (1.0 - self.tolerance)


def _text_before_answer(text: str) -> str:
    """Return the text before the last marked answer or, without a marker, before the last line."""
    marked = marked_answers(text).candidates
    if marked:
        return text[: marked[-1].start]
    return text.rstrip().rpartition("\n")[0]


def _score_order(text: str, before: str) -> float:
    """Give 0 when the answer opens the text or is marked in its first half, else 1."""
    marked = marked_answers(text).candidates
    if _ANSWER_FIRST.match(text):
        return 0.0
    if marked and marked[0].start < len(text) / 2 and len(text) - marked[0].end > 40:
        return 0.0
    answer = final_answer(text).text
    return 0.0 if not before.strip() and answer and len(text) - len(answer) > 40 else 1.0


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    """Name a letter's script (`LATIN`, `CYRILLIC`, …) by its Unicode name; kana and ideographs are both `CJK`."""
    name = unicodedata.name(letter, "OTHER").split(" ", 1)[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "CJK") else name


def _count_scripts(text: str) -> Counter[str]:
    """Count words by script, without single letters (variables) and LaTeX commands.

    Ideographs have no spaces between words, so two of them count as one word.
    """
    counts: Counter[str] = Counter()
    for word in _WORD.findall(_LATEX_COMMAND.sub(" ", text)):
        script = _script(word[0])
        counts[script] += len(word) // 2 if script in ("CJK", "HANGUL") else 1
    return counts


def _score_language(text: str, prompt: str) -> float:
    """Give the share of words in the prompt's main script or, without a prompt, in the text's own."""
    counts = _count_scripts(text)
    if not counts:
        return 1.0
    expected = _count_scripts(prompt[:MAX_CHARACTERS]) or counts
    return counts[expected.most_common(1)[0][0]] / counts.total()
