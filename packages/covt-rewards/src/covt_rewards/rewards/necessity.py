r"""`necessity`: were the latents needed for a right answer?

For rollout i, let u_i be 1 when it has a well-formed latent span, a_i its accuracy, and ā_i the mean accuracy of its
`ablated` continuations, which are sampled from the end of the latent span with the latents ablated. Then

    ν_i = a_i − ā_i
    R_i = u_i · (w_gain·max(ν_i, 0) − w_harm·max(−ν_i, 0) − w_redundant·[a_i = 1 and ā_i = 1])

`control` continuations are sampled the same way with the latents kept. Where they exist, their mean accuracy replaces
a_i, which makes ν_i unbiased.

Without continuations, the group contrast Δ = mean(a | u = 1) − mean(a | u = 0) gives R_i = u_i·max(Δ, 0), or 0 when one
side is empty. A constant added to all rollouts of a group cancels in GRPO, so Δ moves the policy only through u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from covt_rewards.accuracy import AccuracyReward
from covt_rewards.latents import LatentFormat, check_rollout_spans
from covt_rewards.types import Group, RewardResult, Rollout


@dataclass(frozen=True, slots=True)
class NecessityReward:
    """Counterfactual necessity, or the group contrast.

    Attributes:
        form: `counterfactual` (needs `ablated`, uses `control` where present) or `contrast` (needs neither).
        w_gain: weight of being right with the latents and wrong without.
        w_harm: weight of being wrong with the latents and right without.
        w_redundant: cost of being right either way; values above 0 are known to make training suppress latents.
        accuracy: the reward that decides what is right; use the same as the run.
        latent: the checkpoint's latent vocabulary; without it the recorded `latent_spans` decide u.
    """

    form: Literal["counterfactual", "contrast"] = "counterfactual"
    w_gain: float = 1.0
    w_harm: float = 0.5
    w_redundant: float = 0.0
    accuracy: AccuracyReward = field(default_factory=AccuracyReward)
    latent: LatentFormat | None = None

    def __call__(self, group: Group) -> list[RewardResult]:
        """Score every rollout. Parts: `used` and `accuracy`; `accuracy_ablated`, `nu`, `redundant` where measured.

        Raises:
            GoldError: when the gold answer itself cannot be read.
        """
        used = [self._uses_latents(rollout) for rollout in group.rollouts]
        if self.form == "contrast":
            return _score_contrast([g.score for g in self.accuracy.grade(group)], used)
        return self._score_counterfactual(group, used)

    def _uses_latents(self, rollout: Rollout) -> bool:
        report = check_rollout_spans(rollout, self.latent)
        return bool(report.spans) and not report.problem

    def _score_counterfactual(self, group: Group, used: Sequence[bool]) -> list[RewardResult]:
        # One call grades all completions, so that graders with worker processes can batch them.
        everything = [x for rollout in group.rollouts for x in (rollout, *rollout.ablated, *rollout.control)]
        scores = iter([grade.score for grade in self.accuracy.grade(group, everything)])
        results: list[RewardResult] = []
        for rollout, u in zip(group.rollouts, used, strict=True):
            kept = next(scores)
            ablated = [next(scores) for _ in rollout.ablated]
            control = [next(scores) for _ in rollout.control]
            results.append(self._score(u, fmean(control) if control else kept, ablated))
        return results

    def _score(self, used: bool, kept: float, ablated: Sequence[float]) -> RewardResult:
        parts = {"used": float(used), "accuracy": kept}
        if not ablated:
            return RewardResult(0.0, parts, "no ablated continuations" if used else "no well-formed latent span")
        without = fmean(ablated)
        nu = kept - without
        parts |= {"accuracy_ablated": without, "nu": nu}
        if not used:
            return RewardResult(0.0, parts, "no well-formed latent span")
        redundant = kept == 1.0 and without == 1.0
        parts["redundant"] = float(redundant)
        value = self.w_gain * max(nu, 0.0) - self.w_harm * max(-nu, 0.0) - self.w_redundant * redundant
        return RewardResult(value, parts, _describe(nu, redundant))


def _describe(nu: float, redundant: bool) -> str:
    if nu > 0:
        return "right with its latents, less so without"
    if nu < 0:
        return "right without its latents, less so with them"
    return "right with and without its latents" if redundant else "as good without its latents"


def _score_contrast(scores: Sequence[float], used: Sequence[bool]) -> list[RewardResult]:
    with_latents = [score for score, u in zip(scores, used, strict=True) if u]
    without = [score for score, u in zip(scores, used, strict=True) if not u]
    if not with_latents or not without:
        side = "with" if not with_latents else "without"
        delta, reason, shared = 0.0, f"no rollout {side} latents in the group", dict[str, float]()
    else:
        delta = fmean(with_latents) - fmean(without)
        reason, shared = f"group contrast {delta:+.3f}", {"delta": delta}
    return [
        RewardResult(max(delta, 0.0) * u, {"used": float(u), "accuracy": score, **shared}, reason)
        for score, u in zip(scores, used, strict=True)
    ]


def mean_nu(results: Sequence[RewardResult]) -> float | None:
    """Average ν over the results that have one, the number to watch in training; None when none has."""
    found = [result.parts["nu"] for result in results if "nu" in result.parts]
    return fmean(found) if found else None
