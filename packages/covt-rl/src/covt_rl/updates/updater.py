"""Policy-gradient steps on the rollouts of a step: every rank computes its part, and all agree on what is skipped."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covt_model.encoding.batch import Batch, collate
from covt_model.encoding.encode import IGNORE, Encoder, Sample
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_rl.algorithms.kl import kl_estimate
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.train_groups import TrainGroup
from covt_rl.updates.objective import PolicyLoss, Target
from covt_rl.updates.reference import Reference
from covt_rl.updates.skipped_updates import Disagreement, SkippedUpdates
from covt_rl.updates.step_plan import MicroBatch, MiniBatch, StepPlan, StepPlanner, TrainSample, train_samples
from covt_runtime.engine.zero_engine import StepResult, ZeroEngine

MEANS = ("gap", "kl_server", "kl", "entropy", "clipped", "importance")
COUNTS = ("tokens", "rows", "masked", "all_tokens", "all_gap")
SUMS = (*MEANS, *COUNTS)
ROW_FACTOR = 10
"""A completion is masked when its gap exceeds `algorithm.gap_limit`, the limit of a step's mean, by this factor: a few
unlikely tokens make the gap of a short completion large."""


@dataclass
class Totals:
    """Sums for the log, and the loss of each optimizer step."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    losses: list[float] = field(default_factory=list)
    result: StepResult | None = None

    def add(self, outcome: PolicyLoss) -> None:
        for name in SUMS:
            self.sums[name] += outcome.sums[name]


