r"""`necessity`: were the latents needed for a right answer?

For rollout i, let u_i be 1 when it has a well-formed latent span, a_i its accuracy, and ā_i the mean accuracy of its
`ablated` continuations, which are sampled from the end of the latent span with the latents ablated. Then

    ν_i = a_i − ā_i
    R_i = u_i · (w_gain·max(ν_i, 0) − w_harm·max(−ν_i, 0) − w_redundant·[a_i = 1 and ā_i = 1])

`control` continuations are sampled the same way with the latents kept. Where they exist, their mean accuracy replaces
a_i, which makes ν_i unbiased. With the default weights w_gain = w_harm = 1 and w_redundant = 0, R_i is u_i·ν_i, whose
mean is 0 for latents that change nothing: a smaller w_harm pays for the noise of ν_i. The preset `silent` has the
weights of arXiv 2605.18641, w_gain 1 and w_harm = w_redundant = 0.5.

Without continuations, the preset `contrast` takes Δ = mean(a | u = 1) − mean(a | u = 0) over the group, and
R_i = u_i·a_i·max(Δ, 0), or 0 when one side is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from covt_rewards.accuracy import AccuracyReward
from covt_rewards.latents import LatentFormat, check_rollout_spans
from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group, RewardResult, Rollout

WEIGHTS = {"counterfactual": (1.0, 1.0, 0.0), "silent": (1.0, 0.5, 0.5)}
"""w_gain, w_harm and w_redundant of the presets that have them."""


@dataclass(frozen=True, slots=True)
class NecessityReward:
    """Counterfactual necessity, or the group contrast.

    Attributes:
        preset: `counterfactual` or `silent` (both need `ablated` and use `control` where present), or `contrast` (needs
            neither). `silent` is the published rule, known to make training suppress latents.
        w_gain: weight of being right with the latents and wrong without: 1, unless given.
        w_harm: weight of being wrong with the latents and right without: 1 (`silent`: 0.5), unless given.
        w_redundant: cost of being right either way: 0 (`silent`: 0.5), unless given; values above 0 are known to make
            training suppress latents.
        accuracy: the reward that decides what is right; use the same as the run.
        latent: the checkpoint's latent vocabulary; without it the recorded `latent_spans` decide u.

    Raises:
        RewardError: a weight is given beside `contrast`, which has none.
    """

    preset: Literal["counterfactual", "silent", "contrast"] = "counterfactual"
    w_gain: float | None = None
    w_harm: float | None = None
    w_redundant: float | None = None
    accuracy: AccuracyReward = field(default_factory=AccuracyReward)
    latent: LatentFormat | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("w_gain", "w_harm", "w_redundant") if getattr(self, name) is not None]
        if self.preset == "contrast" and given:
            raise RewardError(
                f"necessity.{given[0]} is {getattr(self, given[0])}, and preset contrast has no weights",
                f"leave out {', '.join(given)}, or choose preset counterfactual",
            )

    @property
    def weights(self) -> tuple[float, float, float]:
        """w_gain, w_harm and w_redundant: those given, else the preset's."""
        gain, harm, redundant = WEIGHTS[self.preset]
        return (
            gain if self.w_gain is None else self.w_gain,
            harm if self.w_harm is None else self.w_harm,
            redundant if self.w_redundant is None else self.w_redundant,
        )

    def __call__(self, group: Group) -> list[RewardResult]:
        """Score every rollout. Parts: `used` and `accuracy`; `accuracy_ablated`, `nu`, `redundant` where measured.

        Raises:
            GoldError: when the gold answer itself cannot be read.
        """
        used = [self._uses_latents(rollout) for rollout in group.rollouts]
        if self.preset == "contrast":
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
        w_gain, w_harm, w_redundant = self.weights
        value = w_gain * max(nu, 0.0) - w_harm * max(-nu, 0.0) - w_redundant * redundant
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
        RewardResult(u * score * max(delta, 0.0), {"used": float(u), "accuracy": score, **shared}, reason)
        for score, u in zip(scores, used, strict=True)
    ]


def mean_nu(results: Sequence[RewardResult]) -> float | None:
    """Average ν over the results that have one, the number to watch in training; None when none has."""
    found = [result.parts["nu"] for result in results if "nu" in result.parts]
    return fmean(found) if found else None
