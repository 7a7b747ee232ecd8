"""The loss of a stage: targets, loss sums and their means, for training and for held-out rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.training_losses import Sum
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_sft.batches.sample_source import MicroBatch, StepRows
from covt_sft.losses.objective import NO_NOISE, LossSums, Noise, draw_noise, has_target
from covt_sft.losses.target_maker import TargetMaker
from covt_sft.sft_recipe import Method, Stage1Section, Stage2Section

Part = tuple[float, Sum, int]
"""One loss: its weight, its sum over this rank's micro-batch, and the global count to divide by."""


@dataclass(frozen=True)
class Counts:
    """Counts over a step's rows on all ranks."""

    supervised: int
    """Tokens that carry cross-entropy."""
    latents: int
    """Latent tokens with a target, which carry the alignment loss."""
    segments: tuple[int | None, ...]
    """For each micro-batch the latent segments to compute; None computes those that its rows have."""


class StageLoss:
    """Computes the loss of one stage. Micro-batches that are not counted have weight 0."""

    def __init__(
        self,
        stage: Stage1Section | Stage2Section,
        method: Method,
        engine: ZeroEngine,
        features: VisionFeatures,
        targets: TargetMaker,
    ) -> None:
        aligns = method == "latent"
        self.stage1 = stage if isinstance(stage, Stage1Section) and aligns else None
        self.ce_weight = 1.0 if self.stage1 is None else self.stage1.ce_weight
        self.align_weight = stage.align_weight if aligns else 0.0
        self.uses_targets = self.stage1 is not None or self.align_weight > 0
        """In stage 1 targets are the latents, in stage 2 only what the model's own latents are aligned to."""
        self.engine = engine
        self.features = features
        self.target_maker = targets

    def count(self, rows: StepRows, targets: Sequence[torch.Tensor | None]) -> Counts:
        """The step's counts over all ranks, with the targets of its micro-batches (collective)."""
        counted = [
            (micro.batch, target) for micro, target in zip(rows.micro_batches, targets, strict=True) if micro.counted
        ]
        supervised = float(sum(batch.supervised for batch, _ in counted))
        latents = float(sum(int(has_target(target).sum()) for _, target in counted if target is not None))
        sums = self.engine.global_sum(torch.tensor([supervised, latents], dtype=torch.float64)).tolist()
        return Counts(int(sums[0]), int(sums[1]), self.count_segments(rows))

    def count_segments(self, rows: StepRows) -> tuple[int | None, ...]:
        """For each micro-batch the segments that every rank computes (collective).

        Where each module gathers its parameters, the k-th forwards of all ranks must call the modules equally often.
        With whole parameters nothing is gathered between micro-batches, and every rank computes what its own rows have.
        """
        if self.engine.zero.gather == "step":
            return (None,) * len(rows.micro_batches)
        own = torch.tensor([micro.batch.max_segments for micro in rows.micro_batches], dtype=torch.float64)
        return tuple(int(most) for most in self.engine.global_max(own).tolist())

    def make_targets(self, rows: StepRows) -> Sequence[torch.Tensor | None]:
        """For each micro-batch its targets [P, H]; None where the stage uses none (collective)."""
        micro_batches = rows.micro_batches
        if not self.uses_targets:
            return [None] * len(micro_batches)
        return self.target_maker.make([m.batch for m in micro_batches], [m.samples for m in micro_batches])

    def draw_noise(self, target: torch.Tensor | None, generator: torch.Generator) -> Noise:
        """Noise on the targets [P, H] of a micro-batch; only stage 1 has any."""
        if self.stage1 is None or target is None:
            return NO_NOISE
        return draw_noise(target, self.stage1, generator)

    def compute_parts(
        self,
        call: Callable[..., LossSums],
        micro: MicroBatch,
        counts: Counts,
        segments: int | None,
        target: torch.Tensor | None,
        noise: Noise = NO_NOISE,
    ) -> list[Part]:
        """One forward: cross-entropy, and alignment where there are targets.

        Args:
            call: the engine, or its module for a forward without gradients.
            micro: the rows of the forward.
            counts: counts of the whole step.
            segments: this micro-batch's entry in `counts.segments`.
            target: [P, H], or None where the stage uses none.
            noise: added to the targets.
        """
        features = self.features([image for row in micro.batch.pictures for image in row])
        losses = call(
            micro.batch,
            features,
            targets=target,
            feeds_targets=self.stage1 is not None,
            noise=noise,
            max_segments=segments,
        )
        counted = float(micro.counted)
        parts: list[Part] = [(counted * self.ce_weight, losses.ce, counts.supervised)]
        if losses.align is not None:
            parts.append((counted * self.align_weight, losses.align, counts.latents))
        return parts

    @staticmethod
    def sum_losses(micro: MicroBatch, parts: Sequence[Part]) -> torch.Tensor:
        """Summed cross-entropy and alignment of a micro-batch, [2]; zeros where it is not counted."""
        totals = [float(part.total.detach()) for _, part, _ in parts] if micro.counted else []
        return torch.tensor(totals + [0.0] * (2 - len(totals)))

    def average(self, sums: torch.Tensor, counts: Counts) -> dict[str, float]:
        """Mean losses by metric name, from this rank's sums [2] (collective)."""
        ce, align = self.engine.global_sum(sums).tolist()
        metrics = {"loss": ce / max(counts.supervised, 1), "ce": ce / max(counts.supervised, 1)}
        if self.uses_targets:
            metrics["align"] = align / max(counts.latents, 1)
            metrics["loss"] = self.ce_weight * metrics["ce"] + self.align_weight * metrics["align"]
        return metrics

    @torch.no_grad()
    def evaluate(self, rows: StepRows) -> dict[str, float]:
        """The stage's mean losses on held-out rows (collective)."""
        targets = self.make_targets(rows)
        counts = self.count(rows, targets)
        sums = torch.zeros(2, dtype=torch.float64)
        with self.engine.forwards():
            for micro, segments, target in zip(rows.micro_batches, counts.segments, targets, strict=True):
                sums += self.sum_losses(micro, self.compute_parts(self.engine.module, micro, counts, segments, target))
        return self.average(sums, counts)
