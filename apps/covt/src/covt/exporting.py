"""From a run's sharded checkpoint to a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt.error_lines import UsageError

if TYPE_CHECKING:
    from covt_model.latent_config import LatentConfig
    from covt_runtime.run_folder import RunFolder

DTYPES = ("bf16", "fp32")


def find_checkpoint(source: Path | None) -> tuple[RunFolder, Path]:
    """The run and the checkpoint that `source` names: a run, one `step_N` folder, or None for the newest run.

    Raises:
        UsageError: nothing to export there.
    """
    from covt_runtime.checkpoints.checkpoint import CheckpointStore
    from covt_runtime.run_folder import RunFolder, find_newest

    if source is not None and source.name.startswith("step_"):
        run, checkpoint = RunFolder(source.parent.parent), source
    else:
        run = RunFolder(source or find_newest(Path("runs"), "run"))
        checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is None or not checkpoint.is_dir():
        raise UsageError(f"{run.path} has no checkpoint", "name a run that has checkpoints/step_N, or such a folder")
    return run, checkpoint


def find_base(run: RunFolder, base: Path | None) -> Path:
    """The checkpoint folder that the run was trained from, which gives config, tokenizer and vision tower."""
    found = base or Path(run.config.get("resolved", {}).get("model", ""))
    if not (found / "config.json").is_file():
        raise UsageError(f"the model that {run.path} was trained from is not at {found}", "name its folder with --base")
    return found


def export_checkpoint(
    source: Path | None, out: Path | None, *, dtype: str = "", base: Path | None = None
) -> tuple[Path, Path, Path]:
    """Export a run (its newest checkpoint) or one `step_N` folder; returns (run, checkpoint, written folder).

    dtype: bf16 or fp32; by default the base model's. base: where the model it was trained from lies now.

    Raises:
        UsageError: nothing to export there, or no such dtype.
    """
    from covt_runtime.engine.weights import DTYPES as TORCH_DTYPES

    if dtype and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r}", f"use {' or '.join(DTYPES)}")
    from covt_model.checkpoints.hf_folder import write_checkpoint
    from covt_model.latent_config import LatentConfig

    run, checkpoint = find_checkpoint(source)
    model = find_base(run, base)
    latent = LatentConfig.read(model)
    if run.config.get("method") == "pause":
        latent = replace(latent, head="none")
    folder = out or run.path / "export"
    if folder.exists() and not (folder / "config.json").is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds other files", "choose an empty folder with --out")
    write_checkpoint(
        merged_parameters(run, checkpoint, model, latent),
        model,
        folder,
        latent,
        dtype=TORCH_DTYPES[dtype] if dtype else None,
        title=run.path.resolve().name,
        facts=card_facts(run, checkpoint, model),
    )
    return run.path, checkpoint, folder


def merged_parameters(run: RunFolder, checkpoint: Path, base: Path, latent: LatentConfig) -> Iterable[tuple[str, Any]]:
    """(name, parameter) of the checkpoint, read in pieces; LoRA adapters are merged with the base as they are read."""
    from covt_runtime.checkpoints.shard_files import stored_parameters

    if not run.config.get("lora", {}).get("rank"):
        return stored_parameters(checkpoint)
    from covt_model.checkpoints.lora import FrozenWeights, merged
    from covt_runtime.recipe_schema import LoraSection

    return merged(
        stored_parameters(checkpoint, FrozenWeights(base)), LoraSection.model_validate(run.config["lora"]).scale, latent
    )


def card_facts(run: RunFolder, checkpoint: Path, model: Path) -> Any:
    """What the model card says, read from the run's files; a `covt_model.checkpoints.model_card.Facts`."""
    from covt.card_facts import base_facts, data_facts, evaluations, last_metrics, recipe_facts
    from covt_model.checkpoints.model_card import Facts

    base, licence = base_facts(run, model)
    accuracy, ablation = evaluations(run.path)
    return Facts(
        base=base,
        licence=licence,
        data=data_facts(run.config),
        recipe=recipe_facts(run.config, checkpoint),
        metrics=last_metrics(run.metrics_path),
        accuracy=accuracy,
        ablation=ablation,
    )
