"""State and summary of the quickstart, without running it."""

import json
from pathlib import Path

import pytest

from covt.error_lines import UsageError
from covt.quickstart.state import State
from covt.quickstart.summary import ABLATIONS, MODELS, summarize, table, trigger_rates
from covt.quickstart.tasks import find_task


def test_state_goes_on_where_it_stopped(tmp_path: Path):
    out = tmp_path / "run"
    State(out, {"seed": 0}).finish("data", {"train": 3}, 1.234)
    again = State(out, {"seed": 0})
    assert again.result("data") == {"train": 3}
    assert again.done["data"]["seconds"] == 1.23


def test_another_seed_in_the_same_folder_is_refused(tmp_path: Path):
    State(tmp_path / "run", {"seed": 0, "task": "trace"})
    with pytest.raises(UsageError, match="another seed") as caught:
        State(tmp_path / "run", {"seed": 1, "task": "trace"})
    assert "--out" in caught.value.remedy


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        State(tmp_path, {"seed": 0})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def write_outcomes(out: Path, label: str, mode: str, outcomes: list[int]) -> None:
    path = out / "eval" / f"{label}.{mode}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"correct": one}) + "\n" for one in outcomes))


def test_summary_holds_the_contract_and_the_right_numbers(tmp_path: Path):
    shares = {"plain": 1, "pause": 1, "stage1": 5, "stage2": 6, "sft_more": 6, "rl": 9}
    for label, right in shares.items():
        write_outcomes(tmp_path, label, "keep", [1] * right * 10 + [0] * (10 - right) * 10)
    for mode in ABLATIONS[1:]:
        write_outcomes(tmp_path, "rl", mode, [1] * 10 + [0] * 90)
    summary = summarize(tmp_path / "eval", 7, {"chance": 0.0625}, {"data": 1.0, "total": 1.0})
    assert set(summary) == {
        "schema_version", "seed", "n_test", "accuracy", "ablation", "ci", "baseline", "seconds",
    }  # fmt: skip
    assert summary["n_test"] == 100
    assert summary["accuracy"] == {label: right / 10 for label, right in shares.items()}
    assert summary["ablation"] == {"keep": 0.9} | dict.fromkeys(ABLATIONS[1:], 0.1)
    rl = summary["ci"]["differences"]["rl-stage2"]
    assert rl["value"] == pytest.approx(0.3)
    assert rl["lo"] < 0.3 < rl["hi"]
    assert rl["lo"] > 0.2
    text = table(summary)
    assert all(f"{summary['accuracy'][label]:.1%}" in text for label in MODELS)


def test_trigger_rates_are_counted_from_the_answers(tmp_path: Path):
    spans = {"plain": [[]] * 4, "pause": [[[1, 9]]] * 4}
    for label in MODELS:
        lines = [
            {"correct": 1, "token_ids": list(range(11)), "latent_spans": one}
            for one in spans.get(label, [[[1, 9]], [[1, 9]], [[3, 11]], []])
        ]
        (tmp_path / f"{label}.keep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rates = trigger_rates(tmp_path)
    assert (rates["plain"], rates["pause"], rates["rl"]) == (0, 1, 0.5)


def test_the_table_has_the_generated_maps_behind_the_published_ones(tmp_path: Path):
    for label in MODELS:
        write_outcomes(tmp_path, label, "keep", [1] * 5 + [0] * 5)
    for mode in ABLATIONS[1:]:
        write_outcomes(tmp_path, "rl", mode, [0] * 10)
    summary = summarize(tmp_path / "eval", 0, {"manhattan": 0.5})
    first, second = table(summary | {"generated": summary | {"n_test": 600}}).split("\n\n")
    assert first == table(summary) and second.startswith("accuracy on 600 generated test rows")


def test_vsp_is_judged_on_levels_3_and_4(tmp_path: Path):
    alone, published = find_task("vsp", None), find_task("vsp", tmp_path)
    assert set(alone.data_options["test_sizes"]) == {3, 4} and "maps" not in alone.data_options
    assert published.data_options["maps"] == str(tmp_path)
    assert (published.data_options["n_test"], published.data_options["test_sizes"]) == (600, (4,))


def test_maps_belong_to_vsp():
    with pytest.raises(UsageError, match="--vsp-maps nowhere is not a folder"):
        find_task("vsp", Path("nowhere"))


def test_a_family_gets_maps_of_its_own_visual_tokens():
    assert find_task("trace", None, "qwen3_vl").data_options["cell_pixels"] == 32
    assert "cell_pixels" not in find_task("trace", None, "qwen2_5_vl").data_options
    for name, family, message in (("vsp", "qwen3_vl", "28 pixels"), ("trace", "qwen9", "unknown family 'qwen9'")):
        with pytest.raises(UsageError, match=message):
            find_task(name, None, family)
