"""`covt-rewards` on the command line: rows in, rows out, and one clear line for each mistake."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from covt_rewards import Group, Rollout, iter_scores, load, parse_rewards
from covt_rewards.command_line.cli import main
from covt_rewards.command_line.explain import explain
from covt_rewards.command_line.summary import Summary
from covt_rewards.registry import BUILTIN, ENTRY_POINTS, setting_names

ROWS = [
    {"id": 1, "answer": "A1", "grader": "text", "completions": ["<answer>A1</answer>", "?"]},
    {
        "id": "two",
        "answer": "B",
        "options": ["cat", "dog"],
        "completions": [
            {"text": "<answer>dog</answer>", "latent_spans": [[0, 2]], "ablated": ["<answer>cat</answer>"]}
        ],
    },
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return file


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_rows_go_to_stdout_with_json(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(rows), "--rewards", "format,accuracy=2,necessity=0.5", "--json"]) == 0
    one, two = lines(capsys.readouterr().out)
    assert (one["id"], two["id"]) == (1, "two")
    assert one["rewards"] == {"format": [1.0, 0.0], "accuracy": [1.0, 0.0], "necessity": [0.0, 0.0]}
    assert one["total"] == [3.0, 0.0]
    assert two["total"] == [3.5]
    assert one["reasons"]["format"] == ["", "no final answer"]  # type: ignore[index]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_go_to_a_file_and_the_summary_to_stdout(
    rows: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    out = rows.with_name("out.jsonl")
    assert main(["score", str(rows), "--out", str(out), "--json", "--workers", workers]) == 0
    assert [row["id"] for row in lines(out.read_text())] == [1, "two"]
    summary = json.loads(capsys.readouterr().out)
    assert (summary["groups"], summary["completions"]) == (2, 3)
    assert summary["rewards"]["accuracy"]["mean"] == pytest.approx(2 / 3)


def test_a_table_without_json(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text("\n".join(json.dumps({**ROWS[0], "id": i}) for i in range(3)))
    assert main(["score", str(rows), "--rewards", "accuracy,necessity=0"]) == 0
    said, _, accuracy, necessity, total = capsys.readouterr().out.splitlines()
    assert said == "groups: 3, completions: 6"
    assert accuracy.split(None, 4) == ["accuracy", "1", "0.5000", "0", "answered '?', gold is 'A1' (3)"]
    assert necessity.split(None, 4) == ["necessity", "0", "0.0000", "0", "no well-formed latent span (6)"]
    assert total.split() == ["total", "0.5000"]


def test_memory_does_not_grow_with_the_rows() -> None:
    """Python's objects over rows that all differ, in text and in reasons: the scores alone would be 3 MB."""

    def rows() -> Iterator[Group]:
        for number in range(2000):
            texts = (Rollout(f"<answer>{number}</answer>"), Rollout(f"<answer>{number} {number}</answer>"))
            yield Group(str(number), texts, prompt=f"{number} " * 50, grader="text")

    rewards = parse_rewards("format,accuracy")
    summary = Summary(rewards)
    tracemalloc.start()
    for score in iter_scores(rows(), rewards, workers=2):
        summary.add(score)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.groups == 2000
    assert peak < 1_000_000


def test_settings_and_a_default_grader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vsp.jsonl"
    file.write_text(json.dumps({"id": 0, "answer": "R", "metadata": {"rows": ["SGF"]}, "completions": [r"\boxed{RR}"]}))
    arguments = ["score", str(file), "--rewards", "accuracy", "--grader", "vsp", "--json"]
    assert main(arguments) == 0
    assert lines(capsys.readouterr().out)[0]["total"] == [1.0]
    assert main([*arguments, "--set", "accuracy.vsp_rule=end_on_goal"]) == 0
    assert lines(capsys.readouterr().out)[0]["total"] == [0.0]


