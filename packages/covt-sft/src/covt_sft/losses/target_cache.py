"""Targets of a frozen teacher on disk, computed once per row and addressed by everything that they depend on."""

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
    """Hash of a checkpoint's weights: the contents of its safetensors files."""
    digest = blake2b(digest_size=16)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def settings_digest(weights: str, encoder: Encoder, section: LatentSection, dtype: torch.dtype) -> str:
    """Hash of everything but the row that its targets depend on."""
    values = [
        weights,
        str(dtype),
        repr(encoder.settings),
        section.size,
        section.normalize,
        section.selection,
        section.top_p,
        section.temperature,
        section.image_context,
        section.teacher_pads,
        section.unfilled,
    ]
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def sample_digest(sample: Sample) -> str:
    """Hash of an encoded row: its tokens, its images and its helper images."""
    digest = blake2b(sample.input_ids.tobytes(), digest_size=16)
    for image in (*sample.pictures, *(image for segment in sample.helpers for image in segment)):
        digest.update(image.key)
    digest.update(repr([len(segment) for segment in sample.helpers]).encode())
    return digest.hexdigest()


class TargetCache:
    """Targets [P, H] of rows, by `sample_digest`, in safetensors files of one folder.

    Several processes may write into it: each file is written aside and renamed, and a row that two processes wrote has
    the same targets in both files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Find the files that other processes have written."""
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
        """Write the targets of these rows as one file."""
        if not targets:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{blake2b(repr(sorted(targets)).encode(), digest_size=8).hexdigest()}.safetensors"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: tensor.cpu().contiguous() for name, tensor in targets.items()}, aside)
        aside.replace(path)
        self._files.update(dict.fromkeys(targets, path))
