"""Writes the published layouts of CoMT, ViRL39K and Zebra-CoT from generated pictures, irregularities included."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet


def picture(color=(200, 60, 30), size=(48, 32), kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGB", size, color).save(out, kind, **options)
    return out.getvalue()


def noise(kind="PNG", size=(64, 48), mode="RGB", **options) -> bytes:
    random_ = np.random.default_rng(0)
    pixels = random_.integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    PillowImage.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def damaged(data: bytes, random_: random.Random) -> bytes:
    """A few bytes changed, a piece cut out, doubled, or the end missing."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(out))
        kind = random_.randrange(5)
        if kind <= 1:
            out[at] = random_.randrange(256)
        elif kind == 2:
            del out[at : at + random_.randint(1, 64)]
        elif kind == 3:
            out[at:at] = out[at : at + random_.randint(1, 64)]
        elif len(out) > 100:
            del out[-random_.randint(1, len(out) // 3) :]
        if not out:
            return b""
    return bytes(out)


def numbered(number: int) -> tuple[int, int, int]:
    return (number * 37 % 256, number * 91 % 256, number * 53 % 256)


# CoMT: TRAIN.jsonl, TEST.jsonl, comt.tar.gz


def comt_line(number: int, category: str = "creation", **changes) -> dict:
    name = f"images_comt/{category}/{10000 + number}.png"
    line = {
        "text_input": f"Question {number}: how large is the angle?\n(A) 70° (B) 80° (C) 90° (D) {number}°",
        "image_input": [name],
        "sequence_plan": [
            {"type": "text", "content": "The bisector is drawn."},
            {"type": "latent", "helper_image": name.replace(".png", "_1.png")},
            {"type": "text", "content": ""},
            {"type": "latent", "helper_image": name},
            {"type": "text", "content": "So two angles are equal."},
            {"type": "text", "content": "The final answer is: 70°"},
        ],
        "original_final_answer": "70°",
    }
    return line | changes


COMT_CATEGORIES = ("creation", "deletion", "selection", "update")


def write_comt(folder: Path, train: int = 8, test: int = 4, extra: list[bytes | dict] = (), packed=True) -> Path:
    """The release: pictures in `comt.tar.gz` (or the extracted folder), a path as text or in a list, no ids."""
    lines = {name: [] for name in ("TRAIN", "TEST")}
    pictures = {}
    for name, first, count in (("TRAIN", 0, train), ("TEST", 500, test)):
        for number in range(first, first + count):
            line = comt_line(number, COMT_CATEGORIES[number % 4])
            main = line["image_input"][0]
            pictures[main] = picture(numbered(number))
            pictures[main.replace(".png", "_1.png")] = picture(numbered(number + 7), (32, 48))
            if number % 3 == 0:
                line["image_input"] = main
            lines[name].append(line)
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries in lines.items():
        more = [e if isinstance(e, bytes) else dump(e) for e in (extra if name == "TRAIN" else ())]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join([*map(dump, entries), *more]) + b"\n")
    if packed:
        write_tar(folder / "comt.tar.gz", pictures)
    else:
        write_files(folder, pictures)
    return folder


def dump(entry: dict) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


# ViRL39K: one Parquet file and images.zip

VIRL_COLUMNS = ("question", "answer", "PassRate_32BTrained", "PassRate_7BBase", "category", "source", "qid", "image")


def virl_row(number: int, **changes) -> dict:
    row = {
        "question": f"<image>\nHow many dots has figure {number}?",
        "answer": f"\\boxed{{{number}}}",
        "PassRate_32BTrained": number % 5 / 4,
        "PassRate_7BBase": None if number % 2 else number % 9 / 8,
        "category": ("GradeSchool Geometric", "Spatial Reasoning")[number % 2],
        "source": ("Processed", "DeepScaleR")[number % 3 == 0],
        "qid": f"Processed-{number:05d}",
        "image": [f"images/Processed-{number:05d}-0.jpg"],
    }
    return row | changes


def virl_irregular() -> dict[str, dict]:
    """What is known to be odd in ViRL39K, by what becomes of it."""
    return {
        "text only": virl_row(100, image=[], question="What is 2 + 98?"),
        "null image": virl_row(101, image=None, question="What is 2 + 99?"),
        "two pictures": virl_row(102, image=["images/Processed-00000-0.jpg", "images/Processed-00001-0.jpg"],
                                 question="<image>\n<image>\nWhich is larger?", answer="\\boxed{A}"),
        "no tag": virl_row(103, question="How many dots?", image=["images/Processed-00003-0.jpg"]),
        "no folder": virl_row(104, question="<image>How many?", image=["Processed-00004-0.jpg"]),
        "no rate": virl_row(105, PassRate_32BTrained=-1.0, PassRate_7BBase=float("nan"),
                            image=["images/Processed-00005-0.jpg"]),
        "nested braces": virl_row(106, answer="\\boxed{\\frac{1}{2}}", image=["images/Processed-00006-0.jpg"]),
        "no box": virl_row(107, answer="12", image=["images/Processed-00007-0.jpg"]),
        "answer_braces": virl_row(108, answer="\\boxed{\\frac{1}{2}", image=["images/Processed-00000-0.jpg"]),
        "empty_answer": virl_row(109, answer="\\boxed{}", image=["images/Processed-00000-0.jpg"]),
        "image_count": virl_row(110, question="<image><image> Which?", image=["images/Processed-00000-0.jpg"]),
        "image_missing": virl_row(111, image=["images/nowhere.jpg"]),
        "duplicate_id": virl_row(112, qid="Processed-00001", image=["images/Processed-00000-0.jpg"]),
    }  # fmt: skip


def write_virl(folder: Path, rows: int = 10, irregular: bool = True) -> Path:
    entries = [virl_row(number) for number in range(rows)] + (list(virl_irregular().values()) if irregular else [])
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(
        [{key: entry[key] for key in VIRL_COLUMNS} for entry in entries],
        schema=pa.schema(
            [(name, pa.float64() if name.startswith("Pass") else pa.string()) for name in VIRL_COLUMNS[:-1]]
            + [("image", pa.list_(pa.string()))]
        ),
    )
    pq.write_table(table, folder / "39Krelease.parquet", row_group_size=7)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(rows):
            archive.writestr(f"images/Processed-{number:05d}-0.jpg", picture(numbered(number), kind="JPEG"))
    return folder


# Zebra-CoT: a folder of Parquet files for each subset


def embedded(data: bytes | None, path: str | None = None) -> dict | None:
    return None if data is None else {"bytes": data, "path": path}


def zebra_row(number: int, **changes) -> dict:
    mark = "<image_start>[{}]<image_end>".format
    row = {
        "Question": f"Puzzle {number}: {mark('problem_image_1')} Which piece fits?",
        "Text Reasoning Trace": f"THOUGHT 0: I look. {mark('reasoning_image_1')} {mark('reasoning_image_2')}\n"
        f"THOUGHT 1: The edges of {mark('problem_image_1')} fit.\nTHOUGHT 2: Done.",
        "Final Answer": "C",
        "problem_image_1": embedded(picture(numbered(number)), "upstream.png"),
        "problem_image_2": None,
        "reasoning_image_1": embedded(picture(numbered(number + 1))),
        "reasoning_image_2": embedded(picture(numbered(number + 2))),
    }
    return row | changes


def zebra_irregular() -> dict[str, dict]:
    return {
        "unnamed problem picture": zebra_row(100, problem_image_2=embedded(picture((9, 9, 9)))),
        "text only question": zebra_row(101, Question="A riddle.", problem_image_1=None,
                                        **{"Text Reasoning Trace": "THOUGHT 0: [reasoning_image_1] Draw."}),
        "unused reasoning picture": zebra_row(102, **{"Text Reasoning Trace": "THOUGHT 0: no need to draw."}),
        "see-through": zebra_row(103, problem_image_1=embedded(transparent())),
        "helper_image_missing": zebra_row(104, reasoning_image_2=None),
        "image_missing": zebra_row(105, problem_image_1=None),
        "empty_answer": zebra_row(106, **{"Final Answer": " "}),
        "empty_step": zebra_row(107, **{"Text Reasoning Trace": "  "}),
        "image_truncated": zebra_row(108, reasoning_image_1=embedded(picture(size=(300, 300), kind="JPEG")[:-200])),
    }  # fmt: skip


def transparent() -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGBA", (40, 40), (0, 0, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write_zebra(folder: Path, rows: int = 6, irregular: bool = True) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("Question", pa.string()), ("Text Reasoning Trace", pa.string()), ("Final Answer", pa.string())]
    columns += [(name, image) for name in zebra_row(0) if "image" in name]
    subsets = ("2D Visual Reasoning - Visual Jigsaw", "Visual Logic & Strategic Games - Chess")
    for number, subset in enumerate(subsets):
        entries = [zebra_row(1000 * number + n) for n in range(rows)]
        entries += list(zebra_irregular().values()) if irregular and number == 0 else []
        (folder / subset).mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(entries, schema=pa.schema(columns))
        pq.write_table(table, folder / subset / "train-00000-of-00001.parquet", row_group_size=4)
    return folder


def write_lines(path: Path, lines: list[dict]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(dump(line) + b"\n" for line in lines))
    return path


def made(source: str, path: Path, out: Path, **options):
    """Prepare a set; return its manifest and its rows, split after split."""
    manifest = prepare(source, out, options={"path": str(path), **options})
    prepared = PreparedSet(out)
    return manifest, [row for split in prepared.splits for row in prepared.rows(split)]


def read_rejections(path: Path) -> list[dict[str, Any]]:
    """The lines of a `rejected.jsonl`."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
