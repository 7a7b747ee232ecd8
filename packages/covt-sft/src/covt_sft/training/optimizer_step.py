"""One optimizer step of a supervised training, with its metrics."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from covt_model.latents.training_losses import mean_loss
from covt_runtime.engine.zero_engine import StepResult, ZeroEngine
from covt_runtime.metrics.performance import DecoderWork, memory_gib, peak_flops
from covt_sft.batches.sample_source import StepRows
from covt_sft.losses.objective import target_noise
from covt_sft.losses.stage_loss import Counts, StageLoss
from covt_sft.sft_errors import SftError


def decoder_work(model: Any) -> DecoderWork:
    """FLOPs of a Qwen2.5-VL's language model and head, before its parameters are sharded."""
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
class Work:
    """What this rank computes in a step, in tokens and floating-point operations."""

    tokens: float
    """Tokens of the rows."""
    computed: float
    """Tokens of the forwards, padding included."""
    flops: float

    @classmethod
    def of(cls, rows: StepRows, work: DecoderWork) -> "Work":
        counted = [micro for micro in rows.micro_batches if micro.counted]
        lengths = [len(sample) for micro in counted for sample in micro.samples]
        computed = sum(micro.batch.input_ids.numel() for micro in rows.micro_batches)
        return cls(float(sum(lengths)), float(computed), work.flops(lengths))


class Stepper:
    """Trains one step after another; counts what it has to leave out."""

    def __init__(self, engine: ZeroEngine, work: DecoderWork, noise: torch.Generator, *, skips: bool) -> None:
        self.engine = engine
        self.work = work
        self.noise = noise
        self.skips = skips
        self.skipped_rows = 0
        self.skipped_steps = 0
        self.peak = peak_flops(engine.device)

    def step(self, loss: StageLoss, rows: StepRows) -> tuple[StepResult, dict[str, float]]:
        """Forward, backward and update on these rows (collective).

        Raises:
            SftError: the loss or the gradient is not finite, and the recipe doesn't leave such steps out.
        """
        begun = time.monotonic()
        self.skipped_rows += len(rows.skipped)
        counts = loss.counts(rows)
        sums = self._backward(loss, rows, counts)
        metrics = loss.means(sums.sum(0), counts)
        if math.isfinite(metrics["loss"]):
            result = self.engine.step()
            if loss.aligned is not None:
                loss.target_maker.moved()
            if not math.isfinite(result.grad_norm):
                raise self._not_finite("gradient norm", rows, [True] * len(rows.micro_batches))
        elif self.skips:
            self.skipped_steps += 1
            result = self.engine.skip_step()
        else:
            raise self._not_finite("loss", rows, (~sums.isfinite()).any(1).tolist())
        metrics |= {"tokens": float(counts.supervised), "lr": result.lr, "grad_norm": result.grad_norm}
        metrics |= self._performance(Work.of(rows, self.work), time.monotonic() - begun)
        if self.skips:
            metrics |= {"skipped/rows": float(self.skipped_rows), "skipped/steps": float(self.skipped_steps)}
        return result, metrics

    def _backward(self, loss: StageLoss, rows: StepRows, counts: Counts) -> torch.Tensor:
        """Summed losses of each micro-batch [M, 2], after their backward passes."""
        sums = []
        for micro, target in zip(rows.micro_batches, loss.targets(rows), strict=True):
            noise = None
            if loss.aligned is not None and target is not None and micro.counted:
                noise = target_noise(target, loss.aligned.noise, self.noise)
            parts = loss.parts(self.engine, micro, counts, target, noise)
            self.engine.backward(mean_loss(parts))
            sums.append(loss.sums(micro, parts))
        return torch.stack(sums).double()

    def _not_finite(self, what: str, rows: StepRows, wrong: list[bool]) -> SftError:
        """The error for all ranks, naming the rows of the micro-batches where `wrong` (collective)."""
        mine = [m.batch.row_ids for m, here in zip(rows.micro_batches, wrong, strict=True) if here and m.counted]
        found: list[list[tuple[str, ...]]] = [[] for _ in range(self.engine.world_size)]
        dist.all_gather_object(found, mine)
        ids = [row_id for per_rank in found for group in per_rank for row_id in group]
        return SftError(
            f"the {what} of step {self.engine.global_step + 1} is not finite, with row {', '.join(ids)}",
            "look at these rows, lower the learning rate, or leave such steps out with data.on_bad=skip",
        )

    def _performance(self, work: Work, seconds: float) -> dict[str, float]:
        """Throughput of all ranks together, the most memory of any (collective)."""
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
