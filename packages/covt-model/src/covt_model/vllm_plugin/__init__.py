"""Latent decoding inside an unmodified vLLM: a worker, a logits processor and a request check, given by flags.

`vllm serve CKPT` with `flags(CKPT)` and `environment()` serves a latent checkpoint. Importing this package loads
neither vLLM nor torch; `protocol` has what a client needs.
"""

from __future__ import annotations

from pathlib import Path

from covt_model.config import LatentConfig
from covt_model.vllm_plugin.protocol import cache_salt, decode_latents, encode_latents, latent_args

__all__ = ["WORKER", "cache_salt", "decode_latents", "encode_latents", "environment", "flags", "latent_args"]

_PACKAGE = "covt_model.vllm_plugin"
WORKER = f"{_PACKAGE}.worker.LatentCPUWorker"


def flags(checkpoint: Path | str) -> list[str]:
    """The `vllm serve` flags that decode the latents of `checkpoint`; host, port and sizes are the caller's.

    Raises CheckpointError when there is no config.json, ModelError when it has no latent settings.
    """
    LatentConfig.read(checkpoint)
    return [
        "--worker-cls",
        WORKER,
        "--logits-processors",
        f"{_PACKAGE}.logits:LatentLogitsProcessor",
        "--middleware",
        f"{_PACKAGE}.frontend.LatentRequestCheck",
        # Log-probabilities of what is sampled from: after the temperature and the latent mask.
        "--logprobs-mode",
        "processed_logprobs",
        # A latent has to be stored before the next step is prepared.
        "--no-async-scheduling",
        "--enable-scale-out",
    ]


def environment() -> dict[str, str]:
    """Environment variables of the server process that the plugin and the trainer need.

    The development mode opens /collective_rpc, /pause, /resume and /update_weight_version, which execute what they
    are sent: bind to loopback, or set an API key and a firewall.
    """
    return {"VLLM_SERVER_DEV_MODE": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
