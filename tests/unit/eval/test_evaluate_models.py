"""What `covt eval` refuses, how it names models, and its table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from covt.commands.evaluate import table
from covt_data.data_errors import DataError, DataFileError
from covt_data.ingest.prepare import prepare
from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.evaluate_models import EvalPlan, check_folder, evaluate_models, name_folders
from covt_runtime.metrics.progress import Progress


def write_model(folder: Path) -> None:
    """What is read of a model before a server starts."""
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (folder / "preprocessor_config.json").write_text("{}")


def test_folders_get_short_names_and_given_ones_win(tmp_path: Path):
    found = name_folders([tmp_path / "rl" / "hf", Path("best=x/y"), tmp_path / "data" / "trace"])
    assert list(found) == ["rl-hf", "best", "trace"] and found["best"] == Path("x/y")
    with pytest.raises(EvalError, match="both called 'a-hf'"):
        name_folders([tmp_path / "a" / "hf", tmp_path / "b" / "a" / "hf"])


@pytest.mark.parametrize(
    ("changes", "url", "message"),
    [
        ({"models": {"x": Path("missing")}}, "", "is not a model"),
        ({"models": "two"}, "http://127.0.0.1:1", "serves one model, not 2"),
        ({"modes": ("keep", "no_mode")}, "", "no evaluation mode 'no_mode'"),
        ({"modes": ("keep", "keep")}, "", "names one twice"),
        ({"samples": 3}, "", "all the same"),
    ],
)
def test_senseless_evaluations_are_refused_before_anything_starts(tmp_path: Path, changes, url, message):
    write_model(tmp_path)
    models = {"a": tmp_path} | ({"b": tmp_path} if changes.get("models") == "two" else {})
    values = {"models": models, "data": {}} | {key: value for key, value in changes.items() if value != "two"}
    with pytest.raises(EvalError, match=message) as error:
        evaluate_models(EvalPlan(**values), tmp_path / "out", progress=Progress(quiet=True), base_url=url)
    assert error.value.remedy and not (tmp_path / "out").exists()


def test_limits_that_cannot_be_met_are_refused_before_anything_starts(tmp_path: Path):
    write_model(tmp_path)
    plan = EvalPlan(models={"a": tmp_path}, data={}, min_pixels=3000, max_pixels=2000)
    with pytest.raises(DataError, match="min_pixels = 3000"):
        evaluate_models(plan, tmp_path / "out", progress=Progress(quiet=True))
    assert not (tmp_path / "out").exists()


def settings_of(plan: EvalPlan) -> str:
    return json.dumps(plan.settings(), indent=1) + "\n"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"split": "nowhere"}, DataError),
        ({"data": {"mistyped": Path("mistyped")}}, DataFileError),
        ({}, OSError),  # nothing listens at the address
    ],
)
def test_a_failed_evaluation_leaves_nothing_that_blocks_the_next(tmp_path: Path, changes, error):
    write_model(tmp_path)
    prepare("trace", tmp_path / "set", options={"n_train": 1, "n_prompts": 0, "n_test": 2})
    plan = EvalPlan(models={"a": tmp_path}, data={"set": tmp_path / "set"})
    with pytest.raises(Exception) as caught:
        evaluate_models(
            replace(plan, **changes), tmp_path / "out", progress=Progress(quiet=True), base_url="http://127.0.0.1:1"
        )
    assert isinstance(caught.value, error) or not changes
    assert not (tmp_path / "out").exists()


def test_settings_without_an_answer_do_not_block_another_evaluation(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    earlier = EvalPlan(models={"a": tmp_path}, data={"set": tmp_path}, split="test")
    (out / "settings.json").write_text(settings_of(earlier))
    check_folder(replace(earlier, split="train"), out)
    (out / "a.set.keep.jsonl").write_text("")
    check_folder(replace(earlier, split="train"), out)
    (out / "a.set.keep.jsonl").write_text("{}\n")
    check_folder(earlier, out)
    with pytest.raises(EvalError, match="holds an evaluation with another split"):
        check_folder(replace(earlier, split="train"), out)


def test_a_file_in_place_of_the_folder_is_refused_before_anything_starts(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(EvalError, match="out is a file"):
        check_folder(EvalPlan(models={}, data={}), tmp_path / "out")


def test_the_table_has_a_line_a_result_and_one_a_category():
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    one = {
        "model": "rl", "data": "trace", "mode": "zeros", "samples": 2, "accuracy": interval,
        "tokens": {"completion": 15}, "latents": {"trigger_rate": interval},
        "seconds": {"p50": 0.125}, "by_category": {"2 hops": interval | {"rows": 7}}, "majority": interval,
        "pass_at": {"1": interval}, "judges": {"end_on_goal": interval},
        "minus_keep": {"value": -0.4, "low": -0.5, "high": -0.3},
    }  # fmt: skip
    lines = table({"results": [one]}).splitlines()
    assert lines[0].split()[:2] == ["model", "data"]
    assert lines[0].split()[-4:] == ["triggered", "tokens", "median", "s"] and lines[1].split()[-3] == "50.0%"
    assert "-40.0 [-50.0, -30.0]" in lines[1] and "50.0% [25.0%, 75.0%]" in lines[1] and lines[1].endswith("0.12")
    assert [line.split("  ")[-2].strip() if "  " in line else "" for line in lines[2:]] and len(lines) == 6
    assert "2 hops (n=7)" in lines[-1]
