"""Targets of a frozen teacher on disk: computed once for a row, and found again by what they depend on."""

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from covt_model.encoding.encode import Encoder, Sample
from covt_runtime.recipe_schema import LatentSection


def weights_digest(checkpoint: Path) -> str:
    """Name of a checkpoint's weights: a hash of its safetensors files' contents."""
    digest = blake2b(digest_size=16)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def settings_digest(weights: str, encoder: Encoder, section: LatentSection, dtype: torch.dtype) -> str:
    """Name of everything besides the row that its targets depend on."""
    values = [
        weights,
        str(dtype),
        repr(encoder.settings),
        section.size,
        section.normalize,
        section.selection,
        section.top_p,
        section.temperature,
    ]
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def sample_digest(sample: Sample) -> str:
    """Name of an encoded row: its tokens, its pictures and its helper images."""
    digest = blake2b(sample.input_ids.tobytes(), digest_size=16)
    for picture in (*sample.pictures, *(picture for segment in sample.helpers for picture in segment)):
        digest.update(picture.key)
    digest.update(repr([len(segment) for segment in sample.helpers]).encode())
    return digest.hexdigest()


class TargetCache:
    """Targets [P, H] of rows, by `sample_digest`, in safetensors files of one folder.

    Several processes may write into it: each file is written aside and renamed, and a row that two of them wrote has
    the same targets in both.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take notice of what other processes wrote."""
        known = set(self._files.values())
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in known:
                with safe_open(path, framework="pt") as file:
                    self._files.update(dict.fromkeys(file.keys(), path))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> torch.Tensor:
        """Targets [P, H] of one row."""
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def write(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Keep the targets of these rows, in one file of their own."""
        if not targets:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{blake2b(repr(sorted(targets)).encode(), digest_size=8).hexdigest()}.safetensors"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: tensor.cpu().contiguous() for name, tensor in targets.items()}, aside)
        aside.replace(path)
        self._files.update(dict.fromkeys(targets, path))
