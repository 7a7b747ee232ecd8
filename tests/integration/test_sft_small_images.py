"""Supervised training on rows at the edges of what a set may hold: images below one visual token, and none at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from layouts import picture, write_files
from sft_runs import losses, run, settings

from covt_data.ingest.prepare import prepare
from covt_runtime.launch.workers import WorkerGroup

pytestmark = pytest.mark.slow


def write_set(place: Path, sizes: list[tuple[int, int] | None]) -> None:
    """One row per size; a row without a size has no image and no latent step."""
    lines = []
    for number, size in enumerate(sizes):
        answer = {"type": "text", "text": "\\boxed{B3}"}
        line = {"question": f"Where {number}?", "answer": "B3", "steps": [answer]}
        if size is not None:
            name = f"{number}.png"
            write_files(place / "in", {name: picture(size=size)})
            line |= {"images": [name], "steps": [{"type": "latent", "images": [name]}, answer]}
        lines.append(json.dumps(line))
    (place / "in").mkdir(parents=True, exist_ok=True)
    (place / "in" / "rows.jsonl").write_text("\n".join(lines))
    prepare("jsonl", place / "data", options={"path": str(place / "in" / "rows.jsonl")})


@pytest.mark.parametrize("sizes", [[(1, 1), (1000, 5), (5, 27), (28, 1)] * 2, [None] * 8, [(1, 1), None] * 4])
def test_images_below_one_token_and_rows_without_images_train(tmp_path: Path, two_ranks: WorkerGroup, sizes):
    write_set(tmp_path, sizes)
    config = settings(
        tmp_path, "edges", latent={"selection": "ilvr"}, stage1={"steps": 1}, stage2={"steps": 1}, eval={"rows": 0}
    )
    found = losses(run(config, two_ranks))
    assert len(found) == 2 and all(map(math.isfinite, found))
