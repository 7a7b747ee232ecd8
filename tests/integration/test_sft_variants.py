"""What a recipe can choose: batching, teachers, adapters, heads, what happens to bad rows; on real ZeRO-3 ranks."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sft_runs import STAGE1, STAGE2, Notes, logged, losses, make_place, run, settings
from zero_jobs import JOBS

from covt.exporting import export_checkpoint
from covt_data.store.prepared_set import PreparedSet
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import LaunchError

pytestmark = pytest.mark.slow
ILVR = {"selection": "ilvr", "teacher_decay": 0.9}
NOT_JUDGED = {"rows": 0}
ONE_STAGE = {"stage2": {"steps": 0}, "eval": NOT_JUDGED}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("sft"))


def latent_rows(place: Path) -> int:
    """Rows with a latent step; the others are trained as text."""
    rows = PreparedSet(place / "data").rows("train")
    return sum(any(step.type == "latent" for step in row.steps) for row in rows)


@pytest.fixture(scope="module")
def reference(place: Path, two_ranks: WorkerGroup) -> Path:
    """Both stages with ILVR's selection and a moving teacher; the noise of stage 1 makes its generator count."""
    return run(settings(place, "reference", latent=ILVR, stage1={"noise_input": 0.01, "noise_target": 0.01}), two_ranks)


@pytest.mark.parametrize(("batching", "zero"), [("length", {}), ("packed", {}), ("packed", {"gather": "module"})])
def test_batching_leaves_the_losses_alone(place: Path, two_ranks: WorkerGroup, batching: str, zero: dict):
    plain = place / "runs" / "in-order"
    if not plain.exists():
        run(settings(place, "in-order", latent=ILVR, eval=NOT_JUDGED), two_ranks)
    data = {"batching": batching, "micro_tokens": 150}
    name = f"{batching}-{zero.get('gather', 'step')}"
    config = settings(place, name, latent=ILVR, data=data, zero=zero, eval=NOT_JUDGED)
    batched = run(config, two_ranks)
    assert losses(batched) == pytest.approx(losses(plain), rel=1e-3)
    if batching == "packed":
        assert set(logged(batched, "perf/padding")) == {0.0}
    assert all(speed > 0 for speed in logged(batched, "perf/tokens_per_second"))
    assert all(memory > 0 for memory in logged(batched, "perf/memory_gib"))


@pytest.mark.parametrize("gather", ["step", "module"])
def test_the_teacher_is_the_closed_form_and_never_whole(place: Path, two_ranks: WorkerGroup, gather: str):
    """bf16 weights: at decay 0.999 a step would round away if the average were not fp32."""
    zero = {"dtype": "bf16", "gather": gather, "max_live_parameters": 0, "max_reuse_distance": 0}
    config = settings(
        place, f"teacher-{gather}", latent=ILVR | {"teacher_decay": 0.999}, zero=zero | {"prefetch_bucket_size": 1}
    )
    payload = {
        "config": config.model_dump(mode="json"),
        "run": str(place / "runs" / f"teacher-{gather}"),
        "data": str(place / "data"),
        "model": str(place / "model"),
        "stage1_steps": 5,
        "stage2_steps": 0,
    }
    seen = two_ranks.run("sft_runs:follow_teacher", payload)
    assert seen["dtype"] == "torch.bfloat16"
    assert seen["moved"] > 1e-6
    assert seen["error"] < 0.05 * seen["moved"]
    assert seen["kept"] <= 0.51
    assert seen["gathered"] < 0.5


def test_a_frozen_teachers_targets_are_computed_once(place: Path, two_ranks: WorkerGroup):
    frozen = ILVR | {"teacher": "frozen", "target_cache": str(place / "targets")}
    notes, again = Notes(), Notes()
    first = run(settings(place, "frozen", latent=frozen, **ONE_STAGE), two_ranks, progress=notes)
    second = run(settings(place, "frozen-again", latent=frozen, **ONE_STAGE), two_ranks, progress=again)
    moving = run(settings(place, "moving", latent=ILVR, **ONE_STAGE), two_ranks)
    assert f"targets: {latent_rows(place)} rows computed, 0 found" in notes.texts[0]
    assert f"targets: 0 rows computed, {latent_rows(place)} found" in again.texts[0]
    assert losses(second) == losses(first)
    # Before its first step a moving teacher is the model too; afterwards the two part.
    assert losses(first)[0] == pytest.approx(losses(moving)[0], rel=1e-5)
    assert losses(first)[-1] != pytest.approx(losses(moving)[-1], rel=1e-6)


def test_other_settings_have_other_targets(place: Path, two_ranks: WorkerGroup):
    frozen = ILVR | {"teacher": "frozen", "target_cache": str(place / "targets"), "temperature": 0.01}
    notes = Notes()
    run(settings(place, "frozen-cold", latent=frozen, **ONE_STAGE), two_ranks, progress=notes)
    assert f"targets: {latent_rows(place)} rows computed, 0 found" in notes.texts[0]


