"""Continuations of a completion from the end of a latent span, with the latents kept, ablated or left out.

The cut is the end marker of a span. Everything before it stays as it was sampled, except for the latents: those of
*all* spans up to the cut are ablated, so that no earlier span can stand in for a later one. `drop_latents` and
`drop_span` are edits of the ids and cost no transfer of latents; the other modes change what the server feeds. A
continuation gets the tokens that its parent had left at the cut, so all modes have the same budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import CONTINUATION_MODES, LatentMode
from covt_rollout.client.completions import Completion, PromptRequest, find_spans
from covt_rollout.client.rollout_client import LatentInput, Latents, RolloutClient, Sampling
from covt_rollout.rollout_errors import RolloutError, StaleWeightsError

Which = Literal["first", "last"]
Answer = asyncio.Future[list[list[Completion]]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a continuation starts from.

    Attributes:
        prefix: ids given to the server after the prompt, the edit done.
        logprobs: the parent's, of the ids that are left.
        pads: latent pads up to the cut in the parent, before the edit.
        budget: tokens the continuation may still have.
        fed: what the server feeds at pads.
    """

    prefix: tuple[int, ...]
    logprobs: tuple[float, ...]
    pads: int
    budget: int
    fed: LatentInput

    def same_request(self, other: Cut) -> bool:
        """Whether both ask the server for the same; only for modes that send no latents."""
        return (self.prefix, self.budget, self.fed) == (other.prefix, other.budget, other.fed)


def whole_spans(token_ids: Sequence[int], latent: LatentConfig) -> list[tuple[int, int]]:
    """Pad ranges that stand between both markers and have exactly `latent.size` pads."""
    return [
        (start, end)
        for start, end in find_spans(token_ids, latent.pad_id)
        if end - start == latent.size
        and start > 0
        and token_ids[start - 1] == latent.start_id
        and end < len(token_ids)
        and token_ids[end] == latent.end_id
    ]


def cut(
    completion: Completion,
    mode: LatentMode | str,
    latent: LatentConfig,
    *,
    max_tokens: int,
    which: Which = "last",
    own: Latents | None = None,
    foreign: Latents | None = None,
    seed: int = 0,
) -> Cut | None:
    """Where and how `completion` is continued, or None when it has no whole latent span.

    max_tokens: what the completion itself was allowed. own: its latents [≥ pads, H] in order, for `keep` and `noise`
    (their norms). foreign: another sample's, for `shuffle`; repeated when there are fewer than pads. seed: of `noise`.
    Raises RolloutError for an unknown mode and for missing latents, and for a mode that needs latents where the
    checkpoint has none (`head = "none"`).
    """
    spans = whole_spans(completion.token_ids, latent)
    mode = continuation_mode(mode)
    if latent.head == "none" and mode.replaces_latents:
        others = ", ".join(one for one in CONTINUATION_MODES if not one.replaces_latents)
        raise RolloutError(f"mode {str(mode)!r} of a checkpoint without latents", f"use one of {others}")
    if not spans:
        return None
    end = spans[0 if which == "first" else -1][1] + 1
    pads = sum(token == latent.pad_id for token in completion.token_ids[:end])
    left_out: set[int] = set()
    if mode.edits_ids:
        around = mode.dropped_markers // 2
        for start, stop in spans:
            if stop < end:
                left_out.update(range(start - around, stop + around))
    kept = [position for position in range(end) if position not in left_out]
    return Cut(
        prefix=tuple(completion.token_ids[position] for position in kept),
        logprobs=tuple(completion.logprobs[position] for position in kept),
        pads=pads,
        budget=max_tokens - end,
        # Pads of a pause checkpoint are fed their own embedding: there is nothing to repeat.
        fed=LatentInput() if latent.head == "none" else _latent_input(mode, pads, own, foreign, seed),
    )


def continuation_mode(name: str) -> LatentMode:
    """The mode called `name`; raises RolloutError when completions can't be continued in it."""
    if name not in CONTINUATION_MODES:
        raise RolloutError(f"there is no latent mode {str(name)!r}", f"use one of {', '.join(CONTINUATION_MODES)}")
    return LatentMode(name)


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


