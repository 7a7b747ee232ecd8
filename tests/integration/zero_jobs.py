"""Jobs that the ZeRO-3 tests run in worker processes, and the same training without DeepSpeed."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

# Lets worker processes import this module.
JOBS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
VOCABULARY, HIDDEN, LENGTH = 31, 16, 12
Branch = Literal["none", "one", "all"]
OPTIM = {"lr": 1e-2, "warmup_steps": 3, "schedule": "cosine", "clip": 4.5, "weight_decay": 0.1}


class TinyModel(nn.Module):
    """Two recurrent-looking layers with a norm, an optional branch and a frozen part; dropout makes the RNG count."""

    def __init__(self, dropout: float = 0.0, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.branch = nn.Linear(hidden, hidden)
        self.frozen = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.frozen.requires_grad_(False)

    def forward(self, ids: Tensor, repeats: int = 1, branch: bool = False) -> Tensor:
        """Summed cross-entropy of the next token: []."""
        hidden = self.embed(ids) + self.frozen(self.embed(ids))
        for _ in range(repeats):
            for layer in self.layers:
                hidden = hidden + self.dropout(torch.tanh(layer(hidden)))
        if branch:
            hidden = hidden + self.branch(hidden)
        logits = self.norm(hidden) @ self.embed.weight.T
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def build(dropout: float = 0.0, hidden: int = HIDDEN) -> TinyModel:
    torch.manual_seed(7)
    return TinyModel(dropout, hidden)


def rows(step: int) -> list[Tensor]:
    """Six rows of different lengths for one step, each [1, T]."""
    generator = torch.Generator().manual_seed(1000 + step)
    lengths = torch.randint(3, LENGTH, (6,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY, (1, length), generator=generator) for length in lengths]


def train_alone(steps: int, branch: Branch = "one", skip: int | None = None) -> dict[str, list[float]]:
    """The losses and gradient norms of plain torch on one process, all rows of a step in one go. The step `skip` is
    left out."""
    from covt_runtime.engine.optimizer_settings import OptimConfig
    from covt_runtime.engine.schedule import lr_at

    optim = OptimConfig.model_validate(OPTIM)
    model = build()
    decay = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    adam = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1.0)
    losses, norms = [], []
    for step in [step for step in range(steps) if step != skip]:
        for group in adam.param_groups:
            group["lr"] = lr_at(step, steps, optim)
        batch = rows(step)
        tokens = sum(row.numel() - 1 for row in batch)
        loss = (
            torch.stack([model(row, branch=uses_branch(step, i, branch)) for i, row in enumerate(batch)]).sum() / tokens
        )
        loss.backward()
        for p in model.parameters():
            if p.requires_grad and p.grad is None:
                p.grad = torch.zeros_like(p)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip).item())
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms}


def uses_branch(step: int, row: int, branch: Branch) -> bool:
    """In every other step only: all rows, or row 0, so that one rank alone has a gradient for the branch."""
    return step % 2 == 0 and (branch == "all" or (branch == "one" and row == 0))


def _engine(payload: dict[str, Any]) -> Any:
    from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
    from covt_runtime.engine.zero_engine import ZeroEngine

    zero = ZeroConfig.model_validate({"dtype": "fp32", "persistence_threshold": 0, **payload.get("zero", {})})
    optim = OptimConfig.model_validate(OPTIM)
    model = build(payload.get("dropout", 0.0), payload.get("hidden", HIDDEN))
    return ZeroEngine(model, optim, zero, total_steps=payload["steps"])


def _one_step(engine: Any, step: int, branch: Branch = "one", *, spoil: Literal["", "loss", "gradient"] = "") -> float:
    """The global loss of one step; this rank's rows are accumulated one at a time. With `spoil` the loss is made NaN
    and the step skipped, or rank 0's gradient infinite, which the engine finds by itself."""
    batch = rows(step)
    mine = [(i, row) for i, row in enumerate(batch) if i % engine.world_size == engine.rank]
    tokens = engine.global_sum(sum(row.numel() - 1 for _, row in mine)).float()
    total = torch.zeros(())
    for i, row in mine:
        loss = engine(row, branch=uses_branch(step, i, branch)) / tokens * (float("nan") if spoil == "loss" else 1.0)
        if spoil == "gradient" and engine.rank == 0:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        engine.backward(loss)
        total += loss.detach()
    engine.skip_step() if spoil == "loss" else engine.step()
    return float(engine.global_sum(total))


