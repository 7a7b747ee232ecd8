"""Shards written by some number of ranks are read by any other."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from covt_runtime import files
from covt_runtime.checkpoints import tensor_file
from covt_runtime.checkpoints.shard_files import (
    FORMAT,
    ShardReader,
    StoredParameter,
    consolidate,
    read_state,
    stored_parameters,
)
from covt_runtime.checkpoints.tensor_file import TensorFile, first_difference, write_tensors
from covt_runtime.runtime_errors import CheckpointError


def shard(whole: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """The rank's part by definition: pad to a multiple, cut evenly."""
    size = math.ceil(whole.numel() / ranks)
    padded = torch.cat([whole.flatten(), torch.zeros(size * ranks - whole.numel())])
    return padded.view(ranks, size)[rank]


def write(folder: Path, tensors: dict[str, torch.Tensor], ranks: int) -> None:
    for rank in range(ranks):
        own = {f"weight/{name}": shard(tensor, rank, ranks).clone() for name, tensor in tensors.items()}
        save_file(own, folder / f"rank_{rank}.safetensors")
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    state = {"format": FORMAT, "step": 1, "world_size": ranks, "parameters": shapes}
    (folder / "state.json").write_text(json.dumps(state))
    files.write_manifest(folder)


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    written=st.integers(1, 5),
    read=st.integers(1, 5),
)
@settings(max_examples=40, deadline=None)
def test_any_number_of_ranks_reads_what_any_other_wrote(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], written: int, read: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole = torch.arange(1.0, math.prod(shape) + 1).view(shape)
    write(folder, {"w": whole}, written)
    reader = ShardReader(folder)
    assert torch.equal(reader.read_shard("weight", "w", 0, 1).view(reader.shapes["w"]), whole)
    for rank in range(read):
        assert torch.equal(reader.read_shard("weight", "w", rank, read), shard(whole, rank, read))


def test_consolidating_gives_every_parameter_in_its_shape(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7)}
    write(tmp_path, tensors, 2)
    found = dict(consolidate(tmp_path))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        list(consolidate(tmp_path))
    (tmp_path / "state.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="format 99"):
        read_state(tmp_path)


def test_frozen_parameters_come_from_the_model_that_the_run_began_with(tmp_path: Path) -> None:
    write(tmp_path, {"a": torch.ones(4)}, 2)
    state = json.loads((tmp_path / "state.json").read_text())
    state |= {"zero": {"dtype": "bf16"}, "parameters": {"a": [4], "kept": [3]}}
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / files.MANIFEST).unlink()
    files.write_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="kept is one of the model that the run began with"):
        list(stored_parameters(tmp_path))
    assert [name for name, _ in consolidate(tmp_path)] == ["a"]
    asked: list[tuple[str, str]] = []

    def frozen(name: str, dtype: str) -> StoredParameter:
        asked.append((name, dtype))
        return StoredParameter((4,), torch.float32, "weight/a", (TensorFile(tmp_path / "rank_0.safetensors"),) * 2)

    assert [name for name, _ in stored_parameters(tmp_path, frozen)] == ["a", "kept"]
    assert asked == [("kept", "bf16")]


TENSORS = {
    "wide": torch.arange(7, dtype=torch.float64),
    "narrow": torch.arange(5, dtype=torch.uint8),
    "half": torch.randn(3, 5).bfloat16(),
    "columns": torch.randn(6, 4).t(),
    "scalar": torch.tensor(3.5),
    "none": torch.zeros(0, 2),
}


def test_written_files_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS)
    ours, file = load_file(path), TensorFile(path)
    assert ours.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        for found in (ours[name], file.read(name)):
            assert torch.equal(found, tensor) and found.dtype == tensor.dtype
    assert first_difference(path, TENSORS) is None


def test_a_wrong_byte_and_a_missing_one_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "PIECE", 4)
    path = tmp_path / "t.safetensors"
    write_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    entry = TensorFile(path).entries["columns"]["data_offsets"]
    content[TensorFile(path).data + entry[1] - 1] ^= 1
    path.write_bytes(content)
    assert first_difference(path, TENSORS) == "columns"
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        first_difference(path, {"narrow": TENSORS["narrow"]})
