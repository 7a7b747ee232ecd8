"""CoMT-format rows, as they are published, through both stages with ILVR's selection."""

from pathlib import Path

import pytest
from sft_runs import Notes, logged, losses, run, settings

from covt_data.ingest.prepare import prepare
from covt_runtime.launch.workers import WorkerGroup
from covt_sft.training.train import build_tiny_checkpoint


@pytest.mark.slow
@pytest.mark.shared_data
def test_interleaved_rows_train_both_stages(shared_data: Path, tmp_path: Path):
    prepare("comt", tmp_path / "data", options={"path": str(shared_data / "interleaved_comt_like")})
    options = {
        "latent": {"selection": "ilvr", "required": True, "normalize": "none"},
        "data": {"batch_size": 4, "batching": "packed", "micro_batch": 4, "micro_tokens": 2000},
        "eval": {"rows": 0, "loss_rows": 4, "split": "train", "best": "loss"},
    }
    build_tiny_checkpoint(settings(tmp_path, "start", **options), tmp_path / "data", tmp_path / "model")
    notes = Notes()
    with WorkerGroup(2, log_dir=tmp_path / "logs") as workers:
        folder = run(settings(tmp_path, "comt", **options), workers, progress=notes)
    first, second = losses(folder)[:6], losses(folder)[6:]
    assert first[-1] < first[0]
    assert second[-1] < second[0]
    assert set(logged(folder, "perf/padding")) == {0.0}
    assert (folder / "hf" / "model.safetensors").is_file()
