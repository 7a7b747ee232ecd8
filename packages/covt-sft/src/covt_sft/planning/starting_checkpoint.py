"""The checkpoint that a training starts from: a tiny model from scratch, or a published model with latent tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from covt_data.store.prepared_set import PreparedSet
from covt_model.families import DEFAULT_FAMILY, find_family
from covt_model.latent_config import KEY, read_config
from covt_model.model_errors import ModelError
from covt_runtime.recipe_schema import TinySection
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig

TINY = "tiny"
INIT = "init"
"""Name of the folder in a run that holds a starting checkpoint made for it."""
TINY_SAMPLES = 200
"""Rows whose text trains the tiny tokenizer, and whose images center the tiny vision tower."""

RANDOM_CELLS = 64
"""Cells of noise that center it when these rows have no images."""


def find_checkpoint(path: str) -> Path:
    """A local folder, or the files of a hub id, which are downloaded once and then found in the hub's cache.

    Raises:
        SftError: there is neither, or the model is of an unknown family.
    """
    folder = Path(path) if Path(path).is_dir() else _from_hub(path)
    try:
        find_family(read_config(folder), f"model.path = {path!r}")
    except ModelError as error:
        raise SftError(str(error), error.remedy) from error
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(
            f"model.path = {name!r} is not a folder and can't be downloaded from the hub: {reason}",
            "download it on a machine with a network, and set model.path to its folder",
        ) from error


def lacks_latent_tokens(checkpoint: Path) -> bool:
    """Whether a checkpoint has no latent tokens yet, as published ones don't."""
    return KEY not in read_config(checkpoint)


def starting_checkpoint_folder(model: str, run: Path) -> Path:
    """The folder of the checkpoint that the ranks will load, which may not exist yet."""
    if model == TINY:
        return run / INIT
    found = find_checkpoint(model)
    return run / INIT if lacks_latent_tokens(found) else found


def write_starting_checkpoint(
    config: SftConfig, model: str, data: Path, out: Path, note: Callable[[str], None]
) -> None:
    """Write the starting checkpoint, unless it exists.

    Args:
        config: the recipe.
        model: a checkpoint folder or hub id, or `tiny`.
        data: the prepared set, whose text and images fit the tiny model.
        out: folder to write to.
        note: called with a line of text about what is written.
    """
    if out.is_dir():
        return
    if model == TINY:
        note(f"building a tiny model in {out}")
        build_tiny_checkpoint(config, data, out)
        return
    from covt_model.checkpoints.latent_checkpoint import prepare_checkpoint

    note(f"adding the latent tokens to {model} in {out}")
    latent: dict[str, Any] = {
        "size": config.latent.size,
        "head": config.latent.head,
        "normalize": config.latent.normalize,
    }
    prepare_checkpoint(find_checkpoint(model), out, **latent, seed=config.run.seed)


def tiny_config(tiny: TinySection) -> dict[str, Any]:
    """The sizes of the tiny model, as far as its memory follows from them, in the words of a config.json."""
    vision = {"hidden_size": tiny.vision_hidden, "depth": tiny.vision_depth, "out_hidden_size": tiny.hidden}
    family = find_family(tiny.family or DEFAULT_FAMILY)
    patch, levels = family.image_settings.patch, list(range(min(tiny.vision_depth, tiny.layers)))
    vision |= {"intermediate_size": 2 * tiny.vision_hidden, "patch_size": patch, "temporal_patch_size": 2}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": levels}
    return {
        "model_type": family.model_type,
        "head_dim": tiny.hidden // tiny.heads,
        "hidden_size": tiny.hidden,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.heads,
        "intermediate_size": tiny.intermediate,
        "vocab_size": tiny.vocab_size,
        "tie_word_embeddings": True,
        "vision_config": vision | {"in_channels": 3, "spatial_merge_size": 2},
    }


def build_tiny_checkpoint(config: SftConfig, data: Path, out: Path) -> Path:
    """Write a tiny model from scratch whose tokenizer and vision tower fit this data."""
    from covt_model.checkpoints.tiny_checkpoint import build_tiny, distinct_cells, random_cells
    from covt_model.encoding.row_images import decode

    rows = list(PreparedSet(data).rows(config.data.split, TINY_SAMPLES))
    texts = [text for row in rows for text in (row.question, row.answer, *(step.text or "" for step in row.steps))]
    images = [image for row in rows for image in (*row.images, *(i for step in row.steps for i in step.images or ()))]
    tiny = config.model.tiny
    family = tiny.family or DEFAULT_FAMILY
    cells = distinct_cells([decode(image.bytes) for image in images], family)
    if len(cells) < 2:  # rows without images, or of one color
        cells += random_cells(RANDOM_CELLS, config.run.seed, family)
    return build_tiny(
        out,
        texts,
        cells,
        family=family,
        hidden=tiny.hidden,
        layers=tiny.layers,
        heads=tiny.heads,
        intermediate=tiny.intermediate,
        mrope=tiny.mrope,
        rope_theta=tiny.rope_theta,
        init_std=tiny.init_std,
        vision_depth=tiny.vision_depth,
        vision_hidden=tiny.vision_hidden,
        latent_size=config.latent.size,
        head=config.latent.head,
        normalize=config.latent.normalize,
        vocab_size=tiny.vocab_size,
        seed=config.run.seed,
    )
