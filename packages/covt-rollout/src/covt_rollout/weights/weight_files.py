"""Weights as files under the names that a server expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from covt_model.latents import heads
from covt_model.model_errors import CheckpointError
from covt_rollout.rollout_errors import RolloutError

if TYPE_CHECKING:
    import torch

    from covt_model.checkpoints.hf_folder import FileTensor


class ServedNames:
    """The tensor names that the server expects, found by a trainer's parameter names.

    Transformers names a parameter `model.language_model.layers…` or `model.visual…` where checkpoints may have
    `model.layers…` and `visual…`; both name the same tensor.
    """

    def __init__(
        self, files: Mapping[str, Path], frozen: frozenset[str] = frozenset(), head: frozenset[str] = frozenset()
    ) -> None:
        """Index the names of a checkpoint.

        Args:
            files: the checkpoint's file of each served name.
            frozen: names whose tensors are published as the checkpoint has them.
            head: names of the latent head's parameters, which are stored in a file of their own.
        """
        self._files, self.frozen, self.head = files, frozen, head
        self._served = {_canonical(name): name for name in files if name not in frozen}

    @classmethod
    def read(cls, checkpoint: Path | str) -> ServedNames:
        """Read the headers of a checkpoint's safetensors; raises CheckpointError when it has none."""
        from safetensors import safe_open

        paths = sorted(Path(checkpoint).glob("*.safetensors"))
        if not paths:
            raise CheckpointError(
                f"{checkpoint} has no *.safetensors", "give the folder that the server was started with"
            )
        files: dict[str, Path] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                files |= dict.fromkeys(file.keys(), path)
        head: frozenset[str] = frozenset()
        if (path := Path(checkpoint) / heads.FILE).is_file():
            with safe_open(path, "pt") as file:
                head = frozenset(file.keys())
        return cls(files, head=head)

    def without_vision(self) -> ServedNames:
        """For a trainer with a frozen vision tower, which publishes the language model and leaves the rest as it is."""
        vision = frozenset(name for name in self._files if _canonical(name).startswith("visual."))
        return ServedNames(self._files, vision, self.head)

    @property
    def all_names(self) -> Iterable[str]:
        """The names of all tensors, frozen ones included."""
        return self._files

    def frozen_tensors(self) -> Iterator[tuple[str, FileTensor]]:
        """The tensors that training doesn't change, in the checkpoint: a push replaces all weights or none."""
        from covt_model.checkpoints.hf_folder import file_tensors

        for path in sorted({self._files[name] for name in self.frozen}):
            yield from ((name, stored) for name, stored in file_tensors(path).items() if name in self.frozen)

    def __len__(self) -> int:
        return len(self._served) + len(self.head)

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return next(iter(self._files.values())).parent

    def find(self, name: str) -> str:
        """The served name of a parameter; raises RolloutError when the served model has no such tensor."""
        served = self._served.get(_canonical(name))
        if served is None:
            raise RolloutError(
                f"the served checkpoint has no tensor {name!r}", "serve a checkpoint of the model that is trained"
            )
        return served

    def find_head(self, name: str) -> str | None:
        """The name that a parameter has within the latent head; None when it is not part of it."""
        own = name.rpartition(f"{heads.ATTRIBUTE}.")[2]
        return own if own != name and own in self.head else None


def write_weights(
    named_tensors: Iterable[tuple[str, torch.Tensor | None]],
    folder: Path,
    names: ServedNames,
    *,
    bucket_bytes: int = 1 << 30,
) -> tuple[int, int]:
    """Write tensors to safetensors files in `folder`, a piece at a time.

    Memory holds one tensor beside the folder's copy. The checkpoint's frozen tensors are written as well. The latent
    head's tensors go into the file that a checkpoint has for them.

    Args:
        named_tensors: a trainer's parameters. A tied output matrix is left out, as in the checkpoint.
        folder: an empty folder.
        names: of the served checkpoint.
        bucket_bytes: size at which the next file begins.

    Returns:
        The number of tensors and their bytes; frozen tensors don't count.

    Raises:
        RolloutError: a tensor has no values on this rank, or the served model doesn't have it.
    """
    from covt_model.checkpoints.shard_writer import ShardWriter

    head: dict[str, torch.Tensor] = {}
    total = count = 0
    with ShardWriter(folder, names.all_names, bucket_bytes) as writer:
        for name, tensor in named_tensors:
            if tensor is None:
                raise RolloutError(f"tensor {name!r} has no values on this rank", "publish from rank 0")
            total, count = total + tensor.numel() * tensor.element_size(), count + 1
            if (own := names.find_head(name)) is not None:
                head[own] = tensor
            else:
                writer.add(names.find(name), tensor, tensor.dtype)
        for name, stored in names.frozen_tensors():
            writer.add(name, stored, stored.dtype)
    if head:
        heads.save_head(folder, head)
    return count, total


def drain(named_tensors: Iterable[tuple[str, object]]) -> None:
    """Take part in a gather without using it: what every rank but 0 does while rank 0 publishes."""
    for _ in named_tensors:
        pass


def _canonical(name: str) -> str:
    for found, plain in (("model.language_model.", "language."), ("model.visual.", "visual."), ("model.", "language.")):
        if name.startswith(found):
            return plain + name.removeprefix(found)
    return name
