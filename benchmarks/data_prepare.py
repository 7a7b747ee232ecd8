"""Preparing a data set of two pictures a row, against `datasets.map` with the same conversion and checks.

Each run is a process of its own that times the work after its imports; the memory is that of all its processes. Both
sides read the same JSONL and picture files, call the same `Converter` (parsing, safety checks of every picture,
validation), use two cores and end with Parquet files. The base tells whether a PNG is intact as one would otherwise, by
decoding it with Pillow; the last case has our way of telling in the base too. Ours also hashes inputs and shards and
looks for duplicates.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case

SIZES = (1_000, 10_000, 40_000)
CORES = 2
HEADLINE = "10k rows"
POLL_SECONDS = 0.25
DISTINCT = 60  # pictures of each kind; every row gets copies of its own


def photo(number: int) -> bytes:
    """A JPEG of 360×280 with soft colors and noise, about 28 KB."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).resize(
        (360, 280), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse) + random.normal(0, 6, (280, 360, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def diagram(number: int) -> bytes:
    """A PNG of 320×320 with colored lines on white, about 5 KB."""
    import numpy as np
    from PIL import Image, ImageDraw

    random = np.random.default_rng(number)
    picture = Image.new("RGB", (320, 320), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        ends = random.integers(0, 320, 4).tolist()
        draw.line(ends, fill=tuple(random.integers(0, 256, 3).tolist()), width=3)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def write_source(folder: Path, rows: int) -> None:
    """A data set in CoMT's layout: one photo as the question's picture, one diagram as the helper image."""
    pictures = folder / "images_comt" / "creation"
    pictures.mkdir(parents=True)
    photos, diagrams = [photo(n) for n in range(DISTINCT)], [diagram(n) for n in range(DISTINCT)]
    with (folder / "TRAIN.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            (pictures / f"{number}.jpg").write_bytes(photos[number % DISTINCT])
            (pictures / f"{number}_step.png").write_bytes(diagrams[number % DISTINCT])
            name = f"images_comt/creation/{number}"
            line = {
                "text_input": f"Figure {number}: how large is the angle?\n(A) {number}° (B) 70° (C) 80°",
                "image_input": [f"{name}.jpg"],
                "sequence_plan": [
                    {"type": "text", "content": "First the line is drawn."},
                    {"type": "latent", "helper_image": f"{name}_step.png"},
                    {"type": "text", "content": "The final answer is: 70°"},
                ],
                "original_final_answer": "70°",
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def run_ours(source: Path, out: Path) -> float:
    from covt_data.ingest.prepare import prepare

    begun = time.perf_counter()
    prepare("comt", out, options={"path": str(source)}, processes=CORES)
    return time.perf_counter() - begun


def run_base(source: Path, out: Path, our_checks: bool = False) -> float:
    import datasets

    from covt_data.images import image_checks as pictures
    from covt_data.images.image_folder import ImageFolder
    from covt_data.ingest.convert import Converter
    from covt_data.ingest.record_files import Record
    from covt_data.sources import RecordSource, load_source
    from covt_data.sources.source_types import RecordLocation

    if not our_checks:
        # "A decoder has to tell", for every PNG.
        pictures.is_intact_plain_png = lambda data: False  # pyright: ignore[reportPrivateImportUsage]
    comt = load_source("comt")
    assert isinstance(comt, RecordSource)
    converter = Converter(comt, comt.options(), "train", ImageFolder(source))
    file = source / "TRAIN.jsonl"

    def convert(fields: dict[str, Any], number: int) -> dict[str, Any]:
        outcome = converter.convert(
            number, Record(file.name, number, dict(fields)), RecordLocation("train", file, number)
        )
        assert outcome.row is not None
        return outcome.row

    datasets.disable_progress_bars()
    text, images = datasets.Value("string"), datasets.List(datasets.Image())
    steps = datasets.List({"type": text, "text": text, "images": images})
    columns = ("id", "source", "split", "category", "question", "answer", "grader", "metadata")
    features = datasets.Features(
        dict.fromkeys(columns, text) | {"images": images, "options": datasets.List(text), "steps": steps}
    )
    begun = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(out))
    assert isinstance(loaded, datasets.Dataset)
    mapped = loaded.map(
        convert, with_indices=True, num_proc=CORES, features=features, remove_columns=loaded.column_names
    )
    mapped.to_parquet(str(out / "train.parquet"))
    return time.perf_counter() - begun


def in_process(side: str, source: Path) -> dict[str, float]:
    """Run one side in a new session; its seconds, and the most memory that its processes held together, in bytes."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        command = [sys.executable, __file__, "--side", side, "--source", str(source), "--out", f"{out}/set"]
        memory = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            while process.poll() is None:
                memory = max(memory, resident_bytes(process.pid))
                time.sleep(POLL_SECONDS)
            assert process.stdout is not None
            lines = process.stdout.read().splitlines()
        if process.returncode:
            raise RuntimeError(f"{side} failed with exit code {process.returncode}")
    return {"seconds": float(lines[-1]), "memory": memory}


def resident_bytes(session: int) -> int:
    """Resident memory of all processes of a session; what they share is counted for each."""
    pages = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()  # those after the command's name
        except OSError:
            continue
        if int(fields[3]) == session:
            pages += int(fields[21])
    return pages * resource.getpagesize()


@contextmanager
def cases() -> Iterator[list[Case]]:
    folder = Path(tempfile.mkdtemp(prefix="covt-data-"))
    memory: dict[int, float] = {}
    try:
        for rows in SIZES:
            write_source(folder / str(rows), rows)

        def ours(rows: int) -> float:
            result = in_process("ours", folder / str(rows))
            memory[rows] = result["memory"]
            return result["seconds"] / rows

        def base(rows: int, side: str = "base") -> float:
            return in_process(side, folder / str(rows))["seconds"] / rows

        speed = [Case(f"{n // 1000}k rows", lambda n=n: ours(n), lambda n=n: base(n), "s a row") for n in SIZES]
        growth = Case(
            f"memory, ours: {SIZES[-1] // 1000}k rows against 1k",
            lambda: memory[SIZES[-1]],
            lambda: memory[SIZES[0]],
            "B",
        )
        same = Case("10k rows, our PNG check in both", lambda: ours(10_000), lambda: base(10_000, "same"), "s a row")
        yield [*speed, growth, same]
    finally:
        shutil.rmtree(folder)


BENCHMARK = Benchmark(
    name="data_prepare",
    about="preparing rows of two pictures, against datasets.map with the same checks, on two cores",
    headline=HEADLINE,
    cases=cases,
    rounds=3,
)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--side", choices=("ours", "base", "same"))
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path)
    options, _ = parser.parse_known_args()
    if options.side is None:
        harness.main(BENCHMARK)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sides = {"ours": run_ours, "base": run_base, "same": partial(run_base, our_checks=True)}
    seconds = sides[options.side](options.source, options.out)
    print(seconds)


if __name__ == "__main__":
    main()
