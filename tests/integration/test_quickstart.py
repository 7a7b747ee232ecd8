"""The whole quickstart in a minute or two: every phase on its real components, with few steps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from covt.quickstart.run import Quickstart
from covt.quickstart.state import State
from covt.quickstart.summary import ABLATIONS, MODELS, table
from covt.quickstart.tasks import Task, find_task, for_family
from covt.recipe_files import read_recipe
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.families import known_families
from covt_model.latent_config import LatentConfig, read_config
from covt_runtime.metrics.progress import Progress

pytestmark = pytest.mark.slow


def shortened(job: str, out: Path, recipe: str = "tiny", **values: str) -> str:
    """A recipe with other values for some of its lines, as a file."""
    lines = (Path(__file__).parents[2] / "recipes" / f"{job}-{recipe}.toml").read_text().splitlines()
    for old, new in values.items():
        assert any(line.startswith(f"{old} =") for line in lines), old
        lines = [f"{old} = {new}" if line.startswith(f"{old} =") else line for line in lines]
    path = out / f"{job}.toml"
    path.write_text("\n".join(lines) + "\n")
    read_recipe(job, str(path))
    return str(path)


def run(task: Task, out: Path) -> dict:
    state = State(out, {"task": task.name, "seed": 0})
    return Quickstart(task, out, 0, state, Progress(quiet=True)).run()


@pytest.mark.parametrize("family", known_families())
def test_every_phase_runs_and_an_interrupted_one_is_repeated(tmp_path: Path, family: str):
    options = {"n_train": 128, "n_prompts": 64, "n_test": 40, "direct_hops": 3}
    sft = shortened("sft", tmp_path, steps="12", every="20", rows="16")
    rl = shortened("rl", tmp_path, steps="2", prompts="4")
    task = for_family(Task("trace", sft, rl, options), family)
    out = tmp_path / "run"
    summary = run(task, out)

    assert read_config(out / "exported")["model_type"] == family
    assert json.loads((out / "summary.json").read_text()) == summary
    assert set(summary["accuracy"]) == set(MODELS)
    assert set(summary["ablation"]) == set(ABLATIONS)
    assert summary["ablation"]["keep"] == summary["accuracy"]["rl"]
    assert summary["n_test"] == 40
    assert "latents + GRPO" in table(summary)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") > 12
    assert 'src="http' not in page

    model = load_model(out / "exported")
    assert model.config.covt_latent["size"] == LatentConfig.read(out / "exported").size == 8

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    state = json.loads((out / "quickstart.json").read_text())
    for phase in ("evaluate", "report"):  # as if it had been interrupted there
        del state["done"][phase]
    (out / "quickstart.json").write_text(json.dumps(state))
    again = run(task, out)
    assert again["accuracy"] == summary["accuracy"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == stamps


@pytest.mark.shared_data
def test_vsp_is_judged_on_published_and_generated_maps_and_its_latents_are_decoded(tmp_path: Path, shared_data: Path):
    options = find_task("vsp", shared_data / "vsp_maze_main").data_options
    options |= {"n_train": 128, "n_prompts": 64, "n_test": 20, "n_validation": 20, "levels": (3,)}
    sft = shortened("sft", tmp_path, "vsp", steps="4", every="20", rows="16", warmup_steps="1")
    rl = shortened("rl", tmp_path, "vsp", steps="2", prompts="4")
    task = replace(find_task("vsp", None), sft=sft, rl=rl, data_options=options)
    out = tmp_path / "run"
    summary = run(task, out)
    assert summary["n_test"] == 56 and summary["generated"]["n_test"] == 20
    assert summary["baseline"]["manhattan"] == pytest.approx(47 / 56)
    assert set(summary["trigger_rate"]) == set(summary["generated"]["trigger_rate"]) == set(MODELS)
    assert summary["trigger_rate"]["plain"] == 0
    assert table(summary).count("another row's latents") == 2
    counted = json.loads((out / "latents.json").read_text())
    assert counted["rows"] == 56 and counted["reader"] > 0.98
    assert "What the latents say" in (out / "report.html").read_text() or not counted["latents"]
