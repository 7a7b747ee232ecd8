"""The HTTP API of a latent vLLM server: every path, and every field of a request or an answer.

The plugin checks and serves its own fields; everything else in this repository calls the server through the functions
below. Imports neither vLLM nor an HTTP library.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from covt_rollout.rollout_errors import StaleWeightsError
from covt_rollout.vllm_plugin.protocol import GENERATE, Latents, cache_salt, decode_latents, latent_args

HEALTH, PING = "/health", "/ping"
WEIGHT_INFO = "/weight_info"
EVENT_STREAM = "text/event-stream"
"""Content type of a streamed answer."""
STREAM_FIELDS: Mapping[str, Any] = {"stream": True}
"""What asks for a streamed answer, beside the fields of the request."""
FIRST_VERSION = "default"
"""The server's name for weights that no update has replaced."""
ABORTED = "abort"
"""The finish reason of a sample that a weight update cut short."""
SLEEP_LEVEL = 2
"""vLLM's sleep level that keeps neither weights nor caches in memory."""


class AnswerAssembler(Protocol):
    """Puts a streamed answer together."""

    def add(self, event: Any) -> None:
        """Take the next event, as JSON."""
        ...

    def answer(self) -> Any:
        """Return the whole answer; raises ValueError when parts of it are missing."""
        ...

    def restart(self) -> None:
        """Forget all events: the request is sent again."""
        ...


