"""From our settings to DeepSpeed's: the ZeRO-3 configuration, the optimizer, and a model built already sharded."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.runtime_errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


def prepare_deepspeed(zero: ZeroConfig) -> None:
    """Silence DeepSpeed and keep it from compiling C++ extensions. Call it once before an engine is built.

    On a CPU, DeepSpeed would build its shared-memory reduction with the machine's compiler, which takes two minutes. It
    builds only extensions that it thinks this machine can build, so it is told that there are none. Offloading to NVMe
    needs an extension, so there DeepSpeed decides for itself.
    """
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if "nvme" not in (zero.offload_optimizer, zero.offload_parameters):
        ops: Any = deepspeed.ops
        ops.__compatible_ops__ = {}
    accelerator: Any = get_accelerator()
    if accelerator.device_name() == "cpu":
        # These mark ranges for NVIDIA's profiler, around some ten thousand calls per step.
        ranges: Any = importlib.import_module("deepspeed.utils.nvtx")
        ranges.enable_nvtx = False
    # DeepSpeed 0.19.8 calls torch 2.13's collectives by their old names, several times per step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)


def deepspeed_config(zero: ZeroConfig, clip: float, trainable: int) -> dict[str, Any]:
    """DeepSpeed's configuration; what is not named has DeepSpeed's default.

    The caller accumulates gradients: any number of backward passes, then a step. torch's AdamW replaces DeepSpeed's,
    whose CPU version is compiled when a training starts.

    Args:
        zero: the recipe's section.
        clip: largest gradient norm; 0 turns clipping off.
        trainable: number of trained parameters.
    """
    optimization: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": max(1, min(zero.reduce_bucket_size, trainable)),  # a bucket is allocated in full
        "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
        "stage3_param_persistence_threshold": zero.persistence_threshold,
        "stage3_max_live_parameters": zero.max_live_parameters,
        "stage3_max_reuse_distance": zero.max_reuse_distance,
        "stage3_gather_16bit_weights_on_model_save": True,
        "memory_efficient_linear": False,
    }
    for name, device in (("offload_optimizer", zero.offload_optimizer), ("offload_param", zero.offload_parameters)):
        if device != "none":
            place: dict[str, Any] = {"device": device, "pin_memory": True}
            if zero.nvme_path is not None:
                place["nvme_path"] = str(zero.nvme_path)
            optimization[name] = place
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip,
        "bf16": {"enabled": zero.dtype == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": optimization,
    }


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices, which decay, and 1-D ones, which decay only with `decay_all`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ConfigError("the model has no trainable parameters", "unfreeze a part of the model, or set lora.rank")
    # A parameter that is already sharded looks 1-D; DeepSpeed keeps its real shape in ds_shape.
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "kind": "matrix"}, {"params": vectors, "kind": "vector"}]
    return [{**group, **group_settings(optim, group["kind"])} for group in groups if group["params"]]


def group_settings(optim: OptimConfig, kind: str) -> dict[str, Any]:
    """AdamW's settings for the group of matrices or of vectors."""
    decays = kind == "matrix" or optim.decay_all
    return {"betas": optim.betas, "eps": optim.eps, "weight_decay": optim.weight_decay if decays else 0.0}


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """torch's AdamW over `parameter_groups`, fused: one kernel for the one flat shard that DeepSpeed has per group."""
    import torch

    return torch.optim.AdamW(parameter_groups(model, optim), lr=optim.lr, fused=True)
