"""Optimizer and ZeRO-3 settings as they stand in recipes (`[optim]`, `[zero]`). Importing this needs no torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from covt_runtime.recipe_schema import Section

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimConfig(Section):
    """`[optim]`: AdamW (Loshchilov & Hutter, arXiv 1711.05101) with warm-up and a learning-rate schedule."""

    lr: float = Field(default=1e-5, gt=0.0)
    """Peak learning rate; 1e-5 is usual for full fine-tuning in bf16. In `covt sft` each stage has its own."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moment."""
    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment, against division by zero."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay per step, multiplied by the learning rate."""
    decay_all: bool = False
    """Decay 1-D parameters (norms and biases) too; they are usually left alone."""
    clip: float = Field(default=1.0, ge=0.0)
    """Largest global gradient norm; 0 turns clipping off."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    """Learning rate after warm-up. `wsd` (arXiv 2404.06395) is constant and falls linearly over the last `decay_share`
    of the steps."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimizer steps in which the learning rate rises linearly."""
    decay_share: float = Field(default=0.3, gt=0.0, le=1.0)
    """Fraction of the steps in which `wsd` falls."""
    min_lr_ratio: float = Field(default=0.0, ge=0.0, le=1.0)
    """Learning rate at the end of a falling schedule, as a fraction of `lr`."""


class ZeroConfig(Section):
    """`[zero]`: ZeRO-3 (Rajbhandari et al., arXiv 1910.02054). Sizes are counted in parameters, not in bytes."""

    dtype: Literal["fp32", "bf16"] = "bf16"
    """Dtype of weights and activations; AdamW always keeps fp32 copies and moments."""
    gather: Literal["module", "step"] = "module"
    """When full parameters are gathered from the ranks' shards. `module`: around each module's forward and backward, by
    DeepSpeed's own hooks: least memory, most messages. `step`: once, before the first forward of a step, and released
    after the optimizer step. A rank then holds the whole model and its gradients in `dtype` during a step (4 bytes per
    parameter in bf16). Many short forwards, such as latent steps, need that to be fast, and ranks may then use
    different parameters in a step."""
    persistence_threshold: int = Field(default=100_000, ge=0)
    """Parameters up to this size are never sharded, because a message would cost more than the memory."""
    max_live_parameters: int = Field(default=1_000_000_000, ge=0)
    """Most parameters that are whole at once with `gather = "module"`."""
    max_reuse_distance: int = Field(default=1_000_000_000, ge=0)
    """With `gather = "module"`, a parameter stays whole if it is used again within this many parameters."""
    prefetch_bucket_size: int = Field(default=50_000_000, ge=0)
    """Parameters gathered in one message, ahead of their use with `gather = "module"`."""
    reduce_bucket_size: int = Field(default=100_000_000, gt=0)
    """Gradients reduced in one message."""
    overlap_comm: bool = False
    """Reduce gradients while the backward pass computes: faster on GPUs, with a second bucket in memory."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where AdamW's fp32 copies, moments and gradients are kept: on the device, in host memory, or on a disk."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where the weights' shards are kept; only with `gather = "module"`."""
    nvme_path: Path | None = None
    """Folder on the disk that `nvme` offloads to; required there."""

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        if "nvme" in (self.offload_optimizer, self.offload_parameters) and self.nvme_path is None:
            raise ValueError("offloading to nvme needs zero.nvme_path, a folder on the disk to use")
        if self.gather == "step" and self.offload_parameters != "none":
            raise ValueError("zero.gather = 'step' keeps the parameters on the device; use 'module' with offloading")
        return self
