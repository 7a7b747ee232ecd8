"""What GRPO offers besides its defaults, each on two real ranks and the real server."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rl_tools import run, settings
from server_tools import RunningServer

from covt_data.ingest.prepare import prepare
from covt_rl.planning.checks import check_server
from covt_rl.rl_errors import RlError
from covt_rl.training.train import plan, train
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress
from covt_runtime.runtime_errors import LaunchError, WorkerUserError

GAP = 1e-3
# A run removes what was journalled before its oldest checkpoint.
KEEP_ALL = {"save_every": 1, "keep": 100}


def test_replayed_latents_and_control_continuations(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    config = settings(
        latent_server,
        data,
        tmp_path,
        algorithm={"steps": 2, "latents": "replay"},
        rewards={"control": 1},
        rollout={"samples": 16},
        log=KEEP_ALL,
    )
    folder, lines = run(config, workers)
    gaps = [line["latent/logprob_gap"] for line in lines if "latent/logprob_gap" in line]
    assert gaps and max(gaps) <= GAP
    assert lines[0]["latent/spans"] > 0
    journalled = json.loads((folder / "rollouts" / "step_1.json").read_text())["groups"]
    group = next(group for group in journalled if any(one["latent_spans"] for one in group["completions"]))
    number = next(i for i, one in enumerate(group["completions"]) if one["latent_spans"])
    kept, (control,) = group["completions"][number], group["control"][number]
    cut = kept["latent_spans"][-1][1] + 1
    assert control["token_ids"][:cut] == kept["token_ids"][:cut]
    assert control["mode"] == "keep"


def test_several_updates_with_reference_correction_and_token_budget(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    algorithm = {
        "steps": 3,
        "mini_batches": 3,
        "epochs": 2,
        "kl_weight": 0.01,
        "entropy_weight": 0.001,
        "importance": "truncate",
        "micro_tokens": 200,
        "mask_truncated": True,
        "advantage": "reinforce_pp_baseline",
        "loss": "dr_grpo",
    }
    folder, lines = run(
        settings(
            latent_server,
            data,
            tmp_path,
            algorithm=algorithm,
            rollout={"dynamic": 1},
            eval={"every": 1, "split": "prompts", "rows": 3},
            log={"completions_every": 1, "completions": 3, "save_every": 1, "keep": 1},
        ),
        workers,
    )
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    trained = [line for line in lines[1:] if "loss" in line]
    assert trained
    assert all(line["latent/logprob_gap"] <= GAP for line in trained)
    assert all(line["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=0.2) for line in trained)
    assert all(line["kl"] >= 0 for line in trained) and trained[-1]["kl"] > 0
    assert all("eval/accuracy" in line and "eval/accuracy_drop_latents" in line for line in lines)
    (best,) = (folder / "checkpoints" / "best").read_text().split()
    assert (folder / "checkpoints" / best).is_dir()
    if best != "step_3":
        # A resumed run begins at the newest checkpoint: what lies between it and the best one is not read again.
        assert sorted(path.name for path in (folder / "checkpoints").glob("step_*")) == [best, "step_3"]
    assert list((folder / "rollouts").iterdir()) == []
    table = [json.loads(line) for line in (folder / "completions" / "step_1.jsonl").read_text().splitlines()]
    assert len(table) == 3 and {"image", "completion", "rewards/evenness", "advantage"} <= set(table[0])


def test_kl_in_the_reward(latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path):
    algorithm = {"steps": 2, "kl_weight": 0.1, "kl_in": "reward", "loss": "gspo"}
    _, lines = run(settings(latent_server, data, tmp_path, algorithm=algorithm), workers)
    assert all(line["latent/logprob_gap"] <= GAP for line in lines if "latent/logprob_gap" in line)


def test_rollouts_one_step_ahead(latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path):
    config = settings(
        latent_server,
        data,
        tmp_path,
        rollout={"ahead": 1},
        algorithm={"steps": 3, "importance": "truncate"},
        log=KEEP_ALL,
    )
    folder, lines = run(config, workers)
    assert [line["sampling/staleness"] for line in lines] == [0, 1, 1]
    for number, line in enumerate(lines):
        assert 0 <= line["perf/trainer_idle"] <= 1 and 0 <= line["perf/server_idle"] <= 1
        if number == 0:
            continue
        groups = json.loads((folder / "rollouts" / f"step_{number}.json").read_text())["groups"]
        versions = {one["weight_version"] for group in groups for one in group["completions"]}
        assert len(versions) == 1


# Two of three prompts have no spread, so that an epoch is over before its planned steps.
MOSTLY_FLAT = """
from covt_rewards import RewardResult

def uneven(group):
    flat = int(group.id.rpartition("-")[2]) % 3 > 0
    return [RewardResult(0.0 if flat else float(number % 2)) for number, _ in enumerate(group.rollouts)]
