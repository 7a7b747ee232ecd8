"""GRPO with two real ranks and the real server: both compute the same policy, and new weights reach the server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_tools import recipe_text, run, settings
from safetensors.torch import load_file
from server_tools import RunningServer

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.metric_table import live_labels
from covt_runtime.metrics.progress import Progress
from covt_runtime.runtime_errors import WorkerUserError


class Shown(Progress):
    """Keeps what the live view is given."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.phases: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []

    def handle(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            self.phases.append(dict(event))
        if event["event"] == "advance":
            self.steps.append(event["values"])


# Ours beside the names of TRL's trainer; loss, gradient and learning rate are those of Transformers' trainer below it.
OWN = re.compile(
    r"(time|perf|latent|necessity)/.*|rewards/.*/failures|sampling/(kl|staleness|resent|masked)|skipped/steps|step|phase"
    r"|loss|grad_norm|learning_rate|frac_trained"
)


def trl_names() -> set[str]:
    """The metrics that TRL's GRPOTrainer logs, from its source; NAME stands for a reward's."""
    path = Path(str(find_spec("trl").submodule_search_locations[0])) / "trainer" / "grpo_trainer.py"
    found = re.findall(r"_metrics\[mode\]\[f?\"([^\"]+)\"\]", path.read_text())
    assert len(found) > 20
    return {re.sub(r"\{[^}]*\}", "NAME", name) for name in found} | {"step_time"}


def test_trainer_and_server_agree_while_the_policy_moves(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    shown = Shown(quiet=True)
    folder, lines = run(settings(latent_server, data, tmp_path), workers, shown)
    assert [line["step"] for line in lines] == [1, 2, 3]
    gaps = [line["latent/logprob_gap"] for line in lines if "latent/logprob_gap" in line]
    assert gaps, "no group had spread: the reward pays for nothing that varies"
    assert max(gaps) <= 1e-3
    before, after = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"]
        for path in (latent_server.checkpoint, folder / "hf")
    )
    assert (before - after).abs().max() > 1e-4
    assert {"reward", "reward_std", "necessity/used", "entropy", "kl", "time/collect", "latent/spans"} <= set(lines[0])
    assert latent_server.call("covt_status")["weight_version"] >= 3
    names = {re.sub(r"rewards/\w+/", "rewards/NAME/", name) for name in lines[0] if not OWN.fullmatch(name)}
    assert names - {"time"} <= trl_names()
    assert {"rewards/NAME/mean", "rewards/NAME/std", "reward", "reward_std", "frac_reward_zero_std", "kl"} <= names
    assert [phase["total"] for phase in shown.phases if phase["name"] == "rl"] == [3]
    assert {*live_labels().values(), "evenness", "format", "necessity"} == set(shown.steps[0])


def test_a_server_with_other_weights_is_noticed(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    config = settings(latent_server, data, tmp_path, algorithm={"steps": 3, "gap_limit": 1e-9})
    with pytest.raises(WorkerUserError, match="trainer and server disagree"):
        run(config, workers)


def test_the_command_resumes_with_the_next_prompts_and_traces_the_chosen_steps_on_each_rank(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    run(settings(latent_server, data, tmp_path, algorithm={"steps": 1}), workers)
    recipe, traces = tmp_path / "longer.toml", tmp_path / "traces"
    recipe.write_text(recipe_text(settings(latent_server, data, tmp_path, algorithm={"steps": 3})))
    command = [sys.executable, "-m", "covt.main", "rl", str(recipe), "--resume", "--json"]
    command += ["--profile", str(traces), "--profile-steps", "3"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["run"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert sorted(path.name for path in traces.iterdir()) == ["rank0-step3.json", "rank1-step3.json"]
    for path in traces.iterdir():
        events = json.loads(path.read_text())["traceEvents"]
        names = {event.get("name", "") for event in events}
        assert "step 3" in names
        # The policy's forward and backward, and the exchange between ranks.
        assert {"aten::mm", "autograd::engine::evaluate_function: MmBackward0"} <= names
        assert any("all_reduce" in name or "allgather" in name or "broadcast" in name for name in names)


def test_exported_weights_are_finite(latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path):
    folder, _ = run(settings(latent_server, data, tmp_path, algorithm={"steps": 1}), workers)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "hf" / "model.safetensors").values())