def test_latents_are_judged_by_a_checkpoints_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latent = {"version": 1, "size": 2, "start_id": 7, "pad_id": 8, "end_id": 9, "head": "identity", "normalize": "none"}
    (tmp_path / "config.json").write_text(json.dumps({"covt_latent": latent}))
    file = tmp_path / "in.jsonl"
    texts = [{"text": "<answer>x</answer>", "token_ids": ids} for ids in ([7, 8, 8, 9], [7, 8, 9])]
    file.write_text(json.dumps({"id": 0, "answer": "x", "completions": texts}))
    assert main(["score", str(file), "--rewards", "format", "--latents-of", str(tmp_path), "--json"]) == 0
    assert lines(capsys.readouterr().out)[0]["total"] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", ":2 is not JSON"),
        ('{"id": 1, "completions": ["x"]}', ":2.answer is missing"),
        ('{"answer": "1", "completions": ["x"]}', ":2.id is missing"),
        ('{"id": 1, "answer": "1", "completions": [1]}', ":2.completions[0] is int"),
        (
            '{"id": 1, "answer": "1", "grader": "maths", "completions": ["1"]}',
            ":2.grader is 'maths', which is no grader; the graders are",
        ),
        ('{"id": "row-9", "answer": " ", "grader": "text", "completions": ["x"]}', "row-9"),
    ],
)
def test_a_bad_row_names_file_line_and_field(
    rows: Path, capsys: pytest.CaptureFixture[str], line: str, named: str
) -> None:
    rows.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    out = rows.with_name("out.jsonl")
    assert main(["score", str(rows), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1
    assert sorted(file.name for file in rows.parent.iterdir()) == ["in.jsonl"]  # nothing half-written


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["score", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["score", "-", "--rewards", "acuracy"], "did you mean 'accuracy'"),
        (["score", "-", "--set", "nonsense"], "REWARD.KEY=VALUE"),
        (["score", "-", "--out", "/nowhere/out.jsonl"], "there is no folder /nowhere"),
        (["score", "-", "--latents-of", "nowhere"], "cannot read nowhere"),
        (["explain", "formt"], "did you mean 'format'"),
        (["score", "-", "--set", "accuracy.grader=maths"], "the graders are boxes, choice"),
        (["score", "-", "--set", "accuracy.time_limit=0"], "give seconds above 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["score", "-", "--workers", "two"],
            "'two' is not a whole number of at least 1; see covt-rewards score --help",
        ),
        (["score", "-", "--grader", "maths"], "choose from 'boxes', 'choice'"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_option_is_one_line_too(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1


def test_standard_input_may_hold_broken_bytes() -> None:
    """A real pipe: as UTF-8, a lone 0xff is no character."""
    row = b'{"id": 1, "answer": "A1", "grader": "text", "completions": ["<answer>A1</answer> \xff"]}\n'
    command = [sys.executable, "-m", "covt_rewards.command_line.cli", "score", "-", "--rewards", "accuracy", "--json"]
    done = subprocess.run(command, input=row, capture_output=True, check=False)
    assert json.loads(done.stdout)["total"] == [1.0], done.stderr


def test_list_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "were the latents needed" in listed
    assert main(["list", "--json"]) == 0
    assert {"name": "format", "from": "covt_rewards.rewards.format:FormatReward"} in json.loads(capsys.readouterr().out)
    assert main(["explain", "necessity"]) == 0
    explained = capsys.readouterr().out
    assert "w_harm = None\n      weight of being wrong with the latents" in explained
    assert "latent --latents-of CHECKPOINT" in explained
    assert main(["explain", "vision_reasoner"]) == 0
    assert capsys.readouterr().out.endswith("It has no settings.\n")


def test_every_setting_of_every_reward_is_explained() -> None:
    for name in BUILTIN:
        lines = explain(name).splitlines()
        for setting in setting_names(load(name)) or ():
            (at,) = [i for i, line in enumerate(lines) if line.startswith(f"  {setting} ")]
            assert len(lines[at + 1].split()) > 2, (name, setting)


def test_a_broken_package_hides_no_other_reward(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = metadata.EntryPoint("theirs", "no_such_module:reward", ENTRY_POINTS)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [broken])
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "cannot be used: reward 'theirs' (no_such_module:reward) cannot be imported: ModuleNotFoundError" in listed
    assert "were the latents needed" in listed
    assert main(["score", "-", "--rewards", "theirs"]) == 2
    assert "correct or remove the package" in capsys.readouterr().err