"""


def test_an_epoch_that_ends_early_ends_with_validation_and_checkpoint(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    reward = tmp_path / "flat.py"
    reward.write_text(MOSTLY_FLAT)
    config = settings(
        latent_server,
        data,
        tmp_path,
        algorithm={"steps": None},
        rewards={"use": f"{reward}:uneven"},
        rollout={"prompts": 2, "dynamic": 2},
        eval={"every": 100, "split": "prompts", "rows": 3},
        log={"every": 100},
    )
    planned = plan(config)
    result = train(config, planned, progress=Progress(quiet=True), workers=workers)
    folder = Path(result["run"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert 0 < result["steps"] < planned.steps
    assert lines[-1]["step"] == result["steps"] and "eval/accuracy" in lines[-1]
    assert (folder / "checkpoints" / "latest").read_text().strip() == f"step_{result['steps']}"
    # Resuming what is over does nothing more.
    again = train(config, planned, progress=Progress(quiet=True), resume=True, workers=workers)
    assert again["steps"] == result["steps"]


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def handle(self, event: Any) -> None:
        if event["event"] == "note":
            self.notes.append(event["text"])


def test_overlong_prompts_are_left_out_or_refused_by_name(
    latent_server: RunningServer, workers: WorkerGroup, tmp_path: Path
):
    sizes = {"short-1": 5, "long-1": 400, "short-2": 6, "short-3": 7, "long-2": 300}
    lines = [
        json.dumps({"id": name, "question": "cell " * size, "answer": "B3", "grader": "text"})
        for name, size in sizes.items()
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    prepare("jsonl", tmp_path / "set", options={"path": str(tmp_path / "rows.jsonl"), "split": "prompts"})
    config = settings(
        latent_server,
        tmp_path / "set",
        tmp_path,
        data={"max_length": 250, "on_bad": "skip"},
        rollout={"prompts": 2},
        algorithm={"steps": None},
        log=KEEP_ALL | {"completions_every": 1, "completions": 100},
    )
    said = Notes()
    result = train(config, plan(config), progress=said, workers=workers)
    assert any("2 of 5 prompts are too long: long-1" in note and "left out" in note for note in said.notes)
    tables = sorted((Path(result["run"]) / "completions").glob("*.jsonl"))
    ids = [{json.loads(line)["id"] for line in table.read_text().splitlines()} for table in tables]
    # Three prompts are left, two per step: the epoch is over after the second one.
    assert result["steps"] == 2 and [len(names) for names in ids] == [2, 1]
    assert set.union(*ids) == {"short-1", "short-2", "short-3"}
    refusing = config.model_copy(update={"data": config.data.model_copy(update={"on_bad": "refuse"})})
    with pytest.raises(WorkerUserError, match=r"2 of 5 prompts are too long: long-1 \(\d+ tokens\), long-2") as caught:
        train(refusing, plan(refusing), progress=Progress(quiet=True), overwrite=True, workers=workers)
    assert "data.on_bad=skip" in caught.value.remedy


class KillAfter(Progress):
    """Kills one rank as soon as a step is reported."""

    def __init__(self, workers: WorkerGroup, step: int) -> None:
        super().__init__(quiet=True)
        self.workers, self.step = workers, step

    def handle(self, event: Any) -> None:
        if event.get("event") == "advance" and event["done"] == self.step:
            self.workers._workers[1].process.kill()


def test_a_killed_trainer_repeats_its_steps_to_the_last_bit(latent_server: RunningServer, data: Path, tmp_path: Path):
    """A checkpoint after step 1, killed after step 2: step 2 is done again from the journal."""
    log = KEEP_ALL | {"completions_every": 1, "completions": 16}
    config = settings(latent_server, data, tmp_path, algorithm={"steps": None}, rollout={"prompts": 4}, log=log)
    planned = plan(config)
    with (
        WorkerGroup(2, log_dir=tmp_path / "logs") as workers,
        pytest.raises(LaunchError, match="SIGKILL"),
    ):
        train(config, planned, progress=KillAfter(workers, 2), workers=workers)
    metrics = tmp_path / "rl" / "metrics.jsonl"
    before = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in before] == [1, 2]
    with WorkerGroup(2, log_dir=tmp_path / "logs") as workers:
        train(config, planned, progress=Progress(quiet=True), resume=True, workers=workers)
    after = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in after] == [1, 2, 3]
    same = [name for name in before[0] if not name.startswith(("time", "perf/", "step_time"))]
    assert "reward" in same and "grad_norm" in {*before[0], *before[1]}
    for first, second in zip(before, after, strict=False):
        assert {name: first.get(name) for name in same} == {name: second.get(name) for name in same}
    tables = [(tmp_path / "rl" / "completions" / f"step_{step}.jsonl").read_text() for step in (1, 2, 3)]
    trained = [{json.loads(line)["id"] for line in table.splitlines()} for table in tables]
    assert sum(map(len, trained)) == len(set.union(*trained)) == planned.prompts


def test_a_server_with_another_k_is_refused(latent_server: RunningServer):
    client = RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint)
    client.latent = replace(client.latent, size=client.latent.size + 1)
    with BlockingClient(client) as blocking, pytest.raises(RlError, match="K = 5 pads"):
        blocking.run(check_server(client))
