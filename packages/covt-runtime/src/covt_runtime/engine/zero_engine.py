"""The training engine: a model under DeepSpeed ZeRO-3, with our optimizer settings and our loss contract.

Loss contract: a rank's loss is its own *sum* over tokens divided by the *global* number of tokens (`global_sum`).
DeepSpeed averages gradients over the ranks and `backward` undoes that, so any number of ranks gives the gradients of
one rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from covt_runtime.engine import weights
from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.engine.ordered_reduction import OrderedReduction
from covt_runtime.engine.schedule import lr_at
from covt_runtime.engine.zero_config import build_optimizer, deepspeed_config, group_settings, prepare_deepspeed

# The states that DeepSpeed's `offload_states` moves, by its names.
_GRADIENTS = ("lp_grads", "contiguous_grad_buffer")


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: its number, counted from 1, its learning rate, and the gradient norm before clipping."""

    step: int
    lr: float
    grad_norm: float


class _TouchAll(torch.autograd.Function):
    """Return the loss unchanged and add a zero gradient to every parameter.

    Ranks may use different parameters (one has images, another has none), but the reduction needs the same on all.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.zeros = [p.new_zeros(()).expand(p.shape) for p in parameters]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (*gradients, *ctx.zeros)


class ZeroEngine:
    """A model whose parameters, gradients and optimizer state are sharded over the ranks.

    Call the model through the engine: `engine(**batch)`, then `backward(loss)` once or several times, then `step()`.
    Everything but `lr` and plain attributes is collective: all ranks call it, in the same order. With
    `zero.gather = "module"`, all ranks must use the same trainable parameters in a step.

    Args:
        model: the model to train; its parameters are cast to `zero.dtype`.
        optim: AdamW and the learning-rate schedule.
        zero: sharding, dtype and offloading.
        total_steps: length of the schedule.
    """

    def __init__(self, model: nn.Module, optim: OptimConfig, zero: ZeroConfig, *, total_steps: int) -> None:
        import deepspeed

        prepare_deepspeed(zero)
        self.optim = optim
        self.zero = zero
        self.total_steps = total_steps
        self.global_step = 0
        self._schedule_start = 0
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.dtype = weights.DTYPES[zero.dtype]
        model.to(self.dtype)
        trainable = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
        initialized: Any = deepspeed.initialize(
            model=model,
            optimizer=build_optimizer(model, optim),
            config=deepspeed_config(zero, optim.clip, trainable),
            dist_init_required=False,
        )
        self._engine: Any = initialized[0]
        self.module: nn.Module = model
        self.device = torch.device(self._engine.device)
        self._sharded: Any = self._engine.optimizer
        self._parameters = list(model.parameters())
        self._names: dict[Any, str] = {p: name for name, p in model.named_parameters()}
        self._trainable = [p for p in self._parameters if p.requires_grad]
        if zero.gather == "step":
            self._remove_module_hooks()
            OrderedReduction(self._sharded, self._trainable)

    def _remove_module_hooks(self) -> None:
        """Remove DeepSpeed's hooks. With one gather per step they have nothing to do, and cost more than the math."""
        offload = self._sharded.parameter_offload
        for hook in (*offload.forward_hooks, *offload.backward_hooks, offload.fwd_pre_hook):
            hook.remove()
        offload.forward_hooks.clear()
        offload.backward_hooks.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        if self.zero.gather == "step":
            self._gather_all()
        return self._engine(*args, **kwargs)

    def train(self, mode: bool = True) -> None:
        """Set the model's training mode, such as for dropout."""
        self.module.train(mode)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss`, a scalar by the loss contract above."""
        loss = loss * self.world_size
        if self.zero.gather == "step":
            loss = _TouchAll.apply(loss, *self._trainable)  # type: ignore[assignment]
        self._engine.backward(loss)

    def step(self) -> StepResult:
        """Clip the gradients, update the weights, and advance the schedule.

        Where the gradient norm is not finite the weights and moments stay as they are; the step counts in the schedule.
        """
        lr = self.lr
        for group in self._sharded.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        self._forget_gradients()
        self.global_step += 1
        norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            self.release()
        return StepResult(self.global_step, lr, norm)

    def skip_step(self) -> StepResult:
        """Drop the gradients since the last step and leave the weights; the step counts in the schedule."""
        lr = self.lr
        self._sharded.zero_grad()
        self._forget_gradients()
        self.release()
        self.global_step += 1
        return StepResult(self.global_step, lr, math.nan)

    def _forget_gradients(self) -> None:
        """Zero the gradients. DeepSpeed overwrites only those of the next step's parameters."""
        self._sharded.grad_partitions_flat_buffer.zero_()
        if self.zero.offload_optimizer == "cpu":
            for master in self._sharded.fp32_partitioned_groups_flat:
                master.grad.zero_()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return lr_at(self.global_step - self._schedule_start, self.total_steps, self.optim)

    @contextmanager
    def forwards(self, *, whole: bool = True) -> Iterator[None]:
        """A context for forwards that no optimizer step follows, such as generation (collective).

        With `zero.gather = "step"`, a rank holds the full model inside. With `whole=False` it gathers module by module,
        which works only without gradients.
        """
        by_module = nullcontext()
        if self.zero.gather == "step" and whole:
            self._gather_all()
        elif self.zero.gather == "step":
            self.release()
            by_module = weights.gathered_by_module(self.module)
        try:
            with by_module:
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Release gathered parameters, after forwards that no optimizer step follows."""
        self._sharded.parameter_offload.partition_all_parameters()
        self._gather_persistent()

    def _gather_all(self) -> None:
        """Gather all parameters, bucket by bucket: a message needs room for its parameters a second time."""
        weights.gather(self._parameters, self.zero.prefetch_bucket_size)

    def _gather_persistent(self) -> None:
        """Gather the parameters up to the persistence threshold, which are never sharded."""
        weights.gather(self._sharded.persistent_parameters)

    def offload(self) -> None:
        """Move weights, gradients, and AdamW's fp32 copies and moments from the device to the host.

        Call nothing but `reload` afterwards. States that ZeRO offloads are on the host already. With parameters
        offloaded, DeepSpeed can't move the gradients, which stay on the device.
        """
        self._sharded.parameter_offload.partition_all_parameters()
        if self.zero.offload_parameters == "none":
            self._engine.offload_states(include=_GRADIENTS)
        self._move(torch.device("cpu"))
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()

    def reload(self) -> None:
        """Move back to the device what `offload` moved to the host."""
        self._move(self.device)
        if self.zero.offload_parameters == "none":
            self._engine.reload_states()
        self._gather_persistent()

    def _move(self, device: torch.device) -> None:
        """Move shards and AdamW's state; DeepSpeed moves neither frozen parameters nor the state of torch's AdamW."""
        sharded = self._sharded
        if self.zero.offload_parameters == "none":
            sharded.lp_param_buffer.data = sharded.lp_param_buffer.to(device, copy=True)
            trained = [p.ds_tensor for group in sharded.fp16_groups for p in group]
            views = sharded.lp_param_buffer.split([shard.numel() for shard in trained])
            for shard, view in zip(trained, views, strict=True):
                shard.data = view
            sharded.fp16_partitioned_groups_flat.clear()
            sharded._set_fp16_partitioned_groups_flat()
            frozen: list[Any] = [p for p in self._parameters if not p.requires_grad]
            for parameter in frozen:
                parameter.ds_tensor.data = parameter.ds_tensor.to(device, copy=True)
        if self.zero.offload_optimizer == "none":
            for flat in sharded.fp32_partitioned_groups_flat:
                flat.data = flat.to(device, copy=True)
                state = sharded.optimizer.state.get(flat, {})
                state |= {key: state[key].to(device, copy=True) for key in ("exp_avg", "exp_avg_sq") if key in state}

    def reset_optimizer(self, optim: OptimConfig, total_steps: int) -> None:
        """Start a new phase with fresh AdamW moments and a new schedule; the weights stay.

        Keeping the moments from stage 1 to stage 2 can collapse a latent model.
        """
        self.total_steps = total_steps
        self._schedule_start = self.global_step
        self._sharded.optimizer.state.clear()
        self.set_optimizer(optim)

    def global_sum(self, x: Tensor | float) -> Tensor:
        """The sum of `x` over the ranks, without gradient, in the shape of `x`; float64 for a Python number."""
        return self._all_reduce(x, dist.ReduceOp.SUM)

    def global_max(self, x: Tensor | float) -> Tensor:
        """The element-wise maximum of `x` over the ranks, without gradient."""
        return self._all_reduce(x, dist.ReduceOp.MAX)

    def _all_reduce(self, x: Tensor | float, op: Any) -> Tensor:
        if isinstance(x, Tensor):
            value = x.detach().to(self.device, copy=True)
        else:
            value = torch.tensor(x, dtype=torch.float64, device=self.device)
        dist.all_reduce(value, op=op)
        return value

    def gathered(self, parameters: list[nn.Parameter], modify: bool = False) -> AbstractContextManager[Any]:
        """A context in which all ranks hold these parameters in full.

        With `modify`, rank 0's changes are kept. Call `refresh` afterwards, or AdamW's fp32 copies keep the old values.
        """
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if modify else None)

    def refresh(self) -> None:
        """Copy weights changed under `gathered(modify=True)` into AdamW's fp32 copies."""
        self._sharded.refresh_fp32_params()

    def gathered_named_parameters(self, bucket_bytes: int = 64 << 20) -> Iterator[tuple[str, Tensor | None]]:
        """Every parameter in full on the CPU of rank 0, and None on other ranks, gathered bucket by bucket.

        Iterate to the end on all ranks. Tied weights appear once, under their first name.
        """
        self.release()
        return weights.iterate_gathered(self.module, bucket_bytes)

    def save_full(self, folder: Path, dtype: Literal["bf16", "fp32"] | None = None) -> None:
        """Write the full model as safetensors under its parameter names, from rank 0; `dtype` None keeps the dtype."""
        weights.save_gathered(self.gathered_named_parameters(), Path(folder), dtype, self.rank)
        dist.barrier()

    def load_full(self, tensors: Mapping[str, Tensor] | Path) -> None:
        """Load full parameters by name, from a mapping (read on rank 0 only) or from safetensors files."""
        self.release()
        weights.load_gathered(self.module, tensors, self.rank)
        self.refresh()

    def named_shards(self) -> dict[str, Tensor]:
        """This rank's 1-D shard of every parameter, by name.

        A trainable parameter's shard is AdamW's fp32 copy; a frozen parameter's shard is the model's own. A parameter's
        elements are divided into `world_size` equal shards, the last padded with zeros. The tensors are not copies:
        call `adopt_shards` after changing them.
        """
        masters = self._group_views(self._sharded.fp32_partitioned_groups_flat)
        shards = {self._names[p]: view for views in masters for p, view in views}
        frozen = {name: p.ds_tensor.data for p, name in self._names.items() if name not in shards}
        return {name: (shards | frozen)[name] for name in self._names.values()}

    def trainable_shards(self) -> dict[str, Tensor]:
        """The fp32 shards of the trainable parameters, from `named_shards`."""
        trained = {self._names[p] for p in self._trainable}
        return {name: shard for name, shard in self.named_shards().items() if name in trained}

    def _group_views(self, flats: list[Tensor]) -> list[list[tuple[Any, Tensor]]]:
        """For each of DeepSpeed's groups, its parameters with their slices of the group's flat tensor."""
        views = []
        for group, flat in zip(self._sharded.fp16_groups, flats, strict=True):
            sizes = [p.ds_tensor.numel() for p in group]
            assert sum(sizes) == flat.numel(), "DeepSpeed's flat shards have an unexpected layout"
            views.append(list(zip(group, flat.data.split(sizes), strict=True)))
        return views

    def moment_shards(self) -> dict[str, Tensor]:
        """AdamW's moments as `exp_avg/<name>` and `exp_avg_sq/<name>`, and its step count as `adam_step/<group>`.

        Empty before the first step of a phase. The layout is that of `named_shards`.
        """
        states = [self._sharded.optimizer.state.get(flat) for flat in self._sharded.fp32_partitioned_groups_flat]
        if not all(states):
            return {}
        moments = {f"adam_step/{i}": state["step"].reshape(1) for i, state in enumerate(states)}
        for key in ("exp_avg", "exp_avg_sq"):
            for views in self._group_views([state[key] for state in states]):
                moments.update({f"{key}/{self._names[p]}": view for p, view in views})
        return moments

    def create_moments(self) -> None:
        """Create AdamW's moments as zeros, as its first step does, so that `moment_shards` can return them."""
        for flat in self._sharded.fp32_partitioned_groups_flat:
            self._sharded.optimizer.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                "exp_avg": torch.zeros_like(flat.data),
                "exp_avg_sq": torch.zeros_like(flat.data),
            }

    def adopt_shards(self) -> None:
        """Copy changed `named_shards` into the model."""
        self.release()
        for i, flat in enumerate(self._sharded.fp32_partitioned_groups_flat):
            self._sharded.fp16_partitioned_groups_flat[i].data.copy_(flat.data)
            self._sharded._unflatten_partitioned_parameters(i)
        self._sharded.parameter_offload.partition_all_parameters()
        self._gather_persistent()

    def set_optimizer(self, optim: OptimConfig) -> None:
        """Continue with other optimizer settings; AdamW's moments and the schedule's position stay."""
        self.optim = optim
        self._sharded.clip_grad = optim.clip
        for group in self._sharded.optimizer.param_groups:
            group.update(group_settings(optim, group["kind"]))

    def schedule_state(self) -> dict[str, int]:
        """The schedule's position, for `load_schedule_state`."""
        return {"step": self.global_step, "start": self._schedule_start, "total": self.total_steps}

    def load_schedule_state(self, state: Mapping[str, int]) -> None:
        """Restore what `schedule_state` returned."""
        self.global_step = state["step"]
        self._schedule_start = state["start"]
        self.total_steps = state["total"]

    def close(self) -> None:
        """Free the engine, so that another training can start in this process."""
        self._engine.destroy()
        self._sharded = None
        self._engine = None
