"""One optimizer step under ZeRO-3 on two gloo ranks, against plain torch in one process.

The model has the size of the quickstart's (hidden 64, two layers), where the engine's own cost shows most. Costs are
wall seconds a step. "Many short forwards" runs the model on one position 16 times besides, as latent steps do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case

HEADLINE = "batch 64, one process"
BATCH, LENGTH, VOCABULARY, SHORT = 64, 48, 400, 16
STEPS = 5

_ENGINES: dict[str, Any] = {}


def build() -> Any:
    """A decoder of two layers that returns the summed cross-entropy; `short` one-position forwards come on top."""
    import torch
    from torch import Tensor, nn
    from transformers import Qwen2Config, Qwen2ForCausalLM

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = Qwen2Config(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=192,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                tie_word_embeddings=True,
            )
            self.decoder = Qwen2ForCausalLM(config)

        def forward(self, ids: Tensor, short: int = 0) -> Tensor:
            logits = self.decoder(input_ids=ids, use_cache=False).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            for position in range(short):
                loss = loss + 0.001 * self.decoder(input_ids=ids[:, position, None], use_cache=False).logits.sum()
            return loss

    torch.manual_seed(0)
    return Model()


def batch(size: int) -> Any:
    import torch

    return torch.randint(0, VOCABULARY, (size, LENGTH), generator=torch.Generator().manual_seed(1))


def steps_under_zero(payload: dict[str, Any], worker: Any) -> float:
    """Seconds a step of an engine that stays between calls; the batch is shared by the ranks."""
    from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
    from covt_runtime.engine.zero_engine import ZeroEngine

    gather = payload["gather"]
    if gather not in _ENGINES:
        zero = ZeroConfig(dtype="fp32", gather=gather, persistence_threshold=0)
        _ENGINES[gather] = ZeroEngine(build(), OptimConfig(), zero, total_steps=10_000)
    engine = _ENGINES[gather]
    ids = batch(payload["batch"])[worker.rank :: worker.world_size]
    worker.barrier()
    begun = time.perf_counter()
    for _ in range(STEPS):
        tokens = engine.global_sum(ids.shape[0] * (LENGTH - 1)).float()
        engine.backward(engine(ids, short=payload["short"]) / tokens)
        engine.step()
    worker.barrier()
    return (time.perf_counter() - begun) / STEPS


class Plain:
    """The same steps with torch alone, in this process, on one thread."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.model = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def steps(self, size: int, short: int = 0) -> float:
        import torch

        ids = batch(size)
        begun = time.perf_counter()
        for _ in range(STEPS):
            (self.model(ids, short=short) / (size * (LENGTH - 1))).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (time.perf_counter() - begun) / STEPS


@contextmanager
def cases() -> Iterator[list[Case]]:
    from covt_runtime.launch.workers import WorkerGroup

    plain = Plain()
    with (
        tempfile.TemporaryDirectory() as logs,
        WorkerGroup(2, log_dir=Path(logs), env={"PYTHONPATH": str(Path(__file__).parent)}) as workers,
    ):

        def zero(size: int, short: int = 0, gather: str = "step") -> float:
            payload = {"batch": size, "short": short, "gather": gather}
            return workers.run("zero_step:steps_under_zero", payload)

        yield [
            Case(HEADLINE, lambda: zero(BATCH), lambda: plain.steps(BATCH)),
            Case("batch 32 a process (cost of ZeRO)", lambda: zero(BATCH), lambda: plain.steps(BATCH // 2)),
            Case("many short forwards, one process", lambda: zero(BATCH, SHORT), lambda: plain.steps(BATCH, SHORT)),
            Case(
                "many short forwards, gather by module",
                lambda: zero(BATCH, SHORT),
                lambda: zero(BATCH, SHORT, gather="module"),
            ),
        ]


BENCHMARK = Benchmark(
    name="zero_step",
    about="an optimizer step under ZeRO-3 on two gloo ranks, against plain torch in one process",
    headline=HEADLINE,
    cases=cases,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
