"""Streamed safetensors files read back by the library's own reader, in one file or several."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from covt_model.checkpoints import shard_writer
from covt_model.checkpoints.shard_writer import ShardWriter

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64]


@dataclass(frozen=True)
class InFile:
    """A tensor that hands out the pieces it is asked for, and says which."""

    tensor: torch.Tensor
    asked: list[tuple[int, int]]

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        self.asked.append((start, stop))
        return self.tensor.reshape(-1)[start:stop].clone()


def read_back(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    files = json.loads(index.read_text())["weight_map"]
    return {name: load_file(folder / file)[name] for name, file in files.items()}


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=7),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=7, max_size=7),
    shard_bytes=st.integers(1, 600),
    piece=st.integers(1, 50),
)
def test_what_is_written_is_read_back_bit_by_bit(tmp_path_factory, shapes, dtypes, shard_bytes, piece):
    folder = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(len(shapes))
    tensors = {
        f"layer.{n}.weight": (100 * torch.randn(shape, generator=generator)).to(dtype)
        for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    asked: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "PIECE", piece)
        with ShardWriter(folder, tensors, shard_bytes) as writer:
            for number, (name, tensor) in enumerate(tensors.items()):
                writer.add(name, InFile(tensor, asked) if number % 2 else tensor, tensor.dtype)
    found = read_back(folder)
    assert list(found.keys() - tensors.keys()) == list(tensors.keys() - found.keys()) == []
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert all(stop - start <= piece for start, stop in asked)
    largest = max(tensor.nbytes for tensor in tensors.values())
    for file in folder.glob("*.safetensors"):
        assert sum(tensor.nbytes for tensor in load_file(file).values()) <= max(shard_bytes, largest)


def test_the_index_says_where_every_tensor_is_and_how_much_there_is(tmp_path: Path):
    with ShardWriter(tmp_path, ["a", "b"], shard_bytes=100) as writer:
        writer.add("a", torch.ones(20), torch.bfloat16)
        writer.add("b", torch.ones(20), torch.float32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 120},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    assert load_file(tmp_path / "model-00001-of-00002.safetensors")["a"].dtype == torch.bfloat16
