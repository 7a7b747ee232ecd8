"""The rollout client: prompts in, completions out, over `/inference/v1/generate`."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from covt_model.latent_config import LatentConfig, read_config
from covt_rollout.client.completions import Completion, PromptRequest, find_spans
from covt_rollout.client.concurrency import run_all
from covt_rollout.client.http_transport import Transport
from covt_rollout.client.streamed_answer import PIECE, Pieces
from covt_rollout.rollout_errors import RolloutError, ServerRefusedError, ServerUnreachableError, StaleWeightsError
from covt_rollout.vllm_plugin.protocol import cache_salt, decode_latents, latent_args

Latents = npt.NDArray[np.float32]
Decode = Callable[[Sequence[int]], str]
# Called with a completion as it stands, while it is being sampled: no text, an empty finish reason.
Watch = Callable[[Completion], None]
GENERATE = "/inference/v1/generate"
# The server's name for weights that no update has replaced.
FIRST_VERSION = "default"
# How often a prompt is sampled again because weight updates cut it short: each server that comes back gets one.
INTERRUPTIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample: temperature 0 is greedy.

    Sample i draws from seed + i; None is not repeatable. Given once for all prompts, the seed is that of the first
    prompt, and prompt p uses seed + p·n.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or not self.temperature >= 0:
            raise RolloutError(f"{self} asks for nothing", "use n and max_tokens ≥ 1 and a temperature ≥ 0")
        if self.n > 1 and self.temperature == 0:
            raise RolloutError(f"{self.n} greedy samples are all the same", "use n = 1 or a temperature above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentInput:
    """What pads are fed in one request (the wire's modes of contract C).

    mode: keep, zeros, noise, given or none. latents: float32 [pads, H], for pads in the prompt (keep, noise) or for
    all (given). seed: of the noise.
    """

    mode: str = "keep"
    latents: Latents | None = field(default=None, repr=False)
    seed: int = 0


class RolloutClient:
    """Samples completions from one or several replicas; use it as an async context manager.

    urls: a list, or one string with commas between. latent: the served checkpoint's settings. decode: ids → text
    without special tokens. version: the weights that answers must come from; None accepts any, but never two in one
    completion. picture_ids: tokens that stand for pictures, and can't be repeated when a model has sampled one as text.
    The other parameters are `Transport`'s.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        latent: LatentConfig,
        decode: Decode,
        version: int | None = None,
        picture_ids: frozenset[int] = frozenset(),
        api_key: str | None = None,
        concurrency: int = 256,
        timeout: float = 600.0,
        attempts: int = 6,
        backoff: float = 0.25,
        on_down: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.latent, self.decode, self.version = latent, decode, version
        self.picture_ids = picture_ids
        self.attempts = attempts
        self.transport = Transport(
            urls.split(",") if isinstance(urls, str) else urls,
            api_key=api_key,
            concurrency=concurrency,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            on_down=on_down,
        )

    @classmethod
    def for_checkpoint(cls, urls: str | Sequence[str], checkpoint: Path | str, **settings: Any) -> Self:
        """A client with the latent settings and the tokenizer of a checkpoint folder."""
        config = read_config(checkpoint)
        pictures = frozenset(config[name] for name in ("image_token_id", "video_token_id") if name in config)
        latent = LatentConfig.read(checkpoint)
        return cls(urls, latent=latent, decode=decoder(checkpoint), picture_ids=pictures, **settings)

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
        watch: Watch | None = None,
    ) -> list[list[Completion]]:
        """Complete every prompt `sampling.n` times; lists in the order of the prompts, each in the order of samples.

        sampling: for all prompts, or one entry a prompt. inputs: what pads are fed, likewise; None: their own latents.
        mode: the name that the completions carry, by default the wire's. hold_latents: keep the latents on the server
        until `take_latents`. on_done: called with the number of finished prompts. watch: called with every completion
        as it stands, about every `PIECE` tokens; what a failing server makes the client send again is not watched.

        A completion that was cut short by a weight update, or that mixes versions, is sampled again. The n samples of
        a prompt are one request, so the server reads the prompt once.
        """
        how = list(sampling) if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        fed = list(inputs) if isinstance(inputs, Sequence) else [inputs or LatentInput()] * len(prompts)
        if not len(how) == len(fed) == len(prompts):
            raise RolloutError(
                f"{len(prompts)} prompts, {len(how)} samplings, {len(fed)} latent inputs", "give one entry a prompt"
            )
        done = 0

        async def one(index: int) -> list[Completion]:
            nonlocal done
            seed = how[index].seed
            if seed is not None and not isinstance(sampling, Sequence):
                seed += index * how[index].n
            result = await self._complete(prompts[index], how[index], seed, fed[index], mode, hold_latents, watch)
            done += 1
            if on_done is not None:
                on_done(done)
            return result

        return await run_all(one(index) for index in range(len(prompts)))

    async def take_latents(self, completions: Sequence[Completion]) -> list[Latents | None]:
        """The latents [pads, H] that were fed at each completion's own pads; None where the server has dropped them.

        completions: as they were sampled, all samples of a prompt together: the server forgets what it has handed out.
        """
        keys = sorted({key_of(one) for one in completions if one.latent_key is not None})
        body = {"method": "covt_take_latents", "args": [keys]}
        answers = await self.transport.each("POST", "/collective_rpc", body) if keys else []
        held = [answer["results"][0] for answer in answers]
        return [_pick(held, one) for one in completions]

    async def sample_with_latents(
        self, prompt: PromptRequest, sampling: Sampling, watch: Watch | None = None
    ) -> tuple[list[Completion], list[Latents]]:
        """One prompt's completions, and what was fed at their pads, [pads, H] each; watch: as in `generate`.

        A server that died before it was asked for the latents has lost them: with a seed, sampling again gives the
        same ones. Raises ServerUnreachableError when that happens `attempts` times.
        """
        for _ in range(self.attempts):
            (completions,) = await self.generate([prompt], [sampling], hold_latents=True, watch=watch)
            try:
                taken = await self.take_latents(completions)
            except ServerUnreachableError:
                if not await self.transport.bring_back():
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
        """The version of the weights that all replicas serve now; raises StaleWeightsError when they differ."""
        answers = await self.transport.each("GET", "/weight_info", attempts=self.attempts)
        versions = sorted({parse_version(answer["weight_version"]) for answer in answers})
        if len(versions) > 1:
            raise StaleWeightsError(f"the replicas serve versions {versions}", "push the current weights again")
        return versions[0]

    async def _complete(
        self,
        prompt: PromptRequest,
        sampling: Sampling,
        seed: int | None,
        fed: LatentInput,
        mode: str | None,
        hold_latents: bool,
        watch: Watch | None,
    ) -> list[Completion]:
        body = request_body(prompt, sampling, seed, fed)

        def record(prompt_ids: Sequence[int], choice: dict[str, Any], version: int) -> Completion:
            index, finish = choice["index"], choice["finish_reason"]
            key = body["sampling_params"]["extra_args"].get("latent_key")
            return Completion(
                group_id=prompt.group_id,
                sample_index=index,
                prompt_ids=tuple(prompt_ids),
                token_ids=tuple(choice["token_ids"]),
                logprobs=tuple(entry["logprob"] for entry in choice["logprobs"]["content"]),
                text=self.decode(choice["token_ids"]) if finish else "",
                finish_reason=finish,
                latent_spans=find_spans(choice["token_ids"], self.latent.pad_id),
                latent_key=None if key is None else f"{key}/{index}",
                seed=None if seed is None else seed + index,
                mode=mode or fed.mode,
                weight_version=version,
            )

        def pieces(watch: Watch) -> Pieces:
            return Pieces(sampling.n, lambda prompt_ids, choice: watch(record(prompt_ids, choice, -1)))

        watched = None if watch is None else partial(pieces, watch)
        answer, choices, version = await self._whole_answer(prompt, body, hold_latents, watched)
        return [record(answer["prompt_token_ids"], choice, version) for choice in choices]

    async def _whole_answer(
        self, prompt: PromptRequest, body: dict[str, Any], hold_latents: bool, pieces: Callable[[], Pieces] | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
        """Send until all samples of the prompt are whole and of one version; the answer, its choices, the version."""
        stale = 0
        for _ in range(INTERRUPTIONS):
            if hold_latents:
                # A new name for every attempt: an aborted one may have left latents behind.
                body["sampling_params"]["extra_args"]["latent_key"] = uuid.uuid4().hex
            answer = await self._post(body, pieces() if pieces is not None else None)
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            versions = {version for choice in choices for version in choice_versions(choice)}
            if len(versions) != 1 or any(choice["finish_reason"] == "abort" for choice in choices):
                continue
            (version,) = versions
            if self.version is None or version == self.version:
                return answer, choices, version
            # One answer may have been under way while the new weights were pushed; two say that the server has others.
            stale += 1
            if stale % 2 == 0 and not await self.transport.bring_back():
                raise StaleWeightsError(
                    f"the server sampled with weights of version {version}, the trainer is at {self.version}",
                    "push the current weights and sample again",
                )
        raise ServerUnreachableError(
            f"prompt {prompt.group_id!r} was interrupted by weight updates {INTERRUPTIONS} times",
            "push weights less often",
        )

    async def _post(self, body: dict[str, Any], pieces: Pieces | None) -> dict[str, Any]:
        if pieces is not None:
            body["sampling_params"]["stream_interval"] = PIECE
        try:
            return await self.transport.post(GENERATE, body, assembly=pieces)
        except ServerRefusedError as error:
            if error.status == 403:
                raise RolloutError(
                    str(error), "start the server with `covt serve`, or with --enable-scale-out"
                ) from error
            raise


def request_body(prompt: PromptRequest, sampling: Sampling, seed: int | None, fed: LatentInput) -> dict[str, Any]:
    """The JSON of one generate request; raises the plugin's ModelError for malformed latents."""
    parameters: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "n": sampling.n,
        "temperature": sampling.temperature,
        "logprobs": 0,
        "detokenize": False,
        "skip_special_tokens": False,
        # Named, or the checkpoint's generation_config would set them.
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "extra_args": latent_args(fed.mode, fed.latents, seed=fed.seed),
    }
    if seed is not None:
        parameters["seed"] = seed
    body: dict[str, Any] = {
        "token_ids": list(prompt.ids),
        "sampling_params": parameters,
        "return_token_ids": True,
    }
    if prompt.images:
        body["content_parts"] = [image_part(data) for data in prompt.images]
    salt = cache_salt(fed.mode, fed.latents, fed.seed)
    if salt is not None:
        body["cache_salt"] = salt
    return body


