"""From a run's sharded checkpoint to a Hugging Face folder."""

from dataclasses import replace
from pathlib import Path

from covt.errors import UsageError


def export_checkpoint(source: Path | None, out: Path | None) -> tuple[Path, Path, Path]:
    """Export a run (its newest checkpoint) or one `step_N` folder; returns (run, checkpoint, written folder).

    Raises:
        UsageError: nothing to export there.
    """
    from covt_model.config import LatentConfig
    from covt_model.export import write_checkpoint
    from covt_runtime.checkpoint import CheckpointStore, consolidate
    from covt_runtime.run import RunFolder, newest

    if source is not None and source.name.startswith("step_"):
        run, checkpoint = RunFolder(source.parent.parent), source
    else:
        run = RunFolder(source or newest(Path("runs"), "run"))
        checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is None or not checkpoint.is_dir():
        raise UsageError(f"{run.path} has no checkpoint", "name a run that has checkpoints/step_N, or such a folder")
    base = Path(run.config["resolved"]["model"])
    latent = LatentConfig.read(base)
    if run.config.get("method") == "pause":
        latent = replace(latent, head="none")
    folder = out or run.path / "export"
    write_checkpoint(consolidate(checkpoint), base, folder, latent, title=run.path.name)
    return run.path, checkpoint, folder
