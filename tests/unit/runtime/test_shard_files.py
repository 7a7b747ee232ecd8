"""Shards written by some number of ranks are read by any other."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from covt_runtime import files
from covt_runtime.checkpoints.shard_files import FORMAT, ShardReader, consolidate, read_state
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
    with ShardReader(folder) as reader:
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
