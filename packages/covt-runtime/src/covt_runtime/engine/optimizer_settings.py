"""Optimizer and ZeRO-3 settings as they stand in recipes (`[optim]`, `[zero]`). Importing this needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimConfig(BaseModel):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with a warm-up and a schedule.

    `clip` is the largest global gradient norm; 0 turns clipping off. Weight decay leaves 1-D parameters (norms and
    biases) alone unless `decay_all`. `min_lr_ratio` is the share of `lr` left at the end of a schedule that falls.
    `wsd` (warm-up, stable, decay; arXiv 2404.06395) is constant and falls linearly over the last `decay_share` of the
    steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(default=1e-5, gt=0.0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    decay_all: bool = False
    clip: float = Field(default=1.0, ge=0.0)
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    warmup_steps: int = Field(default=10, ge=0)
    decay_share: float = Field(default=0.3, gt=0.0, le=1.0)
    min_lr_ratio: float = Field(default=0.0, ge=0.0, le=1.0)


class ZeroConfig(BaseModel):
    """ZeRO-3 (Rajbhandari et al., arXiv 1910.02054) settings.

    `gather` says when full parameters are put together from the ranks' shards:
      - `module`: around each module's forward and backward (DeepSpeed's own hooks): least memory, most messages;
      - `step`: once, before the first forward of a step, and given back after the optimizer step. A rank then holds the
        whole model and its gradients in `dtype` during a step (4 bytes a parameter in bf16), which many short forwards,
        such as latent steps, need to be fast. Ranks may use different parameters in a step.
    Sizes are counted in parameters, not in bytes; `reduce_bucket_size` is for `gather = "module"`. Parameters up to
    `persistence_threshold` are never sharded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["fp32", "bf16"] = "bf16"
    gather: Literal["module", "step"] = "module"
    persistence_threshold: int = Field(default=100_000, ge=0)
    max_live_parameters: int = Field(default=1_000_000_000, ge=0)
    max_reuse_distance: int = Field(default=1_000_000_000, ge=0)
    prefetch_bucket_size: int = Field(default=50_000_000, ge=0)
    reduce_bucket_size: int = Field(default=100_000_000, gt=0)
    overlap_comm: bool = False
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: Path | None = None

    @model_validator(mode="after")
    def _offload_fits(self) -> ZeroConfig:
        if "nvme" in (self.offload_optimizer, self.offload_parameters) and self.nvme_path is None:
            raise ValueError("offloading to nvme needs zero.nvme_path, a folder on the disk to use")
        if self.gather == "step" and self.offload_parameters != "none":
            raise ValueError("zero.gather = 'step' keeps the parameters on the device; use 'module' with offloading")
        return self
