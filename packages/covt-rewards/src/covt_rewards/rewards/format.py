r"""`format`: is the completion well-formed? 1 or 0, with parts that say which check failed.

A well-formed completion has exactly one final answer (`\boxed{…}` or `<answer>…</answer>`) and no marker left open. By
token ids, every latent span has exactly K pads between its markers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from covt_rewards.answers import find_boxed, marked_answers, strip_special_tokens
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.latents import LatentFormat, check_rollout_spans
from covt_rewards.types import Group, RewardResult, Rollout

_THINK = re.compile(r"</?think>", re.IGNORECASE)
_THOUGHT = re.compile(r"\s{0,100}<think>.*?</think>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class FormatReward:
    """1 when every check passes, else 0.

    Attributes:
        answer: the marker to require: `boxed`, `tag` or `any`.
        latent: the checkpoint's latent vocabulary; without it latent spans are not checked by ids.
        requires_latent: require at least one latent span.
        think: require one `<think>…</think>` before the answer.
    """

    answer: Literal["any", "boxed", "tag"] = "any"
    latent: LatentFormat | None = None
    requires_latent: bool = False
    think: bool = False

    def __call__(self, group: Group) -> list[RewardResult]:
        """Check every rollout. Parts: `answer`, `latent`, and `think` when required, each 1 or 0."""
        return [self._check(rollout) for rollout in group.rollouts]

    def _check(self, rollout: Rollout) -> RewardResult:
        problems = {"answer": self._answer_problem(rollout.text), "latent": self._latent_problem(rollout)}
        if self.think:
            problems["think"] = _think_problem(strip_special_tokens(rollout.text))
        parts = {name: float(not problem) for name, problem in problems.items()}
        reason = "; ".join(problem for problem in problems.values() if problem)
        return RewardResult(float(not reason), parts, reason)

    def _answer_problem(self, text: str) -> str:
        marked = marked_answers(_without_thinking(strip_special_tokens(text)))
        if marked.problems:
            return "; ".join(marked.problems)
        if len(marked.candidates) != 1:
            return f"{len(marked.candidates)} final answers" if marked.candidates else "no final answer"
        (found,) = marked.candidates
        is_boxed = found.kind == "boxed" or len(find_boxed(found.content)[0]) == 1
        if self.answer not in ("any", found.kind) and not (self.answer == "boxed" and is_boxed):
            return f"the final answer is a {found.kind}, not a {self.answer}"
        return "" if strip_text_commands(found.content).strip(" \t\r\n{}") else "the final answer is empty"

    def _latent_problem(self, rollout: Rollout) -> str:
        report = check_rollout_spans(rollout, self.latent)
        if report.problem:
            return report.problem
        return "no latent span" if self.requires_latent and not report.spans else ""


def _think_problem(text: str) -> str:
    tags = [(match.group().lower(), match.start()) for match in _THINK.finditer(text)]
    if [tag for tag, _ in tags] != ["<think>", "</think>"]:
        return "not exactly one <think>…</think>"
    answers = marked_answers(text).candidates
    return "the answer stands before the end of <think>" if answers and answers[-1].start < tags[1][1] else ""


def _without_thinking(text: str) -> str:
    r"""Remove a whole `<think>…</think>` at the beginning: it may mention `\boxed{}` or try answers out."""
    match = _THOUGHT.match(text)
    return text[match.end() :] if match else text
