"""A prepared set of made-up rows: text of a chosen length, one picture, and one latent segment with a helper image."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

COVT = str(Path(sys.executable).with_name("covt"))
WORDS = ["the", "map", "shows", "a", "path", "from", "green", "square", "to", "red", "then", "turns", "left"]


def prepare_made(out: Path, rows: int, *, words: int, side: int = 112) -> Path:
    """Write and prepare a set, whose only split is `train`.

    Args:
        out: folder of the prepared set; the raw files lie beside it.
        rows: how many.
        words: words of a row's first step, of about one token each.
        side: pixels per side of its picture; the helper image has half of it.
    """
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    raw = out.with_name(f"{out.name}-raw")
    raw.mkdir(parents=True)

    def picture(name: str, pixels: int) -> str:
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)).save(buffer, "PNG")
        (raw / name).write_bytes(buffer.getvalue())
        return name

    made = []
    for number in range(rows):
        steps = [
            {"type": "text", "text": " ".join(draw.choice(WORDS, words))},
            {"type": "latent", "images": [picture(f"{number}-helper.png", side // 2)]},
            {"type": "text", "text": "So it is A."},
        ]
        row = {"id": f"row-{number}", "source": "made", "split": "train", "question": "<image> Where does it lead?"}
        made.append(row | {"images": [picture(f"{number}.png", side)], "answer": "A", "grader": "text", "steps": steps})
    (raw / "rows.jsonl").write_text("\n".join(map(json.dumps, made)) + "\n")
    command = [COVT, "data", "prepare", "jsonl", "--source", str(raw / "rows.jsonl"), "--out", str(out)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return out
