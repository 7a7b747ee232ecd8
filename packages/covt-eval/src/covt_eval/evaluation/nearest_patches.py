"""Which patches a model's latents resemble: the nearest visual features of a row's own image and helper images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_eval.eval_errors import EvalError

if TYPE_CHECKING:
    import torch

    from covt_data.schema import Row

MAX_TOKENS = 64


def write_nearest(folder: Path, model: Path, data: Path, *, split: str = "test") -> Path:
    """Write what each latent resembles into `folder/samples/samples.json`, for the rows that are shown there.

    If that file is missing, it is created for the first rows of the set. The reference loop answers greedily.

    Raises:
        EvalError: none of the rows shown is in the set.
    """
    from covt_data.store.prepared_set import PreparedSet
    from covt_eval.evaluation.report_samples import COUNT, write_samples
    from covt_model.checkpoints.latent_checkpoint import load_model
    from covt_model.encoding.encode import Encoder
    from covt_model.encoding.vision_features import VisionFeatures
    from covt_model.families import read_image_settings
    from covt_model.generation.latent_generation import generate
    from covt_model.latent_config import LatentConfig

    path = folder / "samples" / "samples.json"
    prepared = PreparedSet(data)
    if not path.is_file():
        write_samples(list(prepared.rows(split, COUNT)), folder)
    samples: list[dict[str, Any]] = json.loads(path.read_text())
    wanted = {sample["id"] for sample in samples}
    rows = {row.id: row for row in prepared.rows(split) if row.id in wanted}
    shown = [(sample, rows[sample["id"]]) for sample in samples if sample["id"] in rows]
    if not shown:
        raise EvalError(f"{data} has none of the rows in {path}", "name the set that the run was evaluated on")
    loaded, encoder, settings = load_model(model), Encoder(model), read_image_settings(model)
    features = VisionFeatures(loaded.model.visual, settings)
    prompts = [encoder.encode_prompt(row) for _, row in shown]
    pictures = [picture for prompt in prompts for picture in prompt.pictures]
    answers = generate(loaded, prompts, features(pictures), LatentConfig.read(model), max_new_tokens=MAX_TOKENS)
    for (sample, row), answer in zip(shown, answers, strict=True):
        sample["nearest"] = nearest(answer.latents, candidates(sample, row, features, settings))
    path.write_text(json.dumps(samples, indent=1))
    return path


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
