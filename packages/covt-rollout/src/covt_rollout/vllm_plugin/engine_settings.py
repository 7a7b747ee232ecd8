"""Latent settings of a running engine, and what the plugin refuses at startup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_model.latent_config import HEADS, KEY, LatentConfig
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

TESTED_VERSIONS = ("0.32.0",)
# `latent_runner` feeds any head that `covt_model.latents.heads` builds.
SERVED_NORMALIZE = ("none", "rms")

SPANS_KEY = "covt_latent_spans"
"""In vLLM's `--additional-config`: the latent spans that a sequence may have under the V2 runner."""
DEVICE_SPANS = 32


@dataclass(frozen=True)
class EngineSettings:
    """What the plugin needs to know about the served checkpoint.

    Attributes:
        latent: latent settings.
        hidden: hidden size, H.
        image_id: placeholder token of an image.
        max_pads: most pads of a sequence under the V2 runner, which reserves memory for them; 0: no limit.
    """

    latent: LatentConfig
    hidden: int
    image_id: int
    max_pads: int = 0

    @classmethod
    def read(cls, vllm_config: VllmConfig) -> EngineSettings:
        """Read the engine's model config; raises ModelError when the checkpoint has no latent settings."""
        hf_config = vllm_config.model_config.hf_config
        values = getattr(hf_config, KEY, None)
        if values is None:
            raise ModelError(
                f"{vllm_config.model_config.model} has no latent tokens ({KEY!r} is missing from its config.json)",
                "serve a checkpoint made by `covt sft`, or leave out the flags of the latent plugin",
            )
        latent = LatentConfig.from_dict(values)
        check_served(latent)
        options: Any = vllm_config.additional_config or {}
        spans = int(options.get(SPANS_KEY, DEVICE_SPANS))
        pads = spans * latent.size if vllm_config.use_v2_model_runner else 0
        return cls(latent, vllm_config.model_config.get_hidden_size(), hf_config.image_token_id, pads)


def check_served(latent: LatentConfig) -> None:
    """Refuse a feedback rule that the server would have to approximate. Raises ModelError."""
    for name, value, served in (
        ("head", latent.head, HEADS),
        ("normalize", latent.normalize, SERVED_NORMALIZE),
    ):
        if value not in served:
            raise ModelError(
                f"the server can't follow {KEY}.{name} = {value!r}",
                f"it serves checkpoints with {name} {' or '.join(served)}",
            )


def check_supported(vllm_config: VllmConfig) -> None:
    """Refuse engine settings that latent decoding doesn't support: the raised ModelError ends the startup."""
    import vllm

    if vllm.__version__.split("+")[0] not in TESTED_VERSIONS:
        raise ModelError(
            f"the latent plugin is tested with vLLM {', '.join(TESTED_VERSIONS)}, this is {vllm.__version__}",
            f"install vllm=={TESTED_VERSIONS[-1]}",
        )
    refused = {
        "pipeline parallelism": vllm_config.parallel_config.pipeline_parallel_size > 1,
        "speculative decoding": vllm_config.speculative_config is not None,
        "asynchronous scheduling on the V1 model runner": bool(
            vllm_config.scheduler_config.async_scheduling and not vllm_config.use_v2_model_runner
        ),
        "text-only serving": not vllm_config.model_config.supports_multimodal_inputs,
    }
    remedies = {
        "pipeline parallelism": "use --tensor-parallel-size",
        "speculative decoding": "leave out --speculative-config",
        "asynchronous scheduling on the V1 model runner": "use --no-async-scheduling",
        "text-only serving": "allow at least one image in --limit-mm-per-prompt",
    }
    for name, present in refused.items():
        if present:
            raise ModelError(f"latent decoding does not work with {name}", remedies[name])


def checkpoint_folder(model: str) -> Path:
    """The served checkpoint's folder; for a hub id, the folder that was downloaded when the server started."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))
