"""Whether a prepared set's grids have cells of the size of a model's visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from covt_data.store.manifest import Manifest
from covt_model.families.image_settings import ImageSettings
from covt_model.model_errors import ModelError


def check_cells(sets: Iterable[Path | str], settings: Callable[[], ImageSettings | None], model: Path | str) -> None:
    """Refuse sets whose cells would be cut or resized into other visual tokens.

    Args:
        sets: folders of prepared sets.
        settings: reads the model's image settings, if any set has cells; None where they are not known.
        model: what the error calls the model.

    Raises:
        ModelError: naming the first such set.
    """
    for folder in sets:
        side = Manifest.read(Path(folder)).cell_pixels
        if side is None or (found := settings()) is None or found.cell == side:
            continue
        raise ModelError(
            f"{folder} has cells of {side} pixels, and a visual token of {model} covers {found.cell}",
            f"prepare the set with cell_pixels={found.cell}, or use a model whose visual tokens cover {side}",
        )
