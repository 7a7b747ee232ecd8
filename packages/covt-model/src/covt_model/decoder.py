"""The language model run layer by layer on explicit keys and values.

Transformers' own forward rebuilds masks on each call and, with its gradient checkpointing on, silently drops the KV
cache. Here masks and rotary embeddings are made once, the prefix's keys and values are plain tensors, and
checkpointing is done by us, a layer at a time, with those tensors as explicit inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as checkpointed

from covt_model.errors import ModelError

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

Rotary = tuple[torch.Tensor, torch.Tensor]
KeyValue = tuple[torch.Tensor, torch.Tensor]


class _Prefix:
    """What an attention layer sees as its cache: the prefix's keys and values in pieces along the sequence."""

    def __init__(self, pieces: Sequence[KeyValue]) -> None:
        self.pieces = pieces
        self.new: KeyValue | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any) -> KeyValue:
        self.new = (keys, values)
        if not self.pieces:
            return keys, values
        return (
            torch.cat([piece[0] for piece in self.pieces] + [keys], dim=2),
            torch.cat([piece[1] for piece in self.pieces] + [values], dim=2),
        )


class Decoder:
    """One pass over a batch in one or more calls, each attending to all earlier ones.

    language_model: Qwen2.5-VL's text model. `run` takes consecutive stretches of the batch's slots; `pieces[layer]`
    holds the keys and values [B, heads, L, D] of each stretch, with their gradients.
    """

    def __init__(self, language_model: Qwen2_5_VLTextModel, *, checkpoint: bool = False) -> None:
        if language_model.has_sliding_layers:
            raise ModelError("sliding-window attention is not supported", "set use_sliding_window to false")
        if any(getattr(layer, "gradient_checkpointing", False) for layer in language_model.layers):
            raise ModelError(
                "Transformers' gradient checkpointing is on; it drops the keys and values that latents need",
                "call model.gradient_checkpointing_disable() and use checkpoint=True",
            )
        self.model = language_model
        self.checkpoint = checkpoint
        self.pieces: list[list[KeyValue]] = [[] for _ in language_model.layers]

    def rotary(self, like: torch.Tensor, position_ids: torch.Tensor) -> Rotary:
        """Cosines and sines [B, T, D] for positions [3, B, T], in the dtype of `like`."""
        return self.model.rotary_emb(like, position_ids)

    def run(self, hidden: torch.Tensor, mask: torch.Tensor | None, rotary: Rotary) -> torch.Tensor:
        """Final-norm hidden states [B, L, H] of the next L slots from their input embeddings [B, L, H].

        mask: additive float [B, 1, L, slots so far + L]; None is causal for the first call and lets a single slot
        see everything.
        """
        for layer, pieces in zip(self.model.layers, self.pieces, strict=True):
            if self.checkpoint and torch.is_grad_enabled():
                flat = [tensor for piece in pieces for tensor in piece]
                hidden, keys, values = checkpointed(  # pyright: ignore[reportGeneralTypeIssues]
                    _layer, layer, hidden, mask, rotary, *flat, use_reentrant=False
                )
            else:
                hidden, keys, values = _layer(layer, hidden, mask, rotary, *(t for piece in pieces for t in piece))
            pieces.append((keys, values))
        return self.model.norm(hidden)


def _layer(
    layer: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, rotary: Rotary, *flat: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    prefix = _Prefix(list(zip(flat[::2], flat[1::2], strict=True)))
    hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=prefix, use_cache=True)
    assert prefix.new is not None
    return hidden, *prefix.new


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Boolean mask → additive: 0 where visible, the dtype's lowest finite value elsewhere.

    A finite value keeps rows that see nothing (idle slots) free of NaN.
    """
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def plain_forward(
    language_model: Qwen2_5_VLTextModel, embeds: torch.Tensor, position_ids: torch.Tensor, *, checkpoint: bool = False
) -> torch.Tensor:
    """Final-norm hidden states [B, T, H] in one causal pass, for stage 1, the controls, and given latents.

    Rows are padded on the right, so no token sees padding and no mask is needed.
    """
    decoder = Decoder(language_model, checkpoint=checkpoint)
    return decoder.run(embeds, None, decoder.rotary(embeds, position_ids))