class Replicas(Protocol):
    """What sends requests: `covt_rollout.client.http_transport.Transport`."""

    async def post(self, path: str, body: Any = None, *, assembler: AnswerAssembler | None = None) -> Any: ...

    async def call_each(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bodies: Sequence[Any] | None = None,
        params: Mapping[str, str] | None = None,
        attempts: int = 1,
    ) -> list[Any]: ...

    async def upload_each(self, path: str, file: Path, *, attempts: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class GeneratedChoice:
    """One sample of an answer, or a piece of one.

    Attributes:
        index: number of the sample within its request.
        token_ids: sampled tokens.
        logprobs: natural logarithms, one for each token.
        finish_reason: `stop`, `length` or `abort`; empty while the sample is not finished.
        versions: names of all weights that sampled its tokens.
    """

    index: int
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """The answer to a generate request: the prompt with expanded image pads, and the samples ordered by index."""

    prompt_ids: list[int]
    choices: list[GeneratedChoice]


def generate_body(
    token_ids: Sequence[int],
    images: Sequence[bytes],
    *,
    max_tokens: int,
    n: int,
    temperature: float,
    seed: int | None,
    mode: str,
    latents: Latents | None,
    latent_seed: int,
    max_spans: int | None = None,
) -> dict[str, Any]:
    """Build the JSON of a generate request.

    Args:
        token_ids: the prompt, with one image pad for each image.
        images: PNG or JPEG files, in the order of the pads.
        max_tokens: longest completion in tokens.
        n: samples.
        temperature: 0 is greedy.
        seed: sample i draws from seed + i; None is not repeatable.
        mode: a latent mode of the wire.
        latents: float32 [pads, H], for modes that send some.
        latent_seed: seed of the `noise` mode.
        max_spans: latent spans that a sample may have; one that begins another is ended there.

    Raises:
        ModelError: the latents or their mode are malformed.
    """
    parameters: dict[str, Any] = {
        "max_tokens": max_tokens,
        "n": n,
        "temperature": temperature,
        "logprobs": 0,
        "detokenize": False,
        "skip_special_tokens": False,
        # Named, or the checkpoint's generation_config would set them.
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "extra_args": latent_args(mode, latents, seed=latent_seed, max_spans=max_spans),
    }
    if seed is not None:
        parameters["seed"] = seed
    body: dict[str, Any] = {"token_ids": list(token_ids), "sampling_params": parameters, "return_token_ids": True}
    if images:
        body["content_parts"] = [image_part(data) for data in images]
    salt = cache_salt(mode, latents, latent_seed)
    if salt is not None:
        body["cache_salt"] = salt
    return body


def image_part(data: bytes) -> dict[str, str]:
    """An image as the server takes it; its name is the hash of its content, so equal images share the caches."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return {
        "type": "image_url",
        "url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
        "uuid": hashlib.sha256(data).hexdigest(),
    }


def hold_latents_under(body: dict[str, Any], key: str) -> None:
    """Let the server keep the request's latents under `key` until `take_latents` asks for them."""
    body["sampling_params"]["extra_args"]["latent_key"] = key


def stream_every(body: dict[str, Any], tokens: int) -> None:
    """Let a streamed answer come in pieces of `tokens` tokens."""
    body["sampling_params"]["stream_interval"] = tokens


async def generate(
    replicas: Replicas, body: dict[str, Any], assembler: AnswerAssembler | None = None
) -> GeneratedAnswer:
    """Sample on the least loaded replica; the assembler's answer must be a `GeneratedAnswer`."""
    answer = await replicas.post(GENERATE, body, assembler=assembler)
    if isinstance(answer, GeneratedAnswer):
        return answer
    choices = sorted((read_choice(choice) for choice in answer["choices"]), key=lambda choice: choice.index)
    return GeneratedAnswer(answer["prompt_token_ids"], choices)


def read_event(event: Mapping[str, Any]) -> tuple[list[int] | None, list[GeneratedChoice]]:
    """One event of a streamed answer: the prompt's ids, which only the first event has, and pieces of samples."""
    return event.get("prompt_token_ids"), [read_choice(choice) for choice in event["choices"]]


def read_choice(choice: Mapping[str, Any]) -> GeneratedChoice:
    """Read one sample of an answer or of a streamed event."""
    return GeneratedChoice(
        index=choice["index"],
        token_ids=choice["token_ids"],
        logprobs=[entry["logprob"] for entry in choice["logprobs"]["content"]],
        finish_reason=choice["finish_reason"] or "",
        versions=tuple(span["version"] for span in choice["weight_versions"] or ()),
    )


async def detokenize(replicas: Replicas, token_ids: Sequence[int], attempts: int) -> list[str]:
    """The text of the tokens, as each replica reads it."""
    answers = await replicas.call_each("POST", "/detokenize", {"tokens": list(token_ids)}, attempts=attempts)
    return [answer["prompt"] for answer in answers]


@dataclass(frozen=True, slots=True)
class HeldLatents:
    """Latents of one sample as the server sends them: `rows` vectors of `hidden` numbers, not decoded yet."""

    data: str
    rows: int
    hidden: int

    def decode(self) -> Latents:
        """The latents, float32 [rows, hidden]."""
        return decode_latents({"latent_data": self.data, "latent_shape": [self.rows, self.hidden]})


async def take_latents(replicas: Replicas, keys: Sequence[str]) -> list[dict[str, list[HeldLatents]]]:
    """For each replica the latents that it held under `keys`, by key and sample; it forgets them."""
    body = {"method": "covt_take_latents", "args": [list(keys)]}
    answers = await replicas.call_each("POST", "/collective_rpc", body)
    return [
        {
            key: [HeldLatents(choice["data"], *choice["shape"]) for choice in choices or ()]
            for key, choices in answer["results"][0].items()
        }
        for answer in answers
    ]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """State of one worker process: the version of the last whole load, and whether it was started with sleep mode."""

    weight_version: int
    sleep_mode: bool


async def worker_statuses(replicas: Replicas) -> list[list[WorkerStatus]]:
    """The states of each replica's workers."""
    answers = await replicas.call_each("POST", "/collective_rpc", {"method": "covt_status"})
    return [
        [WorkerStatus(worker["weight_version"], worker["sleep_mode"]) for worker in answer["results"]]
        for answer in answers
    ]


async def weight_versions(replicas: Replicas, attempts: int) -> list[int]:
    """The version that each replica serves; raises StaleWeightsError for a name that is no version."""
    answers = await replicas.call_each("GET", WEIGHT_INFO, attempts=attempts)
    return [parse_version(answer["weight_version"]) for answer in answers]


def parse_version(name: str) -> int:
    """The optimizer step that the server's version name stands for."""
    if name == FIRST_VERSION:
        return 0
    try:
        return int(name)
    except ValueError as error:
        raise StaleWeightsError(
            f"the server's weights are called {name!r}, not a step",
            "push weights with covt_rollout.weights.weight_sync",
        ) from error


async def set_weight_version(replicas: Replicas, name: str, attempts: int) -> None:
    """Rename the weights that all replicas serve; a name that is not a number makes clients refuse their answers."""
    await replicas.call_each("POST", "/update_weight_version", {"new_version": name}, attempts=attempts)


async def pause(replicas: Replicas, attempts: int = 1) -> None:
    """Abort all running requests and clear the caches; requests wait until `resume`."""
    await replicas.call_each("POST", "/pause", params={"mode": "abort"}, attempts=attempts)


async def resume(replicas: Replicas, attempts: int = 1) -> None:
    """Take requests again."""
    await replicas.call_each("POST", "/resume", attempts=attempts)


async def load_weights(replicas: Replicas, folder: str, version: int) -> None:
    """Let every replica read `folder/*.safetensors` itself."""
    await replicas.call_each("POST", "/collective_rpc", load_body(folder, version))


def load_body(folder: str, version: int) -> dict[str, Any]:
    """What asks a replica to load the weights of a folder on its machine."""
    return {"method": "covt_load_weights", "args": [folder, version]}


async def see_file(replicas: Replicas, path: str, text: str) -> list[bool]:
    """Whether all workers of each replica read exactly `text` in a file of the trainer's machine."""
    return await _all_can(replicas, {"method": "covt_see_file", "args": [path, text]})


async def reach_address(replicas: Replicas, address: str, port: int) -> list[bool]:
    """Whether all workers of each replica can connect to a port of the trainer's machine."""
    return await _all_can(replicas, {"method": "covt_reach_address", "args": [address, port]})


async def _all_can(replicas: Replicas, body: dict[str, Any]) -> list[bool]:
    answers = await replicas.call_each("POST", "/collective_rpc", body)
    return [all(worker["can"] for worker in answer["results"]) for answer in answers]


async def sleep(replicas: Replicas) -> None:
    """Abort running requests and free the GPU memory of weights and caches."""
    await replicas.call_each("POST", "/sleep", params={"level": str(SLEEP_LEVEL), "mode": "abort"})


async def wake_weights(replicas: Replicas) -> None:
    """Allocate the memory of the weights, which then must be loaded."""
    await replicas.call_each("POST", "/wake_up", params={"tags": "weights"})


async def wake_caches(replicas: Replicas) -> None:
    """Allocate the memory of the caches."""
    await replicas.call_each("POST", "/wake_up", params={"tags": "kv_cache"})


async def are_sleeping(replicas: Replicas) -> list[bool]:
    """Whether each replica sleeps."""
    return [answer["is_sleeping"] for answer in await replicas.call_each("GET", "/is_sleeping")]


async def worker_counts(replicas: Replicas) -> list[int]:
    """The number of worker processes of each replica."""
    return [answer["world_size"] for answer in await replicas.call_each("GET", "/get_world_size")]


async def join_transfer_group(replicas: Replicas, bodies: Sequence[Any]) -> None:
    """Let the workers of each replica join the trainer's group, as `transfer_group_bodies` says."""
    await replicas.call_each("POST", "/init_weight_transfer_engine", bodies=bodies)


def transfer_group_bodies(
    address: str, port: int, workers: Sequence[int], *, bucket_bytes: int, buckets: int
) -> list[dict[str, Any]]:
    """What each replica is told about the group, in which the trainer is rank 0.

    Args:
        address: the trainer's address.
        port: a free port there.
        workers: number of worker processes of each replica.
        bucket_bytes: size of a packed bucket.
        buckets: number of buckets that are under way together.
    """
    shared = {
        "master_address": address,
        "master_port": port,
        "world_size": 1 + sum(workers),
        "packed": True,
        "packed_buffer_size_bytes": bucket_bytes,
        "packed_num_buffers": buckets,
    }
    offsets = [1 + sum(workers[:number]) for number in range(len(workers))]
    return [{"init_info": shared | {"rank_offset": offset}} for offset in offsets]


async def start_weight_update(replicas: Replicas) -> None:
    """Announce that the weights will be replaced."""
    await replicas.call_each("POST", "/start_weight_update")


async def receive_weights(replicas: Replicas, body: dict[str, Any]) -> None:
    """Receive the tensors of `received_weights_body`; returns when all of them have come."""
    await replicas.call_each("POST", "/update_weights", body)


def received_weights_body(names: list[str], dtypes: list[str], shapes: list[list[int]]) -> dict[str, Any]:
    """Names, torch dtypes and shapes of the tensors, in the order in which the trainer sends them."""
    return {"update_info": {"names": names, "dtype_names": dtypes, "shapes": shapes}}


async def finish_weight_update(replicas: Replicas, version: int) -> None:
    """End the update, let the plugin do its own part of it, and leave the group."""
    await replicas.call_each("POST", "/finish_weight_update")
    await replicas.call_each("POST", "/collective_rpc", {"method": "covt_finish_transfer", "args": [version]})
    await replicas.call_each("POST", "/shutdown_weight_transfer_engine")
