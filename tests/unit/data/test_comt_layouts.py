"""Layouts that the source `comt` reads besides ILVR's: CoMT's original release, and rows of Mirage."""

import zipfile

import pytest
from layouts import (
    made,
    numbered,
    picture,
    write_comt,
    write_files,
    write_lines,
)

# CoMT, original release: data.jsonl and images/CATEGORY/


def original_line(**changes) -> dict:
    return {
        "id": "creation-7",
        "question": "How large is the angle?",
        "option": ["70°", "80°"],
        "image": ["[IMAGE0:10007]", "[IMAGE1:10007_1]", "[IMAGE2:10007_2]"],
        "rationale": "The bisector is drawn. [IMAGE1:10007_1] [IMAGE2:10007_2] So two angles are equal.",
        "answer": "A",
        "type": "creation",
        "annotations": "",
    } | changes


ORIGINAL_IMAGES = {
    "images/creation/10007.png": picture(numbered(7)),
    "images/creation/10007_1.png": picture(numbered(8)),
    "images/creation/10007_2.jpg": picture(numbered(9), kind="JPEG"),
}


@pytest.mark.parametrize("packed", [False, True])
def test_the_original_release_of_comt_is_read(tmp_path, packed):
    folder = tmp_path / "comt"
    write_lines(folder / "data.jsonl", [original_line()])
    if packed:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name, data in ORIGINAL_IMAGES.items():
                archive.writestr(f"comt/{name}", data)
    else:
        write_files(folder, ORIGINAL_IMAGES)
    manifest, (row,) = made("comt", folder, tmp_path / "out")
    assert (row.id, row.category, row.answer, row.grader) == ("creation-7", "creation", "A", "choice")
    assert row.question == "<image>How large is the angle?\n(A) 70°\n(B) 80°" and row.options == ["70°", "80°"]
    assert [image.bytes for image in row.images] == [ORIGINAL_IMAGES["images/creation/10007.png"]]
    assert [step.type for step in row.steps] == ["text", "latent", "text", "text"]
    assert [image.bytes for image in row.steps[1].images] == list(ORIGINAL_IMAGES.values())[1:]
    assert (row.steps[2].text, row.steps[3].text) == ("So two angles are equal.", "\\boxed{A}")
    assert manifest.counts["train"].categories == {"creation": 1}


def test_marks_of_the_original_release_may_stand_in_the_question_and_without_an_id(tmp_path):
    line = original_line(question="Is [IMAGE0] larger?\n(A) yes\n(B) no", option=["yes", "no"],
                         rationale="See [IMAGE1].\nThe answer is: A")  # fmt: skip
    write_lines(tmp_path / "comt" / "data.jsonl", [line])
    write_files(tmp_path / "comt", ORIGINAL_IMAGES)
    _, (row,) = made("comt", tmp_path / "comt", tmp_path / "out")
    assert row.question == "<image>Is <image> larger?\n(A) yes\n(B) no"
    assert [step.text for step in row.steps] == ["See", None, ".\nThe answer is: \\boxed{A}"]


def test_options_of_the_original_release_may_be_images(tmp_path):
    line = original_line(option=["[IMAGE2]", "[IMAGE1:10007_1]"], rationale="Look.", answer="B")
    write_lines(tmp_path / "comt" / "data.jsonl", [line])
    write_files(tmp_path / "comt", ORIGINAL_IMAGES)
    _, (row,) = made("comt", tmp_path / "comt", tmp_path / "out")
    assert row.question == "<image>How large is the angle?\n(A) <image>\n(B) <image>" and row.grader == "choice"
    assert [image.bytes for image in row.images] == [list(ORIGINAL_IMAGES.values())[number] for number in (0, 2, 1)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "C"}, "bad_gold"),
        ({"answer": None}, "empty_answer"),
        ({"image": ["[IMAGE0:nowhere]"], "rationale": "No."}, "image_missing"),
        ({"image": ["[IMAGE0:10007]"]}, "helper_image_missing"),
        ({"option": 3}, "wrong_type"),
        ({"rationale": None}, "missing_field"),
    ],
)
def test_faults_of_the_original_release_have_their_reasons(tmp_path, changes, reason):
    write_lines(tmp_path / "comt" / "data.jsonl", [original_line(**changes), original_line(id="fine")])
    write_files(tmp_path / "comt", ORIGINAL_IMAGES)
    manifest, rows = made("comt", tmp_path / "comt", tmp_path / "out", max_rejected=0.5)
    assert manifest.rejected == {reason: 1} and [row.id for row in rows] == ["fine"]


