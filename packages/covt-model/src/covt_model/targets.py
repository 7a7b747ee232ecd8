"""Stage-1 targets of a batch: what each latent should be, from the helper images' features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from covt_model.batch import Batch
from covt_model.config import LatentConfig
from covt_model.encode import Selection
from covt_model.errors import ModelError
from covt_model.feedback import feedback
from covt_model.inputs import input_embeds
from covt_model.selection import mean_runs, segment_query, select_targets, user_context

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLTextModel


@dataclass(frozen=True)
class Targets:
    """values: [P, H] for the batch's pads in order, normalized as the feedback is. chosen: per row, segment and helper
    image the indices of the selected candidates, best first (empty for focus, which selects nothing)."""

    values: torch.Tensor
    chosen: list[list[list[torch.Tensor]]]


@torch.no_grad()
def make_targets(
    batch: Batch,
    latent: LatentConfig,
    helper_features: Sequence[torch.Tensor],
    *,
    selection: Selection,
    teacher: Qwen2_5_VLTextModel | None = None,
    embed_tokens: nn.Module | None = None,
    image_features: Sequence[torch.Tensor] = (),
    top_p: float = 0.9,
    temperature: float = 1.0,
) -> Targets:
    """Targets of all segments, in order.

    helper_features: one [N, H] a helper image, in the order of `batch.helpers`. `focus` takes them as they are: the
    encoder has cropped each to the visual tokens it stands for. `ilvr` selects by the teacher's hidden states, in one
    pass over the batch; it needs the teacher, the token embedding and the prompt pictures' features.
    """
    nested = _nest(batch, helper_features)
    if selection == "focus":
        flat = [feature for row in nested for segment in row for feature in segment]
        values = torch.cat(flat) if flat else torch.zeros(0)
        if len(values) != len(batch.pad_index):
            raise ModelError(
                f"the focused helper images have {len(values)} visual tokens for {len(batch.pad_index)} latents",
                "prepare the data for this latent size",
            )
        return Targets(feedback(values, latent.normalize), [])
    if teacher is None or embed_tokens is None:
        raise ValueError("selection 'ilvr' needs a teacher and its token embedding")
    _check_helpers(batch, nested, latent.size)
    states = _teacher_states(teacher, embed_tokens, batch, nested, image_features, latent)
    values, chosen = [], []
    for row, segments in enumerate(nested):
        targets, indices = _row_targets(batch, row, segments, states, latent.size, top_p, temperature)
        values += targets
        chosen.append(indices)
    return Targets(feedback(torch.cat(values), latent.normalize), chosen)


@dataclass(frozen=True)
class _States:
    """A teacher's pass: hidden [B, T, H] (final norm), last-layer queries and keys [B, heads, T, D] after rotation,
    and the merged features of each row's pictures."""

    hidden: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    image_features: list[torch.Tensor]


def _nest(batch: Batch, features: Sequence[torch.Tensor]) -> list[list[list[torch.Tensor]]]:
    supply = iter(features)
    return [[[next(supply) for _ in segment] for segment in row] for row in batch.helpers]


def _check_helpers(batch: Batch, nested: list[list[list[torch.Tensor]]], size: int) -> None:
    for row_id, segments in zip(batch.row_ids, nested, strict=True):
        for number, helpers in enumerate(segments):
            if not helpers or size % len(helpers):
                raise ModelError(
                    f"row {row_id}, segment {number}: {len(helpers)} helper images do not divide {size} latents",
                    "change latent.size, or the number of helper images",
                )


def _teacher_states(
    teacher: Qwen2_5_VLTextModel,
    embed_tokens: nn.Module,
    batch: Batch,
    nested: list[list[list[torch.Tensor]]],
    image_features: Sequence[torch.Tensor],
    latent: LatentConfig,
) -> _States:
    """One pass with stand-in latents (means of runs of each helper image), since the targets are not known yet."""
    stand_ins = [
        mean_runs(features.repeat_interleave(-(-share // len(features)), 0), share)
        for row in nested
        for segment in row
        for share in (latent.size // len(segment),)
        for features in segment
    ]
    inputs = feedback(torch.cat(stand_ins), latent.normalize)
    hidden = input_embeds(embed_tokens, batch, image_features, inputs)
    rotary = teacher.rotary_emb(hidden, batch.position_ids)
    for layer in teacher.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
    last = cast("Qwen2_5_VLDecoderLayer", teacher.layers[-1])
    queries, keys = _queries_keys(last, hidden, rotary)
    hidden = teacher.norm(last(hidden, attention_mask=None, position_embeddings=rotary))
    supply = iter(image_features)
    per_row = [[next(supply) for _ in pictures] for pictures in batch.pictures]
    empty = hidden.new_zeros(0, hidden.shape[-1])
    return _States(hidden, queries, keys, [torch.cat(row) if row else empty for row in per_row])


def _queries_keys(
    layer: Qwen2_5_VLDecoderLayer, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's queries and keys [B, heads, T, D], rotated, keys repeated for grouped queries."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb, repeat_kv

    attention, (rows, width, _) = layer.self_attn, hidden.shape
    states = layer.input_layernorm(hidden)
    queries = attention.q_proj(states).view(rows, width, -1, attention.head_dim).transpose(1, 2)
    keys = attention.k_proj(states).view(rows, width, -1, attention.head_dim).transpose(1, 2)
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
    return queries, repeat_kv(keys, attention.num_key_value_groups)


def _row_targets(
    batch: Batch,
    row: int,
    segments: list[list[torch.Tensor]],
    states: _States,
    size: int,
    top_p: float,
    temperature: float,
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    prompt, width = batch.prompt_lengths[row], batch.input_ids.shape[1]
    is_image = torch.zeros(width, dtype=torch.bool, device=states.hidden.device)
    in_row = batch.image_index[(batch.image_index >= row * width) & (batch.image_index < (row + 1) * width)]
    is_image[in_row - row * width] = True
    text = (~is_image[:prompt]).nonzero().squeeze(1)
    context = user_context(
        states.queries[row][:, text],
        states.keys[row][:, is_image],
        states.image_features[row],
        states.hidden[row, text],
    )
    values, chosen = [], []
    previous: torch.Tensor | None = None
    since = prompt
    for helpers, (start, end) in zip(segments, batch.spans[row], strict=True):
        # Assistant text since the segment before, without the markers around the pads.
        query = segment_query(context, states.hidden[row, since : start - 1], previous)
        targets, indices, previous = select_targets(helpers, query, size, top_p=top_p, temperature=temperature)
        values.append(targets)
        chosen.append(indices)
        since = end + 1
    return values, chosen