def image_part(data: bytes) -> dict[str, str]:
    """A picture as the server wants it; its name is its content's hash, so equal pictures share the caches."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return {
        "type": "image_url",
        "url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "uuid": hashlib.sha256(data).hexdigest(),
    }


def decoder(checkpoint: Path | str) -> Decode:
    """Ids → text without special tokens, by the checkpoint's tokenizer.json."""
    from tokenizers import Tokenizer

    path = Path(checkpoint) / "tokenizer.json"
    if not path.is_file():
        raise RolloutError(f"{path} is missing", "export the checkpoint again, with its tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)


def parse_version(name: str) -> int:
    """The optimizer step that the server's version string stands for."""
    if name == FIRST_VERSION:
        return 0
    try:
        return int(name)
    except ValueError as error:
        raise StaleWeightsError(
            f"the server's weights are called {name!r}, not a step",
            "push weights with covt_rollout.weights.weight_sync",
        ) from error


def choice_versions(choice: dict[str, Any]) -> set[int]:
    """All weight versions that sampled tokens of a choice."""
    return {parse_version(span["version"]) for span in choice["weight_versions"] or ()}


def key_of(completion: Completion) -> str:
    """The request's latent key, shared by all samples of a prompt."""
    assert completion.latent_key is not None
    return completion.latent_key.rpartition("/")[0]


def _pick(held: Sequence[Mapping[str, Any]], completion: Completion) -> Latents | None:
    """The completion's latents among what the replicas hold.

    A request that was given up and sent to another replica may have left some of its rows behind under the same name.
    """
    if completion.latent_key is None:
        return None
    key, _, index = completion.latent_key.rpartition("/")
    pads = sum(end - start for start, end in completion.latent_spans)
    for replica in held:
        choices = replica.get(key) or ()
        if int(index) >= len(choices) or choices[int(index)]["shape"][0] != pads:
            continue
        choice = choices[int(index)]
        if pads == 0:
            return np.zeros((0, choice["shape"][1]), np.float32)
        return decode_latents({"latent_data": choice["data"], "latent_shape": choice["shape"]})
    return None
