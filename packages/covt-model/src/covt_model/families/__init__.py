"""Model families behind one registry; may import only decoder and the package's top modules.

To add a family, (1) make a folder here named like the `model_type` of its config.json, (2) write its image patches,
positions, published sizes and tiny model there, (3) fill in a `Family` record named `FAMILY` in the folder's
`record.py`. The registry finds the folder by its name and imports it on first use; no file outside the folder
names the family, and nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_model.latent_config import read_config
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from covt_model.families.family import Family
    from covt_model.families.image_settings import ImageSettings


def known_families() -> list[str]:
    """List the `model_type` of each family, in alphabetical order."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/record.py"))


DEFAULT_FAMILY = known_families()[0]
"""The family of tiny models where none is named."""


def find_family(model: str | Mapping[str, Any], source: Path | str = "the model") -> Family:
    """Find a family.

    Args:
        model: a `model_type`, or the config.json that has one.
        source: what an error calls the model, such as its folder.

    Raises:
        ModelError: no family has this `model_type`, or the config is that of a language model alone.
    """
    config: Mapping[str, Any] = {"model_type": model} if isinstance(model, str) else model
    kind = config.get("model_type")
    titles = " or ".join(_load(known).title for known in known_families())
    if kind not in known_families():
        raise ModelError(f"{source} is a {kind!r} model, which {_why_unknown(kind, config)}", f"use a dense {titles}")
    if ("hidden_size" in config or "text_config" in config) and not config.get("vision_config"):
        raise ModelError(f"{source} has no vision tower: its config lacks vision_config", f"use a whole {titles}")
    return _load(kind)


def _why_unknown(kind: Any, config: Mapping[str, Any]) -> str:
    """Complete the sentence "it is a … model, which …" for a config of no known family."""
    text = config.get("text_config") or config
    others = sorted({layer for layer in text.get("layer_types") or () if "attention" not in layer or "linear" in layer})
    if others:
        return f"has layers of {', '.join(others)}: the latent step needs attention in every layer"
    if any(key in text for key in ("num_experts", "num_local_experts")) or str(kind).endswith("_moe"):
        return "is a mixture of experts: only dense models are supported"
    if any(kind == f"{known}_text" for known in known_families()):
        return "is a language model without its vision tower"
    return "is of no known family"


def known_text_types() -> list[str]:
    """List the `model_type` of each text model that some family takes as its language model."""
    return sorted({kind for known in known_families() for kind in _load(known).text_backbone().text_types})


@lru_cache
def _load(kind: str) -> Family:
    return import_module(f"covt_model.families.{kind}.record").FAMILY


def checkpoint_family(checkpoint: Path | str) -> Family:
    """Find the family of a checkpoint folder; raises ModelError for an unknown one."""
    return find_family(read_config(checkpoint), checkpoint)


def read_image_settings(checkpoint: Path | str) -> ImageSettings:
    """Read the image settings of a checkpoint folder."""
    from covt_model.families.image_settings import read_processor_config

    return read_processor_config(checkpoint, checkpoint_family(checkpoint).image_settings)


def known_image_settings(model: str) -> ImageSettings | None:
    """The image settings of a checkpoint folder, or of a published checkpoint by its hub id; None for other names."""
    if Path(model).is_dir():
        return read_image_settings(model)
    config = published_config(model)
    return None if config is None else find_family(config).image_settings


def published_config(name: str) -> dict[str, Any] | None:
    """Find the config of a published checkpoint by its hub id or folder name; None where no family knows it."""
    found = (find_family(kind).published_config(name) for kind in known_families())
    return next((config for config in found if config is not None), None)
