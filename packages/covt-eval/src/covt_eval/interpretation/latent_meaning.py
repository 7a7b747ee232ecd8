"""What the latents of the rows shown mean: sets of cells where the data says so, else the patches they resemble."""

from __future__ import annotations

from pathlib import Path

from covt_data.store.prepared_set import PreparedSet
from covt_data.tasks.vsp_sets import SEGMENTS
from covt_eval.interpretation.decoded_sets import write_decoded
from covt_eval.interpretation.nearest_patches import write_nearest


def write_latents(folder: Path, model: Path, data: Path, *, split: str = "test") -> None:
    """Write it beside the samples of `folder`, for the report.

    Args:
        folder: a run's or evaluation's folder.
        model: a checkpoint folder, whose answers are decoded.
        data: the prepared set that the rows are from.
        split: the rows' split.

    Raises:
        EvalError: none of the rows shown is in the set.
    """
    first = next(iter(PreparedSet(data).rows(split)))
    write = write_decoded if first.meta.get("latents") in SEGMENTS else write_nearest
    write(folder, model, data, split=split)
