"""The model as trainers hold it: the language model with its feedback rule; pictures come in as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from covt_model.decoder.layered_decoder import plain_forward
from covt_model.encoding.batch import Batch
from covt_model.encoding.encode import Mode
from covt_model.latent_config import LatentConfig
from covt_model.latents.heads import feedback_rule
from covt_model.latents.input_embeddings import deepstack, input_embeds
from covt_model.latents.latent_forward import latent_forward

if TYPE_CHECKING:
    from covt_model.decoder.model_types import LanguageModel, VisionLanguageModel


class LatentPolicy(nn.Module):
    """Language model, output head and feedback rule over a `Batch`.

    `mode` is the encoder's: only `latent` feeds hidden states back; `pause` and `plain` are one forward.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        latent: LatentConfig,
        mode: Mode,
        *,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.latent = latent
        self.mode = mode
        self.checkpoint = checkpoint
        self.feedback = feedback_rule(model, latent)
        """`h[t−1]` → the input embedding of the pad at t."""

    @property
    def language_model(self) -> LanguageModel:
        return self.model.model.language_model

    def hidden(
        self,
        batch: Batch,
        features: Sequence[torch.Tensor],
        *,
        latents: torch.Tensor | None = None,
        has_latent: torch.Tensor | None = None,
        max_segments: int | None = None,
    ) -> torch.Tensor:
        """Final-norm hidden states [B, T, H], in the layout of the batch's ids.

        features: one [n_i, W] a picture, from `VisionFeatures`, in the batch's order. latents: [P, H], the pads' inputs
        (stage 1, or a replay); None lets the model generate as it does when serving: with feedback, or without for the
        controls. has_latent: bool [P], which pads take theirs; None means all. max_segments: see `latent_forward`.
        """
        embeds = input_embeds(self.model.get_input_embeddings(), batch, features, latents, has_latent)
        stacked = deepstack(batch, features, embeds.shape[-1])
        if latents is not None or self.mode != "latent":
            return plain_forward(
                self.language_model,
                embeds,
                batch.position_ids,
                lengths=batch.packed,
                checkpoint=self.checkpoint,
                deepstack=stacked,
            )
        return latent_forward(
            self.language_model,
            embeds,
            batch.position_ids,
            batch.attention_mask,
            batch.spans,
            self.feedback,
            size=self.latent.size,
            max_segments=max_segments,
            checkpoint=self.checkpoint,
            lengths=batch.packed,
            deepstack=stacked,
        )
