"""The rollout client: prompts in, completions of one weight version out."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from covt_model.latent_config import LatentConfig, read_config
from covt_rewards.latents import find_pad_runs
from covt_rollout import endpoints
from covt_rollout.client.completions import Completion
from covt_rollout.client.concurrency import run_all
from covt_rollout.client.held_latents import find_latents, request_keys, sample_key
from covt_rollout.client.http_transport import Transport
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling, request_body
from covt_rollout.client.streamed_answer import STREAM_INTERVAL, OnProgress, StreamedAnswer
from covt_rollout.client.text_decoder import Decode, read_decoder
from covt_rollout.endpoints import GeneratedAnswer, GeneratedChoice, parse_version
from covt_rollout.rollout_errors import RolloutError, ServerRefusedError, ServerUnreachableError, StaleWeightsError
from covt_rollout.vllm_plugin.protocol import Latents

MAX_INTERRUPTIONS = 20
"""How often a prompt is sampled again after weight updates cut it short; each restart of a server costs one."""


class RolloutClient:
    """Samples completions from one or several replicas; use it as an async context manager."""

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        latent: LatentConfig,
        decode: Decode,
        version: int | None = None,
        placeholder_ids: frozenset[int] = frozenset(),
        api_key: str | None = None,
        concurrency: int = 256,
        timeout: float = 600.0,
        attempts: int = 6,
        backoff: float = 0.25,
        stream_interval: int = STREAM_INTERVAL,
        on_down: Callable[[], Awaitable[None]] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            urls: addresses of the replicas, as a list or as one string with commas.
            latent: latent settings of the served checkpoint.
            decode: ids to text without special tokens.
            version: the weights that answers must come from. None accepts any, but never two in one completion.
            placeholder_ids: tokens that stand for images. A completion that sampled one as text can't be continued.
            api_key: see `Transport`, as for the parameters below.
            concurrency: requests under way at once.
            timeout: seconds of silence after which a server counts as failed.
            attempts: how often a request is sent.
            backoff: seconds before the second attempt.
            stream_interval: tokens of a sample between two reports of its progress.
            on_down: brings the server back.
            on_note: told when a server fails or is slow.
        """
        self.latent, self.decode, self.version = latent, decode, version
        self.placeholder_ids = placeholder_ids
        self.attempts, self.stream_interval = attempts, stream_interval
        self.transport = Transport(
            urls.split(",") if isinstance(urls, str) else urls,
            api_key=api_key,
            concurrency=concurrency,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            on_down=on_down,
            on_note=on_note,
        )

    @classmethod
    def for_checkpoint(cls, urls: str | Sequence[str], checkpoint: Path | str, **settings: Any) -> Self:
        """A client with the latent settings and the tokenizer of a checkpoint folder."""
        config = read_config(checkpoint)
        placeholders = frozenset(config[name] for name in ("image_token_id", "video_token_id") if name in config)
        latent = LatentConfig.read(checkpoint)
        return cls(urls, latent=latent, decode=read_decoder(checkpoint), placeholder_ids=placeholders, **settings)

    async def __aenter__(self) -> Self:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    async def generate(
        self,
        prompts: Sequence[PromptRequest],
        sampling: Sampling | Sequence[Sampling],
        *,
        inputs: LatentInput | Sequence[LatentInput] | None = None,
        mode: str | None = None,
        hold_latents: bool = False,
        on_done: Callable[[int], None] | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[Completion]]:
        """Complete every prompt `sampling.n` times.

        A completion that a weight update cut short, or that mixes versions, is sampled again. The n samples of a prompt
        are one request, so the server reads the prompt once.

        Args:
            prompts: the prompts.
            sampling: for all prompts, or one entry for each prompt.
            inputs: what latent pads are fed, likewise; None feeds them their own latents.
            mode: the name that the completions carry, by default the mode on the wire.
            hold_latents: keep the latents on the server until `take_latents`.
            on_done: called with the number of finished prompts.
            on_progress: called with each unfinished sample about every `stream_interval` tokens, until the request has
                to be sent again.

        Returns:
            For each prompt, in order, its completions in the order of samples.

        Raises:
            RolloutError: the numbers of prompts, samplings and inputs differ, or the server refuses a request.
            ServerUnreachableError: no usable answer after all attempts.
            StaleWeightsError: the server has other weights than `version`, and nothing brings these back.
        """
        samplings = list(sampling) if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        fed = list(inputs) if isinstance(inputs, Sequence) else [inputs or LatentInput()] * len(prompts)
        if not len(samplings) == len(fed) == len(prompts):
            raise RolloutError(
                f"{len(prompts)} prompts, {len(samplings)} samplings, {len(fed)} latent inputs",
                "give one entry for each prompt",
            )
        done = 0

        async def complete(index: int) -> list[Completion]:
            nonlocal done
            seed = samplings[index].seed
            if seed is not None and not isinstance(sampling, Sequence):
                seed += index * samplings[index].n
            request = _Request(self, prompts[index], samplings[index], seed, fed[index], mode or fed[index].mode)
            result = await request.complete(hold_latents, on_progress)
            done += 1
            if on_done is not None:
                on_done(done)
            return result

        return await run_all(complete(index) for index in range(len(prompts)))

    async def take_latents(self, completions: Sequence[Completion]) -> list[Latents | None]:
        """Fetch the latents [pads, H] that each completion's own pads were fed; None where the server dropped them.

        The server forgets what it has handed out, so all samples of a prompt must be asked for together, as they were
        sampled.
        """
        keys = request_keys(completions)
        held = await endpoints.take_latents(self.transport, keys) if keys else []
        return [find_latents(held, completion) for completion in completions]

    async def sample_with_latents(
        self, prompt: PromptRequest, sampling: Sampling, on_progress: OnProgress | None = None
    ) -> tuple[list[Completion], list[Latents]]:
        """Complete one prompt and fetch what its pads were fed, [pads, H] for each completion.

        A server that died before it was asked for the latents has lost them. With a seed, sampling again gives the same
        ones.

        Args:
            prompt: the prompt.
            sampling: how to sample it.
            on_progress: as in `generate`.

        Raises:
            ServerUnreachableError: the latents were lost `attempts` times.
        """
        for _ in range(self.attempts):
            (completions,) = await self.generate([prompt], [sampling], hold_latents=True, on_progress=on_progress)
            try:
                taken = await self.take_latents(completions)
            except ServerUnreachableError:
                if not await self.transport.recover():
                    raise
                continue
            latents = [one for one in taken if one is not None]
            if len(latents) == len(completions):
                return completions, latents
        raise ServerUnreachableError(
            f"the latents of prompt {prompt.group_id!r} were lost {self.attempts} times",
            "look at the server's log, or ask for fewer prompts at once",
        )

    async def weight_version(self) -> int:
        """The version of the weights that all replicas serve; raises StaleWeightsError when they differ."""
        versions = sorted(set(await endpoints.weight_versions(self.transport, self.attempts)))
        if len(versions) > 1:
            raise StaleWeightsError(f"the replicas serve versions {versions}", "push the current weights again")
        return versions[0]


