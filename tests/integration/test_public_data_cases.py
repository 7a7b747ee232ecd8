"""Rows and files that public bug reports of trainers, graders and evaluation kits failed on, through `covt data`."""

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import picture, read_rejections, write_files
from PIL import Image as PillowImage

from covt.main import main
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "failing_inputs.jsonl").read_text(encoding="utf-8").splitlines()
]


def texts(kind: str, area: str = "data") -> list[str]:
    """The inputs of a kind that are JSON lines."""
    found = [case["input"] for case in CASES if case["area"] == area and case["kind"] == kind]
    assert found, kind
    return found


def tiff(**options) -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGB", (40, 30), (10, 120, 200)).save(out, "TIFF", **options)
    return out.getvalue()


def float_tiff() -> bytes:
    values = np.linspace(0, 1, 40 * 30, dtype=np.float32).reshape(30, 40)
    values[0, 0] = np.nan
    out = io.BytesIO()
    PillowImage.fromarray(values, "F").save(out, "TIFF")
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    return picture(kind="JPEG", exif=exif)


IMAGES = {
    "img/ok.png": picture((200, 30, 30)),
    "img/ok.jpg": picture((30, 200, 30), kind="JPEG"),
    "img/ok.tiff": tiff(),
    "img/multi.tif": tiff(save_all=True, append_images=[PillowImage.new("RGB", (40, 30))]),
    "img/float.tif": float_tiff(),
    "img/x.jfif": picture((30, 30, 200), kind="JPEG"),
    "img/exif0.jpg": turned(0),
    "img/exif9.jpg": turned(9),
    "images/a.png": picture((90, 90, 10)),
    "img/q.png": picture((10, 90, 90)),
}


@dataclass
class Result:
    """What `covt data prepare` left."""

    code: int
    error: str
    rows: list[Row] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    out: Path = Path()


@pytest.fixture
def prepared(tmp_path, monkeypatch, capsys):
    """Runs `covt data prepare` on lines of text (or a ready folder), as a shell would."""

    def run(source: str, lines: str | bytes | None, *options: str, name: str = "rows.jsonl") -> Result:
        folder, out = tmp_path / "set", tmp_path / "out"
        write_files(folder, IMAGES)
        if lines is not None:
            data = lines.encode() if isinstance(lines, str) else lines
            (folder / name).write_bytes(data.replace(b"/data/set", str(folder).encode()))
        place = folder if source != "jsonl" else folder / name
        command = ["covt", "data", "prepare", source, *options, "--source", str(place), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [*command, "--processes", "1"])
        with pytest.raises(SystemExit) as caught:
            main()
        found = Result(int(caught.value.code or 0), capsys.readouterr().err, out=out)
        logs = (out / "rejected.jsonl", tmp_path / ".out.work" / "set" / "rejected.jsonl")
        found.rejected = [line for log in logs if log.is_file() for line in read_rejections(log)]
        if found.code == 0:
            prepared = PreparedSet(out)
            found.rows = [row for split in prepared.splits for row in prepared.rows(split)]
        else:
            assert not out.exists(), "never half a set"
            *progress, found.error = found.error.splitlines()
            assert found.error.startswith("error: ") and len(progress) <= 2, "one clear line"
        return found

    return run


def refused(found: Result, *words: str) -> None:
    """The only row was rejected: exit 2, and the one line has these words."""
    assert found.code == 2
    for word in words:
        assert word in found.error, (word, found.error)


CHOICE = "multiple choice row gets the grader text or math"


@pytest.mark.parametrize("text", [text for text in texts(CHOICE) if "options" in text])
def test_a_gold_that_names_an_option_is_a_choice(prepared, text):
    (row,) = prepared("jsonl", text, "max_rejected=1").rows
    assert (row.grader, row.options) == ("choice", ["cat", "dog", "cow"])


@pytest.mark.parametrize("text", [text for text in texts(CHOICE) if "qid" in text])
def test_a_gold_that_names_an_option_of_the_question_is_a_choice(prepared, text):
    (row,) = prepared("virl39k", text).rows
    assert (row.grader, row.options) == ("choice", ["circle", "square", "cube"])


@pytest.mark.parametrize("text", texts("options written in the question are not read by jsonl"))
def test_options_written_in_the_question_are_read(prepared, text):
    (row,) = prepared("jsonl", text).rows
    assert row.grader == "choice" and row.options in (["cat", "dog"], ["cat", "dog", "cow"])
    assert len(row.options) == text.count("\\n(")


def test_numbered_tags_keep_their_order(prepared):
    (text,) = texts("order of numbered tags lost")
    (row,) = prepared("jsonl", text).rows
    assert row.question == "<image> vs <image>"
    assert [image.bytes for image in row.images] == [IMAGES["img/ok.jpg"], IMAGES["img/ok.png"]]


@pytest.mark.parametrize(
    "text",
    [*texts("special tokens in texts pass"), *texts("latent markers in a text step crash the training", "sft")],
)
def test_control_tokens_are_refused_by_row(prepared, text):
    found = prepared("jsonl", text, "max_rejected=1")
    refused(found, "rows.jsonl:1 (id 'a')", "control token <|")
    assert [line["reason"] for line in found.rejected] == ["control_token"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "[NaN]", "null", '""'])
def test_nan_and_infinity_are_no_answers(prepared, value):
    (text,) = texts("NaN and Infinity as answers")
    refused(prepared("jsonl", text.replace("NaN", value), "max_rejected=1"), "rows.jsonl:1", "answer")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_of_parquet_are_no_answers(prepared, value):
    out = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"], "question": ["q"], "answer": [value]}), out)
    refused(prepared("jsonl", out.getvalue(), "max_rejected=1", name="rows.parquet"), "rows.parquet:1", "answer")


