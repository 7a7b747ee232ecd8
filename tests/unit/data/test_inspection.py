"""Statistics, validation, contamination and the page of samples."""

import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from layouts import write_comt, write_files, write_virl, write_zebra
from PIL import Image

from covt_data.images.pixel_limits import PixelLimits
from covt_data.images.similarity import difference_hash
from covt_data.ingest.prepare import prepare
from covt_data.inspect.contamination import contamination
from covt_data.inspect.set_page import sample_page
from covt_data.inspect.set_statistics import split_stats, stats_table
from covt_data.inspect.validate_set import validate
from covt_data.store.prepared_set import PreparedSet, sha256_of


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def virl(tmp_path_factory) -> PreparedSet:
    folder = tmp_path_factory.mktemp("virl")
    prepare("virl39k", folder / "set", options={"path": str(write_virl(folder / "in", 40)), "max_rejected": 0.2})
    return PreparedSet(folder / "set")


@pytest.fixture(scope="module")
def comt(tmp_path_factory) -> PreparedSet:
    folder = tmp_path_factory.mktemp("comt")
    prepare("comt", folder / "set", options={"path": str(write_comt(folder / "in"))})
    return PreparedSet(folder / "set")


@pytest.fixture
def trace(tmp_path) -> PreparedSet:
    prepare("trace", tmp_path / "trace", options={"n_train": 6, "n_prompts": 2, "n_test": 2})
    return PreparedSet(tmp_path / "trace")


def test_statistics_are_those_of_the_rows(virl):
    rows = list(virl.rows("train"))
    found = split_stats(virl, "train", count_tokens=words)
    assert json.loads(json.dumps(found)) == found
    lengths = [words(row.question) for row in rows]
    assert found["question_tokens"] == {
        "n": len(rows), "mean": np.mean(lengths), "min": min(lengths), "p50": np.median(lengths),
        "p95": np.percentile(lengths, 95), "max": max(lengths),
    }  # fmt: skip
    assert found["rows"] == len(rows) and found["text_only"] == 2
    assert sum(found["category"].values()) == sum(found["grader"].values()) == len(rows)
    rates = [row.meta["pass_rate"] for row in rows if "pass_rate" in row.meta]
    assert found["pass_rates"]["missing"] == len(rows) - len(rates) == 1
    assert found["pass_rates"]["bins"][-1] == sum(rate == 1.0 for rate in rates)
    assert found["pass_rates"]["bins"][2] == sum(rate == 0.25 for rate in rates)
    table = stats_table(found)
    assert "visual tokens" in table and "GradeSchool Geometric" in table and "pass rates" in table


def test_visual_tokens_are_counted_as_the_model_sees_them(comt):
    found = split_stats(comt, "train", limits=PixelLimits(28 * 28, 28 * 28 * 4))
    assert found["visual_tokens"]["max"] == 2, "48×32 is 2 × 1 cells"
    assert found["helper_visual_tokens"]["mean"] == 4, "and so are both helper images"
    assert (found["latent_steps"]["mean"], found["helper_images"]["mean"]) == (2, 2)
    assert "question_tokens" not in found and not sum(found["pass_rates"]["bins"])


@pytest.mark.parametrize("source", ["virl", "comt", "trace"])
def test_a_prepared_set_is_valid(source, request):
    assert validate(request.getfixturevalue(source)) == []


def rewrite(prepared: PreparedSet, split: str, change) -> PreparedSet:
    """Change the rows of a split's first shard, with a manifest that fits the new file."""
    path = prepared.shards(split)[0]
    table = pq.read_table(path)
    data = table.to_pylist()
    change(data)
    pq.write_table(table.from_pylist(data, schema=table.schema), path)
    manifest = json.loads((prepared.path / "manifest.json").read_text())
    entry = manifest["files"][path.relative_to(prepared.path).as_posix()]
    entry |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (prepared.path / "manifest.json").write_text(json.dumps(manifest))
    return PreparedSet(prepared.path)


def set_first(**changes):
    return lambda rows: rows[0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first(answer=""), "answer"),
        (set_first(split="test"), "says split 'test'"),
        (set_first(category="9 hops"), "other categories"),
        (lambda rows: rows.pop(), "5 rows in other categories"),
        (lambda rows: rows[1].update(id=rows[0]["id"]), "occurs 2 times"),
        (lambda rows: rows[0]["images"][0].update(bytes=b"GIF89a"), "image_unreadable"),
        (lambda rows: rows[0]["images"][0].update(bytes=rows[0]["images"][0]["bytes"][:-40]), "image_"),
        (set_first(metadata=json.dumps({"focus": [[[0, 0, 200, 28]] * 8]})), "is not inside the 112×112 image"),
        (set_first(metadata=json.dumps({"focus": [[[0, 0, 28, 28]]]})), "not one focus box"),
        (set_first(answer="???", grader="math"), "the answer '???' cannot be graded by math"),
        (set_first(answer="D", grader="choice", options=["x", "y"]), "cannot be graded by choice"),
        (lambda rows: rows[0].update(question=rows[0]["question"] + "<|im_end|>"), "question holds the control token"),
        (set_first(options=["a", "<|latent_pad|>"]), "options[1] holds the control token <|latent_pad|>"),
    ],
)
def test_validation_names_what_is_wrong(trace, change, message):
    problems = validate(rewrite(trace, "train", change))
    assert problems and any(message in problem.what for problem in problems), problems
    assert all(problem.where for problem in problems)


