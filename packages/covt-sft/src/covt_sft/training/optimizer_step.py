"""One optimizer step of a supervised training, with its metrics."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from covt_model.latents.training_losses import mean_loss
from covt_runtime.engine.zero_engine import StepResult, ZeroEngine
from covt_runtime.metrics.performance import DecoderWork, memory_gib, peak_flops
from covt_sft.batches.sample_source import StepRows
from covt_sft.losses.objective import NO_NOISE
from covt_sft.losses.stage_loss import Counts, StageLoss
from covt_sft.sft_errors import SftError

MOST_IN_A_ROW = 10
"""After so many steps without a finite loss and gradient the weights themselves are lost, not a row."""


def decoder_work(model: Any) -> DecoderWork:
    """What the FLOPs of the language model and its head follow from. Call it before the parameters are sharded."""
    language, head = model.model.language_model, model.lm_head
    matrices = [p for part in (language.layers, head) for p in part.parameters() if p.dim() > 1]
    config = language.config
    width = config.num_attention_heads * language.layers[0].self_attn.head_dim
    return DecoderWork(
        weights=sum(p.numel() for p in matrices),
        layers=config.num_hidden_layers,
        width=width,
        trains_weights=all(p.requires_grad for p in matrices),
    )


@dataclass(frozen=True)
class StepWork:
    """What this rank computes in a step."""

    tokens: float
    """Tokens of the rows."""
    computed: float
    """Tokens of the forwards, padding included."""
    flops: float
    """Floating-point operations, without those that gradient checkpointing repeats."""

    @classmethod
    def of(cls, rows: StepRows, work: DecoderWork) -> "StepWork":
        """The work of a step's rows on this rank."""
        counted = [micro for micro in rows.micro_batches if micro.counted]
        lengths = [len(sample) for micro in counted for sample in micro.samples]
        computed = sum(micro.batch.input_ids.numel() for micro in rows.micro_batches)
        return cls(float(sum(lengths)), float(computed), work.flops(lengths))


class Stepper:
    """Runs optimizer steps, and counts the rows and steps that are left out.

    Args:
        engine: the training engine.
        work: FLOPs of the model.
        noise: generator of the noise on targets.
        skips: whether a step whose loss or gradient is not finite is left out.
    """

    def __init__(self, engine: ZeroEngine, work: DecoderWork, noise: torch.Generator, *, skips: bool) -> None:
        self.engine = engine
        self.work = work
        self.noise = noise
        self.skips = skips
        self.skipped_rows = 0
        self.skipped_steps = 0
        self._skipped_in_a_row = 0
        self.peak = peak_flops(engine.device)

    def step(self, loss: StageLoss, rows: StepRows) -> tuple[StepResult, dict[str, float]]:
        """Forward, backward and update on these rows (collective).

        Returns:
            The engine's result, and the metrics of the step.

        Raises:
            SftError: loss or gradient is not finite, and `data.on_bad` is `refuse` or it is the case in every step.
        """
        started = time.monotonic()
        self.skipped_rows += len(rows.skipped)
        targets = loss.make_targets(rows)
        counts = loss.count(rows, targets)
        sums = self._backward(loss, rows, targets, counts)
        metrics = loss.average(sums.sum(0), counts)
        if math.isfinite(metrics["loss"]):
            result = self.engine.step()
            self._count_skipped(math.isfinite(result.grad_norm), "gradient", rows, [True] * len(rows.micro_batches))
        else:
            result = self.engine.skip_step()
            self._count_skipped(False, "loss", rows, (~sums.isfinite()).any(1).tolist())
        if loss.uses_targets and not self._skipped_in_a_row:
            loss.target_maker.update_teacher()
        metrics |= {"tokens": float(counts.supervised), "lr": result.lr, "grad_norm": result.grad_norm}
        metrics |= self._performance(StepWork.of(rows, self.work), time.monotonic() - started)
        if self.skips:
            metrics |= {"skipped/rows": float(self.skipped_rows), "skipped/steps": float(self.skipped_steps)}
        return result, metrics

    def _backward(
        self, loss: StageLoss, rows: StepRows, targets: Sequence[torch.Tensor | None], counts: Counts
    ) -> torch.Tensor:
        """Run the backward passes; returns the summed losses of each micro-batch, [M, 2]."""
        sums = []
        for micro, target, segments in zip(rows.micro_batches, targets, counts.segments, strict=True):
            noise = loss.draw_noise(target, self.noise) if micro.counted else NO_NOISE
            parts = loss.compute_parts(self.engine, micro, counts, segments, target, noise)
            self.engine.backward(mean_loss(parts))
            sums.append(loss.sum_losses(micro, parts))
        return torch.stack(sums).double()

    def _count_skipped(self, is_finite: bool, what: str, rows: StepRows, wrong: list[bool]) -> None:
        """Count a step whose loss or gradient (`what`) is not finite, or refuse it (collective).

        The engine has left the weights alone. `wrong` marks the micro-batches that may be to blame.
        """
        if is_finite:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        if not self.skips:
            raise self._not_finite(what, rows, wrong, "or leave such steps out with data.on_bad=skip")
        if self._skipped_in_a_row == MOST_IN_A_ROW:
            raise self._not_finite(what, rows, wrong, f"since {MOST_IN_A_ROW} steps in a row were left out")
        self.skipped_steps += 1

    def _not_finite(self, what: str, rows: StepRows, wrong: list[bool], rest: str) -> SftError:
        """The same error on all ranks, naming the rows of the micro-batches that are `wrong` (collective).

        `rest` completes the remedy.
        """
        mine = [m.batch.row_ids for m, here in zip(rows.micro_batches, wrong, strict=True) if here and m.counted]
        found: list[list[tuple[str, ...]]] = [[] for _ in range(self.engine.world_size)]
        dist.all_gather_object(found, mine)
        ids = [row_id for per_rank in found for group in per_rank for row_id in group]
        return SftError(
            f"the {what} of step {self.engine.global_step} is not finite, with row {', '.join(ids)}",
            f"check these rows, lower the stage's lr, {rest}",
        )

    def _performance(self, work: StepWork, seconds: float) -> dict[str, float]:
        """Throughput of all ranks together, and the largest memory of any rank (collective)."""
        amounts = torch.tensor([work.tokens, work.computed, work.flops], dtype=torch.float64)
        tokens, computed, flops = self.engine.global_sum(amounts).tolist()
        metrics = {
            "perf/tokens_per_second": tokens / seconds,
            "perf/padding": 1 - tokens / computed,
            "perf/memory_gib": float(self.engine.global_max(memory_gib(self.engine.device))),
        }
        if self.peak is not None:
            metrics["perf/mfu"] = flops / seconds / (self.peak * self.engine.world_size)
        return metrics
