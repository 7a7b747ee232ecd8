"""Continuations that begin while their parents are still being sampled.

A continuation needs its parent up to the end of a span, not the whole of it. It is requested as soon as that span has
closed, so it is sampled beside the rest of its parent. Where continuations begin at the *last* span the start is a
guess; it is taken back when the parent closes another span.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from covt_model.latents.latent_modes import ABLATION_MODES, LatentMode
from covt_rewards.latents import find_whole_spans
from covt_rollout.branches.branch_points import (
    BranchPoint,
    SampledTokens,
    Which,
    continuation_mode,
    find_branch_point,
)
from covt_rollout.branches.continuations import BranchRequest, PendingAnswer, PendingBranch, merge_equal_prefixes
from covt_rollout.branches.span_scanner import SpanScanner
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.endpoints import GeneratedChoice

SPECULATIVE_MODES = frozenset(
    mode for mode in ABLATION_MODES if not (mode.needs_own_latents or mode.needs_foreign_latents)
)
"""Modes that need no latents, neither the parent's own nor another completion's."""
MERGE_SECONDS = 0.005
"""Time in which equal beginnings are collected, so that they become one request."""
REMEMBERED = 256
"""Completions whose numbers of spans are remembered: the history follows a policy that changes how many it uses."""


class SpanCountHistory:
    """How many spans recent completions had, which tells whether a span is likely to be the last one."""

    def __init__(self) -> None:
        self.counts: deque[int] = deque(maxlen=REMEMBERED)

    def add(self, spans: int) -> None:
        """Remember one completion's number of spans."""
        self.counts.append(spans)

    def likely_last(self, spans: int) -> bool:
        """Whether at least half of the completions with `spans` spans or more had no further one."""
        return 2 * self.counts.count(spans) >= sum(number >= spans for number in self.counts)


@dataclass(frozen=True)
class _SentRequest:
    """A request and the number of tokens it has sampled so far, by sample."""

    request: BranchRequest
    answer: PendingAnswer
    tokens: dict[int, int]


class SpeculativeBranches:
    """Starts the continuations of one prompt's completions; `observe` is an `on_progress` of `RolloutClient.generate`.

    Use it as an async context manager: leaving it cancels requests that are still being sampled.
    """

    def __init__(
        self,
        client: RolloutClient,
        prompt: PromptRequest,
        numbers: Sequence[int],
        mode: LatentMode | str,
        sampling: Sampling,
        which: Which,
        history: SpanCountHistory,
    ) -> None:
        """Prepare to continue some of a prompt's completions.

        Args:
            client: samples both the parents and the continuations.
            prompt: of the parents.
            numbers: samples of the prompt that are continued. Their places in it are the indexes of `continue_from`.
            mode: one of SPECULATIVE_MODES.
            sampling: of the continuations, as `continue_from` takes it.
            which: the span after which continuations begin.
            history: of earlier completions; it grows with this prompt's.
        """
        self.client, self.prompt, self.sampling, self.history = client, prompt, sampling, history
        self.mode = continuation_mode(mode)
        self.which: Which = which
        self.index_of_sample = {number: index for index, number in enumerate(numbers)}
        self.pending: dict[int, PendingBranch] = {}
        self._scanners = [SpanScanner(client.latent) for _ in numbers]
        self._waiting: dict[int, BranchPoint] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sent: list[_SentRequest] = []

    async def __aenter__(self) -> SpeculativeBranches:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for one in self._sent:
            one.answer.cancel()
        await asyncio.gather(*(one.answer for one in self._sent), return_exceptions=True)

    @property
    def wasted_tokens(self) -> int:
        """Tokens of continuations that were taken back, counted up to their last pieces."""
        return sum(
            tokens
            for one in self._sent
            for sample, tokens in one.tokens.items()
            if not self._is_pending(one.request.indexes[sample // self.sampling.n], one.answer)
        )

    def observe(self, unfinished: GeneratedChoice) -> None:
        """Take a sample as it stands, and request its continuations once its span has closed.

        Each token is read once; the rest is done only when a span closes that continuations may begin at.
        """
        index = self.index_of_sample.get(unfinished.index)
        if index is None or not self._scanners[index].scan(unfinished.token_ids):
            return
        if self.which == "first" and (index in self._waiting or index in self.pending):
            return
        self._drop(index)
        if self.which == "last" and not self.history.likely_last(self._scanners[index].closed):
            return
        point = self._find_point(unfinished)
        if point is None:
            return
        self._waiting[index] = point
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MERGE_SECONDS, self._send_waiting)

    def settle(self, completions: Sequence[Completion]) -> dict[int, PendingBranch]:
        """Take the prompt's finished completions, and return the branches that began at the right points."""
        if self._timer is not None:
            self._timer.cancel()
            self._send_waiting()
        for one in completions:
            self.history.add(len(find_whole_spans(one.token_ids, self.client.latent)))
            index = self.index_of_sample.get(one.sample_index)
            if index in self.pending:
                point = self._find_point(one)
                if point is None or not point.same_request(self.pending[index].point):
                    self._drop(index)
        return self.pending

    def _find_point(self, completion: SampledTokens) -> BranchPoint | None:
        """Where the completion is continued, if it can be."""
        point = find_branch_point(
            completion,
            self.mode,
            self.client.latent,
            max_tokens=self.sampling.max_tokens,
            max_spans=self.sampling.max_spans,
            which=self.which,
        )
        if point is None or point.budget <= 0 or not self.client.placeholder_ids.isdisjoint(point.prefix):
            return None
        return point

    def _send_waiting(self) -> None:
        self._timer = None
        prompts = [self.prompt] * len(self.index_of_sample)
        for request in merge_equal_prefixes(prompts, self._waiting, self.sampling, most=len(self.index_of_sample)):
            tokens: dict[int, int] = {}

            def count(unfinished: GeneratedChoice, tokens: dict[int, int] = tokens) -> None:
                tokens[unfinished.index] = len(unfinished.token_ids)

            answer = asyncio.ensure_future(
                self.client.generate(
                    [request.prompt], [request.sampling], inputs=[request.fed], mode=self.mode, on_progress=count
                )
            )
            self._sent.append(_SentRequest(request, answer, tokens))
            for index in request.indexes:
                self.pending[index] = PendingBranch(self._waiting[index], request, answer)
        self._waiting = {}

    def _drop(self, index: int) -> None:
        """Take back the continuations of a completion; a request that no other completion needs is aborted."""
        self._waiting.pop(index, None)
        one = self.pending.pop(index, None)
        if one is not None and not any(self._is_pending(other, one.answer) for other in one.request.indexes):
            one.answer.cancel()

    def _is_pending(self, index: int, answer: PendingAnswer) -> bool:
        return index in self.pending and self.pending[index].answer is answer