def test_validation_sees_lost_changed_and_foreign_files(trace):
    (trace.path / "test/part-00000.parquet").unlink()
    shard = trace.shards("prompts")[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    (trace.path / "train/part-00009.parquet").write_bytes(b"")
    found = {(problem.where, problem.what) for problem in validate(trace, decode=False)}
    assert ("test/part-00000.parquet", "the file is missing") in found
    assert ("prompts/part-00000.parquet", "the file is not what was written") in found
    assert ("train/part-00009.parquet", "the file is not in the manifest") in found


def test_a_plan_that_fails_on_its_map_is_found(tmp_path):
    prepare("vsp", tmp_path / "vsp", options={"n_train": 2, "n_prompts": 1, "n_test": 1})
    prepared = rewrite(PreparedSet(tmp_path / "vsp"), "train", set_first(answer="U,U,U,U"))
    (problem,) = validate(prepared, decode=False)
    assert "does not solve the map" in problem.what


def jsonl_set(folder: Path, name: str, rows: list[dict], pictures: dict[str, bytes]) -> PreparedSet:
    write_files(folder / name, pictures)
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("jsonl", folder / f"{name}-set", options={"path": str(folder / name)})
    return PreparedSet(folder / f"{name}-set")


def test_contamination_tells_three_kinds_apart(tmp_path):
    random = np.random.default_rng(0)
    shots = [Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((90, 90)) for _ in range(4)]

    def saved(number: int, kind: str = "PNG") -> bytes:
        out = BytesIO()
        shots[number].save(out, kind)
        return out.getvalue()

    def row(name: str, question: str) -> dict:
        return {"id": name, "question": question, "answer": "1", "images": [name]}

    trained = jsonl_set(
        tmp_path, "train",
        [row("a.png", "How MANY?"), row("b.png", "Where?"), row("c.jpg", "Who?"), row("d.png", "When?")],
        {"a.png": saved(0), "b.png": saved(1), "c.jpg": saved(2, "JPEG"), "d.png": saved(3)},
    )  # fmt: skip
    tested = jsonl_set(
        tmp_path, "test", [row("x.png", "how  many?"), row("y.png", "Why?"), row("z.png", "Who?")],
        {"x.png": saved(0), "y.png": saved(1), "z.png": saved(2)},
    )  # fmt: skip
    found = contamination(trained, tested)
    assert {key: found[key] for key in ("rows", "against", "same_question", "same_image", "similar_image")} == {
        "rows": 4, "against": 3, "same_question": 1, "same_image": 1, "similar_image": 1,
    }  # fmt: skip
    assert found["examples"][0] == {"kind": "same_question", "row": "train/a.png", "found": "train/x.png"}


def stairs(flipped: int) -> bytes:
    """9×8 gray pixels, brighter to the right but for the first `flipped` of 64 places."""
    rises = np.ones(64, int)
    rises[:flipped] = -1
    values = np.concatenate([np.zeros((8, 1), int), rises.reshape(8, 8).cumsum(1)], 1) * 9 + 100
    out = BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(("flipped", "similar"), [(1, 1), (4, 1), (5, 0), (20, 0)])
def test_pictures_look_alike_up_to_four_bits(tmp_path, flipped, similar):
    assert difference_hash(stairs(flipped)).bit_count() == 64 - flipped
    sets = [
        jsonl_set(tmp_path, name, [{"question": name, "answer": "1", "images": ["a.png"]}], {"a.png": data})
        for name, data in (("one", stairs(0)), ("two", stairs(flipped)))
    ]
    assert contamination(*sets)["similar_image"] == similar


def test_the_splits_of_one_set_can_be_compared(trace, virl):
    assert contamination(trace, trace, splits=["train"])["same_question"] == 0
    assert contamination(trace, trace, splits=["train"])["against"] == 4
    everything = contamination(virl, PreparedSet(Path(f"{virl.path}/../set/../set")))
    assert everything["against"] == 0, "a set is not compared with itself"


class Page(HTMLParser):
    """Counts tags, and fails on one that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page_shows_helper_images_in_their_places(tmp_path):
    prepare("zebra-cot", tmp_path / "zebra", options={"path": str(write_zebra(tmp_path / "in", irregular=False))})
    text = sample_page(PreparedSet(tmp_path / "zebra"), n=3)
    page = Page()
    page.feed(text)
    assert page.open == [] and page.seen.count("article") == 3
    assert page.seen.count("img") == 3 * 4
    first = text.split("<article>")[1]
    places = [first.index(mark) for mark in ("THOUGHT 0", "2 helper images", "THOUGHT 1", "1 helper image<", "fit.")]
    assert places == sorted(places)
    assert not re.search(r"(src|href)=['\"](?!data:)", text) and "<script" not in text


def test_the_page_escapes_what_rows_say(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    question = "Q </div>" + evil.replace("<img", "< img")  # an <img> would be a picture's tag
    steps = [{"type": "text", "text": evil}]
    row = {"id": evil, "steps": steps, "question": question, "answer": evil, "category": evil, "options": [evil, "b"]}
    text = sample_page(jsonl_set(tmp_path, "evil", [row], {}))
    page = Page()
    page.feed(text)
    assert "script" not in page.seen and "img" not in page.seen
    assert "<script>alert(1)</script>" in page.words


def test_the_page_marks_focus_boxes(trace):
    text = sample_page(trace, splits=["train"], n=2)
    assert text.count("<i style=") == 2 * 8
    assert "width:25.00%;height:25.00%" in text
    assert text.count("<article>") == 2 and "test" not in text.split("<h2>")[1]


def test_rows_of_the_page_are_spread_over_the_split(virl):
    text = sample_page(virl, n=4)
    shown = re.findall(r"<header><span>Processed-(\d+)", text)
    assert len(shown) == 4 and int(shown[-1]) >= 30
    assert "rejected" in text and "answer_braces 1" in text
