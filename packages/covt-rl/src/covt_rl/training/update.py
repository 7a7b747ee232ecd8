"""Policy-gradient steps on scored rollouts: what each rank computes, and in which pieces."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covt_data.schema import Row
from covt_model.encoding.batch import Batch, collate
from covt_model.encoding.encode import IGNORE, EncodedPrompt, Encoder, Sample
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_rl.algorithms.kl import kl_estimate
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rl.training.batching import chunks, pack
from covt_rl.training.objective import PolicyLoss, Target
from covt_rl.training.reference import Reference
from covt_rollout.client.completions import Completion
from covt_runtime.engine.zero_engine import StepResult, ZeroEngine

SUMS = ("tokens", "gap", "kl_server", "kl", "entropy", "clipped", "importance")


@dataclass(frozen=True)
class TrainSample:
    """One completion to train on; `latents` are the server's [pads, H], where they are replayed."""

    sample: Sample
    completion: Completion
    advantage: float
    latents: np.ndarray | None

    @property
    def counted(self) -> int:
        """Sampled tokens that the loss counts."""
        return int((self.sample.labels != IGNORE).sum())


@dataclass
class MicroBatch:
    """One forward on this rank; `old` and `reference` are log-probabilities [B, T] of an earlier pass."""

    items: tuple[TrainSample, ...]
    old: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True)
class MiniBatch:
    """The input of one optimizer step: this rank's micro-batches, and counts of the global batch."""

    micros: list[MicroBatch]
    tokens: float
    sequences: float