@dataclass(frozen=True, slots=True)
class _Request:
    """One prompt's request; `mode` is the name that its completions carry."""

    client: RolloutClient
    prompt: PromptRequest
    sampling: Sampling
    seed: int | None
    fed: LatentInput
    mode: str

    async def complete(self, hold_latents: bool, on_progress: OnProgress | None) -> list[Completion]:
        """Send the request until all samples are whole and of one weight version."""
        body = request_body(self.prompt, self.sampling, self.seed, self.fed)
        stale = 0
        for attempt in range(MAX_INTERRUPTIONS):
            if attempt:
                self.client.transport.resent += 1
                # The first answer's progress is not reported a second time.
                on_progress = None
            key = None
            if hold_latents:
                # A new name for every attempt: an aborted one may have left latents behind.
                key = uuid.uuid4().hex
                endpoints.hold_latents_under(body, key)
            answer = await self._send(body, on_progress)
            versions = {parse_version(name) for choice in answer.choices for name in choice.versions}
            if len(versions) != 1 or any(choice.finish_reason == endpoints.ABORTED for choice in answer.choices):
                continue
            (version,) = versions
            if self.client.version is None or version == self.client.version:
                return [self._completion(answer.prompt_ids, choice, key, version) for choice in answer.choices]
            # One answer may have been under way while the new weights were pushed; two say that the server has others.
            stale += 1
            if stale % 2 == 0 and not await self.client.transport.recover():
                raise StaleWeightsError(
                    f"the server sampled with weights of version {version}, the trainer is at {self.client.version}",
                    "push the current weights and sample again",
                )
        raise ServerUnreachableError(
            f"prompt {self.prompt.group_id!r} was interrupted by weight updates {MAX_INTERRUPTIONS} times",
            "push weights less often",
        )

    async def _send(self, body: dict[str, Any], on_progress: OnProgress | None) -> GeneratedAnswer:
        assembler = None
        if on_progress is not None:
            assembler = StreamedAnswer(self.sampling.n, on_progress)
            endpoints.stream_every(body, self.client.stream_interval)
        try:
            return await endpoints.generate(self.client.transport, body, assembler)
        except ServerRefusedError as error:
            if error.status == 403:
                raise RolloutError(
                    str(error), "start the server with `covt serve`, or with --enable-scale-out"
                ) from error
            raise

    def _completion(
        self, prompt_ids: Sequence[int], choice: GeneratedChoice, key: str | None, version: int
    ) -> Completion:
        choice = self._without_stop(choice)
        return Completion(
            group_id=self.prompt.group_id,
            sample_index=choice.index,
            prompt_ids=tuple(prompt_ids),
            token_ids=tuple(choice.token_ids),
            logprobs=tuple(choice.logprobs),
            text=self.client.decode(choice.token_ids),
            finish_reason=choice.finish_reason,
            latent_spans=find_pad_runs(choice.token_ids, self.client.latent.pad_id),
            latent_key=None if key is None else sample_key(key, choice.index),
            seed=None if self.seed is None else self.seed + choice.index,
            mode=str(self.mode),
            weight_version=version,
        )

    def _without_stop(self, choice: GeneratedChoice) -> GeneratedChoice:
        """The sample without the end that the server forces when a sample begins one span more than allowed.

        Only a limit of spans ends a completion behind the start of one. The sample is cut there, as at its greatest
        length.
        """
        ids = choice.token_ids
        if choice.finish_reason != "stop" or len(ids) < 2 or ids[-2] != self.client.latent.start_id:
            return choice
        return replace(choice, token_ids=ids[:-1], logprobs=choice.logprobs[:-1], finish_reason="length")
