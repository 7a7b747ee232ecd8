"""Safetensors files written and read in pieces, which takes no memory beside the tensors themselves.

The library's `save_file` copies all tensors into bytes first, and the pages that `safe_open` maps count as memory of
the process. The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length, the
header as JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from covt_runtime.runtime_errors import CheckpointError

PIECE = 1 << 22
"""Elements that are written or read together."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, which may be on any device, as one safetensors file."""
    # The widest first, so that every tensor is aligned to its own width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 64) * 64 - 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            for piece in _pieces(tensor):
                file.write(_bytes(piece))


def first_difference(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor whose bytes in the file aren't those in memory; None where all are equal."""
    file = TensorFile(path)
    for name, tensor in tensors.items():
        start = 0
        for piece in _pieces(tensor):
            stored = torch.empty_like(piece)
            file.read_into(name, start, stored)
            if not torch.equal(stored.view(torch.uint8), piece.view(torch.uint8)):
                return name
            start += len(piece)
    return None


class TensorFile:
    """The tensors of one safetensors file; only its header is read at first.

    Raises:
        CheckpointError: the file is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.entries: dict[str, dict[str, Any]] = json.loads(file.read(size))
        self.entries.pop("__metadata__", None)
        self.data = 8 + size
        """Offset of the first tensor's first byte."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of one tensor."""
        return DTYPES[self.entries[name]["dtype"]]

    def read(self, name: str) -> Tensor:
        """One tensor in its shape."""
        shape = self.entries[name]["shape"]
        whole = torch.empty(math.prod(shape), dtype=self.dtype(name))
        self.read_into(name, 0, whole)
        return whole.view(shape)

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        """Fill the contiguous `out` with elements of the flattened tensor, from `start` on."""
        if not out.numel():
            return
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.data + self.entries[name]["data_offsets"][0] + start * out.element_size())
            for first in range(0, out.numel(), PIECE):
                piece = out.view(-1)[first : first + PIECE]
                if file.readinto(_bytes(piece)) != piece.nbytes:
                    raise CheckpointError(f"{self.path} is truncated", "use an earlier checkpoint of the run")


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    return (flat[start : start + PIECE].to("cpu").contiguous() for start in range(0, flat.numel(), PIECE))


def _bytes(piece: Tensor) -> memoryview:
    return piece.view(torch.uint8).numpy().data
