"""Server and trainer on hosts with nothing in common but the network: weights, rollouts and latents go by HTTP."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rl_tools import recipe_text, run, settings
from separate_hosts import HOME, Host, hosts, needs_namespaces
from server_tools import MODEL_LENGTH, RunningServer

from covt_runtime.launch.workers import WorkerGroup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), needs_namespaces]
KEY = {"COVT_API_KEY": "a-key-of-this-test"}
PORT = 8000
COMPARED = ("reward", "reward_std", "loss", "grad_norm", "entropy", "completions/mean_length")


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """A host that serves the checkpoint from its own copy, and one for the trainer, with data and another copy."""
    base = tmp_path_factory.mktemp("hosts")
    with hosts({"server": base / "server", "trainer": base / "trainer"}) as found:
        server, trainer = found["server"], found["trainer"]
        shutil.copytree(tiny_checkpoint, server.folder / "served")
        shutil.copytree(tiny_checkpoint, trainer.folder / "model")
        shutil.copytree(data, trainer.folder / "data")
        # The same name on both hosts, but not the same folder.
        for host in (server, trainer):
            (host.folder / "weights").mkdir()
        log = base / "serve.log"
        line = ["covt", "serve", str(HOME / "served"), "--host", "0.0.0.0", "--port", str(PORT)]
        line += ["--max-model-len", str(MODEL_LENGTH), "--weight-folder", str(HOME / "weights")]
        process = server.start(line, log, **KEY)
        try:
            wait_until_served(trainer, server, lambda: process.poll() is None, log)
            yield server, trainer
        finally:
            process.terminate()
            process.communicate(timeout=60)


def wait_until_served(trainer: Host, server: Host, alive, log: Path) -> None:
    """Ask from the trainer's host, over the network, until the server answers."""
    question = f"import urllib.request; urllib.request.urlopen('http://{server.address}:{PORT}/health', timeout=5)"
    end = time.monotonic() + 500
    while trainer.run(sys.executable, "-c", question).returncode:
        assert alive() and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(1)


def recipe(trainer: Host, server: Host, name: str, **sections) -> str:
    """A recipe on the trainer's host, with the paths that it sees."""
    there = RunningServer(f"http://{server.address}:{PORT}", HOME / "model")
    sections = {"algorithm": {"steps": 3, "latents": "replay"}, "lora": {"rank": 4}} | sections
    config = settings(there, HOME / "data", trainer.folder, **sections)
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name, "out": str(HOME / "runs")})})
    text = recipe_text(config).replace(str(trainer.folder), str(HOME))
    (trainer.folder / f"{name}.toml").write_text(text)
    return str(HOME / f"{name}.toml")


def test_hosts_without_a_common_path_train_as_one_machine_does(
    pair: tuple[Host, Host], latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
) -> None:
    server, trainer = pair
    assert trainer.run("test", "-e", str(HOME / "served")).returncode != 0
    assert server.run("test", "-e", str(HOME / "data")).returncode != 0
    done = trainer.run("covt", "rl", recipe(trainer, server, "apart"), "--json", **KEY)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = trainer.folder / Path(json.loads(done.stdout)["run"]).relative_to(HOME)
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    together = {"algorithm": {"steps": 3, "latents": "replay"}, "lora": {"rank": 4}}
    _, expected = run(settings(latent_server, data, tmp_path, **together), workers)
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [1, 2, 3]
    # Rollouts of step n come from the weights of step n − 1, which the server has from the trainer alone.
    assert max(line["latent/logprob_gap"] for line in found) <= 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        for name in COMPARED:
            assert math.isclose(ours[name], theirs[name], rel_tol=1e-3, abs_tol=1e-5), (ours["step"], name)
    assert "new weights go to it over HTTP" not in done.stderr, "the address says that it is another machine"
    assert not list((server.folder / "weights").iterdir()), "an upload is removed once it is loaded"


@pytest.mark.parametrize(
    ("name", "changes", "problem", "remedy"),
    [
        ("files", {"transfer": "files"}, "is on another machine and can't read files in /dev/shm", "transfer=http"),
        (
            "folder",
            {"transfer": "files", "weight_folder": str(HOME / "weights")},
            f"can't read files in {HOME}/weights of this machine: it has another file system",
            "rollout.transfer=http",
        ),
        ("nccl", {"transfer": "nccl"}, "the trainer runs on cpu", "rollout.transfer = 'files' or 'auto'"),
        (
            "loopback",
            {"base_url": f"http://127.0.0.1:{PORT}"},
            f"http://127.0.0.1:{PORT}",
            "name that machine, since 127.0.0.1 is always this one",
        ),
    ],
)
def test_a_wrong_placement_is_refused(
    pair: tuple[Host, Host], name: str, changes: dict[str, str], problem: str, remedy: str
) -> None:
    server, trainer = pair
    done = trainer.run("covt", "rl", recipe(trainer, server, name, rollout=changes), **KEY)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert problem in said and remedy in said and "Traceback" not in said, done.stderr[-3000:]


def test_a_folder_that_only_the_trainer_has_is_replaced_by_http_where_the_recipe_leaves_the_choice(
    pair: tuple[Host, Host],
) -> None:
    server, trainer = pair
    changes = {"weight_folder": str(HOME / "weights")}
    line = recipe(trainer, server, "auto", rollout=changes, algorithm={"steps": 1})
    done = trainer.run("covt", "rl", line, **KEY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "new weights go to it over HTTP" in " ".join(done.stderr.split())
