"""Two real gloo ranks under DeepSpeed ZeRO-3 do the arithmetic of one process without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zero_jobs
from zero_jobs import JOBS

from covt_runtime.launch.workers import WorkerGroup


@pytest.mark.parametrize(
    "zero",
    [
        {"gather": "step"},
        {"gather": "step", "persistence_threshold": 100},
        {"gather": "step", "reduce_bucket_size": 300},
        {"gather": "step", "offload_optimizer": "cpu"},
    ],
)
def test_two_ranks_give_the_losses_of_one_process(two_ranks: WorkerGroup, zero: dict[str, object]) -> None:
    """Rows of unequal length, accumulated, some parameters used by one rank only and not in every step."""
    ours = two_ranks.run("zero_jobs:train", {"steps": 10, "zero": zero})
    alone = zero_jobs.train_alone(10)
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(alone["norms"], rel=1e-5)
    assert min(alone["norms"]) < zero_jobs.OPTIM["clip"] < max(alone["norms"])


def test_bf16_weights_follow_fp32_ones_closely(two_ranks: WorkerGroup) -> None:
    """Masters are fp32: over ten steps the losses differ by bf16's rounding of a forward only, about 1 in 256."""
    ours = two_ranks.run("zero_jobs:train", {"steps": 10, "zero": {"gather": "step", "dtype": "bf16"}})
    assert ours["losses"] == pytest.approx(zero_jobs.train_alone(10)["losses"], rel=1e-2)


@pytest.mark.parametrize("branch", ["none", "one", "all"])
@pytest.mark.parametrize("offload", [{}, {"offload_optimizer": "cpu"}])
def test_small_buckets_in_one_order_give_the_losses_of_one_process(
    two_ranks: WorkerGroup, branch: str, offload: dict[str, str]
) -> None:
    """Also where one rank alone uses a part, so that gradients arrive in another order there."""
    zero = {"gather": "step", "reduce_bucket_size": 300, "prefetch_bucket_size": 300} | offload
    ours = two_ranks.run("zero_jobs:train", {"steps": 6, "branch": branch, "zero": zero})
    alone = zero_jobs.train_alone(6, branch)
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(alone["norms"], rel=1e-5)


def test_messages_are_no_larger_than_their_buckets(two_ranks: WorkerGroup) -> None:
    """Elements per message, unless it is a single parameter; both ranks send the same ones."""
    zero = {"gather": "step", "reduce_bucket_size": 500, "prefetch_bucket_size": 400}
    seen = two_ranks.run("zero_jobs:message_sizes", {"steps": 2, "zero": zero})
    assert len(seen["gathered"]) > 2 and len(seen["reduced"]) > 2
    assert all(sum(sizes) <= 400 or len(sizes) == 1 for sizes in seen["gathered"])
    assert all(sum(sizes) <= 500 or len(sizes) == 1 for sizes in seen["reduced"])
    assert seen["same"]


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
@pytest.mark.parametrize(
    "zero",
    [
        {"gather": "step"},
        {"gather": "step", "persistence_threshold": 100},
        {"gather": "module", "persistence_threshold": 100},
        {"gather": "module", "offload_optimizer": "cpu"},
    ],
)
def test_a_step_left_out_leaves_nothing_behind(two_ranks: WorkerGroup, zero: dict[str, object], spoil: str) -> None:
    """Its gradients were not finite, on one rank or on all; the schedule counts it."""
    ours = two_ranks.run("zero_jobs:train", {"steps": 6, "skip": 2, "spoil": spoil, "branch": "all", "zero": zero})
    assert ours["losses"] == pytest.approx(zero_jobs.train_alone(6, "all", skip=2)["losses"], rel=1e-5)


@pytest.mark.parametrize("offload", [{}, {"offload_parameters": "cpu", "offload_optimizer": "cpu"}])
def test_gathering_by_module_gives_the_losses_of_one_process(two_ranks: WorkerGroup, offload: dict[str, str]) -> None:
    """Small buckets; a part that every rank uses in every other step only."""
    zero = {"gather": "module", "reduce_bucket_size": 300, "prefetch_bucket_size": 300} | offload
    ours = two_ranks.run("zero_jobs:train", {"steps": 6, "branch": "all", "zero": zero})
    alone = zero_jobs.train_alone(6, "all")
    assert ours["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(alone["norms"], rel=1e-5)


@pytest.mark.parametrize(
    "zero",
    [
        {"gather": "step", "persistence_threshold": 100},
        {"gather": "module"},
        {"gather": "module", "offload_optimizer": "cpu"},
        {"gather": "module", "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    ],
)
def test_an_engine_that_leaves_the_device_between_steps_computes_the_same(
    two_ranks: WorkerGroup, zero: dict[str, object]
) -> None:
    """Weights, frozen ones too, moments and fp32 copies are moved away and back before every step."""
    ours = two_ranks.run("zero_jobs:train", {"steps": 6, "branch": "all", "by_turns": True, "zero": zero})
    assert ours["losses"] == pytest.approx(zero_jobs.train_alone(6, "all")["losses"], rel=1e-5)


def test_between_steps_a_rank_holds_half_of_the_model(two_ranks: WorkerGroup) -> None:
    sizes = two_ranks.run("zero_jobs:shard_sizes", {"steps": 1, "zero": {"gather": "step"}})
    assert sizes["held"] == 0
    assert sizes["whole"] / 2 <= sizes["sharded"] <= sizes["whole"] / 2 + 20


def test_weights_survive_a_full_save_and_the_optimizer_starts_afresh(two_ranks: WorkerGroup, tmp_path: Path) -> None:
    """Phase 2 after a reset equals a new training from the saved weights: nothing of the moments is left."""
    seen = two_ranks.run("zero_jobs:phases", {"steps": 3, "folder": str(tmp_path), "zero": {"gather": "step"}})
    assert seen["moments"] > 0
    assert seen["reset"] == {"lr": pytest.approx(1e-2 / 3), "moments": 0, "step": 3}
    assert seen["second"] == pytest.approx(seen["repeated"], rel=1e-6)
    assert seen["second"][0] < seen["first"][0]


def test_one_group_runs_several_jobs_in_the_same_processes(two_ranks: WorkerGroup) -> None:
    events: list[dict[str, int]] = []
    first = two_ranks.run("zero_jobs:process_ids", {}, events.append)
    second = two_ranks.run("zero_jobs:process_ids", {})
    assert first == second
    assert events == [{"event": "pid", "pid": first["pid"]}]
    os.kill(first["pid"], 0)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "deepspeed": ["deepspeed.launcher.runner", "--num_gpus=2", "--no_local_rank"],
    # Its way to several ranks on a CPU is MPI; for GPUs it starts them as torchrun does.
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"],
}


@pytest.mark.parametrize(
    "launcher", ["torchrun", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepspeed", "accelerate"))]
)
def test_a_job_runs_in_place_where_another_launcher_started_the_ranks(tmp_path: Path, launcher: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "from covt_runtime.launch.workers import launch\n"
        f"result = launch('zero_jobs:outside', {{'a': 1}}, log_dir=pathlib.Path({str(tmp_path)!r}))\n"
        f"pathlib.Path({str(tmp_path)!r}, f'out_{{int(result is None)}}').write_text(json.dumps(result))\n"
    )
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(script)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **JOBS, "PATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out_0").read_text()) == {"ranks": 2.0, "payload": {"a": 1}}
    assert (tmp_path / "out_1").read_text() == "null"
