"""What latents resemble, by the served weights: patches of pictures, and words of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from covt_model.encoding.row_images import Picture
from covt_model.families import find_family, read_image_settings
from covt_rollout.vllm_plugin.protocol import Latents

Words = list[list[tuple[int, float]]]


@torch.inference_mode()
def picture_features(model: Any, checkpoint: Path, pictures: Sequence[bytes]) -> list[torch.Tensor]:
    """The visual features [n, H] that the language model reads for each picture, row by row.

    Args:
        model: vLLM's model.
        checkpoint: the served folder, for its image settings.
        pictures: encoded pictures.
    """
    settings = read_image_settings(checkpoint)
    family, raw_dtype = find_family(settings.model_type), model.visual.input_norm.input_dtype
    if raw_dtype is not None:
        # vLLM's vision tower normalizes pixels itself: it is given them as they are, from 0 to 255.
        settings = replace(settings, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    hidden = model.config.get_text_config().hidden_size
    features: list[torch.Tensor] = []
    for data in pictures:
        values, grid = family.patchify(Picture(data).pixels()[None], settings)
        if raw_dtype is not None:
            values = values.round().to(raw_dtype)
        values = values.to(model.visual.device)
        (found,) = model.embed_multimodal(pixel_values=values, image_grid_thw=torch.tensor([grid]))
        # Where deeper layers get features of their own, those stand behind the first H columns.
        features.append(found[:, :hidden])
    return features


@torch.inference_mode()
def patch_cosines(features: Sequence[torch.Tensor], latents: Latents) -> list[Latents]:
    """Cosines float32 [P, n] of latents [P, H] with the features [n, H] of each picture."""
    rows = torch.from_numpy(latents)
    return [(normalize(rows, dim=-1) @ normalize(one.float().cpu(), dim=-1).T).numpy() for one in features]


@torch.inference_mode()
def nearest_words(model: Any, latents: Latents, count: int) -> Words:
    """For each latent [H] the tokens of its largest logits: (id, probability), the most probable first.

    The output matrix is applied to the latent itself. Where the feedback rule is the identity, these are the logits at
    the position before, with no token masked.
    """
    rows = torch.from_numpy(latents).to(next(model.parameters()))
    probabilities = model.compute_logits(rows).float().softmax(-1)
    values, ids = (one.tolist() for one in probabilities.topk(min(count, probabilities.shape[-1])))
    return [list(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
