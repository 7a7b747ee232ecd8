"""GRPO with two real ranks and the real server: both compute the same policy, and new weights reach the server."""

import json
from pathlib import Path

import pytest
import torch
from rl_tools import run, settings
from safetensors.torch import load_file
from server_tools import RunningServer

from covt_rl.errors import RolloutError
from covt_rl.train import plan, train
from covt_runtime.launch import WorkerGroup
from covt_runtime.progress import Progress


def test_trainer_and_server_agree_while_the_policy_moves(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    folder, lines = run(settings(latent_server, data, tmp_path), workers)
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


def test_a_server_with_other_weights_is_noticed(
    latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
):
    config = settings(latent_server, data, tmp_path, algorithm={"steps": 1, "gap_limit": 1e-9})
    with pytest.raises((RolloutError, ValueError), match="trainer and server disagree"):
        run(config, workers)


def test_resuming_goes_on_with_the_next_prompts(latent_server: RunningServer, data: Path, tmp_path: Path):
    with WorkerGroup(2, log_dir=tmp_path / "logs") as workers:
        config = settings(latent_server, data, tmp_path, algorithm={"steps": 2})
        run(config, workers)
        longer = settings(latent_server, data, tmp_path, algorithm={"steps": 3})
        result = train(longer, plan(longer), progress=Progress(quiet=True), resume=True, workers=workers)
    lines = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_exported_weights_are_finite(latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path):
    folder, _ = run(settings(latent_server, data, tmp_path, algorithm={"steps": 1}), workers)
    assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "hf" / "model.safetensors").values())