@dataclass(frozen=True)
class StepPlan:
    """A step's optimizer steps; `segments` is the most latent segments of a completion on any rank."""

    batches: list[MiniBatch]
    segments: int
    trained: int
    total: int

    @property
    def micros(self) -> list[MicroBatch]:
        return [micro for batch in self.batches for micro in batch.micros]


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
        row_of: Mapping[str, Row],
    ) -> None:
        self.engine, self.encoder, self.features, self.config = engine, encoder, features, config
        self.algorithm = config.algorithm
        self.reference = Reference(engine) if config.algorithm.kl_weight else None
        self.width: int = policy.model.config.get_text_config().hidden_size
        self._row_of = row_of
        self._prompts: dict[str, EncodedPrompt] = {}

    def update(self, groups: Sequence[ScoredGroup], *, fresh: bool = True) -> dict[str, float]:
        """Optimizer steps on the groups' rollouts; the metrics are complete on every rank.

        fresh: the rollouts come from the current weights, so that trainer and server must agree on them.
        """
        work = self._plan([self._items(group) for group in groups])
        if not work.batches:
            return {"skipped_updates": 1.0}
        self._look_back(work)
        totals, first = Totals(), None
        for _ in range(self.algorithm.epochs):
            for batch in work.batches:
                self._mini_step(batch, work.segments, totals)
                if first is None:
                    # Later steps have other weights than the server's.
                    first = self._means(totals)
                    self._check_gap(first["latent/logprob_gap"], fresh)
        assert first is not None and totals.result is not None
        self._prompts = {}
        metrics = self._means(totals)
        metrics |= {name: first[name] for name in ("latent/logprob_gap", "sampling/kl")}
        return metrics | {
            "loss": float(self.engine.global_sum(float(np.mean(totals.losses)))),
            "learning_rate": totals.result.lr,
            "grad_norm": totals.result.grad_norm,
            "frac_trained": work.trained / work.total,
        }

    def offload(self) -> None:
        """Leave the device: engine, vision tower and reference go to the host until `reload`."""
        self._move("cpu")
        self.engine.offload()

    def reload(self) -> None:
        self.engine.reload()
        self._move(self.engine.device)

    def _move(self, device: torch.device | str) -> None:
        self.features.move(device)
        if self.reference is not None:
            self.reference.move(device)

    def kl_penalties(self, scored: Sequence[ScoredGroup]) -> list[list[float]]:
        """Σ over a completion's tokens of the estimated KL(server's policy ‖ reference), per group (collective)."""
        groups = [self._items(group) for group in scored]
        items = [item for group in groups for item in group]
        micros = self._micros(items)
        segments = max(len(item.sample.spans) for item in items)
        place = {id(item.completion): number for number, item in enumerate(items)}
        penalties = torch.zeros(len(items), dtype=torch.float64, device=self.engine.device)
        for micro, reference in zip(micros, self._pass(micros, segments, reference=True), strict=True):
            batch = self._collate(micro.items)
            kl = kl_estimate(self._server(batch, micro.items), reference, self.algorithm.kl_estimator)
            sums = (kl * (batch.labels != IGNORE)).sum(1)
            for item, value in zip(micro.items, sums.tolist(), strict=True):
                penalties[place[id(item.completion)]] += value
        values = iter(self.engine.global_sum(penalties).tolist())
        return [[next(values) for _ in group] for group in groups]

    def _items(self, group: ScoredGroup) -> list[TrainSample]:
        prompt = self._prompts.get(group.row_id)
        if prompt is None:
            prompt = self._prompts[group.row_id] = self.encoder.encode_prompt(self._row_of[group.row_id])
        latents = group.latents or [None] * len(group.completions)
        return [
            TrainSample(self.encoder.completion(prompt, one.token_ids), one, advantage, own)
            for one, advantage, own in zip(group.completions, group.advantages, latents, strict=True)
        ]

    def _plan(self, groups: Sequence[Sequence[TrainSample]]) -> StepPlan:
        """Cut the groups into mini-batches and these into micro-batches, in the same way on every rank.

        Rollouts of groups without spread have no advantage: they are counted, but only computed where a KL or an
        entropy bonus gives them a gradient.
        """
        batches: list[MiniBatch] = []
        trained = segments = 0
        regularized = self.algorithm.entropy_weight or (self.reference is not None and self.algorithm.kl_in == "loss")
        for part in chunks(len(groups), self.algorithm.mini_batches):
            items = [item for number in part for item in groups[number] if not self._masked(item)]
            active = [item for item in items if regularized or item.advantage != 0]
            if not active:
                continue
            trained += len(active)
            segments = max(segments, *(len(item.sample.spans) for item in active))
            tokens = float(sum(item.counted for item in items))
            batches.append(MiniBatch(self._micros(active), tokens, float(len(items))))
        return StepPlan(batches, segments, trained, sum(len(group) for group in groups))

    def _masked(self, item: TrainSample) -> bool:
        return self.algorithm.mask_truncated and item.completion.finish_reason == "length"

    def _micros(self, items: Sequence[TrainSample]) -> list[MicroBatch]:
        """This rank's micro-batches: rows sorted by length are dealt to the ranks, so all have equally many forwards.

        The last micro-batch is padded with a row that carries zero weight.
        """
        ranks, rank = self.engine.world_size, self.engine.rank
        ordered = sorted(items, key=lambda item: len(item.sample))
        short = -len(ordered) % ranks
        ordered += [_uncounted(ordered[-1])] * short
        widths = [len(ordered[last].sample) for last in range(ranks - 1, len(ordered), ranks)]
        mine = ordered[rank::ranks]
        cut = pack(widths, rows=self.config.data.micro_batch, tokens=self.algorithm.micro_tokens)
        return [MicroBatch(tuple(mine[number] for number in part)) for part in cut]

    def _look_back(self, work: StepPlan) -> None:
        """Log-probabilities of the reference, and of the weights before the first of several optimizer steps."""
        if self.reference is not None and self.algorithm.kl_in == "loss":
            for micro, logprobs in zip(work.micros, self._pass(work.micros, work.segments, True), strict=True):
                micro.reference = logprobs
        several = self.algorithm.epochs * len(work.batches) > 1
        if several and self.algorithm.importance != "none":
            for micro, logprobs in zip(work.micros, self._pass(work.micros, work.segments, False), strict=True):
                micro.old = logprobs

    def _pass(self, micros: Sequence[MicroBatch], segments: int, reference: bool) -> list[Tensor]:
        """Log-probabilities [B, T] of micro-batches without gradient, on the CPU (collective)."""
        source = self.reference.active() if reference and self.reference is not None else nullcontext()
        with source, torch.no_grad(), self.engine.forwards():
            return [self._forward(micro, segments, None).cpu() for micro in micros]

    def _mini_step(self, batch: MiniBatch, segments: int, totals: Totals) -> None:
        loss = 0.0
        for micro in batch.micros:
            outcome = self._forward(micro, segments, batch)
            self.engine.backward(outcome.loss)
            totals.add(outcome)
            loss += float(outcome.loss.detach())
        totals.losses.append(loss)
        totals.result = self.engine.step()

    def _forward(self, micro: MicroBatch, segments: int, target: MiniBatch | None) -> Any:
        batch = self._collate(micro.items)
        device = self.engine.device
        features = self.features([picture for row in batch.pictures for picture in row])
        return self.engine(
            batch.to(device),
            features,
            None if target is None else self._target(batch, micro, target),
            max_segments=segments,
            latents=self._latents(micro.items),
        )

    def _target(self, batch: Batch, micro: MicroBatch, of: MiniBatch) -> Target:
        device = self.engine.device
        return Target(
            server=self._server(batch, micro.items).to(device),
            advantages=torch.tensor([item.advantage for item in micro.items], device=device),
            tokens=of.tokens,
            sequences=of.sequences,
            old=None if micro.old is None else micro.old.to(device),
            reference=None if micro.reference is None else micro.reference.to(device),
        )

    def _collate(self, items: Sequence[TrainSample]) -> Batch:
        samples = [item.sample for item in items]
        return collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)

    @staticmethod
    def _server(batch: Batch, items: Sequence[TrainSample]) -> Tensor:
        """[B, T], the server's log-probabilities in their places."""
        server = torch.zeros(batch.labels.shape)
        for row, item in enumerate(items):
            start = item.sample.prompt_length
            server[row, start : start + len(item.completion.logprobs)] = torch.tensor(item.completion.logprobs)
        return server

    def _latents(self, items: Sequence[TrainSample]) -> Tensor | None:
        """[P, H], the server's latents of all rows, where they are replayed."""
        if self.algorithm.latents == "recompute":
            return None
        parts = [item.latents for item in items if item.latents is not None and len(item.latents)]
        wanted = sum(end - start for item in items for start, end in item.sample.spans)
        have = sum(len(part) for part in parts)
        if have != wanted:
            raise RlError(
                f"{have} latents came with {wanted} pads of the rollouts", "sample again, or recompute the latents"
            )
        if not parts:
            return torch.zeros((0, self.width), device=self.engine.device)
        return torch.from_numpy(np.concatenate(parts)).to(self.engine.device)

    def _means(self, totals: Totals) -> dict[str, float]:
        """Means a token over all ranks, in TRL's names where it has them."""
        sums = torch.tensor([totals.sums[name] for name in SUMS], dtype=torch.float64)
        summed = dict(zip(SUMS, self.engine.global_sum(sums).tolist(), strict=True))
        mean = {name: value / max(summed["tokens"], 1.0) for name, value in summed.items()}
        metrics = {
            "latent/logprob_gap": mean["gap"],
            "sampling/kl": mean["kl_server"],
            # Without a reference in the loss, `kl` is the server's from the trainer, which moves with a step's updates.
            "kl": mean["kl"] if self.reference is not None and self.algorithm.kl_in == "loss" else mean["kl_server"],
            "entropy": mean["entropy"],
            "clip_ratio/region_mean": mean["clipped"],
        }
        if self.algorithm.importance != "none":
            metrics["sampling/importance_sampling_ratio/mean"] = mean["importance"]
        return metrics

    def _check_gap(self, gap: float, fresh: bool) -> None:
        limit = self.algorithm.gap_limit
        if fresh and gap > limit:
            raise RlError(
                f"trainer and server disagree: mean |log-probability gap| {gap:.4f} is over the limit {limit}",
                "check that the server runs the trainer's dtype and checkpoint, or raise algorithm.gap_limit",
            )


def _uncounted(item: TrainSample) -> TrainSample:
    """The same row with zero weight."""
    sample = replace(item.sample, labels=np.full_like(item.sample.labels, IGNORE))
    return replace(item, sample=sample, advantage=0.0)
