"""Supervised training on real ZeRO-3 ranks: one rank equals two, resuming changes nothing, export is exact."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sft_runs import STAGE1, STAGE2, losses, make_place, run, settings

from covt.exporting import export_checkpoint
from covt_data.ingest.prepare import prepare
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import WorkerUserError
from covt_sft.planning.plan import plan


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a starting checkpoint."""
    return make_place(tmp_path_factory.mktemp("sft"))


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


def test_rows_are_encoded_again_where_there_is_no_room_to_keep_them(
    place: Path, reference: Path, two_ranks: WorkerGroup
):
    again = run(settings(place, "no-room", data={"sample_cache_gib": 0.0}), two_ranks)
    assert losses(again) == losses(reference)


def test_sets_are_mixed_and_a_checkpoint_of_other_rows_is_not_resumed(place: Path, tmp_path: Path):
    prepare("trace", tmp_path / "more", options={"n_train": 16, "n_prompts": 1, "n_test": 1, "seed": 5})
    mix = [{"path": str(tmp_path / "more"), "weight": 0.5}]
    mixed = settings(place, "mixed", data={"mix": mix}, stage1={"steps": None, "epochs": 0.5}, stage2={"steps": 1})
    assert plan(mixed).rows == 48 + 16
    assert plan(mixed).stage1_steps == 4
    with WorkerGroup(1, log_dir=tmp_path / "logs") as workers:
        run(mixed, workers)
        with pytest.raises(WorkerUserError, match="the saved position is of another stream"):
            run(mixed.model_copy(update={"data": settings(place, "mixed").data}), workers, resume=True)


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
    config = settings(place, method, method=method, stage1={"steps": 2}, stage2={"steps": 0})
    folder = run(config, two_ranks)
    head = json.loads((folder / "hf" / "config.json").read_text())["covt_latent"]["head"]
    assert head == ("none" if method == "pause" else "identity")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"latent": {"size": 4}}, "latent size 8; the recipe says 4"),
        ({"model": {"attention": "flash_attention_2"}}, "needs the package flash-attn|needs a GPU"),
    ],
)
def test_what_a_recipe_cannot_have_is_refused(place: Path, tmp_path: Path, sections: dict, message: str):
    with WorkerGroup(1, log_dir=tmp_path) as workers, pytest.raises(ValueError, match=message):
        run(settings(place, f"refused-{tmp_path.name}", **sections), workers)


def test_the_vision_tower_stays_frozen(place: Path, reference: Path):
    before, after = (load_file(path / "model.safetensors") for path in (place / "model", reference / "hf"))
    frozen = [key for key in before if key.startswith("visual.")]
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_chosen_steps_are_traced_on_each_rank_without_changing_the_losses(
    place: Path, reference: Path, two_ranks: WorkerGroup, tmp_path: Path
):
    traced = run(settings(place, "traced"), two_ranks, profile=tmp_path, profile_steps=(2, STAGE1 + 1))
    assert losses(traced) == losses(reference)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"rank{rank}-step{step}.json" for rank in (0, 1) for step in (2, STAGE1 + 1)}
    events = json.loads((tmp_path / "rank1-step2.json").read_text())["traceEvents"]
    assert {"step 2", "aten::mm"} <= {event.get("name") for event in events}
