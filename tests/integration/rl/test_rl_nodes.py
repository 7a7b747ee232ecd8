"""`covt rl` as the ranks that torchrun starts on two machines, here two agents on one: rank 0 has the server."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rl_tools import recipe_text, run, settings
from server_tools import MODEL_LENGTH, RunningServer

from covt_rollout.server.server_process import free_port
from covt_runtime.launch.workers import WorkerGroup

COMPARED = ("reward", "reward_std", "loss", "grad_norm", "entropy", "completions/mean_length")


def start(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as errors:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)


@pytest.mark.slow
def test_two_machines_train_as_one_does(latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path):
    alone = settings(latent_server, data, tmp_path, algorithm={"steps": 3}, lora={"rank": 4})
    _, expected = run(alone, workers)
    # Rank 0 starts the server; nobody is told its port.
    both = alone.model_copy(
        update={
            "run": alone.run.model_copy(update={"name": "nodes"}),
            "rollout": alone.rollout.model_copy(update={"base_url": ""}),
            "server": alone.server.model_copy(update={"max_model_len": MODEL_LENGTH}),
        }
    )
    written = tmp_path / "nodes.toml"
    written.write_text(recipe_text(both))
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port('127.0.0.1')}", "--rdzv-id=covt"]
    command += [str(Path(sys.executable).parent / "covt"), "rl", str(written), "--json"]
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    logs = [tmp_path / f"node_{number}.log" for number in range(2)]
    nodes = [start(command, env, log) for log in logs]
    try:
        printed = [node.communicate(timeout=540)[0] for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    # Rank 0 alone speaks, on whichever of the two it was started.
    (result,) = [json.loads(text) for text in printed if text.strip()]
    folder = Path(result["run"])
    assert (folder / "logs" / "server.log").is_file() and (folder / "hf" / "model.safetensors").is_file()
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [1, 2, 3]
    assert max(line["latent/logprob_gap"] for line in found) <= 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        for name in COMPARED:
            assert math.isclose(ours[name], theirs[name], rel_tol=1e-3, abs_tol=1e-5), (ours["step"], name)