def message_sizes(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Elements of each parameter in each message of some steps, and whether all ranks have sent the same."""
    engine = _engine(payload)
    gathered: list[list[int]] = []
    reduced: list[list[int]] = []
    name = "_DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads"
    scatter = getattr(engine._sharded, name)

    def recorded(parameters: list[Any], *options: Any) -> Any:
        reduced.append([p.ds_numel for p in parameters])
        return scatter(parameters, *options)

    setattr(engine._sharded, name, recorded)
    for parameter in engine.module.parameters():
        gather = parameter.all_gather_coalesced

        def gathering(parameters: list[Any], *options: Any, gather: Any = gather, **named: Any) -> Any:
            gathered.append([p.ds_numel for p in parameters])
            return gather(parameters, *options, **named)

        parameter.all_gather_coalesced = gathering
    for step in range(payload["steps"]):
        _one_step(engine, step)
    everyone: list[Any] = [None] * worker.world_size
    torch.distributed.all_gather_object(everyone, (gathered, reduced))
    engine.close()
    return {"gathered": gathered, "reduced": reduced, "same": all(one == everyone[0] for one in everyone)}


def train(payload: dict[str, Any], worker: Any) -> dict[str, list[float]]:
    """The global losses and gradient norms of `steps` steps."""
    engine = _engine(payload)
    losses, norms = [], []
    step_engine = engine.step
    engine.step = lambda: norms.append(step_engine().grad_norm)
    for step in range(payload["steps"]):
        if payload.get("by_turns"):
            engine.offload()
            engine.reload()
        skip = step == payload.get("skip")
        spoil = payload.get("spoil", "loss") if skip else ""
        loss = _one_step(engine, step, payload.get("branch", "one"), spoil=spoil)
        losses += [] if skip else [loss]
    engine.close()
    return {"losses": losses, "norms": norms}


def train_and_save(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Train from the newest checkpoint on (or from the start), saving every `every` steps; may be killed on the way."""
    from covt_runtime.checkpoints.checkpoint import CheckpointStore

    engine = _engine(payload)
    store = CheckpointStore(Path(payload["folder"]), keep=payload.get("keep", 2))
    notes: list[str] = []
    loaded = store.load(engine, payload.get("from_step"), notes.append)
    start = loaded.extra["next"] if loaded else 0
    if loaded is None:
        torch.manual_seed(100 + worker.rank)
    losses = {}
    if worker.rank == 1 and "file_limit" in payload:
        resource.setrlimit(resource.RLIMIT_FSIZE, (payload["file_limit"], resource.RLIM_INFINITY))
    for step in range(start, payload["steps"]):
        losses[step] = _one_step(engine, step)
        if (step + 1) % payload["every"] == 0:
            own = {"ema/norm.weight": engine.named_shards()["norm.weight"] * 2}
            if payload.get("count", True):
                own["count"] = torch.tensor(step)
            store.save(step + 1, engine, extra={"next": step + 1}, tensors=own, best=step + 1 == payload.get("best"))
        worker.emit({"event": "step", "step": step, "loss": losses[step]})
        if step == payload.get("kill_at") and worker.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    whole = {name: t.tolist() for name, t in engine.gathered_named_parameters(bucket_bytes=2000) if t is not None}
    engine.close()
    return {
        "losses": losses,
        "start": start,
        "notes": notes,
        "whole": whole,
        "tensors": {name: t.tolist() for name, t in loaded.tensors.items()} if loaded else {},
    }


def phases(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Weights through a full save and load, and a fresh optimizer between two phases."""
    from covt_runtime.engine.optimizer_settings import OptimConfig

    engine = _engine(payload)
    first = [_one_step(engine, step) for step in range(3)]
    engine.save_full(Path(payload["folder"]))
    moments = len(engine.moment_shards())
    engine.reset_optimizer(OptimConfig.model_validate(OPTIM), total_steps=3)
    after_reset = {"lr": engine.lr, "moments": len(engine.moment_shards()), "step": engine.global_step}
    second = [_one_step(engine, step) for step in range(3)]
    engine.close()
    again = _engine(payload)
    again.load_full(Path(payload["folder"]))
    repeated = [_one_step(again, step) for step in range(3)]
    again.close()
    return {"first": first, "moments": moments, "reset": after_reset, "second": second, "repeated": repeated}


def shard_sizes(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """How many elements this rank holds of everything, between steps."""
    engine = _engine(payload)
    _one_step(engine, 0)
    held = sum(p.numel() for p in engine.module.parameters())
    sharded = sum(shard.numel() for shard in engine.named_shards().values())
    whole = sum(p.ds_numel for p in engine.module.parameters())
    engine.close()
    return {"held": held, "sharded": sharded, "whole": whole}


def fail(payload: dict[str, Any], worker: Any) -> None:
    """Fail on rank 1 in the way asked for, while rank 0 waits for it."""
    from covt_runtime.runtime_errors import ConfigError

    if worker.rank == 1:
        if payload["how"] == "user":
            raise ConfigError("the setting is wrong", "set it right")
        if payload["how"] == "bug":
            raise ZeroDivisionError("a bug")
        os.kill(os.getpid(), signal.SIGKILL)
    worker.barrier()


def process_ids(payload: dict[str, Any], worker: Any) -> dict[str, int]:
    """This rank's process id, after telling the parent."""
    worker.emit({"event": "pid", "pid": os.getpid()})
    return {"pid": os.getpid()}


def outside(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """The place of a rank that another launcher started, as it sees it."""
    sizes = torch.tensor([1.0])
    torch.distributed.all_reduce(sizes)
    worker.emit({"event": "pid", "pid": os.getpid()})
    return {"ranks": sizes.item(), "payload": payload}


def wait_forever(payload: dict[str, Any], worker: Any) -> None:
    """Write this rank's process id to a file and hang in a collective that the other rank never joins."""
    Path(payload["folder"], f"pid_{worker.rank}").write_text(str(os.getpid()))
    worker.emit({"event": "waiting"})
    if worker.rank == 0:
        worker.barrier()
    signal.pause()
