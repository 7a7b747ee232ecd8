"""Trainer and server by turns, with two real ranks and the real server.

vLLM's CPU build keeps the state of a sleeping server, and samples nothing in it, but gives no memory back; so covt
refuses `server.sleep` there, and this says nothing of memory. It shows that the turns come in the right order.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from call_recorder import CallRecorder
from rl_tools import run, settings
from server_tools import RunningServer

from covt_rl.rl_errors import RlError
from covt_rl.training import gpu_handover as turns
from covt_rl.training import train
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress

WAKE = ["/pause abort", "/wake_up weights", "/pause abort", "covt_load_weights", "/wake_up kv_cache"]
TURN = [*WAKE, "generate", "/sleep 2 abort"]


@pytest.fixture
def recorder(latent_server: RunningServer) -> Iterator[CallRecorder]:
    """The real server, behind something that writes down what it is told."""
    with CallRecorder(latent_server.url) as recorder:
        yield recorder


def test_a_run_in_turn_wakes_loads_samples_and_sleeps(
    latent_server: RunningServer,
    recorder: CallRecorder,
    data: Path,
    workers: WorkerGroup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(train, "check_machine", lambda *_, **__: None)

    async def can_sleep(client: Any) -> None:
        """What the CPU build isn't asked."""

    monkeypatch.setattr(turns, "check_sleep_mode", can_sleep)
    config = settings(
        latent_server,
        data,
        tmp_path,
        server={"sleep": True},
        rollout={"base_url": recorder.url},
        algorithm={"steps": 3, "kl_weight": 0.01},
        eval={"every": 2, "split": "prompts", "rows": 3},
        log={"save_every": 1},
    )
    _, lines = run(config, workers)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    gaps = [line["latent/logprob_gap"] for line in lines if "latent/logprob_gap" in line]
    assert gaps and max(gaps) <= 1e-3
    assert all("eval/accuracy" in lines[number] for number in (0, 2, 3))
    # Asked once for its model; a turn for the first validation and step 1, for step 2, for the validation after it, for
    # step 3 (since step 2 was saved in between), for the last validation; and left awake, with the last weights.
    assert recorder.phases() == ["generate", "/sleep 2 abort", *5 * TURN, *WAKE]
    assert latent_server.call("covt_status")["weight_version"] == recorder.versions[-1]
    assert len(set(recorder.versions)) == 4


def test_a_server_without_sleep_mode_is_refused(latent_server: RunningServer, data: Path, tmp_path: Path, monkeypatch):
    config = settings(latent_server, data, tmp_path, server={"sleep": True})
    with pytest.raises(RlError, match="no GPU to share"):
        train.train(config, train.plan(config), progress=Progress(quiet=True))
    monkeypatch.setattr(train, "check_machine", lambda *_, **__: None)
    with pytest.raises(RlError, match="was started without sleep mode"):
        train.train(config, train.plan(config), progress=Progress(quiet=True))
