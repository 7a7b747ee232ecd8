"""Supervised training on real ZeRO-3 ranks: one rank equals two, resuming changes nothing, export is exact."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from covt.exporting import export_checkpoint
from covt_data.prepare import prepare
from covt_runtime.launch import WorkerGroup
from covt_runtime.progress import Progress
from covt_sft.config import SftConfig
from covt_sft.plan import plan
from covt_sft.train import build_tiny_start, train

STAGE1, STAGE2 = 6, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a starting checkpoint."""
    place = tmp_path_factory.mktemp("sft")
    prepare("trace", place / "data", options={"n_train": 48, "n_prompts": 8, "n_test": 12, "direct_hops": 3})
    build_tiny_start(settings(place, "start"), place / "data", place / "model")
    return place


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory):
    with WorkerGroup(2, log_dir=tmp_path_factory.mktemp("logs")) as group:
        yield group


def settings(place: Path, name: str, **sections: dict[str, Any]) -> SftConfig:
    values: dict[str, dict[str, Any]] = {
        "run": {"out": str(place / "runs"), "name": name},
        "model": {"path": str(place / "model") if (place / "model").exists() else "tiny"},
        "latent": {"normalize": "rms", "selection": "focus", "required": False},
        "data": {"path": str(place / "data"), "batch_size": 8, "micro_batch": 4},
        "zero": {"dtype": "fp32", "gather": "step", "persistence_threshold": 0},
        "stage1": {"steps": STAGE1, "lr": 1e-3, "noise": 0.0, "warmup_steps": 1},
        "stage2": {"steps": STAGE2, "lr": 1e-3, "warmup_steps": 1},
        "eval": {"rows": 8, "max_tokens": 16},
        "log": {"wandb": "disabled", "every": 1, "save_every": 2, "keep": 10},
    }
    for section, changes in sections.items():
        values[section] = values[section] | changes
    return SftConfig.model_validate(values | {"method": "latent"})


def run(config: SftConfig, workers: WorkerGroup, **options: Any) -> Path:
    result = train(config, plan(config), progress=Progress(quiet=True), workers=workers, **options)
    return Path(result["run"])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def reference(place: Path, two_ranks: WorkerGroup) -> Path:
    """Both stages, on two ranks."""
    return run(settings(place, "reference"), two_ranks)


def test_both_stages_learn(reference: Path):
    values = losses(reference)
    assert len(values) == STAGE1 + STAGE2
    assert values[STAGE1 - 1] < values[0]
    assert values[-1] < values[STAGE1]


@pytest.mark.parametrize("gather", ["step", "module"])
def test_one_rank_has_the_losses_of_two(place: Path, reference: Path, gather: str, tmp_path: Path):
    config = settings(place, f"one-{gather}", zero={"gather": gather})
    with WorkerGroup(1, log_dir=tmp_path) as one_rank:
        alone = run(config, one_rank)
    assert losses(alone) == pytest.approx(losses(reference), rel=1e-3)


@pytest.mark.parametrize("step", [4, 8])
def test_resuming_gives_the_same_losses_to_the_last_bit(
    place: Path, reference: Path, two_ranks: WorkerGroup, step: int
):
    name = f"resumed-{step}"
    shutil.copytree(reference, place / "runs" / name)
    for checkpoint in (place / "runs" / name / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > step:
            shutil.rmtree(checkpoint)
    resumed = run(settings(place, name), two_ranks, resume=True)
    assert losses(resumed) == losses(reference)
    weights = load_file(resumed / "hf" / "model.safetensors")
    expected = load_file(reference / "hf" / "model.safetensors")
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_export_of_the_sharded_checkpoint_is_the_model_that_was_trained(reference: Path, tmp_path: Path):
    from transformers import Qwen2_5_VLForConditionalGeneration

    _, checkpoint, folder = export_checkpoint(reference, tmp_path / "exported")
    assert checkpoint.name == f"step_{STAGE1 + STAGE2}"
    ours, trained = (load_file(path / "model.safetensors") for path in (folder, reference / "hf"))
    assert set(ours) == set(trained)
    assert all(torch.equal(ours[key], trained[key]) for key in trained)
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.covt_latent["size"] == 8


@pytest.mark.parametrize("method", ["plain", "pause"])
def test_controls_train_and_say_what_they_are(place: Path, two_ranks: WorkerGroup, method: str):
    config = settings(place, method, stage1={"steps": 2}, stage2={"steps": 0}).model_copy(update={"method": method})
    folder = run(config, two_ranks)
    head = json.loads((folder / "hf" / "config.json").read_text())["covt_latent"]["head"]
    assert head == ("none" if method == "pause" else "identity")


def test_a_recipe_with_another_latent_size_is_refused(place: Path, tmp_path: Path):
    with (
        WorkerGroup(1, log_dir=tmp_path) as workers,
        pytest.raises(ValueError, match="latent size 8, normalize 'rms'; the recipe says 4"),
    ):
        run(settings(place, "other-size", latent={"size": 4}), workers)


def test_the_vision_tower_stays_frozen(place: Path, reference: Path):
    before, after = (load_file(path / "model.safetensors") for path in (place / "model", reference / "hf"))
    frozen = [key for key in before if key.startswith("visual.")]
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
