"""Which patches a model's latents resemble: the nearest visual features of a row's own image and helper images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_eval.interpretation.shown_rows import ShownRows, load_answerer

if TYPE_CHECKING:
    import torch

    from covt_data.schema import Row


def write_nearest(folder: Path, model: Path, data: Path, *, split: str = "test") -> Path:
    """Write what each latent resembles into `folder/samples/samples.json`, for the rows that are shown there.

    If that file is missing, it is created for the first rows of the set. The reference loop answers greedily.

    Raises:
        EvalError: none of the rows shown is in the set.
    """
    import torch

    from covt_model.families import read_image_settings

    shown = ShownRows.read(folder, data, split)
    answerer, settings = load_answerer(model), read_image_settings(model)
    for sample, row, latents in zip(shown.samples, shown.rows, answerer.latents(shown.rows), strict=True):
        places = candidates(sample, row, answerer.features, settings)
        sample["nearest"] = nearest(torch.cat(latents) if latents else torch.zeros(0, 0), places)
    shown.write()
    return shown.path


def candidates(sample: dict[str, Any], row: Row, features: Any, settings: Any) -> list[dict[str, Any]]:
    """List every visual token of the row's image and helper images with its box and its feature `[H]`."""
    from covt_model.encoding.row_images import Picture
    from covt_model.families import find_family

    helpers = [image for step in row.steps for image in step.images or ()]
    named = [(sample["image"], "picture", row.images[0])]
    pairs = zip(sample["helpers"], helpers, strict=True)
    named += [(name, f"helper {number}", image) for number, (name, image) in enumerate(pairs, start=1)]
    found: list[dict[str, Any]] = []
    for name, what, image in named:
        picture = Picture(image.bytes)
        height, width = picture.size
        _, rows, columns = find_family(settings.model_type).grid_of(height, width, settings)
        rows, columns = rows // settings.merge, columns // settings.merge
        for index, feature in enumerate(features.merged([picture])[0]):
            x, y = index % columns * width / columns, index // columns * height / rows
            box = [x, y, x + width / columns, y + height / rows]
            found.append({"picture": name, "what": what, "box": box, "feature": feature})
    return found


def nearest(latents: torch.Tensor, places: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each latent [P, H] the place whose feature has the highest cosine with it; helper images win ties."""
    import torch
    from torch.nn.functional import normalize

    if not len(latents) or not places:
        return []
    helpers_first = sorted(places, key=lambda place: place["what"] == "picture")
    features = torch.stack([place["feature"] for place in helpers_first]).float()
    cosines = normalize(latents.float(), dim=-1) @ normalize(features, dim=-1).T
    best: Any = cosines.max(-1)  # torch types `tolist` incompletely
    values: list[float] = best.values.tolist()
    indices: list[int] = best.indices.tolist()
    return [
        {key: helpers_first[index][key] for key in ("picture", "what", "box")} | {"cosine": round(value, 4)}
        for value, index in zip(values, indices, strict=True)
    ]
