"""A dozen test rows with their pictures, for the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COUNT = 12


def write_samples(rows: Sequence[Any], out: Path) -> None:
    """Write `out/samples/samples.json` and the pictures it names: input, helper images, focus boxes."""
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[dict[str, Any]] = []
    for number, row in enumerate(rows[:COUNT]):
        image = f"samples/{number:02d}.png"
        (out / image).write_bytes(row.images[0].bytes)
        helpers = [image for step in row.steps for image in step.images or ()]
        names = [f"samples/{number:02d}.h{index}.png" for index in range(1, len(helpers) + 1)]
        for name, helper in zip(names, helpers, strict=True):
            (out / name).write_bytes(helper.bytes)
        meta = row.meta
        samples.append(
            {
                "id": row.id,
                "question": row.question,
                "image": image,
                "helpers": names,
                "names": [name for names in meta.get("names", []) for name in names],
                "focus": [box for boxes in meta.get("focus", []) for box in boxes],
                "meta": meta,
            }
        )
    (folder / "samples.json").write_text(json.dumps(samples, indent=1), encoding="utf-8")
