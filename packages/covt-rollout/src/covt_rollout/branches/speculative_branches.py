"""Continuations that begin while their parents are still being sampled.

A continuation needs its parent up to the end of a span, not the whole of it. It is asked for as soon as that span is
there; what follows the span is then sampled beside the parent's own rest, not after it. Where continuations begin at
the *last* span the start is a guess, and is taken back when the parent closes another span.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from covt_model.latents.latent_modes import ABLATION_MODES, LatentMode
from covt_rollout.branches.counterfactual import (
    Answer,
    Ask,
    Begun,
    Cut,
    Which,
    continuation_mode,
    cut,
    share,
    whole_spans,
)
from covt_rollout.client.completions import Completion, PromptRequest
from covt_rollout.client.rollout_client import RolloutClient, Sampling

# Modes that need no latents, neither the parent's own nor others'.
EARLY = frozenset(mode for mode in ABLATION_MODES if not (mode.needs_own_latents or mode.needs_foreign_latents))
# Seconds in which equal beginnings are collected, so that they become one request.
GATHER = 0.005
# Completions whose numbers of spans are remembered: a policy that learns to use more or fewer is followed.
REMEMBERED = 256


class SpanCounts:
    """How many spans the last `REMEMBERED` completions had: tells whether a span is likely to be the last."""

    def __init__(self) -> None:
        self.counts: deque[int] = deque(maxlen=REMEMBERED)

    def add(self, spans: int) -> None:
        self.counts.append(spans)

    def likely_last(self, spans: int) -> bool:
        """Whether at least half of the completions with so many spans or more had no further one."""
        return 2 * self.counts.count(spans) >= sum(number >= spans for number in self.counts)


@dataclass(frozen=True)
class _Started:
    """A request and the tokens it has sampled, by sample."""

    ask: Ask
    answer: Answer
    tokens: dict[int, int]


class EarlyContinuations:
    """Starts the continuations of one prompt's completions; `watch` is for `RolloutClient.generate`.

    numbers: samples of the prompt that are continued; their places in it are the indexes of `continue_from`. sampling:
    of the continuations, as `continue_from` takes it. Use it as an async context manager: what is still being sampled
    when it is left is given up.
    """

    def __init__(
        self,
        client: RolloutClient,
        prompt: PromptRequest,
        numbers: Sequence[int],
        mode: LatentMode | str,
        sampling: Sampling,
        which: Which,
        spans: SpanCounts,
    ) -> None:
        self.client, self.prompt, self.sampling, self.spans = client, prompt, sampling, spans
        self.mode = continuation_mode(mode)
        self.which: Which = which
        self.place = {number: index for index, number in enumerate(numbers)}
        self.begun: dict[int, Begun] = {}
        self._waiting: dict[int, Cut] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._all: list[_Started] = []

    async def __aenter__(self) -> EarlyContinuations:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for one in self._all:
            one.answer.cancel()
        await asyncio.gather(*(one.answer for one in self._all), return_exceptions=True)

    @property
    def abandoned(self) -> int:
        """Tokens of continuations that were taken back, up to their last pieces."""
        return sum(
            tokens
            for one in self._all
            for sample, tokens in one.tokens.items()
            if not self._holds(one.ask.indexes[sample // self.sampling.n], one.answer)
        )

    def watch(self, so_far: Completion) -> None:
        """A completion as it stands."""
        index = self.place.get(so_far.sample_index)
        if index is None:
            return
        point = self._cut(so_far)
        known = self._waiting.get(index) or (self.begun[index].point if index in self.begun else None)
        if point is None or (known is not None and known.same_request(point)):
            return
        self._drop(index)
        spans = len(whole_spans(so_far.token_ids, self.client.latent))
        if self.which == "last" and not self.spans.likely_last(spans):
            return
        self._waiting[index] = point
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._begin)

    def settle(self, completions: Sequence[Completion]) -> dict[int, Begun]:
        """What was begun at the right place, once the prompt's completions are there."""
        if self._timer is not None:
            self._timer.cancel()
            self._begin()
        for one in completions:
            self.spans.add(len(whole_spans(one.token_ids, self.client.latent)))
            index = self.place.get(one.sample_index)
            if index in self.begun:
                point = self._cut(one)
                if point is None or not point.same_request(self.begun[index].point):
                    self._drop(index)
        return self.begun

    def _cut(self, completion: Completion) -> Cut | None:
        """Where the completion is continued, if it can be."""
        latent, most = self.client.latent, self.sampling.max_tokens
        point = cut(completion, self.mode, latent, max_tokens=most, which=self.which)
        if point is None or point.budget <= 0 or not self.client.picture_ids.isdisjoint(point.prefix):
            return None
        return point

    def _begin(self) -> None:
        self._timer = None
        prompts = [self.prompt] * len(self.place)
        for ask in share(prompts, self._waiting, self.sampling, most=len(self.place)):
            tokens: dict[int, int] = {}

            def seen(one: Completion, tokens: dict[int, int] = tokens) -> None:
                tokens[one.sample_index] = len(one.token_ids)

            work = self.client.generate([ask.prompt], [ask.sampling], inputs=[ask.fed], mode=self.mode, watch=seen)
            task = asyncio.ensure_future(work)
            self._all.append(_Started(ask, task, tokens))
            for index in ask.indexes:
                self.begun[index] = Begun(self._waiting[index], ask, task)
        self._waiting = {}

    def _drop(self, index: int) -> None:
        """Take back the continuations of a completion; a request that no other needs is aborted."""
        self._waiting.pop(index, None)
        one = self.begun.pop(index, None)
        if one is not None and not any(self._holds(other, one.answer) for other in one.ask.indexes):
            one.answer.cancel()

    def _holds(self, index: int, answer: Answer) -> bool:
        return index in self.begun and self.begun[index].answer is answer
