"""Training losses as sums and counts, so that a trainer can divide by the counts of the global batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from covt_model.encoding.encode import IGNORE
from covt_model.latents.output_head import Scoring, scoring_head


@dataclass(frozen=True)
class Sum:
    """A summed loss, differentiable, and what it is the sum over."""

    total: torch.Tensor
    count: int


def token_loss(lm_head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor) -> Sum:
    """Cross-entropy of the labelled tokens, summed in fp32, by blocks of the vocabulary (`output_head`).

    hidden: [B, T, H] final-norm states; labels: [B, T] aligned with the inputs, `IGNORE` where there is none. The
    head runs on the labelled positions only, once, also when there are none (each rank must call it under ZeRO-3).
    """
    index, targets = _labelled(labels)
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    logprobs, _ = scoring_head(lm_head)(states.index_select(0, index), Scoring(targets=targets))
    return Sum(-logprobs.sum(), len(index))


def _labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the labelled tokens' predictions in the flattened [B·(T − 1)], and the labels there."""
    targets = labels[:, 1:].reshape(-1)
    index = (targets != IGNORE).nonzero().squeeze(1)
    return index, targets.index_select(0, index)


def alignment_loss(
    hidden: torch.Tensor,
    pad_index: torch.Tensor,
    targets: torch.Tensor,
    rule: Callable[[torch.Tensor], torch.Tensor] | None = None,
    is_aligned: torch.Tensor | None = None,
) -> Sum:
    """ILVR's stage-1 alignment: sum over pads of `1 − cos(h[t−1], target[t])`, in fp32.

    hidden: [B, T, H]; pad_index: [P] positions in the flattened [B·T]; targets: [P, H], detached here. A pad is never
    a row's first token, so t − 1 lies in the same row. rule: what makes a latent of a hidden state
    (`LatentPolicy.feedback`), so that a head with weights learns here too; the identity changes no cosine. is_aligned:
    bool [P], which pads count; None means all.
    """
    if is_aligned is not None:
        pad_index, targets = pad_index[is_aligned], targets[is_aligned]
    before = hidden.reshape(-1, hidden.shape[-1]).index_select(0, pad_index - 1)
    before = (before if rule is None else rule(before)).float()
    cosine = functional.cosine_similarity(before, targets.detach().float(), dim=-1)
    return Sum((1 - cosine).sum(), len(pad_index))


def mean_loss(parts: list[tuple[float, Sum, int]]) -> torch.Tensor:
    """Σ weight · total / global count. A part with a global count of 0 adds 0 but keeps its graph."""
    return torch.stack([weight * part.total / max(count, 1) for weight, part, count in parts]).sum()


def sampled_logprobs(
    lm_head: nn.Module,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float,
    banned: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of sampled tokens, as the server samples them: [B, T] each, fp32.

    hidden: [B, T, H]; labels: [B, T], the sampled tokens, `IGNORE` elsewhere (forced tokens among them), where the
    result is 0. Logits are divided by the temperature (0 means greedy, scored at 1) with the `banned` tokens masked:
    outside latent mode PAD and END can't be sampled. Entry [b, t] belongs to token t. The vocabulary is divided into
    blocks (`output_head`). Entropies cost a gradient only where a loss depends on them.
    """
    index, targets = _labelled(labels)
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1]).index_select(0, index)
    scoring = Scoring(targets=targets, temperature=temperature, banned=banned, entropy=True)
    chosen, entropy = scoring_head(lm_head)(states, scoring)
    shape = (labels.shape[0], labels.shape[1] - 1)

    def spread(values: torch.Tensor) -> torch.Tensor:
        flat = values.new_zeros(shape[0] * shape[1]).index_copy(0, index, values)
        return functional.pad(flat.view(shape), (1, 0))

    return spread(chosen), spread(entropy)
