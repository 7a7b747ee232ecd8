"""Continuations of completions from the end of a latent span, with the latents kept, ablated or left out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from covt_model.latents.latent_modes import LatentMode
from covt_rewards.latents import find_pad_runs
from covt_rollout.branches.branch_points import BranchPoint, Which, continuation_mode, find_branch_point
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling
from covt_rollout.rollout_errors import RolloutError, StaleWeightsError
from covt_rollout.vllm_plugin.protocol import Latents

PendingAnswer = asyncio.Future[list[list[Completion]]]


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """One request for the continuations of the completions `indexes`, which follow each other and begin alike."""

    indexes: range
    prompt: PromptRequest
    sampling: Sampling
    fed: LatentInput

    def select(self, index: int, group: Sequence[Completion]) -> list[Completion]:
        """The continuations of completion `index` among all samples of the answer, numbered from 0."""
        n = self.sampling.n // len(self.indexes)
        first = self.indexes.index(index) * n
        return [replace(one, sample_index=number) for number, one in enumerate(group[first : first + n])]


@dataclass(frozen=True, slots=True)
class PendingBranch:
    """Continuations that are being sampled, and the point at which they begin."""

    point: BranchPoint
    request: BranchRequest
    answer: PendingAnswer


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
    pending: Mapping[int, PendingBranch] | None = None,
) -> list[list[Completion]]:
    """Sample `sampling.n` continuations of each completion.

    A continuation repeats its parent's prompt, and its `token_ids` begin with the ids it was given, so it is graded
    like any completion.

    Args:
        client: of the server that sampled the completions.
        prompts: the prompt of each completion, as it was sampled.
        completions: the parents.
        mode: what happens to their latents.
        sampling: `max_tokens` is what the parents were allowed; continuations get what is left of it.
        which: the span after which continuations begin.
        own: the latents of each parent, for modes that need them.
        foreign: another completion's latents for each parent, for modes that need them.
        spent: tokens of each parent's allowance that earlier edits have taken out of it.
        pending: continuations that were requested before, by index of the parent. One that began at another point or
            was sampled with other weights is not used.

    Returns:
        The continuations of each completion. The list is empty for a parent without a whole latent span; for one that
        sampled an image's placeholder as text, which would stand for an image in a prompt; and for one whose `foreign`
        latents are None.

    Raises:
        RolloutError: the mode is unknown, latents are missing, or the prompts are not those of the completions.
        StaleWeightsError: a continuation was sampled with other weights than its parent.
    """
    mode = continuation_mode(mode)
    points = [
        _find_point(
            client,
            one,
            mode,
            max_tokens=sampling.max_tokens - (spent[index] if spent is not None else 0),
            max_spans=sampling.max_spans,
            which=which,
            own=own[index] if own is not None else None,
            foreign=foreign[index] if foreign is not None else None,
            skip=mode.needs_foreign_latents and foreign is not None and foreign[index] is None,
            seed=(sampling.seed or 0) + index,
        )
        for index, one in enumerate(completions)
    ]
    wanted = {index: point for index, point in enumerate(points) if point is not None and point.budget > 0}
    answers = await _await_pending(pending or {}, wanted, completions)
    missing = {index: point for index, point in wanted.items() if index not in answers}
    requests = merge_equal_prefixes(prompts, missing, sampling, most=len(completions))
    groups = await client.generate(
        [request.prompt for request in requests],
        [request.sampling for request in requests],
        inputs=[request.fed for request in requests],
        mode=mode,
    )
    for request, group in zip(requests, groups, strict=True):
        answers |= {index: request.select(index, group) for index in request.indexes}
    results: list[list[Completion]] = []
    for index, (parent, point) in enumerate(zip(completions, points, strict=True)):
        if point is None:
            results.append([])
        elif index in answers:
            results.append([as_completion(parent, point, one, client) for one in answers[index]])
        else:
            results.append([_without_budget(parent, point, mode, number, client) for number in range(sampling.n)])
    return results


def merge_equal_prefixes(
    prompts: Sequence[PromptRequest], points: Mapping[int, BranchPoint], sampling: Sampling, *, most: int
) -> list[BranchRequest]:
    """Build the requests for the continuations from all points.

    Equal beginnings of neighbors become one request, whose prompt the server reads once. Its samples draw from the
    same seeds as separate requests would.

    Args:
        prompts: the prompt of each completion.
        points: branch points by index of the completion.
        sampling: of one completion's continuations; those of completion i get the seed `sampling.seed` + i·n.
        most: greatest number of completions per request.
    """
    requests: list[BranchRequest] = []
    for index, point in sorted(points.items()):
        last = requests[-1] if requests else None
        prompt = extend_prompt(prompts[index], point)
        if (
            last is not None
            and last.indexes.stop == index
            and (len(last.indexes) + 1) * sampling.n <= most
            and sampling.temperature > 0
            and last.fed.latents is point.fed.latents is None
            and (last.prompt, last.sampling.max_tokens, last.fed) == (prompt, point.budget, point.fed)
            and last.sampling.max_spans == point.max_spans
        ):
            indexes = range(last.indexes.start, index + 1)
            requests[-1] = replace(last, indexes=indexes, sampling=replace(last.sampling, n=len(indexes) * sampling.n))
            continue
        seed = None if sampling.seed is None else sampling.seed + index * sampling.n
        own = replace(sampling, max_tokens=point.budget, max_spans=point.max_spans, seed=seed)
        requests.append(BranchRequest(range(index, index + 1), prompt, own, point.fed))
    return requests


def extend_prompt(prompt: PromptRequest, point: BranchPoint) -> PromptRequest:
    """The prompt with the beginning of the answer; each image stays one pad, which the server expands again."""
    return replace(prompt, ids=(*prompt.ids, *point.prefix))


def as_completion(parent: Completion, point: BranchPoint, answer: Completion, client: RolloutClient) -> Completion:
    """Turn the server's answer into a completion of the parent's prompt.

    Args:
        parent: the completion that was continued.
        point: where it was continued.
        answer: what the server sampled after the point.
        client: of the server.

    Raises:
        RolloutError: the answer continues another prompt.
        StaleWeightsError: the answer was sampled with other weights than the parent.
    """
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
        latent_spans=find_pad_runs(token_ids, client.latent.pad_id),
        parent=parent.sample_index,
    )


def _find_point(
    client: RolloutClient,
    completion: Completion,
    mode: LatentMode,
    *,
    max_tokens: int,
    max_spans: int | None,
    which: Which,
    own: Latents | None,
    foreign: Latents | None,
    skip: bool,
    seed: int,
) -> BranchPoint | None:
    """The branch point, or None for a completion that can't be continued; `skip` says that it lacks a donor."""
    if skip:
        return None
    point = find_branch_point(
        completion,
        mode,
        client.latent,
        max_tokens=max_tokens,
        max_spans=max_spans,
        which=which,
        own=own,
        foreign=foreign,
        seed=seed,
    )
    return point if point is not None and client.placeholder_ids.isdisjoint(point.prefix) else None


async def _await_pending(
    pending: Mapping[int, PendingBranch], points: Mapping[int, BranchPoint], completions: Sequence[Completion]
) -> dict[int, list[Completion]]:
    """Answers of pending branches that began at the right point and were sampled with their parents' weights."""
    answers: dict[int, list[Completion]] = {}
    for index, one in pending.items():
        if index in points and one.point.same_request(points[index]):
            (group,) = await one.answer
            if group[0].weight_version == completions[index].weight_version:
                answers[index] = one.request.select(index, group)
    return answers


def _without_budget(
    parent: Completion, point: BranchPoint, mode: LatentMode, number: int, client: RolloutClient
) -> Completion:
    """The continuation of a completion that ended at its branch point, so that nothing is left to sample."""
    return replace(
        parent,
        sample_index=number,
        token_ids=point.prefix,
        logprobs=point.logprobs,
        text=client.decode(point.prefix),
        finish_reason="length",
        latent_spans=find_pad_runs(point.prefix, client.latent.pad_id),
        latent_key=None,
        mode=str(mode),
        parent=parent.sample_index,
    )
