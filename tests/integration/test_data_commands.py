"""The `covt data` commands, called as the command line calls them."""

import json
import shlex
from pathlib import Path

import pytest
from layouts import write_comt, write_virl
from typer.testing import CliRunner

from covt.commands.data import app
from covt.error_lines import UsageError
from covt_data.data_errors import DataError
from covt_data.store.manifest import Manifest


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def virl(tmp_path: Path) -> Path:
    source = write_virl(tmp_path / "in", 12, irregular=False)
    run("prepare", "virl39k", "--source", str(source), "--out", str(tmp_path / "virl"), "--processes", "1")
    return tmp_path / "virl"


def test_prepare_takes_a_source_options_and_a_place(tmp_path):
    source = write_comt(tmp_path / "in")
    text = run("prepare", "comt", "limit=3", "categories=creation,deletion", "--source", str(source),
               "--out", str(tmp_path / "set"), "--processes", "1")  # fmt: skip
    assert f"{tmp_path / 'set'}: test 2, train 2" in text and "filtered: categories 2" in text
    manifest = Manifest.read(tmp_path / "set")
    assert manifest.options["limit"] == 3 and manifest.options["path"] == str(source)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("trace", ["n_train=3", "n_prompts=2", "n_test=2", "hops=1,0,2", "max_hops=3"]),
        ("vsp", ["n_train=3", "sizes=3,4"]),
    ],
)
def test_the_command_in_the_manifest_makes_the_same_set_again(tmp_path, monkeypatch, source, options):
    monkeypatch.chdir(tmp_path)
    run("prepare", source, *options, "--out", "first")
    manifest = Manifest.read(tmp_path / "first")
    words = shlex.split(manifest.command)
    assert words[:2] == ["covt", "data"]
    run(*words[2:], "--out", "second")
    assert Manifest.read(tmp_path / "second") == manifest


def test_rejected_rows_are_shown_on_stderr_and_the_rest_is_prepared(tmp_path):
    lines = [{"id": f"r{n}", "question": f"q{n}", "answer": "???" if n < 11 else "5"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = CliRunner().invoke(
        app, ["prepare", "jsonl", "max_rejected=0.5", "--source", str(tmp_path / "rows.jsonl"),
              "--out", str(tmp_path / "set"), "--processes", "1", "--json"],
    )  # fmt: skip
    assert result.exit_code == 0 and json.loads(result.stdout)["rejected"] == {"bad_gold": 11}
    assert "11 rejected (" in result.stderr and "and 1 more" in result.stderr
    assert result.stderr.count("bad_gold: answer = '???'") == 10
    assert "rows.jsonl:1 (id 'r0') bad_gold" in result.stderr


def test_source_goes_where_the_source_wants_it(tmp_path):
    with pytest.raises(UsageError, match="trace is generated"):
        run("prepare", "trace", "--source", "x", "--out", str(tmp_path / "set"))
    with pytest.raises(OSError, match=r"rows\.jsonl does not exist"):
        run("prepare", "vsp", "--source", str(tmp_path), "--out", str(tmp_path / "set"))
    with pytest.raises(DataError, match="unknown source 'comd'"):
        run("prepare", "comd", "--source", "x")


def test_inspect_writes_the_table_the_sheet_and_the_page(virl, tmp_path):
    text = run("inspect", str(virl), "--sheet", str(tmp_path / "s.png"), "--html", str(tmp_path / "p.html"), "-n", "4")
    assert "train: 12 rows" in text and "Spatial Reasoning: 6" in text
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "p.html").read_text(encoding="utf-8").count("<article>") == 4
    assert json.loads(run("inspect", str(virl), "--json"))["source"] == "virl39k"


def test_validate_says_so_by_its_exit_code(virl):
    assert json.loads(run("validate", str(virl), "--json")) == {"rows": 12, "problems": []}
    (shard,) = virl.rglob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-9])
    assert "is not what was written" in run("validate", str(virl), code=1)


def test_stats_are_json_by_split(virl):
    found = json.loads(run("stats", str(virl), "--json"))["train"]
    assert found["rows"] == 12 and found["visual_tokens"]["mean"] == 6
    assert "pass rates from" in run("stats", str(virl))
    with pytest.raises(UsageError, match="no tokenizer can be loaded from '/nowhere'"):
        run("stats", str(virl), "--tokenizer", "/nowhere")


def test_contamination_is_found_and_may_fail_the_command(virl):
    found = json.loads(run("contamination", str(virl), str(virl), "--json"))
    assert found["against"] == 0
    other = virl.with_name("other")
    run("prepare", "virl39k", "limit=5", "--source", str(virl.with_name("in")), "--out", str(other), "--processes", "1")
    assert json.loads(run("contamination", str(virl), str(other), "--json"))["same_question"] == 5
    assert "12 rows against 5: same_question 5" in run("contamination", str(virl), str(other), "--strict", code=1)


@pytest.mark.shared_data
def test_tokens_are_counted_with_a_real_tokenizer(virl, shared_data):
    tokenizer = str(shared_data / "qwen25vl_tokenizer")
    found = json.loads(run("stats", str(virl), "--json", "--tokenizer", tokenizer))["train"]
    assert 8 <= found["question_tokens"]["min"] <= found["question_tokens"]["max"] <= 16
    out = virl.with_name("short")
    run("prepare", "virl39k", f"tokenizer={tokenizer}", "max_tokens=200", "--source", str(virl.with_name("in")),
        "--out", str(out), "--processes", "1")  # fmt: skip
    assert Manifest.read(out).counts["train"].rows == 12
