"""Run folders, and the newest artifact of an earlier stage."""

import os
from pathlib import Path

import pytest

from covt_runtime.run_folder import RunFolder, find_newest, run_name
from covt_runtime.runtime_errors import RunFolderError


def touch(path: Path, age: int, text: str = "{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


def test_a_new_run_holds_its_configuration(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "one", {"a": 1})
    assert run.config == {"a": 1}
    assert run.metrics_path == tmp_path / "runs" / "one" / "metrics.jsonl"


def test_a_name_is_made_up_but_not_by_each_of_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_name("mine", "rl") == "mine"
    assert run_name("", "rl").startswith("rl-20")
    monkeypatch.setenv("RANK", "1")
    assert run_name("mine", "rl") == "mine"
    with pytest.raises(RunFolderError, match="can't agree on a run name"):
        run_name("", "rl")


def test_an_existing_run_is_not_written_over(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "one", {"a": 1})
    with pytest.raises(RunFolderError, match="exists already") as error:
        RunFolder.create(tmp_path, "one", {"a": 2})
    assert "--resume" in error.value.remedy
    assert RunFolder(tmp_path / "one").config == {"a": 1}


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "one", {"a": 1})
    touch(run.checkpoints / "step_1" / "state.json", 0)
    RunFolder.create(tmp_path, "one", {"a": 2}, overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["config.json"]


def test_resuming_needs_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run"):
        RunFolder.create(tmp_path, "one", {}, resume=True)
    run = RunFolder.create(tmp_path, "one", {})
    with pytest.raises(RunFolderError, match="no checkpoint"):
        RunFolder.create(tmp_path, "one", {}, resume=True)
    touch(run.checkpoints / "step_1" / "state.json", 0)
    assert RunFolder.create(tmp_path, "one", {"a": 3}, resume=True).config == {"a": 3}


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"config\.json"):
        _ = RunFolder(tmp_path).config


def test_the_newest_of_each_kind_is_found(tmp_path: Path) -> None:
    for name, age in (("old", 50), ("new", 10)):
        touch(tmp_path / name / "metrics.jsonl", age)
        touch(tmp_path / name / "hf" / "config.json", age)
        touch(tmp_path / name / "checkpoints" / "step_3" / "manifest.json", age)
        touch(tmp_path / "data" / name / "manifest.json", age)
    touch(tmp_path / "new" / "checkpoints" / "step_4" / "manifest.json", 5)
    touch(tmp_path / "new" / "checkpoints" / ".step_5.partial" / "manifest.json", 0)
    touch(tmp_path / ".hidden" / "hf" / "config.json", 0)
    assert find_newest(tmp_path, "run") == tmp_path / "new"
    assert find_newest(tmp_path, "hf") == tmp_path / "new" / "hf"
    assert find_newest(tmp_path, "checkpoint") == tmp_path / "new" / "checkpoints" / "step_4"
    assert find_newest(tmp_path / "data", "data") == tmp_path / "data" / "new"


def test_only_runs_with_the_wanted_section_count(tmp_path: Path) -> None:
    for name, section, age in (("sft", "stage1", 50), ("rl", "algorithm", 10)):
        touch(tmp_path / name / "config.json", age, f'{{"{section}": {{}}}}')
        touch(tmp_path / name / "hf" / "config.json", age)
    assert find_newest(tmp_path, "hf", section="stage1") == tmp_path / "sft" / "hf"
    assert find_newest(tmp_path, "hf") == tmp_path / "rl" / "hf"


def test_nothing_found_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no prepared data set") as error:
        find_newest(tmp_path / "absent", "data")
    assert "covt data prepare" in error.value.remedy
