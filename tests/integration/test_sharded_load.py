"""A checkpoint read into ZeRO-3 shards: two real ranks, each with its own piece of every weight and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from zero_jobs import JOBS

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import WorkerUserError


@pytest.mark.parametrize(
    ("zero", "maps", "mapped"),
    [
        ({"dtype": "fp32", "gather": "step"}, False, 0),
        ({"dtype": "fp32", "gather": "module", "persistence_threshold": 100}, True, 1),
        ({"dtype": "bf16", "gather": "module"}, True, 0),  # the file is in fp32
        ({"dtype": "fp32", "gather": "module", "offload_parameters": "cpu", "offload_optimizer": "cpu"}, True, 0),
    ],
)
def test_each_rank_holds_its_piece_and_computes_what_the_whole_model_does(
    two_ranks: WorkerGroup, tiny_checkpoint: Path, zero: dict[str, object], maps: bool, mapped: float
) -> None:
    """Weights that stay frozen, and the vision tower, may lie in the file's pages, where the file has their dtype."""
    payload = {"checkpoint": str(tiny_checkpoint), "zero": zero, "maps": maps}
    seen = two_ranks.run("sharding_jobs:compare", payload)
    assert seen["mapped"] == mapped and seen["tower"] == (zero["dtype"] == "fp32")
    assert seen["wrong"] == [] and seen["held"] <= 1
    assert seen["rotary"] and seen["tied"] and seen["stops"]
    assert seen["difference"] <= (1e-5 if zero["dtype"] == "fp32" else 0.05)


def spoil(checkpoint: Path, out: Path, kind: str) -> str:
    """A damaged copy of the checkpoint; returns what the error must say."""
    shutil.copytree(checkpoint, out)
    path = out / "model.safetensors"
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
        return "is cut off: 100 bytes are missing"
    if kind == "missing":
        tensors = load_file(path)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, path)
        return "lacks the weight model.layers.1.mlp.up_proj.weight"
    config = json.loads((out / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (out / "config.json").write_text(json.dumps(config))
    return "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize("kind", ["cut", "missing", "shape"])
def test_a_damaged_checkpoint_ends_in_one_error_that_names_it(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    expected = spoil(tiny_checkpoint, tmp_path / "model", kind)
    with (
        WorkerGroup(2, log_dir=tmp_path / "ranks", env=JOBS) as group,
        pytest.raises(WorkerUserError) as error,
    ):
        group.run("sharding_jobs:load", {"checkpoint": str(tmp_path / "model")})
    assert str(tmp_path / "model") in str(error.value) and expected in str(error.value)
    assert error.value.remedy
