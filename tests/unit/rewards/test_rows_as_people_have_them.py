"""Files and batches as people have them: byte order marks, numbers as options, missing gold, several bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import Group, RewardError
from covt_rewards.adapters import trl, verl
from covt_rewards.command_line.cli import main


def score(tmp_path: Path, text: str | bytes, *more: str) -> int:
    file = tmp_path / "in.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return main(["score", str(file), "--rewards", "accuracy", "--grader", "text", *more])


def row(answer: Any, name: str = "a", **more: Any) -> str:
    return json.dumps({"id": name, "answer": answer, "completions": ["<answer>5</answer>"], **more})


def test_a_byte_order_mark_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(tmp_path, b"\xef\xbb\xbf" + row("5").encode(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == [1.0]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": "a", "answer": ' + "9" * 5000 + ', "completions": ["5"]}', ":1.answer is a number of 5000 digits"),
        ('{"id": "a", "answer": "5", "completions": [' + "9" * 5000 + "]}", ":1 holds a number of 5000 digits"),
        ('{"id": "a", "answer": NaN, "completions": ["5"]}', ":1.answer is nan"),
        ('{"id": "a", "answer": Infinity, "completions": ["5"]}', ":1.answer is inf"),
        ('{"id": "a", "answer": 1e999, "completions": ["5"]}', ":1.answer is inf"),
        ('{"id": "a", "answer": [], "completions": ["5"]}', ":1.answer is an empty list"),
        ('{"id": "a", "answer": "5", "options": [null], "completions": ["5"]}', ":1.options[0]"),
        ("[" * 100_000, ":1 is not JSON"),
        ("", "holds no rows"),
        ("\n \n", "holds no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, named: str
) -> None:
    assert score(tmp_path, line) == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def test_all_bad_rows_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("5", "good"), "{", *(row(" ", f"empty-{n}") for n in range(30)), row("6", "last")]
    out = tmp_path / "out.jsonl"
    assert score(tmp_path, "\n".join(rows), "--out", str(out)) == 2
    message = capsys.readouterr().err
    assert "31 of 33 rows cannot be scored" in message
    assert ":2 is not JSON" in message
    assert ":3" in message
    assert "empty-0" in message
    assert "and 21 more" in message
    assert len(message.splitlines()) == 12
    assert not out.exists()


def test_numbers_and_objects_are_options(tmp_path: Path) -> None:
    assert Group.from_json(json.loads(row("B", options=[1, 5]))).options == ("1", "5")
    assert Group.from_json(json.loads(row("B", options={"A": "cat", "B": "dog"}))).options == ("cat", "dog")


@pytest.mark.parametrize(
    ("answer", "text"),
    [(["A", "C"], "A, C"), (["5"], "5"), ([5], "5"), (5, "5"), (2.5, "2.5"), (True, "True"), (False, "False")],
)
def test_an_answer_may_be_a_list_or_a_number(answer: object, text: str) -> None:
    assert Group.from_json(json.loads(row(answer))).answer == text


def test_an_answer_may_be_boxes() -> None:
    boxes = [{"bbox_2d": [1, 2, 3, 4]}]
    assert json.loads(Group.from_json(json.loads(row(boxes))).answer) == boxes
    assert json.loads(Group.from_json(json.loads(row([1, 2, 3, 4]))).answer) == [1, 2, 3, 4]


def test_broken_characters_end_no_command(tmp_path: Path) -> None:
    bad = '{"id": "\\ud800", "answer": "x\\ud800", "completions": ["\\\\boxed{\\ud800}", "\\\\boxed{\\ud800}"]}'
    file = tmp_path / "in.jsonl"
    file.write_text(bad)
    assert main(["score", str(file), "--rewards", "accuracy", "--grader", "choice"]) == 2


def test_trl_leaves_out_a_row_without_gold(caplog: pytest.LogCaptureFixture) -> None:
    (accuracy,) = trl.reward_funcs("accuracy", {"accuracy": {"grader": "text"}})
    for missing in (None, float("nan")):
        values = accuracy(["q", "r"], [r"\boxed{5}", r"\boxed{5}"], answer=["5", missing])
        assert values == [1.0, None]
    assert not caplog.records


def test_trl_scores_the_format_of_a_row_without_gold() -> None:
    (form,) = trl.reward_funcs("format")
    assert form(["q", "r"], [r"\boxed{5}", "5"], solution=[None, None]) == [1.0, 0.0]


def test_trl_needs_a_column_of_gold_answers() -> None:
    (accuracy,) = trl.reward_funcs("accuracy")
    with pytest.raises(RewardError, match="answer"):
        accuracy(["q"], ["5"])


def test_verl_takes_a_prompt_as_messages() -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "which one?"}]}]
    for prompt in (messages, "which one?", None):
        score = verl.compute_score("set", r"\boxed{B}", "B", {"question": prompt, "options": ["cat", "dog"]})
        assert score["accuracy"] == 1.0


def test_verl_takes_several_gold_letters() -> None:
    score = verl.compute_score("set", r"\boxed{A, C}", ["A", "C"], {"options": ["x", "y", "z"]})  # type: ignore[arg-type]
    assert score["accuracy"] == 1.0
