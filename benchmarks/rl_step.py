"""One GRPO step: what the necessity reward adds to it, and its phases beside TRL's GRPOTrainer.

TRL generates with Transformers, as it does on the same machine without a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import harness
from harness import Benchmark, Case
from rl_step_work import Ours, Seconds, ours, trl_seconds

NECESSITY = "step with necessity, against the same without"


class Pair:
    """One training of ours and one of TRL's a round, of which several cases report a phase each."""

    def __init__(self, trainer: Ours, what: str = "") -> None:
        self.trainer, self.what = trainer, what
        self.seen: dict[str, Seconds] = {}

    def whole(self, side: str) -> float:
        trainer = self.trainer
        self.seen[side] = trainer.train(share=0.0) if side == "ours" else trl_seconds(trainer.checkpoint, trainer.data)
        return self.seen[side].step

    def phase(self, side: str, name: str) -> float:
        return getattr(self.seen[side], name)

    def cases(self) -> list[Case]:
        return [
            Case(f"whole step{self.what}, against TRL", lambda: self.whole("ours"), lambda: self.whole("base")),
            self.case("rollouts", "collect"),
            self.case("update", "update"),
        ]

    def case(self, name: str, phase: str) -> Case:
        ours, base = (lambda side=side: self.phase(side, phase) for side in ("ours", "base"))
        return Case(f"{name}{self.what}, against TRL", ours, base)


@contextmanager
def cases() -> Iterator[Sequence[Case]]:
    with ExitStack() as stack:
        with_latents = stack.enter_context(ours(latents=True))
        pair = Pair(stack.enter_context(ours(latents=False)))
        pictured = Pair(stack.enter_context(ours(latents=False, cells=16)), " with pictures of 256 tokens")

        def step(share: float, ahead: int = 0) -> float:
            return with_latents.train(share=share, ahead=ahead).step

        yield [
            Case(NECESSITY, lambda: step(1.0), lambda: step(0.0)),
            Case("rollouts one step ahead, against synchronous", lambda: step(1.0, 1), lambda: step(1.0)),
            *pair.cases(),
            *pictured.cases(),
        ]


BENCHMARK = Benchmark(
    name="rl_step",
    about="one GRPO step: with and without necessity, and beside TRL's GRPOTrainer",
    headline="whole step, against TRL",
    cases=cases,
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
