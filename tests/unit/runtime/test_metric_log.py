"""The metrics file of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from covt_runtime.metrics.metric_log import MetricsError, MetricsLog
from covt_runtime.run_folder import RunFolder


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", {})


def test_each_call_is_a_line_with_step_time_and_phase(run: RunFolder) -> None:
    with MetricsLog(run, "disabled") as log:
        log.log(1, "stage1", {"loss": torch.tensor(0.5)}, lr=1e-3)
        log.log(2, "stage1", {"reward": 1})
    first, second = lines(run)
    assert first.pop("time") > 1e9
    assert first == {"step": 1, "phase": "stage1", "loss": 0.5, "lr": 1e-3}
    assert second["reward"] == 1


def test_what_json_cannot_hold_is_null(run: RunFolder) -> None:
    with MetricsLog(run, "disabled") as log:
        log.log(1, "rl", {"kl": float("nan"), "ratio": torch.tensor(float("inf"))})
    assert "NaN" not in run.metrics_path.read_text()
    assert (lines(run)[0]["kl"], lines(run)[0]["ratio"]) == (None, None)


@pytest.mark.parametrize("value", ["text", torch.zeros(2), None])
def test_a_metric_that_is_no_number_is_refused_by_name(run: RunFolder, value: object) -> None:
    with MetricsLog(run, "disabled") as log, pytest.raises(MetricsError, match="loss"):
        log.log(1, "rl", {"loss": value})


def test_other_ranks_write_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with MetricsLog(run, "online") as log:
        log.log(1, "rl", {"loss": 1.0})
    assert not run.metrics_path.exists()


def test_resuming_drops_later_lines_and_a_line_cut_short(run: RunFolder) -> None:
    with MetricsLog(run, "disabled") as log:
        for step in range(1, 6):
            log.log(step, "rl", {"loss": step})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 6, "lo')
    with MetricsLog(run, "disabled") as log:
        log.forget_after(3)
        log.log(4, "rl", {"loss": 40})
    assert [(line["step"], line["loss"]) for line in lines(run)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
