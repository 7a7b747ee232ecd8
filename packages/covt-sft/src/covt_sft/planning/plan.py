"""What a training is about to do, worked out and checked before any process starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covt_data.images.pixel_limits import TOKEN_SIDE, limits_of
from covt_data.store.prepared_set import PreparedSet
from covt_data.stream.row_stream import RowStream, mixture
from covt_model.encoding.data_cells import check_cells
from covt_model.families import DEFAULT_FAMILY, find_family, known_image_settings, published_config
from covt_model.latent_config import read_config
from covt_runtime.engine.memory_estimate import GIB, MemoryEstimate
from covt_runtime.process_environment import visible_gpus
from covt_runtime.run_folder import find_newest
from covt_sft.planning.answer_grading import check_golds
from covt_sft.planning.memory_check import MemoryInputs, estimated_longest, planned_ranks
from covt_sft.planning.starting_checkpoint import TINY, find_checkpoint, tiny_config
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig


@dataclass(frozen=True)
class SftPlan:
    """Resolved inputs and sizes of one training."""

    data: Path
    model: str
    """A checkpoint folder or hub id, or `tiny`."""
    rows: int
    stage1_steps: int
    stage2_steps: int
    ranks: int
    """Training processes on all machines."""
    memory: MemoryEstimate | None = None
    """Memory of one rank; None for a model whose sizes are not known before it is downloaded."""
    inputs: MemoryInputs | None = None
    """What `memory` follows from, besides the recipe."""

    @property
    def machine_bytes(self) -> float | None:
        """Memory of this machine, where all ranks are here and it has no GPU."""
        if self.memory is None or self.inputs is None or self.inputs.on_gpu:
            return None
        return self.memory.machine_total(self.ranks)

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "data": str(self.data),
            "model": self.model,
            "rows": self.rows,
            "stage1_steps": self.stage1_steps,
            "stage2_steps": self.stage2_steps,
            "ranks": self.ranks,
            "longest_row": None if self.inputs is None else self.inputs.longest,
            "memory": None if self.memory is None else self.memory.as_dict(),
            "memory_of_machine": self.machine_bytes,
        }

    def __str__(self) -> str:
        return (
            f"{self.rows} rows of {self.data}, model {self.model}, "
            f"stage 1: {self.stage1_steps} steps, stage 2: {self.stage2_steps} steps"
        )

    def details(self) -> str:
        """For `--dry-run`: the plan with the memory estimate."""
        if self.memory is None or self.inputs is None:
            return f"{self}\nmemory: not known before {self.model} is downloaded"
        lines = self.memory.lines(f"one of {self.ranks} ranks")
        if not self.inputs.on_gpu:
            lines.append(
                f"this machine, with {self.ranks} ranks: {self.memory.machine_total(self.ranks) / GIB:.2f} GiB"
            )
        return "\n".join([str(self), f"longest row: about {self.inputs.longest} tokens", *lines])


def plan(config: SftConfig) -> SftPlan:
    """Find the data and the model, count the steps, and estimate the memory.

    Raises:
        SftError: a split that doesn't exist, fewer rows than a batch, a held-out row whose gold answer can't be read,
            or a model folder that doesn't exist.
        ConfigError: `lora.targets` names a layer that the model doesn't have.
    """
    data = Path(config.data.path) if config.data.path else find_newest(Path("data"), "data")
    prepared = PreparedSet(data)
    if config.data.split not in prepared.splits:
        raise SftError(
            f"{data} has no split {config.data.split!r}", f"set data.split to one of {', '.join(prepared.splits)}"
        )
    stream = training_stream(data, config)
    rows = len(stream.rows)
    batch = config.data.batch_size
    if rows < batch:
        raise SftError(f"data.batch_size = {batch} is more than the {rows} rows of {data}", "use a smaller batch")
    if config.eval.split in prepared.splits:
        check_golds(prepared.rows(config.eval.split, config.eval.rows) if config.eval.rows else ())
    model = config.model.path or TINY
    if model != TINY and model.startswith((".", "/")) and not Path(model).is_dir():
        raise SftError(f"model.path = {model!r} is not a folder", "give a checkpoint folder or a hub id")
    _check_cells(config, data, model)
    steps = config.stage1.length(rows, batch), config.stage2.length(rows, batch)
    gpus = visible_gpus()
    ranks = planned_ranks(config, gpus)
    shape = _known_config(config, model)
    if shape is None:
        return SftPlan(data, model, rows, *steps, ranks=ranks)
    longest = estimated_longest(stream.rows, config, Path(model) if Path(model).is_dir() else None)
    size = float(sum(file.stat().st_size for file in data.rglob("*.parquet")))
    inputs = MemoryInputs(shape, ranks, gpus > 0, longest, size)
    return SftPlan(data, model, rows, *steps, ranks=ranks, memory=inputs.estimate(config), inputs=inputs)


def _check_cells(config: SftConfig, data: Path, model: str) -> None:
    """Refuse sets of grids whose cells are not the model's visual tokens."""
    tiny = find_family(config.model.tiny.family or DEFAULT_FAMILY, "model.tiny.family")
    sets = [data, *(other.path for other in config.data.mix)]
    if model == TINY:
        check_cells(sets, lambda: tiny.image_settings, f"a tiny {tiny.title}")
    else:
        check_cells(sets, lambda: known_image_settings(model), model)


def training_stream(data: Path | str, config: SftConfig, token_side: int = TOKEN_SIDE) -> RowStream:
    """The rows of a training in their order; the same on every rank. token_side: pixels per side of a visual token."""
    others = [(other.path, other.split, other.weight) for other in config.data.mix]
    parts = mixture(data, config.data.split, config.data.limit, others)
    most = config.data.max_pixels if config.data.oversize == "resize" else None
    return RowStream(parts, seed=config.run.seed, limits=limits_of(config.data.min_pixels, most, token_side))


def sees_images_again(config: SftConfig, stream: RowStream, steps: int) -> bool:
    """Whether features of images are worth keeping from step to step: a step's worth of rows comes twice, or a frozen
    teacher computes targets before the first step.

    Args:
        config: the recipe.
        stream: the rows of the training.
        steps: most steps of all stages.
    """
    batch, latent = config.data.batch_size, config.latent
    is_prepared = config.method == "latent" and latent.selection == "ilvr" and latent.teacher == "frozen"
    return is_prepared or stream.repeated(steps * batch) >= batch


def _known_config(config: SftConfig, model: str) -> dict[str, Any] | None:
    """The model's config.json from its folder or the table of published models; None where neither has it."""
    if model == TINY:
        return tiny_config(config.model.tiny)
    return read_config(find_checkpoint(model)) if Path(model).is_dir() else published_config(model)
