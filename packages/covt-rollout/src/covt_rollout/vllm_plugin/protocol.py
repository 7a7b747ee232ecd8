"""The latent fields of a request (`sampling_params.extra_args`), their check, and the prefix cache's salt."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from covt_model.latents.latent_modes import WIRE_MODES, LatentMode
from covt_model.model_errors import ModelError

Latents = npt.NDArray[np.float32]

GENERATE = "/inference/v1/generate"
"""The path of vLLM's request form that takes token ids."""
FIELDS = ("latent_mode", "latent_data", "latent_shape", "latent_seed", "latent_key", "latent_max_spans")
MAX_KEY = 200


@dataclass(frozen=True)
class LatentOptions:
    """The checked latent fields of one request.

    Attributes:
        mode: what a pad's input embedding is: its own feedback (`keep`), zeros, noise with the feedback's norm, a row
            of `data` (`given`) or the token embedding (`none`).
        data: float32 [n, H], or None.
        key: name under which the latents can be fetched afterwards.
        seed: of `noise`.
        max_spans: latent spans that the output may have; None sets no limit.
    """

    mode: LatentMode = LatentMode.KEEP
    data: Latents | None = None
    key: str | None = None
    seed: int = 0
    max_spans: int | None = None


def latent_args(
    mode: str = "keep",
    latents: Latents | None = None,
    key: str | None = None,
    seed: int = 0,
    max_spans: int | None = None,
) -> dict[str, Any]:
    """Build and check the `extra_args` of a request.

    Args:
        mode: a latent mode of the wire.
        latents: float32 [n, H].
        key: name under which the server keeps the latents.
        seed: of `noise`.
        max_spans: latent spans that the output may have. One that begins another ends there.

    Raises:
        ModelError: the mode is unknown, or the latents are not finite numbers [n, H].
    """
    extra: dict[str, Any] = {"latent_mode": mode}
    if latents is not None:
        extra |= encode_latents(latents)
    if key is not None:
        extra["latent_key"] = key
    if seed:
        extra["latent_seed"] = seed
    if max_spans is not None:
        extra["latent_max_spans"] = max_spans
    read_options(extra)
    return extra


def encode_latents(latents: Latents) -> dict[str, Any]:
    """Encode latents [n, H] for the wire: base64 of little-endian float32 in row order, and the shape."""
    array = np.ascontiguousarray(latents, dtype="<f4")
    return {"latent_data": base64.b64encode(array.tobytes()).decode(), "latent_shape": list(array.shape)}


def decode_latents(extra: Mapping[str, Any]) -> Latents:
    """Decode `latent_data` and `latent_shape` to latents [n, H]; raises ModelError for anything malformed."""
    data, given = extra.get("latent_data"), extra.get("latent_shape")
    shape = cast(list[Any], given) if isinstance(given, list) else []
    if len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ModelError(f"latent_shape is {given!r}", "send [rows, hidden size] beside latent_data")
    if not isinstance(data, str):
        raise ModelError(f"latent_data is {type(data).__name__}", "send base64 of little-endian float32")
    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ModelError(f"latent_data is not base64: {error}", "send base64 of little-endian float32") from error
    if len(raw) != 4 * shape[0] * shape[1]:
        raise ModelError(
            f"latent_data has {len(raw)} bytes, latent_shape {shape} needs {4 * shape[0] * shape[1]}",
            "send float32 rows that match latent_shape",
        )
    array = np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise ModelError("latent_data has values that are not finite", "check the latents before sending them")
    return array


def read_options(extra: Mapping[str, Any] | None) -> LatentOptions:
    """Read and check the latent fields of `extra_args`, ignoring all others; raises ModelError."""
    if not extra:
        return LatentOptions()
    unknown = [name for name in extra if name.startswith("latent_") and name not in FIELDS]
    if unknown:
        raise ModelError(f"unknown fields {', '.join(sorted(unknown))}", f"the fields are {', '.join(FIELDS)}")
    mode, key, seed = extra.get("latent_mode", "keep"), extra.get("latent_key"), extra.get("latent_seed", 0)
    if mode not in WIRE_MODES:
        raise ModelError(f"latent_mode is {mode!r}", f"use one of {', '.join(WIRE_MODES)}")
    mode = LatentMode(mode)
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_KEY):
        raise ModelError(f"latent_key is {key!r:.60}", f"use a string of 1 to {MAX_KEY} characters")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ModelError(f"latent_seed is {seed!r}", "use an integer from 0 to 2**63 - 1")
    max_spans = extra.get("latent_max_spans")
    if max_spans is not None and (type(max_spans) is not int or max_spans < 0):
        raise ModelError(f"latent_max_spans is {max_spans!r}", "use an integer from 0 on, or leave it out")
    data = decode_latents(extra) if "latent_data" in extra or "latent_shape" in extra else None
    if mode is LatentMode.GIVEN and data is None:
        raise ModelError("latent_mode 'given' has no latent_data", "send the latents to use")
    return LatentOptions(mode, data, key, seed, max_spans)


def cache_salt(mode: str, latents: Latents | None = None, seed: int = 0) -> str | None:
    """The prefix-cache salt that a request must carry; None when it shares the cache.

    The cache is keyed by token ids, and pads have the same id whatever was fed there. A request's own latents follow
    from its ids, so `keep` shares the cache. Every other mode gets a cache of its own.

    Args:
        mode: a latent mode of the wire.
        latents: float32 [n, H] that the request carries.
        seed: of `noise`.
    """
    mode = LatentMode(mode)
    if not mode.salted:
        return None
    digest = hashlib.sha256(f"{mode}:{seed if mode.traits.salted_by_seed else 0}:".encode())
    if latents is not None and mode.traits.salted_by_latents:
        digest.update(np.ascontiguousarray(latents, dtype="<f4").tobytes())
    return f"latent-{mode}-{digest.hexdigest()[:32]}"


def check_prompt(
    token_ids: list[int], options: LatentOptions, pad_id: int, size: int, hidden: int, feeds: bool = True
) -> None:
    """Check the latents of a request against its prompt.

    This runs before the engine sees the request, because an exception inside a step would end the engine.

    Args:
        token_ids: of the prompt.
        options: the request's latent fields.
        pad_id: the latent pad's id.
        size: pads in a latent span, K.
        hidden: hidden size, H.
        feeds: False for a checkpoint whose pads keep their token embedding.

    Raises:
        ModelError: prompt and latents don't fit together.
    """
    if options.data is not None and options.data.shape[1] != hidden:
        raise ModelError(
            f"the latents have {options.data.shape[1]} dimensions, the model has {hidden}",
            "send latents of the same model",
        )
    pads = token_ids.count(pad_id)
    if feeds and options.mode.needs_own_latents and pads != (0 if options.data is None else len(options.data)):
        raise ModelError(
            f"the prompt has {pads} latent pads and {0 if options.data is None else len(options.data)} latents",
            "send one row of latent_data for each pad in the prompt, or use the mode 'zeros', 'given' or 'none'",
        )
    if pads and longest_run(token_ids, pad_id) > size:
        raise ModelError(
            f"the prompt has {longest_run(token_ids, pad_id)} latent pads in a row, a span has {size}",
            "end each span with <|latent_end|>",
        )


def longest_run(token_ids: list[int], token: int) -> int:
    """Length of the longest run of `token`."""
    longest = run = 0
    for value in token_ids:
        run = run + 1 if value == token else 0
        longest = max(longest, run)
    return longest
