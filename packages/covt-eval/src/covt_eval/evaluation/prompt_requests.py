"""Requests for rows, sent one by one and timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from covt_data.schema import Row
from covt_model.latents.latent_modes import LatentMode
from covt_rollout.client.completions import Completion
from covt_rollout.client.concurrency import run_all
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling

if TYPE_CHECKING:
    from covt_model.encoding.encode import EncodedPrompt

OnProgress = Callable[[LatentMode, int, int], None]
"""Called with the mode, the number of answers so far, and the number of all answers."""


class PromptEncoder(Protocol):
    """Encodes the prompt of a row, such as `covt_model.encoding.encode.Encoder`."""

    def encode_prompt(self, row: Row) -> EncodedPrompt: ...


def build_request(prompt: EncodedPrompt, row: Row) -> PromptRequest:
    """Build the server's request for a row: unexpanded ids, and the row's images as they are stored."""
    ids = tuple(int(token) for token in prompt.ids)
    return PromptRequest(ids, tuple(image.bytes for image in row.images), group_id=row.id)


@dataclass(frozen=True)
class TimedRequests:
    """The requests of one evaluation. Each prompt is sent once per mode, and each answer is timed.

    With `force_start` the start marker is sent behind every prompt, and the answers are completions of the prompt that
    begin with it.
    """

    client: RolloutClient
    prompts: Sequence[PromptRequest]
    sampling: Sampling
    concurrency: int
    on_progress: OnProgress
    force_start: bool = False

    async def send(
        self, mode: LatentMode, inputs: Sequence[LatentInput] | None, *, hold_latents: bool = False
    ) -> tuple[list[Completion], list[float]]:
        """Return the completions and the seconds that each took, in the order of the prompts."""
        places = asyncio.Semaphore(self.concurrency)
        prompts = [_with_start(prompt, self.client) for prompt in self.prompts] if self.force_start else self.prompts
        sampling = replace(self.sampling, max_tokens=self.sampling.max_tokens - self.force_start)
        done = 0

        async def send_one(index: int) -> tuple[Completion, float]:
            nonlocal done
            async with places:
                started = time.perf_counter()
                groups = await self.client.generate(
                    [prompts[index]],
                    _with_own_seed(sampling, index),
                    inputs=None if inputs is None else [inputs[index]],
                    mode=None if mode is LatentMode.KEEP else mode,
                    hold_latents=hold_latents,
                )
                seconds = time.perf_counter() - started
            done += 1
            self.on_progress(mode, done, len(self.prompts))
            answer = groups[0][0]
            return _begun_by_start(answer, self.client) if self.force_start else answer, seconds

        found: list[tuple[Completion, float]] = await run_all(send_one(index) for index in range(len(self.prompts)))
        return [completion for completion, _ in found], [seconds for _, seconds in found]


def _with_own_seed(sampling: Sampling, index: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)


def _with_start(prompt: PromptRequest, client: RolloutClient) -> PromptRequest:
    return replace(prompt, ids=(*prompt.ids, client.latent.start_id))


def _begun_by_start(answer: Completion, client: RolloutClient) -> Completion:
    """The answer to a prompt that ended in the start marker, as an answer to the prompt without it."""
    return replace(
        answer,
        prompt_ids=answer.prompt_ids[:-1],
        token_ids=(client.latent.start_id, *answer.token_ids),
        logprobs=(0.0, *answer.logprobs),
        latent_spans=tuple((start + 1, end + 1) for start, end in answer.latent_spans),
    )
