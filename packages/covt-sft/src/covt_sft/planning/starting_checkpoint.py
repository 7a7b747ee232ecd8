"""The checkpoint a training starts from: a tiny model made from scratch, or a published one with latent tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from covt_data.store.prepared_set import PreparedSet
from covt_model.latent_config import KEY, read_config
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig

TINY = "tiny"
INIT = "init"
"""Folder of a run for a starting checkpoint of its own."""
TINY_SAMPLES = 200
"""Rows whose text trains the tiny tokenizer and whose pictures center the tiny vision tower."""


def find_checkpoint(path: str) -> Path:
    """A local folder, or a hub id's files (downloaded once, then found in the hub's cache).

    Raises:
        SftError: neither, or another architecture.
    """
    folder = Path(path) if Path(path).is_dir() else _from_hub(path)
    kind = read_config(folder).get("model_type")
    if kind != "qwen2_5_vl":
        raise SftError(f"model.path = {path!r} is a {kind!r} model", "use a Qwen2.5-VL checkpoint")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise SftError(
            f"model.path = {name!r} is no folder and can't be had from the hub: {reason}",
            "download it where there is a network, and give its folder",
        ) from error


def lacks_latent_tokens(checkpoint: Path) -> bool:
    """Whether it is a published checkpoint without latent tokens yet."""
    return KEY not in read_config(checkpoint)


def starting_checkpoint_folder(model: str, run: Path) -> Path:
    """Where the checkpoint that the ranks load lies, or will lie."""
    if model == TINY:
        return run / INIT
    found = find_checkpoint(model)
    return run / INIT if lacks_latent_tokens(found) else found


def write_starting_checkpoint(
    config: SftConfig, model: str, data: Path, out: Path, note: Callable[[str], None]
) -> None:
    """Write the starting checkpoint to `out`, unless it is there."""
    if out.is_dir():
        return
    if model == TINY:
        note(f"building a tiny Qwen2.5-VL in {out}")
        build_tiny_checkpoint(config, data, out)
        return
    from covt_model.checkpoints.latent_checkpoint import prepare_checkpoint

    note(f"adding the latent tokens to a copy of {model} in {out}")
    latent: dict[str, Any] = {
        "size": config.latent.size,
        "head": config.latent.head,
        "normalize": config.latent.normalize,
    }
    prepare_checkpoint(find_checkpoint(model), out, **latent, seed=config.run.seed)


def build_tiny_checkpoint(config: SftConfig, data: Path, out: Path) -> Path:
    """A tiny Qwen2.5-VL from scratch for this data: its words in the tokenizer, its pictures in the vision scale."""
    from covt_model.families.qwen2_5_vl.image_patches import decode
    from covt_model.families.qwen2_5_vl.tiny import build_tiny, distinct_cells

    rows = list(PreparedSet(data).rows(config.data.split, TINY_SAMPLES))
    texts = [text for row in rows for text in (row.question, row.answer, *(step.text or "" for step in row.steps))]
    images = [image for row in rows for image in (*row.images, *(i for step in row.steps for i in step.images or ()))]
    tiny = config.model.tiny
    return build_tiny(
        out,
        texts,
        distinct_cells([decode(image.bytes) for image in images]),
        hidden=tiny.hidden,
        layers=tiny.layers,
        heads=tiny.heads,
        intermediate=tiny.intermediate,
        init_std=tiny.init_std,
        vision_depth=tiny.vision_depth,
        vision_hidden=tiny.vision_hidden,
        latent_size=config.latent.size,
        head=config.latent.head,
        normalize=config.latent.normalize,
        vocab_size=tiny.vocab_size,
        seed=config.run.seed,
    )
