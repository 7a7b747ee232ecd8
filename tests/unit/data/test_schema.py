import pytest
from pydantic import ValidationError

from covt_data.data_errors import DataError
from covt_data.schema import Row, Step, parse_row

PNG = b"\x89PNG..."


def row(**changes: object) -> dict[str, object]:
    return {
        "id": "r1",
        "source": "mine",
        "split": "train",
        "question": "<image>How many?",
        "images": [{"bytes": PNG}],
        "answer": "3",
        "grader": "math",
    } | changes


def test_a_prompt_row_needs_no_steps_and_gets_empty_defaults():
    parsed = parse_row(row(), "here")
    assert (parsed.steps, parsed.options, parsed.category, parsed.meta) == ([], [], None, {})
    assert parsed.images[0].path == ""


def test_rows_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        parse_row(row(), "here").answer = "4"  # type: ignore[misc]


def test_a_null_path_reads_as_no_name():
    assert parse_row(row(images=[{"bytes": PNG, "path": None}]), "here").images[0].path == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "1 <image> but the row has 0 images"),
        ({"question": "no picture"}, "0 <image> but the row has 1 images"),
        ({"images": [{"bytes": b""}]}, "images.0.bytes"),
        ({"answer": ""}, "answer"),
        ({"grader": "guess"}, "grader"),
        ({"metadata": "[1]"}, "a JSON object is needed"),
        ({"metadata": "{"}, "not JSON"),
        ({"answr": "3"}, "answr"),
        ({"steps": [{"type": "text", "text": ""}]}, "a text step has text"),
        ({"steps": [{"type": "text", "text": "a", "images": [{"bytes": PNG}]}]}, "a text step has text"),
        ({"steps": [{"type": "latent", "images": []}]}, "at least one helper image"),
        ({"steps": [{"type": "latent", "text": "a", "images": [{"bytes": PNG}]}]}, "no text"),
    ],
)
def test_a_bad_row_is_named_with_place_id_and_field(changes, message):
    with pytest.raises(DataError, match=r"file:7: row 'r1'") as caught:
        parse_row(row(**changes), "file:7")
    assert message in str(caught.value)
    assert caught.value.remedy


def test_a_row_survives_its_own_dump():
    original = parse_row(row(steps=[{"type": "latent", "images": [{"bytes": PNG}]}, {"type": "text", "text": "x"}]), "")
    assert Row.model_validate(original.model_dump()) == original
    assert original.steps[1] == Step(type="text", text="x")
