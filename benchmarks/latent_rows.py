"""What rows of one latent segment cost beside a row of twenty: the latent forward and backward, in CPU time.

Ours is a batch of seven rows of one segment and one row of twenty, less that row by itself, measured just before; the
base is the seven rows by themselves. Were rows without a further segment to stay, the seven would compute twenty.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import harness
from harness import Benchmark, Case
from latent_forward import SIZE, Shape, build, row_spans

SHAPE = Shape(256, 4, 512)
FEW, MANY, ROWS = 1, 20, 7


class Rows:
    """Random rows of the same length with the given numbers of segments."""

    def __init__(self, model: Any, counts: Sequence[int]) -> None:
        import torch

        self.model, self.spans = model, [row_spans(SHAPE.tokens, count) for count in counts]
        generator = torch.Generator().manual_seed(0)
        self.embeds = torch.randn(len(counts), SHAPE.tokens, SHAPE.hidden, generator=generator)
        self.positions = torch.arange(SHAPE.tokens).expand(3, len(counts), -1)
        self.mask = torch.ones(len(counts), SHAPE.tokens, dtype=torch.long)

    def seconds(self) -> float:
        """CPU seconds of forward and backward."""
        from covt_model.latents.feedback import feedback
        from covt_model.latents.latent_forward import latent_forward

        rule = partial(feedback, normalize="rms")
        self.model.zero_grad()
        gc.collect()
        begun = time.process_time()
        hidden = latent_forward(self.model, self.embeds, self.positions, self.mask, self.spans, rule, size=SIZE)
        hidden.square().mean().backward()
        return time.process_time() - begun


@contextmanager
def cases() -> Iterator[list[Case]]:
    import torch

    torch.set_num_threads(1)
    model = build(SHAPE, "qwen2_5_vl").cpu()
    few, many = Rows(model, [FEW] * ROWS), Rows(model, [MANY])
    both = Rows(model, [FEW] * ROWS + [MANY])

    def beside() -> float:
        alone = many.seconds()
        return both.seconds() - alone

    yield [Case(HEADLINE, beside, few.seconds)]


HEADLINE = f"{ROWS} rows of one segment beside a row of {MANY}, against {ROWS} rows alone"
BENCHMARK = Benchmark(
    name="latent_rows",
    about="what rows with one latent segment cost beside a row with twenty",
    headline=HEADLINE,
    cases=cases,
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
