"""Rows of the latent tokens beside linked weights, so that adding the tokens to a checkpoint copies none of them.

`covt_latent/rows.safetensors` holds, for each matrix with one row per token, the rows [3, H] of `<|latent_start|>`,
`<|latent_pad|>` and `<|latent_end|>`, in this order. They take the place of free rows, which were never trained. This
project's readers and its server apply them; other programs see the free rows. Checkpoints that training writes have no
such file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from covt_model.latent_config import KEY, LatentConfig

FILE = Path(KEY) / "rows.safetensors"


def save_rows(checkpoint: Path, rows: Mapping[str, torch.Tensor]) -> None:
    """Write the rows [3, H] of each matrix, by its published name, into a checkpoint folder."""
    (checkpoint / FILE).parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in rows.items()}, checkpoint / FILE)


def read_rows(checkpoint: Path | str) -> tuple[tuple[int, ...], dict[str, torch.Tensor]]:
    """Read the latent tokens' ids, and their rows [3, H] by the matrix's name; both are empty without the file."""
    path = Path(checkpoint) / FILE
    if not path.is_file():
        return (), {}
    return LatentConfig.read(checkpoint).token_ids, load_file(path)
