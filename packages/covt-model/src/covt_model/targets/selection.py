"""Selective perceptual modeling (ILVR, arXiv 2512.05665): which features of a helper image become latent targets.

Pure functions on tensors without a batch dimension, in fp32 inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

MAX_CANDIDATES = 256
Unfilled = Literal["repeat", "unaligned"]
"""What pads without a selected feature get: the best feature again, or no target, written as zeros."""


def mean_runs(features: torch.Tensor, runs: int) -> torch.Tensor:
    """Mean of each of `runs` contiguous, disjoint, nearly equal runs: [N, H] → [runs, H]. N must be at least `runs`."""
    count = len(features)
    if count < runs:
        raise ValueError(f"{count} features can't be split into {runs} runs")
    edges = torch.arange(runs + 1, device=features.device) * count // runs
    run = torch.bucketize(torch.arange(count, device=features.device), edges[1:], right=True)
    sums = features.float().new_zeros(runs, features.shape[1]).index_add(0, run, features.float())
    return (sums / (edges[1:] - edges[:-1])[:, None]).to(features.dtype)


def pool(features: torch.Tensor) -> torch.Tensor:
    """Candidates of a helper image from its merged features [N, H]: pooled to 256 when there are that many or more."""
    return mean_runs(features, MAX_CANDIDATES) if len(features) >= MAX_CANDIDATES else features


def user_context(
    queries: torch.Tensor, keys: torch.Tensor, image_values: torch.Tensor, prompt_hidden: torch.Tensor
) -> torch.Tensor:
    """What the user asks about, [H]: the attended part of the picture averaged with the prompt's mean hidden state.

    queries: [heads, P, D] of the prompt's text tokens, keys: [heads, I, D] of its visual tokens, both of the last
    layer; image_values: [I, H], what stands for the visual tokens; prompt_hidden: [P, H]. A prompt without pictures is
    its hidden mean.
    """
    text = prompt_hidden.float().mean(0)
    if not len(image_values):
        return text
    scores = queries.float() @ keys.float().transpose(1, 2) / queries.shape[-1] ** 0.5
    weights = scores.softmax(-1).mean(dim=(0, 1))
    return (weights @ image_values.float() + text) / 2


def segment_query(context: torch.Tensor, text_hidden: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    """Query of a segment, [H]: mean of the user context, of the mean hidden state of the assistant text since the
    segment before (text_hidden [L, H], left out when L = 0), and of the mean of the features selected for that one
    (previous [k, H], None for the first segment).
    """
    parts = [context.float()]
    if len(text_hidden):
        parts.append(text_hidden.float().mean(0))
    if previous is not None:
        parts.append(previous.float().mean(0))
    return torch.stack(parts).mean(0)


def select(
    candidates: torch.Tensor, query: torch.Tensor, count: int, *, top_p: float = 0.9, temperature: float = 1.0
) -> torch.Tensor:
    """Indices of the selected candidates, best first, at most `count`: top-p ∩ top-k of softmax(cosine / temperature).

    candidates: [N, H]; query: [H]. Top-p keeps the smallest set that reaches probability `top_p`. Cosines lie in
    [−1, 1], so at temperature 1 it never leaves fewer than 7 of 13 or more candidates; lower ones let it bind.
    """
    cosine = functional.cosine_similarity(candidates.float(), query.float()[None], dim=-1)
    probabilities, order = (cosine / temperature).softmax(-1).sort(descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = int((before < top_p).sum())
    return order[: min(max(kept, 1), count)]


def fill(selected: torch.Tensor, count: int, unfilled: Unfilled) -> torch.Tensor:
    """`count` targets [count, H] of the selected features [k, H] in score order; the rest repeats the best, or is 0."""
    rest = count - len(selected)
    missing = selected[:1].expand(rest, -1) if unfilled == "repeat" else selected.new_zeros(rest, selected.shape[1])
    return torch.cat([selected, missing])


def select_targets(
    helpers: Sequence[torch.Tensor],
    query: torch.Tensor,
    size: int,
    *,
    top_p: float,
    temperature: float,
    unfilled: Unfilled = "repeat",
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Targets of one segment from its helper images' features, each [N_i, H]; n images give size/n targets each.

    Returns targets [size, H] (see `fill`), per image the indices of its candidates (after `pool`) that were selected,
    and the selected features without repetition, for the next segment's query.
    """
    if size % len(helpers):
        raise ValueError(f"{len(helpers)} helper images do not divide {size} latents")
    share = size // len(helpers)
    targets, chosen, selected = [], [], []
    for features in helpers:
        candidates = pool(features)
        indices = select(candidates, query, share, top_p=top_p, temperature=temperature)
        chosen.append(indices)
        selected.append(candidates[indices])
        targets.append(fill(candidates[indices], share, unfilled))
    return torch.cat(targets), chosen, torch.cat(selected)