@pytest.mark.parametrize("original", [False, True])
def test_all_rows_of_comt_may_be_judged_as_ilvr_does(tmp_path, original):
    folder = tmp_path / "comt"
    if original:
        write_lines(folder / "data.jsonl", [original_line()])
        write_files(folder, ORIGINAL_IMAGES)
    else:
        write_comt(folder, packed=False)
    _, rows = made("comt", folder, tmp_path / "out", grader="comt")
    assert {row.grader for row in rows} == {"comt"}
    assert rows[0].answer == ("A" if original else "70°")


# Rows of Mirage


def mirage_line(**changes) -> dict:
    return {
        "text_input": "Plan a path.",
        "image_input": "maps/1.png",
        "image_output": "maps/1_path.png",
        "text_output": "We go right twice. <output_image> The plan is \\boxed{R,R}",
        "map_desc": [[1, 0, 2], [0, -1, 0], [0, 0, 0]],
    } | changes


@pytest.mark.parametrize(
    ("changes", "answer", "grader", "steps"),
    [
        ({}, "R,R", "vsp", ["We go right twice.", None, "The plan is \\boxed{R,R}"]),
        ({"text_output": "So \\boxed{R,R}"}, "R,R", "vsp", [None, "So \\boxed{R,R}"]),
        ({"text_output": "So.\nThe final answer is: B", "text_input": "Which?\n(A) cat\n(B) dog", "map_desc": None},
         "B", "choice", [None, "So.\nThe final answer is: \\boxed{B}"]),
        ({"text_output": "It is so.", "original_final_answer": "Yes", "map_desc": None},
         "Yes", "text", [None, "It is so.", "\\boxed{Yes}"]),
    ],
)  # fmt: skip
def test_rows_of_mirage_are_read(tmp_path, changes, answer, grader, steps):
    write_lines(tmp_path / "set" / "train.jsonl", [mirage_line(**changes)])
    write_files(tmp_path / "set", {"maps/1.png": picture(), "maps/1_path.png": picture((1, 2, 3))})
    _, (row,) = made("comt", tmp_path / "set", tmp_path / "out")
    assert (row.answer, row.grader, [step.text for step in row.steps]) == (answer, grader, steps)
    assert row.meta == ({"rows": ["SFG", "FHF", "FFF"]} if grader == "vsp" else {})
    assert next(step.images for step in row.steps if step.images)[0].bytes == picture((1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_output": "We see.", "map_desc": None}, "empty_answer"),
        ({"image_output": None}, "helper_image_missing"),
        ({"map_desc": [[1, 7]]}, "wrong_type"),
        ({"map_desc": "SFG"}, "wrong_type"),
        ({"text_output": "\\boxed{fly}"}, "bad_gold"),
        ({"text_output": "\\boxed{D,R,R,U}"}, "bad_gold"),
        ({"text_output": ""}, "empty_step"),
    ],
)
def test_faults_of_mirages_rows_have_their_reasons(tmp_path, changes, reason):
    write_lines(tmp_path / "set" / "train.jsonl", [mirage_line(**changes), mirage_line(id="fine")])
    write_files(tmp_path / "set", {"maps/1.png": picture(), "maps/1_path.png": picture((1, 2, 3))})
    manifest, rows = made("comt", tmp_path / "set", tmp_path / "out", max_rejected=0.5)
    assert manifest.rejected == {reason: 1} and [row.id for row in rows] == ["fine"]
