"""What a stage computes of a step's rows: targets, losses and their means, for training and for held-out rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.training_losses import Sum
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_sft.batches.sample_source import MicroBatch, StepRows
from covt_sft.losses.objective import LossSums
from covt_sft.losses.target_maker import TargetMaker
from covt_sft.sft_recipe import Method, Stage1Section, StageSection

Part = tuple[float, Sum, int]
"""Weight, sum over this rank's micro-batch, and global count of one loss."""


@dataclass(frozen=True)
class Counts:
    """Of a step's rows on all ranks together."""

    supervised: int
    """Tokens that carry cross-entropy."""
    latents: int
    segments: int
    """The most latent segments of a row."""


class StageLoss:
    """The loss of one stage. Rows that are not counted are computed with weight 0."""

    def __init__(
        self, stage: StageSection, method: Method, engine: ZeroEngine, features: VisionFeatures, targets: TargetMaker
    ) -> None:
        self.aligned = stage if isinstance(stage, Stage1Section) and method == "latent" else None
        self.engine = engine
        self.features = features
        self.target_maker = targets

    def counts(self, rows: StepRows) -> Counts:
        """Collective."""
        counted = [micro.batch for micro in rows.micro_batches if micro.counted]
        supervised = float(sum(batch.supervised for batch in counted))
        latents = float(sum(len(batch.pad_index) for batch in counted))
        sums = self.engine.global_sum(torch.tensor([supervised, latents], dtype=torch.float64)).tolist()
        segments = self.engine.global_max(float(max(micro.batch.max_segments for micro in rows.micro_batches)))
        return Counts(int(sums[0]), int(sums[1]), int(segments))

    def targets(self, rows: StepRows) -> Sequence[torch.Tensor | None]:
        """Stage 1: [P, H] a micro-batch; None where latents are the model's own (collective)."""
        micro_batches = rows.micro_batches
        if self.aligned is None:
            return [None] * len(micro_batches)
        return self.target_maker.make([m.batch for m in micro_batches], [m.samples for m in micro_batches])

    def parts(
        self,
        call: Callable[..., LossSums],
        micro: MicroBatch,
        counts: Counts,
        target: torch.Tensor | None,
        noise: torch.Tensor | None = None,
    ) -> list[Part]:
        """One forward of `call`, the engine or its module: cross-entropy and, in stage 1, alignment."""
        features = self.features([picture for row in micro.batch.pictures for picture in row])
        losses = call(micro.batch, features, targets=target, noise=noise, max_segments=counts.segments)
        counted = float(micro.counted)
        parts: list[Part] = [
            (counted * (1.0 if self.aligned is None else self.aligned.ce_weight), losses.ce, counts.supervised)
        ]
        if self.aligned is not None and losses.align is not None:
            parts.append((counted * self.aligned.align_weight, losses.align, counts.latents))
        return parts

    @staticmethod
    def sums(micro: MicroBatch, parts: Sequence[Part]) -> torch.Tensor:
        """Summed cross-entropy and alignment of a micro-batch [2]."""
        totals = [float(part.total.detach()) for _, part, _ in parts] if micro.counted else []
        return torch.tensor(totals + [0.0] * (2 - len(totals)))

    def means(self, sums: torch.Tensor, counts: Counts) -> dict[str, float]:
        """Metrics of summed losses [2] over this rank's rows (collective)."""
        ce, align = self.engine.global_sum(sums).tolist()
        metrics = {"loss": ce / max(counts.supervised, 1), "ce": ce / max(counts.supervised, 1)}
        if self.aligned is not None:
            metrics["align"] = align / max(counts.latents, 1)
            metrics["loss"] = self.aligned.ce_weight * metrics["ce"] + self.aligned.align_weight * metrics["align"]
        return metrics

    @torch.no_grad()
    def held_out(self, rows: StepRows) -> dict[str, float]:
        """The stage's losses on rows that are not trained on (collective)."""
        counts, targets = self.counts(rows), self.targets(rows)
        sums = torch.zeros(2, dtype=torch.float64)
        with self.engine.forwards():
            for micro, target in zip(rows.micro_batches, targets, strict=True):
                sums += self.sums(micro, self.parts(self.engine.module, micro, counts, target))
        return self.means(sums, counts)