async def continue_from(
    client: RolloutClient,
    prompts: Sequence[PromptRequest],
    completions: Sequence[Completion],
    mode: LatentMode | str,
    sampling: Sampling,
    *,
    which: Which = "last",
    own: Sequence[Latents | None] | None = None,
    foreign: Sequence[Latents | None] | None = None,
    spent: Sequence[int] | None = None,
    begun: Mapping[int, Begun] | None = None,
) -> list[list[Completion]]:
    """`sampling.n` continuations of each completion; an empty list for one without a whole latent span.

    A completion that has sampled a picture's placeholder as text before its cut can't be continued either: in a
    prompt it would stand for a picture. Nor can one that is to be given another's latents where `foreign` has none.

    prompts: the prompt of each completion, as it was sampled. sampling.max_tokens: what the completions were allowed;
    continuations get what is left of it. own, foreign: latents, an entry a completion (see `cut`). spent: tokens of
    that allowance which earlier cuts have taken out of each completion. begun: continuations that were asked for
    before, by completion; one that turns out to have begun elsewhere is not used.

    Each continuation repeats its parent's prompt and holds the given beginning in its `token_ids`, so it is graded
    like any completion.
    """
    mode = continuation_mode(mode)
    without = [
        mode.needs_foreign_latents and foreign is not None and foreign[i] is None for i in range(len(completions))
    ]
    cuts = [
        None
        if without[index]
        else cut(
            one,
            mode,
            client.latent,
            max_tokens=sampling.max_tokens - (spent[index] if spent is not None else 0),
            which=which,
            own=own[index] if own is not None else None,
            foreign=foreign[index] if foreign is not None else None,
            seed=(sampling.seed or 0) + index,
        )
        for index, one in enumerate(completions)
    ]
    cuts = [one if one is None or client.picture_ids.isdisjoint(one.prefix) else None for one in cuts]
    points = {index: one for index, one in enumerate(cuts) if one is not None and one.budget > 0}
    answers = await _early(begun or {}, points, completions)
    late = {index: point for index, point in points.items() if index not in answers}
    asks = share(prompts, late, sampling, most=len(completions))
    found = await client.generate(
        [ask.prompt for ask in asks], [ask.sampling for ask in asks], inputs=[ask.fed for ask in asks], mode=mode
    )
    for ask, group in zip(asks, found, strict=True):
        answers |= {index: ask.part(index, group) for index in ask.indexes}
    results: list[list[Completion]] = []
    for index, (parent, point) in enumerate(zip(completions, cuts, strict=True)):
        if point is None:
            results.append([])
        elif index in answers:
            results.append([attach(parent, point, one, client) for one in answers[index]])
        else:
            results.append([_exhausted(parent, point, mode, number, client) for number in range(sampling.n)])
    return results


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for the continuations of completions `indexes`, which follow each other and begin alike."""

    indexes: range
    prompt: PromptRequest
    sampling: Sampling
    fed: LatentInput

    def part(self, index: int, group: Sequence[Completion]) -> list[Completion]:
        """The continuations of completion `index` among all of the answer, numbered from 0."""
        n = self.sampling.n // len(self.indexes)
        first = self.indexes.index(index) * n
        return [replace(one, sample_index=number) for number, one in enumerate(group[first : first + n])]


@dataclass(frozen=True, slots=True)
class Begun:
    """Continuations that are being sampled: point is where they begin."""

    point: Cut
    ask: Ask
    answer: Answer


def share(prompts: Sequence[PromptRequest], points: Mapping[int, Cut], sampling: Sampling, *, most: int) -> list[Ask]:
    """Requests for the continuations from all points, by index, with the seed `sampling.seed` + index·n each.

    Equal beginnings of neighbours become one request, of at most `most` (or n) samples, that the server reads once:
    its samples draw from the seeds that they have one by one.
    """
    asks: list[Ask] = []
    for index, point in sorted(points.items()):
        before = asks[-1] if asks else None
        prompt = extend(prompts[index], point)
        if (
            before is not None
            and before.indexes.stop == index
            and (len(before.indexes) + 1) * sampling.n <= most
            and sampling.temperature > 0
            and before.fed.latents is point.fed.latents is None
            and (before.prompt, before.sampling.max_tokens, before.fed) == (prompt, point.budget, point.fed)
        ):
            indexes = range(before.indexes.start, index + 1)
            asks[-1] = replace(before, indexes=indexes, sampling=replace(before.sampling, n=len(indexes) * sampling.n))
            continue
        seed = None if sampling.seed is None else sampling.seed + index * sampling.n
        own = replace(sampling, max_tokens=point.budget, seed=seed)
        asks.append(Ask(range(index, index + 1), prompt, own, point.fed))
    return asks


async def _early(
    begun: Mapping[int, Begun], points: Mapping[int, Cut], completions: Sequence[Completion]
) -> dict[int, list[Completion]]:
    """Answers to what has begun at the right point and was sampled with its parent's weights."""
    answers: dict[int, list[Completion]] = {}
    for index, one in begun.items():
        if index in points and one.point.same_request(points[index]):
            (group,) = await one.answer
            if group[0].weight_version == completions[index].weight_version:
                answers[index] = one.ask.part(index, group)
    return answers


