"""Where a completion branches, and what its continuation is given there.

The branch point is the end marker of a latent span. Everything before it stays as it was sampled, except for the
latents: those of *all* spans up to the point are ablated, so that no earlier span can stand in for a later one. Modes
that edit the ids cost no transfer of latents; the other modes change what the server feeds. A continuation gets the
tokens that its parent had left at the point, so all modes have the same budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import CONTINUATION_MODES, LatentMode
from covt_rewards.latents import find_whole_spans
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_requests import LatentInput
from covt_rollout.rollout_errors import RolloutError
from covt_rollout.vllm_plugin.protocol import Latents

Which = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """What a continuation starts from.

    Attributes:
        prefix: ids given to the server after the prompt, already edited.
        logprobs: the parent's, of the ids in `prefix`.
        pads: latent pads up to the point in the parent, before the edit.
        budget: tokens the continuation may still sample.
        fed: what the server feeds at pads.
        max_spans: latent spans that the continuation may still have; None sets no limit.
    """

    prefix: tuple[int, ...]
    logprobs: tuple[float, ...]
    pads: int
    budget: int
    fed: LatentInput
    max_spans: int | None = None

    def same_request(self, other: BranchPoint) -> bool:
        """Whether both ask the server for the same; valid only for modes that send no latents."""
        mine, theirs = ((one.prefix, one.budget, one.fed, one.max_spans) for one in (self, other))
        return mine == theirs


def continuation_mode(name: str) -> LatentMode:
    """The mode called `name`; raises RolloutError when completions can't be continued in it."""
    if name not in CONTINUATION_MODES:
        raise RolloutError(f"there is no latent mode {str(name)!r}", f"use one of {', '.join(CONTINUATION_MODES)}")
    return LatentMode(name)


class SampledTokens(Protocol):
    """What a branch point depends on: a finished completion's tokens, or those of a sample so far."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...


def find_branch_point(
    completion: SampledTokens,
    mode: LatentMode | str,
    latent: LatentConfig,
    *,
    max_tokens: int,
    max_spans: int | None = None,
    which: Which = "last",
    own: Latents | None = None,
    foreign: Latents | None = None,
    seed: int = 0,
) -> BranchPoint | None:
    """Find where and how `completion` is continued.

    Args:
        completion: the parent.
        mode: what happens to its latents.
        latent: latent settings of the checkpoint.
        max_tokens: what the parent itself was allowed.
        max_spans: likewise.
        which: the span after which the continuation begins.
        own: the parent's latents [≥ pads, H] in order, for modes that need them (`noise` takes their norms).
        foreign: another completion's latents, for `shuffle`; repeated when there are fewer than pads.
        seed: of `noise`.

    Returns:
        The branch point, or None when the parent has no whole latent span.

    Raises:
        RolloutError: the mode is unknown, its latents are missing, or the checkpoint has no latents to replace
            (`head = "none"`).
    """
    mode = continuation_mode(mode)
    if latent.head == "none" and mode.replaces_latents:
        others = ", ".join(one for one in CONTINUATION_MODES if not one.replaces_latents)
        raise RolloutError(f"mode {str(mode)!r} of a checkpoint without latents", f"use one of {others}")
    spans = find_whole_spans(completion.token_ids, latent)
    if not spans:
        return None
    end = branch_end(spans, which)
    pads = sum(token == latent.pad_id for token in completion.token_ids[:end])
    dropped: set[int] = set()
    if mode.edits_ids:
        around = mode.dropped_markers // 2
        for start, stop in spans:
            if stop < end:
                dropped.update(range(start - around, stop + around))
    kept = [position for position in range(end) if position not in dropped]
    return BranchPoint(
        prefix=tuple(completion.token_ids[position] for position in kept),
        logprobs=tuple(completion.logprobs[position] for position in kept),
        pads=pads,
        budget=max_tokens - end,
        # Pads of a pause checkpoint are fed their own embedding: there is nothing to repeat.
        fed=LatentInput() if latent.head == "none" else _latent_input(mode, pads, own, foreign, seed),
        max_spans=None if max_spans is None else max_spans - sum(stop < end for _, stop in spans),
    )


def branch_end(spans: Sequence[tuple[int, int]], which: Which) -> int:
    """The position after the end marker of the first or last span; `spans` holds at least one pad range."""
    return spans[0 if which == "first" else -1][1] + 1


def count_given_tokens(completion: Completion, mode: LatentMode, which: Which, latent: LatentConfig) -> int:
    """Tokens that a continuation is given: its parent's up to the branch point, less those that the mode drops."""
    spans = find_whole_spans(completion.token_ids, latent)
    if not spans:
        return 0
    end = branch_end(spans, which)
    if not mode.edits_ids:
        return end
    return end - sum(stop - start + mode.dropped_markers for start, stop in spans if stop < end)


def choose_foreign_latents(
    completions: Sequence[Completion], own: Sequence[Latents | None], seed: int = 0
) -> list[Latents | None]:
    """Choose for each completion the latents of a random completion of *another* prompt.

    Samples of one prompt often have the same latents, since those of a first span follow from the prompt and the text
    before it. Exchanging them within a group would ablate nothing.

    Args:
        completions: of several prompts.
        own: the latents of each completion.
        seed: of the choice.

    Returns:
        One entry for each completion; None where no other prompt has latents.
    """
    rng = np.random.default_rng(seed)
    having = [index for index, latents in enumerate(own) if latents is not None and len(latents)]
    chosen: list[Latents | None] = []
    for one in completions:
        donors = [index for index in having if completions[index].group_id != one.group_id]
        chosen.append(own[int(rng.choice(donors))] if donors else None)
    return chosen


def _latent_input(mode: LatentMode, pads: int, own: Latents | None, foreign: Latents | None, seed: int) -> LatentInput:
    if mode.needs_own_latents:
        if own is None or len(own) < pads:
            have = "none" if own is None else str(len(own))
            raise RolloutError(
                f"mode {str(mode)!r} needs {pads} latents, there are {have}", "sample with hold_latents=True"
            )
        return LatentInput(mode=mode.wire_mode, latents=own[:pads], seed=seed)
    if mode.needs_foreign_latents:
        if foreign is None or len(foreign) == 0:
            raise RolloutError(f"mode {str(mode)!r} needs another sample's latents", "give a sample that has latents")
        rows = np.arange(pads) % len(foreign)
        return LatentInput(mode=mode.wire_mode, latents=np.ascontiguousarray(foreign[rows]))
    return LatentInput(mode=mode.wire_mode)
