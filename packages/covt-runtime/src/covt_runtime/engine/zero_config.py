"""From our settings to DeepSpeed's: the ZeRO-3 configuration, the optimizer, and a model built already sharded."""

from __future__ import annotations

import importlib
import logging
import warnings
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.runtime_errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


def prepare_deepspeed(zero: ZeroConfig) -> None:
    """Once before an engine is built: no information lines, and no C++ extensions compiled when a training starts.

    On a CPU DeepSpeed would build its shared-memory reduction with the machine's compiler (two minutes, if there is a
    compiler at all). It only does so for extensions it thinks this machine can build: we say none. Offloading to NVMe
    needs one, so there DeepSpeed may look for itself.
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
        # Ranges for NVIDIA's profiler, around some ten thousand calls a step.
        ranges: Any = importlib.import_module("deepspeed.utils.nvtx")
        ranges.enable_nvtx = False
    # DeepSpeed 0.19.8 calls torch 2.13's collectives by their old names, several times a step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)


def deepspeed_config(zero: ZeroConfig, clip: float, trainable: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `trainable` parameters to train; everything not named is DeepSpeed's default.

    Accumulation is the caller's: backward as often as you like, then step. torch's AdamW is used instead of
    DeepSpeed's own, whose CPU version is compiled when a training starts.
    """
    optimization: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": _reduce_bucket(zero, trainable),
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


def _reduce_bucket(zero: ZeroConfig, trainable: int) -> int:
    """Gradients reduced in one message. Never more than there are: a bucket is allocated whole.

    With one gather a step it is all of them. Ranks may use different parameters there, whose gradients then come in
    different orders, and buckets that fill up in different orders would mix parameters up.
    """
    return max(1, trainable if zero.gather == "step" else min(zero.reduce_bucket_size, trainable))


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices, which decay, and 1-D ones, which decay only with `decay_all`."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ConfigError("the model has no trainable parameters", "unfreeze at least one part of the model")
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
    """torch's AdamW over `parameter_groups`, fused: one kernel for DeepSpeed's one flat shard a group."""
    import torch

    return torch.optim.AdamW(parameter_groups(model, optim), lr=optim.lr, fused=True)


def sharded_init(zero: ZeroConfig) -> AbstractContextManager[Any]:
    """Models built inside this context are sharded parameter by parameter, so that no rank ever holds a whole one."""
    import deepspeed
    import torch

    return deepspeed.zero.Init(
        dtype=torch.bfloat16 if zero.dtype == "bf16" else torch.float32,
        config_dict_or_path=deepspeed_config(zero, clip=0.0, trainable=zero.reduce_bucket_size),
    )
