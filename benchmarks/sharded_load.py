"""Peak memory of a rank while a checkpoint of published shape is read into ZeRO-3 shards.

The bound is the rank's share of the language model, the frozen vision tower, the largest file and 1 GiB.
`--whole` reads the model whole on each rank, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from real_model import SIZES, write_random

GIB = 2**30
RANKS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--depth", type=float, default=1.0, help="share of the layers")
    parser.add_argument("--whole", action="store_true", help="every rank reads the whole model")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_random(
            (arguments.folder or Path(temporary)) / f"{arguments.size}-{arguments.depth:g}",
            arguments.size,
            arguments.depth,
        )
        result = measure(folder, whole=arguments.whole)
    print(json.dumps(result, indent=1) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def measure(checkpoint: Path, *, whole: bool) -> dict[str, Any]:
    from covt_runtime.launch.workers import WorkerGroup

    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with (
        tempfile.TemporaryDirectory() as logs,
        WorkerGroup(RANKS, log_dir=Path(logs), env={"PYTHONPATH": paths}) as group,
    ):
        seen = group.run("sharded_load:load", {"checkpoint": str(checkpoint), "whole": whole})
    largest = max(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    bound = seen["partition"] + seen["vision"] + largest + GIB
    return {
        "device": harness.device(),
        "checkpoint_gib": round(sum(f.stat().st_size for f in checkpoint.glob("*.safetensors")) / GIB, 2),
        "partition_gib": round(seen["partition"] / GIB, 2),
        "vision_gib": round(seen["vision"] / GIB, 2),
        "largest_file_gib": round(largest / GIB, 2),
        "peak_gib": round(seen["peak"] / GIB, 2),
        "bound_gib": round(bound / GIB, 2),
        "seconds": round(seen["seconds"], 1),
    }


def load(payload: dict[str, Any], worker: Any) -> dict[str, float]:
    """A rank's job: load, and say how far this process's memory grew."""
    import deepspeed  # noqa: F401  # what importing costs is not the load's
    import torch
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    from covt_model.checkpoints.split_load import load_split
    from covt_runtime.engine.optimizer_settings import ZeroConfig
    from covt_runtime.engine.zero_sharding import ZeroSharding

    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    begin = time.perf_counter()
    sharding = None if payload["whole"] else ZeroSharding(ZeroConfig(dtype="bf16"))
    model, visual = load_split(payload["checkpoint"], torch.bfloat16, sharding=sharding)
    worker.barrier()
    return {
        "seconds": time.perf_counter() - begin,
        "peak": float(worker_max(_status("VmHWM") - before)),
        "partition": sum(getattr(p, "ds_tensor", p).nbytes for p in model.parameters()),
        "vision": sum(p.nbytes for p in visual.parameters()),
    }


def worker_max(value: float) -> float:
    """The largest value of all ranks."""
    import torch
    import torch.distributed as dist

    held = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return held.item()


def _status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
