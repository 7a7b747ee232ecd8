"""Ablations of latents: dropping them from answers, and choosing what replaces them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covt_model.latents.latent_modes import LatentMode
from covt_rewards.latents import find_whole_spans
from covt_rollout.branches.continuations import continue_from
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling
from covt_rollout.vllm_plugin.protocol import Latents


async def drop_latents(
    client: RolloutClient,
    prompts: Sequence[PromptRequest],
    kept: Sequence[Completion],
    mode: LatentMode,
    sampling: Sampling,
) -> list[Completion]:
    """Take the latents out of every span of the answers, including spans that the continuations begin.

    Args:
        client: client of the server that wrote the answers.
        prompts: the prompt of each answer.
        kept: the answers with their latents.
        mode: a mode that edits ids.
        sampling: the settings that the answers were sampled with.

    Returns:
        The answers without latents. An answer that can't be continued, because it sampled an image placeholder as
        text, stays as it is.
    """
    answers = list(kept)
    removed = client.latent.size + mode.dropped_markers
    spent = [0] * len(answers)
    stuck: set[int] = set()
    while open_rows := [
        i for i, one in enumerate(answers) if i not in stuck and find_whole_spans(one.token_ids, client.latent)
    ]:
        continued = await continue_from(
            client,
            [prompts[i] for i in open_rows],
            [answers[i] for i in open_rows],
            mode,
            sampling,
            which="first",
            spent=[spent[i] for i in open_rows],
        )
        for i, found in zip(open_rows, continued, strict=True):
            if found:
                answers[i] = found[0]
                spent[i] += removed
            else:
                stuck.add(i)
    return answers


def latent_input(mode: LatentMode, donor: Latents | None, seed: int) -> LatentInput:
    """Choose what a request's pads are fed in a mode that replaces latents."""
    if not mode.needs_foreign_latents:
        return LatentInput(mode=mode.wire_mode, seed=seed if mode.traits.salted_by_seed else 0)
    # Where no other row has latents, there is nothing to swap: the row keeps its own.
    return LatentInput() if donor is None else LatentInput(mode=mode.wire_mode, latents=donor)


def choose_donors(
    mode: LatentMode, own: Sequence[Latents | None], count: int, seed: int, samples: int
) -> list[Latents | None]:
    """Choose another row's latents for each answer.

    The rows that have latents pass them around one circle in random order. Each sample index has its own circle, so
    no row receives the latents of another of its own samples.

    Args:
        mode: the latent mode; the result holds only None unless the mode needs foreign latents.
        own: latents `[pads, H]` of each answer.
        count: number of answers.
        seed: seed of the order.
        samples: answers per row, which follow each other.
    """
    donors: list[Latents | None] = [None] * count
    if not mode.needs_foreign_latents:
        return donors
    for sample in range(samples):
        having = [i for i in range(sample, count, samples) if (latents := own[i]) is not None and len(latents)]
        if len(having) < 2:
            continue
        order = np.random.default_rng((seed, sample) if sample else seed).permutation(having)
        for giver, taker in zip(order, np.roll(order, 1), strict=True):
            donors[taker] = own[giver]
    return donors