def test_killed_at_any_step_and_resumed_the_losses_are_the_same_to_the_last_bit(
    place: Path, reference: Path, tmp_path: Path
):
    config = settings(place, "killed", latent=ILVR, stage1={"noise_input": 0.01, "noise_target": 0.01})
    progress = Notes()
    with (
        pytest.raises(LaunchError, match="killed"),
        WorkerGroup(2, log_dir=tmp_path / "first", env=JOBS) as workers,
    ):
        progress.kill = (random.SystemRandom().randint(3, STAGE1 + STAGE2 - 1), workers)
        run(config, workers, progress=progress)
    with WorkerGroup(2, log_dir=tmp_path / "second", env=JOBS) as workers:
        resumed = run(config, workers, resume=True)
    assert losses(resumed) == losses(reference), f"killed after step {progress.steps}"
    ours, expected = (load_file(path / "hf" / "model.safetensors") for path in (resumed, reference))
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_one_rank_goes_on_where_two_were(place: Path, two_ranks: WorkerGroup, tmp_path: Path):
    """The teacher's shards are cut anew; a half-written newest checkpoint is named and passed over."""
    whole = run(settings(place, "two", latent=ILVR), two_ranks)
    expected = losses(whole)
    for step in (6, 8, 10):
        (whole / "checkpoints" / f"step_{step}" / "rank_1.safetensors").write_bytes(b"half")
    notes = Notes()
    with WorkerGroup(1, log_dir=tmp_path, env=JOBS) as alone:
        resumed = run(settings(place, "two", latent=ILVR), alone, resume=True, progress=notes)
    assert "step_10 is damaged" in notes.texts[0]
    assert any("written by 2 ranks and is read by 1" in text for text in notes.texts)
    assert losses(resumed)[:4] == expected[:4]
    assert losses(resumed) == pytest.approx(expected, rel=1e-3)


def test_adapters_train_both_stages_and_export_merged(place: Path, two_ranks: WorkerGroup, tmp_path: Path):
    faster = {"lr": 1e-2}
    config = settings(place, "lora", latent=ILVR, stage1=faster, stage2=faster, lora={"rank": 4, "alpha": 8.0})
    adapted = run(config, two_ranks)
    values = losses(adapted)
    assert values[STAGE1 - 1] < values[0]
    assert values[-1] < values[STAGE1]
    before, after = (load_file(path / "model.safetensors") for path in (place / "model", adapted / "hf"))
    assert set(before) == set(after)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert not any("norm" in key or "bias" in key for key in changed)
    difference = (after["model.layers.1.mlp.up_proj.weight"] - before["model.layers.1.mlp.up_proj.weight"]).float()
    assert torch.linalg.matrix_rank(difference, tol=1e-5) <= 4
    latent = json.loads((place / "model" / "config.json").read_text())["covt_latent"]
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(1).nonzero().flatten()
    assert set(rows.tolist()) <= {latent["start_id"], latent["pad_id"], latent["end_id"]}
    assert latent["start_id"] in rows
    _, _, exported = export_checkpoint(adapted, tmp_path / "exported")
    again = load_file(exported / "model.safetensors")
    assert all(torch.equal(again[key], after[key]) for key in after)


@pytest.mark.parametrize("lora", [{}, {"rank": 4, "alpha": 8.0}])
def test_recomputed_and_gathered_by_module_the_losses_are_the_same(place: Path, two_ranks: WorkerGroup, lora: dict):
    """Hooks gather a module's weights around each of its calls, latent steps and blocks of the vocabulary included."""
    sections = {"lora": lora, "eval": NOT_JUDGED, "stage1": {"steps": 3}, "stage2": {"steps": 3}}
    name = f"by-module-{len(lora)}"
    module = {"zero": {"gather": "module"}, "model": {"gradient_checkpointing": True}}
    by_module = run(settings(place, name, **sections, **module), two_ranks)
    whole = run(settings(place, f"{name}-whole", **sections), two_ranks)
    assert losses(by_module) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_with_weights_is_trained(tmp_path: Path, two_ranks: WorkerGroup, kind: str):
    place = make_place(tmp_path, head=kind)
    folder = run(settings(place, "head", latent={"head": kind}), two_ranks)
    before, after = (load_file(path / "covt_latent" / "head.safetensors") for path in (place / "model", folder / "hf"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_a_row_over_the_limit_ends_the_training_with_its_id(place: Path, tmp_path: Path):
    with (
        WorkerGroup(2, log_dir=tmp_path, env=JOBS) as workers,
        pytest.raises(ValueError, match=r"row \S+ has \d+ tokens, more than max_length 20"),
    ):
        run(settings(place, "long", data={"max_length": 20}), workers)


def test_bad_rows_are_left_out_named_and_counted(place: Path, two_ranks: WorkerGroup):
    """Rows without a latent step are bad where latents are required."""
    notes = Notes()
    config = settings(place, "skips", latent={"required": True}, data={"on_bad": "skip", "micro_batch": 1}, **ONE_STAGE)
    folder = run(config, two_ranks, progress=notes)
    skipped = logged(folder, "skipped/rows")[-1]
    named = [text for text in notes.texts if "is left out: row" in text and "has no latent step" in text]
    assert skipped >= len(named) > 0
    assert len(set(named)) == len(named)


def test_held_out_loss_and_the_best_checkpoint(place: Path, two_ranks: WorkerGroup):
    config = settings(
        place, "best", eval={"rows": 0, "loss_rows": 8, "every": 1, "best": "loss", "split": "train"}, log={"keep": 1}
    )
    folder = run(config, two_ranks)
    held_out = logged(folder, "eval/loss")
    assert len(held_out) == STAGE1 + STAGE2
    last = held_out[STAGE1:]
    best = STAGE1 + 1 + last.index(min(last))
    assert (folder / "checkpoints" / "best").read_text() == f"step_{best}"
    steps = {path.name for path in (folder / "checkpoints").glob("step_*")}
    assert steps == {f"step_{best}", f"step_{STAGE1 + STAGE2}"}


def test_a_loss_that_is_not_finite_names_its_rows(place: Path, tmp_path: Path):
    config = settings(place, "nan", stage1={"lr": 1e30}, **ONE_STAGE)
    with (
        WorkerGroup(2, log_dir=tmp_path, env=JOBS) as workers,
        pytest.raises(ValueError, match=r"of step \d is not finite, with row "),
    ):
        run(config, workers)
