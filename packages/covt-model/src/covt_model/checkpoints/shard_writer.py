"""Writing safetensors files a few megabytes at a time, so that memory doesn't grow with the model.

`safetensors.torch.save_file` wants every tensor of a file at once and copies it again. The format is simple enough to
stream (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length, the header as JSON that
may end in spaces, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch

SHARD_BYTES = 4_000_000_000
PIECE = 1 << 18  # elements that are read, cast and written together
NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}


class Stored(Protocol):
    """A tensor that lies in files and is read in flat pieces; never whole in memory."""

    @property
    def shape(self) -> Sequence[int]: ...

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Elements start … stop−1 of the flattened tensor."""
        ...


def pieces(tensor: torch.Tensor | Stored, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """The flattened tensor on the CPU in `dtype`, PIECE elements at a time."""
    count = torch.Size(tensor.shape).numel()
    if isinstance(tensor, torch.Tensor):
        flat = tensor.detach().reshape(-1)
        parts = (flat[start : start + PIECE] for start in range(0, count, PIECE))
    else:
        parts = (tensor.read(start, min(start + PIECE, count)) for start in range(0, count, PIECE))
    for part in parts:
        yield part.to("cpu", dtype).contiguous()


class ShardWriter:
    """Writes `model.safetensors`, or numbered shards with their index when there is more than `shard_bytes`.

    A context manager: files get their final names when the block ends without an error. names: all that may be added;
    they decide how much room the headers get.
    """

    def __init__(self, folder: Path, names: Iterable[str], shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        room = 64 + sum(len(json.dumps(name)) + 160 for name in names)
        self.header_bytes = -(-room // 64) * 64
        self.files: list[tuple[Path, list[str]]] = []
        self.total = 0
        self._file: Any = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._size = 0

    def add(self, name: str, tensor: torch.Tensor | Stored, dtype: torch.dtype) -> None:
        """Append a tensor, cast to `dtype`; begins a new file where the current one would exceed `shard_bytes`."""
        count = torch.Size(tensor.shape).numel() * dtype.itemsize
        if self._entries and (self._size + count > self.shard_bytes or self._size % dtype.itemsize):
            self._close()
        if self._file is None:
            self._file = (self.folder / f"shard-{len(self.files)}.safetensors").open("wb")
            self._file.seek(8 + self.header_bytes)
        offsets = [self._size, self._size + count]
        self._entries[name] = {"dtype": NAMES[dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        for piece in pieces(tensor, dtype):
            self._file.write(piece.view(torch.uint8).numpy().data)
        self._size, self.total = offsets[1], self.total + count

    def _close(self) -> None:
        header = json.dumps({"__metadata__": {"format": "pt"}, **self._entries}).encode()
        assert len(header) <= self.header_bytes
        with self._file as file:
            file.seek(0)
            file.write(self.header_bytes.to_bytes(8, "little") + header.ljust(self.header_bytes))
        self.files.append((Path(self._file.name), list(self._entries)))
        self._file, self._entries, self._size = None, {}, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        elif self._file is not None:
            self._file.close()

    def _finish(self) -> None:
        """Name the files, and write the index when there are several."""
        if self._file is not None:
            self._close()
        if len(self.files) == 1:
            self.files[0][0].rename(self.folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        for number, (path, names) in enumerate(self.files, start=1):
            final = f"model-{number:05d}-of-{len(self.files):05d}.safetensors"
            path.rename(self.folder / final)
            index |= dict.fromkeys(names, final)
        (self.folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": self.total}, "weight_map": index}, indent=2) + "\n"
        )
