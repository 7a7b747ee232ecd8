"""What every rank needs of a step's rollouts: rank 0 keeps texts, continuations and scores to itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covt_model.encoding.encode import EncodedPrompt
from covt_rl.scoring.score_groups import ScoredGroup
from covt_rollout.client.completions import Completion, Spans
from covt_rollout.vllm_plugin.protocol import Latents


@dataclass(frozen=True)
class TrainCompletion:
    """A completion as it is trained on.

    Attributes:
        token_ids: int32 [T].
        logprobs: the server's, float32 [T].
        latent_spans: half-open ranges of pads.
        truncated: whether it was cut off at its greatest length.
    """

    token_ids: np.ndarray
    logprobs: np.ndarray
    latent_spans: Spans
    truncated: bool

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy chose: neither pads nor the end marker that is forced after them."""
        pads = sum(end - start for start, end in self.latent_spans)
        ends = sum(end < len(self.token_ids) for _, end in self.latent_spans)
        return len(self.token_ids) - pads - ends


@dataclass(frozen=True)
class TrainGroup:
    """The rollouts of one prompt as they are trained on.

    Attributes:
        row_id: the prompt's row.
        prompt: the encoded prompt, so that no other rank reads or encodes the row.
        completions: the rollouts.
        totals: weighted sums of their rewards.
        values: unweighted rewards by name, per completion.
        advantages: empty until `with_advantages`.
        latents: the server's [pads, H] of each completion, where they are replayed.
    """

    row_id: str
    prompt: EncodedPrompt
    completions: tuple[TrainCompletion, ...]
    totals: tuple[float, ...]
    values: dict[str, list[float]]
    advantages: tuple[float, ...] = ()
    latents: tuple[Latents | None, ...] = ()


def to_train_group(group: ScoredGroup, prompt: EncodedPrompt) -> TrainGroup:
    """Leave out what is not trained on."""
    return TrainGroup(
        row_id=group.row_id,
        prompt=prompt,
        completions=tuple(map(_to_train_completion, group.completions)),
        totals=group.totals,
        values=group.values,
        latents=group.latents,
    )


def _to_train_completion(completion: Completion) -> TrainCompletion:
    return TrainCompletion(
        token_ids=np.array(completion.token_ids, np.int32),
        logprobs=np.array(completion.logprobs, np.float32),
        latent_spans=completion.latent_spans,
        truncated=completion.finish_reason == "length",
    )
