"""The part of the server's HTTP API that looks into latents: readings of latents, and scores of given tokens."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from covt_rollout.endpoints import Replicas
from covt_rollout.vllm_plugin.protocol import GENERATE, Latents, decode_latents, encode_latents

PAGE = "/covt/page"
"""The page that looks into latents."""
INSPECT = "/covt/inspect"
"""The data behind the page."""
ROWS = "/covt/rows"
"""The rows of the set that the page offers."""


@dataclass(frozen=True, slots=True)
class LatentReadings:
    """What latents resemble.

    Attributes:
        cosines: for each picture float32 [P, n], the cosines of P latents with n visual features.
        words: for each latent (token id, probability), the most probable first.
    """

    cosines: list[Latents]
    words: list[list[tuple[int, float]]]


async def read_latents(replicas: Replicas, latents: Latents, pictures: Sequence[bytes], words: int) -> LatentReadings:
    """Ask what latents [P, H] resemble.

    Args:
        replicas: a single server.
        latents: P ≥ 1 rows.
        pictures: encoded pictures whose visual features they are compared with.
        words: tokens that are named for each latent.
    """
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    body = {"method": "covt_read_latents", "args": [encode_latents(latents), encoded, words]}
    (answer,) = await replicas.call_each("POST", "/collective_rpc", body)
    found = answer["results"][0]
    cosines = [decode_latents(one) for one in found["cosines"]]
    return LatentReadings(cosines, [[(token, float(p)) for token, p in row] for row in found["words"]])


async def score_tokens(replicas: Replicas, body: Mapping[str, Any], count: int) -> list[float]:
    """Log-probabilities of the last `count` tokens of a generate request's prompt.

    They are those of the whole vocabulary at temperature 1, without the mask that sampling puts on latent tokens.

    Args:
        replicas: what sends the request.
        body: of a generate request; what it asks for is not sampled.
        count: tokens to score, 1 or more.
    """
    asked = {"max_tokens": 1, "n": 1, "temperature": 0.0, "prompt_logprobs": 0}
    answer = await replicas.post(GENERATE, {**body, "sampling_params": {**body["sampling_params"], **asked}})
    ids, scores = answer["prompt_token_ids"][-count:], answer["prompt_logprobs"][-count:]
    return [float(np.float32(one[str(token)]["logprob"])) for token, one in zip(ids, scores, strict=True)]
