"""The real Weights & Biases client, offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from covt_runtime.metrics import MetricsLog
from covt_runtime.run import RunFolder


def test_an_offline_run_holds_configuration_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own file has names and values as plain text inside its records."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunFolder.create(tmp_path, "run", {"run": {"seed": 70707}})
    with MetricsLog(run, "auto") as log:
        log.log(1, "stage1", {"loss": 2.53125, "perf/tokens_per_second": 10})
        log.log(2, "stage1", {"loss": 1.28125})
    (file,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in (b"stage1/loss", b"2.53125", b"1.28125", b"stage1/perf/tokens_per_second", b"70707"):
        assert text in content, text