def test_a_letter_beyond_the_options_is_refused(prepared):
    (text,) = texts("a letter beyond the options")
    refused(prepared("jsonl", text, "max_rejected=1"), "(id 'a')", "'D' names no option", "no option D")


def test_an_index_of_an_option_is_refused(prepared):
    (text,) = texts("an option's index as answer")
    refused(prepared("jsonl", text, "max_rejected=1"), "'1' names none of the 2 options")


@pytest.mark.parametrize("text", [*texts("labels, dates and ranges judged as mathematics"),
                                  *texts("C++ judged as mathematics")])  # fmt: skip
def test_labels_are_judged_as_text(prepared, text):
    (row,) = prepared("jsonl", text).rows
    assert row.grader == "text"


def test_the_last_option_ends_with_its_line(prepared):
    (text,) = texts("the last option swallows the sentence behind it")
    (row,) = prepared("virl39k", text).rows
    assert row.options == ["one", "two", "three"] and row.grader == "choice"


def test_absolute_paths_inside_the_folder_are_read(prepared):
    (text,) = texts("absolute paths inside the folder")
    (row,) = prepared("jsonl", text).rows
    assert row.images[0].bytes == IMAGES["img/ok.png"]


def test_a_record_with_other_columns_is_told_its_own_and_the_mapping(prepared):
    (text,) = texts("message lists covt's fields instead of the record's")
    found = prepared("jsonl", text)
    refused(found, "the record's fields are id, problem, solution", "columns=question=problem,answer=solution")
    assert "category" not in found.error
    mapping = found.error.partition("map them with ")[2].split()[0].rstrip(";→")
    (row,) = prepared("jsonl", text, mapping).rows
    assert (row.question, row.answer) == ("q1", "5")


@pytest.mark.parametrize(
    ("name", "conversions"), [("ok.tiff", {"tiff": 1}), ("multi.tif", {"tiff": 1, "animated": 1}), ("float.tif", None)]
)
def test_tiff_is_read_and_stored_as_png(prepared, name, conversions):
    found = prepared("jsonl", json.dumps({"question": "q", "answer": "red", "images": [f"img/{name}"]}))
    assert found.rows[0].images[0].bytes.startswith(b"\x89PNG")
    if conversions:
        assert PreparedSet(found.out).manifest.converted == conversions


@pytest.mark.parametrize("name", ["x.jfif", "exif0.jpg", "exif9.jpg"])
def test_jfif_and_orientations_that_turn_nothing_are_kept_as_they_are(prepared, name):
    found = prepared("jsonl", json.dumps({"question": "q", "answer": "red", "images": [f"img/{name}"]}))
    assert found.rows[0].images[0].bytes == IMAGES[f"img/{name}"]
    assert PreparedSet(found.out).manifest.converted == {}


def test_options_as_an_object_are_read(prepared):
    (text,) = texts("options as dict, struct or JSON text")
    (row,) = prepared("jsonl", text).rows
    assert (row.options, row.grader) == (["cat", "dog"], "choice")


def test_a_list_of_one_answer_is_this_answer(prepared):
    (text,) = texts("list answers")
    (row,) = prepared("jsonl", text).rows
    assert row.answer == "red"


def test_a_boolean_answer_is_yes_or_no(prepared):
    (text,) = texts("boolean answers")
    (row,) = prepared("jsonl", text).rows
    assert (row.answer, row.grader) == ("Yes", "text")


@pytest.mark.parametrize("rate", ['"0.5"', "50", "true", "-0.5"])
def test_a_pass_rate_that_is_no_share_is_refused(prepared, rate):
    (text,) = texts("pass rates as text or percent")
    refused(prepared("jsonl", text.replace('"0.5"', rate), "max_rejected=1", "min_pass_rate=0.1"), "pass_rate = ")


# Files


def test_a_byte_order_mark_is_skipped(prepared):
    (row,) = prepared("jsonl", b'\xef\xbb\xbf{"question": "q", "answer": "5"}\n').rows
    assert row.answer == "5"


@pytest.mark.parametrize("key", ["answer", "id", "question", "pass_rate"])
def test_an_integer_of_5000_digits_is_refused_by_field(prepared, key):
    line = json.dumps({"id": "a", "question": "q", "answer": "5", key: "HUGE"}).replace('"HUGE"', "9" * 5000)
    refused(prepared("jsonl", line, "max_rejected=1"), "rows.jsonl:1", f"{key} = an integer of 5000 digits")


def test_an_integer_of_5000_digits_in_the_metadata_is_named(prepared):
    line = '{"id": "a", "question": "q", "answer": "5", "metadata": {"x": HUGE}}'.replace("HUGE", "9" * 5000)
    refused(prepared("jsonl", line, "max_rejected=1"), "(id 'a')", "metadata", "an integer of 5000 digits")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_named(prepared, content):
    refused(prepared("jsonl", content), "rows.jsonl of train has no records")


def test_several_bad_rows_are_reported_at_once(prepared):
    lines = [{"id": f"r{n}", "question": f"q{n}", "answer": "???" if n % 2 else "5"} for n in range(24)]
    text = "\n".join(map(json.dumps, lines))
    found = prepared("jsonl", text)
    refused(found, "12 of 24 records of train were rejected (bad_gold 12)", "and 2 more", "max_rejected")
    assert all(f"rows.jsonl:{n + 1} (id 'r{n}') bad_gold: answer = '???'" in found.error for n in range(1, 20, 2))
    found = prepared("jsonl", text, "max_rejected=1", "on_bad_gold=error")
    refused(found, "12 gold answers cannot be read", "(id 'r1')", "and 2 more", "on_bad_gold=reject")
    assert len(prepared("jsonl", text, "max_rejected=1").rows) == 12
