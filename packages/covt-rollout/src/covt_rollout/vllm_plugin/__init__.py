"""Latent decoding inside an unmodified vLLM: a worker, a logits processor and a request check, loaded by flags.

May not import the package's other folders. vLLM's server with `flags(CKPT)` and `environment()` serves a latent
checkpoint. Importing this folder loads neither vLLM nor torch; `protocol` has what a client needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from covt_model.latent_config import LatentConfig
from covt_rollout.vllm_plugin.engine_settings import check_served
from covt_rollout.vllm_plugin.protocol import cache_salt, decode_latents, encode_latents, latent_args

__all__ = [
    "WORKERS",
    "Device",
    "Runner",
    "cache_salt",
    "decode_latents",
    "encode_latents",
    "environment",
    "flags",
    "latent_args",
]

_PACKAGE = "covt_rollout.vllm_plugin"
Device = Literal["cpu", "gpu"]
Runner = Literal["v1", "v2"]
"""vLLM's model runner. V2 schedules asynchronously and needs Triton."""
LOGITS: dict[Runner, str] = {
    "v1": f"{_PACKAGE}.logits:LatentLogitsProcessor",
    "v2": f"{_PACKAGE}.v2.device_logits:DeviceLatentLogits",
}
WORKERS: dict[Device, str] = {
    "cpu": f"{_PACKAGE}.cpu_worker.LatentCPUWorker",
    "gpu": f"{_PACKAGE}.latent_worker.LatentWorker",
}


def flags(checkpoint: Path | str, device: Device = "cpu", runner: Runner = "v1") -> list[str]:
    """The flags of `vllm serve` that decode the latents of a checkpoint; host, port and sizes are left to the caller.

    Args:
        checkpoint: folder to serve.
        device: the kind of vLLM that serves it.
        runner: vLLM's model runner; `environment` must name the same.

    Raises:
        CheckpointError: there is no config.json.
        ModelError: the latent settings are missing, or the server can't follow them.
    """
    check_served(LatentConfig.read(checkpoint))
    return [
        "--worker-cls",
        WORKERS[device],
        "--logits-processors",
        LOGITS[runner],
        "--middleware",
        f"{_PACKAGE}.frontend.LatentRequestCheck",
        # Log-probabilities of the distribution that is sampled: after the temperature and the latent mask.
        "--logprobs-mode",
        "processed_logprobs",
        # The V1 runner's plugin stores a latent before the next step is prepared.
        *(("--no-async-scheduling",) if runner == "v1" else ()),
        "--enable-scale-out",
        # A trainer on other GPUs may send its weights over NCCL.
        *(("--weight-transfer-config", '{"backend": "nccl"}') if device == "gpu" else ()),
    ]


def environment(runner: Runner = "v1") -> dict[str, str]:
    """Environment variables that the plugin and the trainer need in the server process.

    The development mode opens /collective_rpc, /pause, /resume and /update_weight_version, whose callers control the
    server: bind to loopback, or set an API key and a firewall.
    """
    return {"VLLM_SERVER_DEV_MODE": "1", "VLLM_USE_V2_MODEL_RUNNER": "1" if runner == "v2" else "0"}
