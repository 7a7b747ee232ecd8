"""Input embeddings of a batch: token embeddings with picture features and latents in their places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from covt_model.decoder.deepstack import Deepstack
from covt_model.encoding.batch import Batch


def input_embeds(
    embed_tokens: nn.Module,
    batch: Batch,
    image_features: Sequence[torch.Tensor],
    latents: torch.Tensor | None = None,
    has_latent: torch.Tensor | None = None,
) -> torch.Tensor:
    """[B, T, H] input embeddings.

    image_features: one [n_i, W] a picture, in the order of `batch.pictures`, of which the first H columns count; what
    follows them is for `deepstack`. latents: [P, H] for the P pads in order
    (targets of stage 1, or latents given from outside); None leaves the pads' own token embedding, which the latent
    forward replaces and the pause control keeps. has_latent: bool [P], False for pads that keep their own; None means
    that all have a latent.
    """
    embeds = embed_tokens(batch.input_ids)
    flat = embeds.reshape(-1, embeds.shape[-1])
    if image_features:
        features = torch.cat([one[:, : flat.shape[1]] for one in image_features]).to(flat.dtype)
        if len(features) != len(batch.image_index):
            raise ValueError(f"{len(features)} visual features for {len(batch.image_index)} places")
        flat = flat.index_copy(0, batch.image_index, features)
    if latents is not None:
        places = batch.pad_index
        if has_latent is not None:
            places, latents = places[has_latent], latents[has_latent]
        flat = flat.index_copy(0, places, latents.to(flat.dtype))
    return flat.view_as(embeds)


def deepstack(batch: Batch, image_features: Sequence[torch.Tensor], hidden: int) -> Deepstack | None:
    """What the pictures' features [n_i, W] add after the first decoder layers; None where W is the hidden size."""
    return Deepstack.of(image_features, batch.image_index, hidden)