class Updater:
    """Trains the engine's policy; every rank calls it with the same groups."""

    def __init__(
        self,
        engine: ZeroEngine,
        policy: LatentPolicy,
        encoder: Encoder,
        features: VisionFeatures,
        config: RlConfig,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.engine, self.encoder, self.features, self.config = engine, encoder, features, config
        self.algorithm = config.algorithm
        self.reference = Reference(engine) if config.algorithm.kl_weight else None
        self.width: int = policy.model.config.get_text_config().hidden_size
        self.planner = StepPlanner(config, engine.rank, engine.world_size)
        self.skipped = SkippedUpdates(config, note)

    def update(self, groups: Sequence[TrainGroup], *, fresh: bool = True) -> dict[str, float]:
        """Optimizer steps on the groups' rollouts; the metrics are complete on every rank.

        The rest of the step is skipped when trainer and server disagree too much, or a gradient is not finite.

        Args:
            groups: the rollouts, with advantages.
            fresh: the rollouts come from the current weights, so that trainer and server must agree on them.

        Raises:
            RlError: several steps in a row were skipped, or a gradient is not finite and `data.on_bad` is `refuse`.
        """
        plan = self.planner.plan([train_samples(group) for group in groups])
        if not plan.batches:
            return {"frac_trained": 0.0}
        self._look_back(plan)
        totals, first, summed = Totals(), None, {}
        for batch in [batch for _ in range(self.algorithm.epochs) for batch in plan.batches]:
            # Later steps have other weights than the server's.
            checked = fresh and first is None
            self._accumulate(batch, totals, checked=checked)
            if first is None:
                summed = self._sum(totals)
                first = self._means(summed)
            if checked and self.skipped.disagrees(Disagreement.of(summed)):
                totals.result = self.engine.skip_step()
                break
            totals.result = self.engine.step()
            if self.skipped.is_not_finite(totals.result):
                break
        else:
            self.skipped.reset()
        assert first is not None
        return self._metrics(plan, totals, first)

    def _metrics(self, plan: StepPlan, totals: Totals, first: dict[str, float]) -> dict[str, float]:
        assert totals.result is not None
        metrics = self._means(self._sum(totals))
        metrics |= {name: first[name] for name in ("latent/logprob_gap", "sampling/kl", "sampling/masked")}
        metrics |= {
            "loss": float(self.engine.global_sum(float(np.mean(totals.losses)))),
            "learning_rate": totals.result.lr,
            "grad_norm": totals.result.grad_norm,
            "frac_trained": 0.0 if self.skipped.in_a_row else plan.trained / plan.total,
            "skipped/steps": float(self.skipped.steps),
        }
        # A skipped step has numbers that no file of metrics can hold.
        return {name: value for name, value in metrics.items() if isfinite(value)}

    def offload(self) -> None:
        """Move engine, vision tower and reference to the host until `reload`."""
        self._move("cpu")
        self.engine.offload()

    def reload(self) -> None:
        self.engine.reload()
        self._move(self.engine.device)

    def _move(self, device: torch.device | str) -> None:
        self.features.move(device)
        if self.reference is not None:
            self.reference.move(device)

    def kl_penalties(self, groups: Sequence[TrainGroup]) -> list[list[float]]:
        """Σ over a completion's tokens of the estimated KL(server's policy ‖ reference), per group (collective)."""
        items = [item for group in groups for item in train_samples(group)]
        micros = self.planner.micro_batches(items)
        place = {id(item.completion): number for number, item in enumerate(items)}
        penalties = torch.zeros(len(items), dtype=torch.float64, device=self.engine.device)
        for micro, reference in zip(micros, self._pass(micros, reference=True), strict=True):
            batch = self._collate(micro.items)
            kl = kl_estimate(self._server(batch, micro.items), reference, self.algorithm.kl_estimator)
            sums = (kl * (batch.labels != IGNORE)).sum(1)
            for item, value in zip(micro.items, sums.tolist(), strict=True):
                penalties[place[id(item.completion)]] += value
        values = iter(self.engine.global_sum(penalties).tolist())
        return [[next(values) for _ in group.completions] for group in groups]

    def _look_back(self, plan: StepPlan) -> None:
        """Log-probabilities of the reference, and of the weights before the first of several optimizer steps."""
        if self.reference is not None and self.algorithm.kl_in == "loss":
            for micro, logprobs in zip(plan.micros, self._pass(plan.micros, reference=True), strict=True):
                micro.reference = logprobs
        several = self.algorithm.epochs * len(plan.batches) > 1
        if several and self.algorithm.importance != "none":
            for micro, logprobs in zip(plan.micros, self._pass(plan.micros, reference=False), strict=True):
                micro.old = logprobs

    def _pass(self, micros: Sequence[MicroBatch], reference: bool) -> list[Tensor]:
        """Log-probabilities [B, T] of micro-batches without gradient, on the CPU (collective)."""
        source = self.reference.active() if reference and self.reference is not None else nullcontext()
        with source, torch.no_grad(), self.engine.forwards():
            return [self._forward(micro, None).cpu() for micro in micros]

    def _accumulate(self, batch: MiniBatch, totals: Totals, *, checked: bool) -> None:
        """Accumulate the gradients of an optimizer step; `checked` masks rows on which the server disagrees."""
        loss = 0.0
        limit = ROW_FACTOR * self.algorithm.gap_limit if checked else None
        for micro in batch.micros:
            outcome = self._forward(micro, batch, limit)
            self.engine.backward(outcome.loss)
            totals.add(outcome)
            loss += float(outcome.loss.detach())
        totals.losses.append(loss)

    def _forward(self, micro: MicroBatch, target: MiniBatch | None, gap_limit: float | None = None) -> Any:
        batch = self._collate(micro.items)
        device = self.engine.device
        features = self.features([picture for row in batch.pictures for picture in row])
        return self.engine(
            batch.to(device),
            features,
            None if target is None else self._target(batch, micro, target, gap_limit),
            max_segments=micro.segments,
            latents=self._latents(micro.items),
        )

    def _target(self, batch: Batch, micro: MicroBatch, of: MiniBatch, gap_limit: float | None) -> Target:
        device = self.engine.device
        return Target(
            server=self._server(batch, micro.items).to(device),
            advantages=torch.tensor([item.advantage for item in micro.items], device=device),
            tokens=of.tokens,
            sequences=of.sequences,
            old=None if micro.old is None else micro.old.to(device),
            reference=None if micro.reference is None else micro.reference.to(device),
            gap_limit=gap_limit,
        )

    def _collate(self, items: Sequence[TrainSample]) -> Batch:
        samples = [self._encode(item) for item in items]
        return collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)

    def _encode(self, item: TrainSample) -> Sample:
        sample = self.encoder.completion(item.prompt, item.completion.token_ids.tolist())
        return replace(sample, labels=np.full_like(sample.labels, IGNORE)) if item.is_padding else sample

    @staticmethod
    def _server(batch: Batch, items: Sequence[TrainSample]) -> Tensor:
        """[B, T], the server's log-probabilities in their places."""
        server = torch.zeros(batch.labels.shape)
        for row, item in enumerate(items):
            start = len(item.prompt.expanded)
            server[row, start : start + len(item.completion.logprobs)] = torch.from_numpy(item.completion.logprobs)
        return server

    def _latents(self, items: Sequence[TrainSample]) -> Tensor | None:
        """[P, H], the server's latents of all rows, where they are replayed."""
        if self.algorithm.latents == "recompute":
            return None
        parts = [item.latents for item in items if item.latents is not None and len(item.latents)]
        wanted = sum(end - start for item in items for start, end in item.completion.latent_spans)
        have = sum(len(part) for part in parts)
        if have != wanted:
            raise RlError(
                f"{have} latents came with {wanted} pads of the rollouts", "sample again, or recompute the latents"
            )
        if not parts:
            return torch.zeros((0, self.width), device=self.engine.device)
        return torch.from_numpy(np.concatenate(parts)).to(self.engine.device)

    def _sum(self, totals: Totals) -> dict[str, float]:
        """The sums of all ranks (collective)."""
        sums = torch.tensor([totals.sums[name] for name in SUMS], dtype=torch.float64)
        return dict(zip(SUMS, self.engine.global_sum(sums).tolist(), strict=True))

    def _means(self, summed: dict[str, float]) -> dict[str, float]:
        """Means per token over all ranks, in TRL's names where it has them."""
        mean = {name: summed[name] / max(summed["tokens"], 1.0) for name in MEANS}
        metrics = {
            "latent/logprob_gap": summed["all_gap"] / max(summed["all_tokens"], 1.0),
            "sampling/kl": mean["kl_server"],
            # Without a reference in the loss, `kl` is the server's from the trainer, which moves with a step's updates.
            "kl": mean["kl"] if self.reference is not None and self.algorithm.kl_in == "loss" else mean["kl_server"],
            "entropy": mean["entropy"],
            "clip_ratio/region_mean": mean["clipped"],
            "sampling/masked": summed["masked"] / max(summed["rows"], 1.0),
        }
        if self.algorithm.importance != "none":
            metrics["sampling/importance_sampling_ratio/mean"] = mean["importance"]
        return metrics
