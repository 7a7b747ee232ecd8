"""The Slurm script on three hosts, one that serves and two that train; a shell function stands for `srun` alone."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rl_tools import recipe_text, run, settings
from separate_hosts import HOME, Host, hosts, needs_namespaces
from server_tools import MODEL_LENGTH, RunningServer

from covt_runtime.launch.workers import WorkerGroup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), needs_namespaces]
SCRIPT = Path(__file__).parents[3] / "recipes" / "slurm" / "rl.sbatch"
COMPARED = ("reward", "reward_std", "loss", "grad_norm", "entropy", "completions/mean_length")
# As Slurm's, it starts a command on some of the job's nodes with its number there, ends with the worst of their exit
# codes, and passes SIGTERM on.
SRUN = """
srun() {
    local nodes=1 first=0 number code=0 tasks=()
    while [[ $1 == --* ]]; do
        case $1 in
            --nodes=*) nodes=${1#*=} ;;
            --relative=*) first=${1#*=} ;;
        esac
        shift
    done
    read -ra pids <<<"$HOST_PIDS"
    for ((number = 0; number < nodes; number++)); do
        SLURM_PROCID=$number nsenter --target="${pids[first + number]}" --net --mount --wd=/mnt "$@" &
        tasks+=("$!")
    done
    trap 'kill "${tasks[@]}" 2>/dev/null' TERM
    for number in "${tasks[@]}"; do wait "$number" || code=$?; done
    return "$code"
}
export -f srun
exec bash "$@"
"""


@pytest.fixture(scope="module")
def nodes(
    tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, Host, Host]]:
    """A node with a checkpoint to serve, and two with a disk of their own in common."""
    base = tmp_path_factory.mktemp("nodes")
    with hosts({"server": base / "serving", "first": base / "training", "second": base / "training"}) as found:
        shutil.copytree(tiny_checkpoint, base / "serving" / "served")
        shutil.copytree(tiny_checkpoint, base / "training" / "model")
        shutil.copytree(data, base / "training" / "data")
        yield found["server"], found["first"], found["second"]


def job(nodes: tuple[Host, ...], *arguments: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The script's command line on the first node, where Slurm runs it, and its environment."""
    variables = {
        "HOSTS": "\n".join(node.address for node in nodes),
        "HOST_PIDS": " ".join(str(node.pid) for node in nodes),
        "MODEL": str(HOME / "model"),
        "SERVED": str(HOME / "served"),
        "REPLICAS": "1",
        "RANKS": "1",
        "SERVE_FLAGS": f"--max-model-len {MODEL_LENGTH}",
        "GLOO_SOCKET_IFNAME": "eth0",
    } | variables
    return ["bash", "-c", SRUN, "srun", str(SCRIPT), *arguments], variables


def recipe(node: Host) -> str:
    there = RunningServer("", HOME / "model")
    config = settings(there, HOME / "data", node.folder)
    config = config.model_copy(update={"run": config.run.model_copy(update={"out": str(HOME / "runs")})})
    (node.folder / "slurm.toml").write_text(recipe_text(config).replace(str(node.folder), str(HOME)))
    return str(HOME / "slurm.toml")


def processes_of(node: Host) -> list[str]:
    """Command lines of what runs in a node's network, but for the process that holds it."""
    home = Path(f"/proc/{node.pid}/ns/net").readlink()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != node.pid and (folder / "ns" / "net").readlink() == home:
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def test_a_server_and_two_nodes_that_train(
    nodes: tuple[Host, Host, Host], latent_server: RunningServer, data: Path, workers: WorkerGroup, tmp_path: Path
) -> None:
    command, variables = job(nodes, recipe(nodes[1]), "run.name=slurm", "--json")
    process = nodes[0].start(command, tmp_path / "slurm.log", **variables)
    printed, _ = process.communicate(timeout=540)
    assert process.returncode == 0, (tmp_path / "slurm.log").read_text()[-4000:]
    # The servers' address and rank 0's result are all that is printed.
    result = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    folder = nodes[1].folder / Path(result["run"]).relative_to(HOME)
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    _, expected = run(settings(latent_server, data, tmp_path), workers)
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [1, 2, 3]
    assert max(line["latent/logprob_gap"] for line in found) <= 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        for name in COMPARED:
            assert math.isclose(ours[name], theirs[name], rel_tol=1e-3, abs_tol=1e-5), (ours["step"], name)
    assert not any(map(processes_of, nodes)), "the servers end with the training"


def test_a_training_that_fails_ends_the_servers_and_the_job(nodes: tuple[Host, Host, Host], tmp_path: Path) -> None:
    command, variables = job(nodes, recipe(nodes[1]), "run.name=bad", "rollout.prompts=10000")
    process = nodes[0].start(command, tmp_path / "slurm.log", **variables)
    process.communicate(timeout=540)
    log = (tmp_path / "slurm.log").read_text()
    assert process.returncode not in (0, -signal.SIGTERM) and "rollout.prompts = 10000" in log, log[-4000:]
    assert not any(map(processes_of, nodes))


def test_servers_that_don_t_start_end_the_job(nodes: tuple[Host, Host, Host], tmp_path: Path) -> None:
    command, variables = job(nodes, recipe(nodes[1]), "run.name=none", SERVED=str(HOME / "nowhere"))
    process = nodes[0].start(command, tmp_path / "slurm.log", **variables)
    process.communicate(timeout=120)
    log = (tmp_path / "slurm.log").read_text()
    assert process.returncode == 1 and "the servers have ended before" in log, log[-4000:]
    assert not any(map(processes_of, nodes))


@pytest.mark.parametrize("servers", ["0", "3"])
def test_a_job_without_servers_or_without_trainers_is_refused(nodes: tuple[Host, Host, Host], servers: str) -> None:
    command, variables = job(nodes, "recipe.toml", SERVERS=servers)
    done = nodes[0].run(*command, **variables)
    assert done.returncode == 2 and "at least one node must serve and one must train" in done.stderr
