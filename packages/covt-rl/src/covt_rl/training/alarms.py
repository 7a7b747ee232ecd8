"""Signs that a training is collapsing. Each is reported once, when it appears.

Which metrics must not collapse, and what to do when one does, is in the metric table.
"""

from collections.abc import Mapping

from covt_runtime.metrics.metric_table import METRICS

FLAT_STEPS = 5
"""Steps in a row without a group whose rewards differ."""
COLLAPSED_SHARE = 0.1
"""Fraction of its first value below which a metric has collapsed."""
WAIT = 3
"""Steps in a row before a collapse counts."""
COLLAPSE_REMEDIES = {metric.name: metric.collapse for metric in METRICS if metric.collapse}


class Alarms:
    """Watches a run's metrics, step by step."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._low: dict[str, int] = {}

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """What has gone wrong with this step, with numbers and remedy; each sign is reported when it begins."""
        found: list[str] = []
        if self._lasts("flat", metrics.get("frac_reward_zero_std") == 1.0, FLAT_STEPS):
            found.append(
                f"no group had rewards that differ for {FLAT_STEPS} steps, so nothing is learned (mean reward "
                f"{metrics['reward']:.3g}): choose easier or harder prompts, set rollout.dynamic, or sample hotter"
            )
        for name, remedy in COLLAPSE_REMEDIES.items():
            if name not in metrics:
                continue
            first = self._first.setdefault(name, metrics[name])
            if self._lasts(name, first > 0 and metrics[name] < COLLAPSED_SHARE * first, WAIT):
                found.append(f"{name} has fallen from {first:.3g} to {metrics[name]:.3g}: {remedy}")
        return found

    def _lasts(self, name: str, now: bool, steps: int) -> bool:
        """Whether a sign has been present for exactly `steps` steps in a row."""
        self._low[name] = self._low.get(name, 0) + 1 if now else 0
        return self._low[name] == steps