def foreign_latents(
    completions: Sequence[Completion], own: Sequence[Latents | None], seed: int = 0
) -> list[Latents | None]:
    """For each completion the latents of a random one of *another* prompt; None where no other prompt has any.

    Samples of one prompt often have the same latents (those of a first span follow from the prompt and the text
    before it), so exchanging them within a group would ablate nothing.
    """
    rng = np.random.default_rng(seed)
    having = [index for index, latents in enumerate(own) if latents is not None and len(latents)]
    given: list[Latents | None] = []
    for one in completions:
        donors = [index for index in having if completions[index].group_id != one.group_id]
        given.append(own[int(rng.choice(donors))] if donors else None)
    return given


def extend(prompt: PromptRequest, point: Cut) -> PromptRequest:
    """The prompt with the beginning of the answer; pictures stay one pad each, the server expands them again."""
    return replace(prompt, ids=(*prompt.ids, *point.prefix))


def attach(parent: Completion, point: Cut, answer: Completion, client: RolloutClient) -> Completion:
    """The continuation as a completion of the parent's prompt."""
    if answer.prompt_ids != (*parent.prompt_ids, *point.prefix):
        raise RolloutError(
            f"the continuation of {parent.group_id!r} sample {parent.sample_index} was given another prompt",
            "pass the prompts that the completions were sampled from, in the same order",
        )
    if answer.weight_version != parent.weight_version:
        raise StaleWeightsError(
            f"{parent.group_id!r} was sampled with version {parent.weight_version}, "
            f"its continuation with {answer.weight_version}",
            "push weights after the continuations, or sample the group again",
        )
    token_ids = (*point.prefix, *answer.token_ids)
    return replace(
        answer,
        prompt_ids=parent.prompt_ids,
        token_ids=token_ids,
        logprobs=(*point.logprobs, *answer.logprobs),
        text=client.decode(token_ids),
        latent_spans=find_spans(token_ids, client.latent.pad_id),
        parent=parent.sample_index,
    )


def _exhausted(parent: Completion, point: Cut, mode: LatentMode, number: int, client: RolloutClient) -> Completion:
    """The continuation of a completion that ended at its cut: nothing is left to sample."""
    return replace(
        parent,
        sample_index=number,
        token_ids=point.prefix,
        logprobs=point.logprobs,
        text=client.decode(point.prefix),
        finish_reason="length",
        latent_spans=find_spans(point.prefix, client.latent.pad_id),
        latent_key=None,
        mode=mode,
        parent=parent.sample_index,
    )


def _at(cuts: Sequence[Cut | None], index: int) -> Cut:
    point = cuts[index]
    assert point is not None
    return point
