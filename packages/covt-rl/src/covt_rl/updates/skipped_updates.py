"""Updates that are left out: trainer and server disagree, or a gradient is not finite. A trend ends the run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_runtime.engine.zero_engine import StepResult

MOST_IN_A_ROW = 3
"""Skipped steps in a row that end the run: the cause is then no single step."""


MOST_MASKED = 0.5
"""A step is skipped when more than this fraction of its completions is masked."""


@dataclass(frozen=True)
class Disagreement:
    """How much trainer and server differ on a step's first completions, before its first update.

    Attributes:
        gap: mean |trainer − server| log-probability of all sampled tokens.
        kept_gap: the same without the completions that are masked.
        masked: fraction of the completions that are masked.
    """

    gap: float
    kept_gap: float
    masked: float

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> "Disagreement":
        """From the sums of `covt_rl.updates.objective.PolicyLoss` over all ranks."""
        return cls(
            sums["all_gap"] / max(sums["all_tokens"], 1.0),
            sums["gap"] / max(sums["tokens"], 1.0),
            sums["masked"] / max(sums["rows"], 1.0),
        )


class SkippedUpdates:
    """Decides which updates are skipped. All ranks decide alike, because the values are global.

    Attributes:
        steps: how many steps were skipped so far.
        in_a_row: how many of them just now.
    """

    def __init__(self, config: RlConfig, note: Callable[[str], None]) -> None:
        self.limit, self.refuses = config.algorithm.gap_limit, config.data.on_bad == "refuse"
        self.steps = self.in_a_row = 0
        self._note = note

    def disagrees(self, found: Disagreement) -> bool:
        """Whether trainer and server disagree so much that the step must be skipped.

        Raises:
            RlError: it is so for the third time in a row.
        """
        # A gap that is not a number comes with a gradient that is not finite.
        if not (found.kept_gap > self.limit or found.masked > MOST_MASKED):
            return False
        text = (
            f"trainer and server disagree: mean |log-probability gap| {found.gap:.4f} is over the limit {self.limit:g}"
        )
        self._skip(text, "check that the server runs the trainer's dtype and checkpoint, or raise algorithm.gap_limit")
        return True

    def is_not_finite(self, result: StepResult) -> bool:
        """Whether the engine has left the weights alone because the gradient was not finite.

        Raises:
            RlError: `data.on_bad` is `refuse`, or this is the third time in a row.
        """
        if isfinite(result.grad_norm):
            return False
        text = f"the gradient of optimizer step {result.step} is not finite"
        remedy = "lower optim.lr, or look at the step's rollouts with log.completions_every=1"
        if self.refuses:
            raise RlError(text, f"{remedy}; data.on_bad=skip leaves such steps out")
        self._skip(text, remedy)
        return True

    def reset(self) -> None:
        """Note a step that was trained on."""
        self.in_a_row = 0

    def _skip(self, text: str, remedy: str) -> None:
        self.steps += 1
        self.in_a_row += 1
        if self.in_a_row == MOST_IN_A_ROW:
            raise RlError(f"{text}, for the {MOST_IN_A_ROW}rd step in a row", remedy)
        self._note(f"{text}; the step is skipped ({remedy})")
