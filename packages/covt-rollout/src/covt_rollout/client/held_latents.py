"""Which of the latents that the replicas hold belong to a completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from covt_rollout.client.completions import Completion
from covt_rollout.endpoints import HeldLatents
from covt_rollout.vllm_plugin.protocol import Latents


def sample_key(request_key: str, index: int) -> str:
    """A completion's `latent_key`: the request's key and the sample's number."""
    return f"{request_key}/{index}"


def request_keys(completions: Sequence[Completion]) -> list[str]:
    """The latent keys of the completions' requests, sorted; all samples of a prompt share one."""
    return sorted({_split(one.latent_key)[0] for one in completions if one.latent_key is not None})


def find_latents(held: Sequence[Mapping[str, Sequence[HeldLatents]]], completion: Completion) -> Latents | None:
    """The latents [pads, H] of a completion among what each replica held; None when no replica has them.

    A request that was given up and sent to another replica may have left some of its latents behind under the same
    name, so the number of pads must agree.
    """
    if completion.latent_key is None:
        return None
    key, index = _split(completion.latent_key)
    pads = sum(end - start for start, end in completion.latent_spans)
    for replica in held:
        samples = replica.get(key, ())
        if index >= len(samples) or samples[index].rows != pads:
            continue
        if pads == 0:
            return np.zeros((0, samples[index].hidden), np.float32)
        return samples[index].decode()
    return None


def _split(latent_key: str) -> tuple[str, int]:
    key, _, index = latent_key.rpartition("/")
    return key, int(index)
