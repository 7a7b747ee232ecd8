"""Targets on disk."""

from pathlib import Path

import torch

from covt_sft.losses.target_cache import TargetCache, weights_digest


def test_what_one_process_writes_another_finds(tmp_path: Path):
    writer, reader = TargetCache(tmp_path / "targets"), TargetCache(tmp_path / "targets")
    first, second = torch.randn(8, 4), torch.randn(16, 4).bfloat16()
    writer.write({"a": first, "b": second})
    assert "a" in writer and "a" not in reader
    reader.refresh()
    assert torch.equal(reader.read("a"), first)
    assert torch.equal(reader.read("b"), second)


def test_a_file_being_written_is_not_seen(tmp_path: Path):
    (tmp_path / ".x.safetensors.12").write_bytes(b"half")
    assert "x" not in TargetCache(tmp_path)


def test_other_weights_have_another_name(tmp_path: Path):
    from safetensors.torch import save_file

    names = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({"w": torch.full((2,), float(number))}, folder / "model.safetensors")
        names |= {weights_digest(folder), weights_digest(folder)}
    assert len(names) == 2
