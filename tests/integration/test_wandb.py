"""The real Weights & Biases client, offline."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
import wandb
from PIL import Image

from covt_runtime.metrics.metric_log import MetricsLog
from covt_runtime.run_folder import RunFolder


def test_an_offline_run_holds_configuration_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own file has names and values as plain text inside its records."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = RunFolder.create(tmp_path, "run", {"run": {"seed": 70707}})
    with MetricsLog(run, "auto") as log:
        log.log(1, "stage1", {"loss": 2.53125, "perf/tokens_per_second": 10})
        log.log(2, "stage1", {"loss": 1.28125})
    wandb.teardown()  # waits for the client's background process, which may still be writing the file
    (file,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for text in (b"stage1/loss", b"2.53125", b"1.28125", b"stage1/perf/tokens_per_second", b"70707"):
        assert text in content, text


def test_a_table_of_completions_has_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps a table's pictures as files of an artifact, and says `Image` in the run's own copy."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    picture = BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(picture, "PNG")
    run = RunFolder.create(tmp_path, "run", {})
    with MetricsLog(run, "auto") as log:
        log.table("completions", [{"completion": "B3", "image": picture.getvalue(), "rewards/accuracy": 0.5}])
    (table,) = (run.path / "wandb").glob("offline-run-*/files/media/table/completions_*.table.json")
    held = json.loads(table.read_text())
    assert held == {"columns": ["completion", "image", "rewards/accuracy"], "data": [["B3", "Image", 0.5]]}
    kept = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    (image,) = [content for content in kept if content.startswith(b"\x89PNG")]
    assert Image.open(BytesIO(image)).size == (3, 2)
