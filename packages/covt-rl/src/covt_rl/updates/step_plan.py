"""How the rollouts of a step become optimizer steps and micro-batches, in the same way on every rank.

Nothing is encoded here: lengths, counts and segments follow from the completions, so a rank encodes only its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from covt_model.encoding.encode import EncodedPrompt
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.train_groups import TrainCompletion, TrainGroup
from covt_rl.updates.batching import chunks, pack


@dataclass(frozen=True)
class TrainSample:
    """One completion to train on.

    Attributes:
        prompt: its prompt.
        completion: its tokens.
        advantage: its advantage.
        latents: the server's [pads, H], where they are replayed.
        is_padding: whether it only completes a micro-batch, with zero weight.
    """

    prompt: EncodedPrompt
    completion: TrainCompletion
    advantage: float
    latents: np.ndarray | None
    is_padding: bool = False

    @property
    def length(self) -> int:
        """Tokens of prompt and completion, visual tokens included."""
        return len(self.prompt.expanded) + len(self.completion.token_ids)

    @property
    def segments(self) -> int:
        """Latent segments of the completion."""
        return len(self.completion.latent_spans)

    @property
    def counted(self) -> int:
        """Tokens that the loss counts: sampled, not forced."""
        return self.completion.sampled_tokens


@dataclass
class MicroBatch:
    """One forward on this rank.

    Attributes:
        items: its rows.
        segments: latent segments to compute: the most of a row in this forward of any rank. None computes those of its
            own rows, where ranks need not call the modules equally often.
        old, reference: log-probabilities [B, T] of an earlier pass.
    """

    items: tuple[TrainSample, ...]
    segments: int | None = None
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
    """The optimizer steps of a GRPO step.

    Attributes:
        batches: one for each optimizer step of a pass.
        trained: completions that are computed.
        total: completions of the step.
    """

    batches: list[MiniBatch] = field(default_factory=list[MiniBatch])
    trained: int = 0
    total: int = 0

    @property
    def micros(self) -> list[MicroBatch]:
        return [micro for batch in self.batches for micro in batch.micros]


@dataclass(frozen=True)
class StepPlanner:
    """Divides the rollouts of a step among the ranks.

    Attributes:
        config: the recipe.
        rank, ranks: this rank's number, and how many there are.
    """

    config: RlConfig
    rank: int
    ranks: int

    def plan(self, groups: Sequence[Sequence[TrainSample]]) -> StepPlan:
        """Divide the groups into mini-batches, and these into micro-batches.

        Rollouts of groups without spread have no advantage: they are counted, but only computed where a KL or an
        entropy bonus gives them a gradient.
        """
        algorithm = self.config.algorithm
        regularized = algorithm.entropy_weight or (algorithm.kl_weight and algorithm.kl_in == "loss")
        batches: list[MiniBatch] = []
        trained = 0
        for part in chunks(len(groups), algorithm.mini_batches):
            items = [item for number in part for item in groups[number] if not self._is_masked(item)]
            active = [item for item in items if regularized or item.advantage != 0]
            if not active:
                continue
            trained += len(active)
            tokens = float(sum(item.counted for item in items))
            batches.append(MiniBatch(self.micro_batches(active), tokens, float(len(items))))
        return StepPlan(batches, trained, sum(len(group) for group in groups))

    def _is_masked(self, item: TrainSample) -> bool:
        return self.config.algorithm.mask_truncated and item.completion.truncated

    def micro_batches(self, items: Sequence[TrainSample]) -> list[MicroBatch]:
        """This rank's micro-batches: rows sorted by length are dealt to the ranks, so all have equally many forwards.

        The last micro-batch is padded with a row that carries zero weight. A completion with many latent segments slows
        its own micro-batch only.
        """
        ordered = sorted(items, key=lambda item: item.length)
        ordered += [replace(ordered[-1], advantage=0.0, is_padding=True)] * (-len(ordered) % self.ranks)
        widths = [ordered[last].length for last in range(self.ranks - 1, len(ordered), self.ranks)]
        mine = ordered[self.rank :: self.ranks]
        cut = pack(widths, rows=self.config.data.micro_batch, tokens=self.config.algorithm.micro_tokens)
        alone = self.config.zero.gather == "step"
        return [
            MicroBatch(
                tuple(mine[number] for number in part),
                None if alone else _most_segments(ordered[part.start * self.ranks : part.stop * self.ranks]),
            )
            for part in cut
        ]


def _most_segments(items: Sequence[TrainSample]) -> int:
    return max(item.segments for item in items)


def train_samples(group: TrainGroup) -> list[TrainSample]:
    """The samples of one group; they have no advantage before `with_advantages`."""
    advantages = group.advantages or (0.0,) * len(group.completions)
    latents = group.latents or (None,) * len(group.completions)
    return [
        TrainSample(group.prompt, completion, advantage, own)
        for completion, advantage, own in zip(group.completions, advantages, latents, strict=True)
    ]
