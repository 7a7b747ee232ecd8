"""Stage-1 targets of a batch: what each latent should be, from the helper images' features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from covt_model.decoder.attention import Recorder
from covt_model.decoder.layered_decoder import plain_forward
from covt_model.encoding.batch import Batch
from covt_model.encoding.encode import Selection
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.input_embeddings import deepstack, input_embeds
from covt_model.model_errors import ModelError
from covt_model.targets.selection import Unfilled, mean_runs, segment_query, select_targets, user_context

if TYPE_CHECKING:
    from covt_model.decoder.model_types import LanguageModel


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    """How `ilvr` selects (arXiv 2512.05665). The recipe's `[latent]` describes the fields.

    The defaults are ours; "hidden", "embedding" and "unaligned" are what ILVR's public code does.
    """

    top_p: float = 0.9
    temperature: float = 1.0
    image_context: Literal["merger", "hidden"] = "merger"
    teacher_pads: Literal["embedding", "helpers"] = "embedding"
    unfilled: Unfilled = "repeat"


@dataclass(frozen=True)
class Targets:
    """values: [P, H] for the batch's pads in order, normalized as the feedback is; zeros for a pad without a target.
    chosen: per row, segment and helper image the indices of the selected candidates, best first (empty for focus, which
    selects nothing)."""

    values: torch.Tensor
    chosen: list[list[list[torch.Tensor]]]


@torch.no_grad()
def make_targets(
    batch: Batch,
    latent: LatentConfig,
    helper_features: Sequence[torch.Tensor],
    *,
    selection: Selection,
    teacher: LanguageModel | None = None,
    embed_tokens: nn.Module | None = None,
    image_features: Sequence[torch.Tensor] = (),
    rule: SelectionRule = SelectionRule(),
) -> Targets:
    """Targets of all segments, in order.

    helper_features: one [N, H] a helper image (`VisionFeatures.merged`), in the order of `batch.helpers`. `focus` takes
    them as they are: the encoder has cropped each to the visual tokens it stands for. `ilvr` selects by the teacher's
    hidden states, in one pass over the batch; it needs the teacher, the token embedding and the prompt pictures'
    features [n, W].
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
    stand_ins = _stand_ins(teacher, nested, latent) if rule.teacher_pads == "helpers" else None
    states = _teacher_states(teacher, embed_tokens, batch, image_features, stand_ins)
    values, chosen = [], []
    for row, segments in enumerate(nested):
        targets, indices = _row_targets(batch, row, segments, states, latent.size, rule)
        values += targets
        chosen.append(indices)
    return Targets(feedback(_joined(values, states.hidden), latent.normalize), chosen)


@dataclass(frozen=True)
class _States:
    """A teacher's pass over N flattened positions: hidden [N, H] (final norm), last-layer queries [N, heads, D] and
    keys [N, kv heads, D] after rotation, and the merged features of each sample's pictures."""

    hidden: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    image_features: list[torch.Tensor]


def _nest(batch: Batch, features: Sequence[torch.Tensor]) -> list[list[list[torch.Tensor]]]:
    supply = iter(features)
    return [[[next(supply) for _ in segment] for segment in row] for row in batch.helpers]


def _joined(parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """[sum of n, H] of parts [n, H]; none make [0, H] like `like` [*, H]."""
    return torch.cat(list(parts)) if parts else like[:0]


def _check_helpers(batch: Batch, nested: list[list[list[torch.Tensor]]], size: int) -> None:
    for row_id, segments in zip(batch.row_ids, nested, strict=True):
        for number, helpers in enumerate(segments):
            if not helpers or size % len(helpers):
                raise ModelError(
                    f"row {row_id}, segment {number}: {len(helpers)} helper images do not divide {size} latents",
                    "change latent.size, or the number of helper images",
                )


def _stand_ins(teacher: LanguageModel, nested: list[list[list[torch.Tensor]]], latent: LatentConfig) -> torch.Tensor:
    """Means of runs of each helper image's features [P, H] for the teacher's pass, whose targets are not known yet."""
    parts = [
        mean_runs(features.repeat_interleave(-(-share // len(features)), 0), share)
        for row in nested
        for segment in row
        for share in (latent.size // len(segment),)
        for features in segment
    ]
    none = teacher.norm.weight.new_zeros(0, teacher.config.hidden_size)
    return feedback(_joined(parts, none), latent.normalize)


def _teacher_states(
    teacher: LanguageModel,
    embed_tokens: nn.Module,
    batch: Batch,
    image_features: Sequence[torch.Tensor],
    inputs: torch.Tensor | None,
) -> _States:
    """One pass; pads are fed `inputs` [P, H], or None their own embedding.

    Samples without a segment have their pass too: under ZeRO-3 every rank runs it.
    """
    embeds = input_embeds(embed_tokens, batch, image_features, inputs)
    recorder = Recorder()
    stacked = deepstack(batch, image_features, embeds.shape[-1])
    hidden = plain_forward(
        teacher, embeds, batch.position_ids, lengths=batch.packed, recorder=recorder, deepstack=stacked
    )
    supply = iter(image_features)
    per_row = [[next(supply) for _ in pictures] for pictures in batch.pictures]
    empty = hidden.new_zeros(0, hidden.shape[-1])
    features = [torch.cat(row)[:, : hidden.shape[-1]] if row else empty for row in per_row]
    queries, keys = recorder.queries.flatten(0, 1), recorder.keys.flatten(0, 1)
    return _States(hidden.flatten(0, 1), queries, keys, features)


def _row_targets(
    batch: Batch,
    row: int,
    segments: list[list[torch.Tensor]],
    states: _States,
    size: int,
    rule: SelectionRule,
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    first, prompt = batch.starts[row], batch.prompt_lengths[row]
    in_row = batch.image_index[(batch.image_index >= first) & (batch.image_index < first + prompt)]
    is_text = torch.ones(prompt, dtype=torch.bool, device=states.hidden.device)
    is_text[in_row - first] = False
    text = is_text.nonzero().squeeze(1) + first
    # Consecutive query heads share a key head.
    keys = states.keys[in_row].repeat_interleave(states.queries.shape[1] // states.keys.shape[1], dim=1)
    image_values = states.image_features[row] if rule.image_context == "merger" else states.hidden[in_row]
    context = user_context(
        states.queries[text].transpose(0, 1), keys.transpose(0, 1), image_values, states.hidden[text]
    )
    values, chosen = [], []
    previous: torch.Tensor | None = None
    since = prompt
    for helpers, (start, end) in zip(segments, batch.spans[row], strict=True):
        # Assistant text since the segment before, without the markers around the pads.
        query = segment_query(context, states.hidden[first + since : first + start - 1], previous)
        targets, indices, previous = select_targets(
            helpers, query, size, top_p=rule.top_p, temperature=rule.temperature, unfilled=rule.unfilled
        )
        values.append(targets)
        chosen.append(indices)
        since = end + 1
    return values, chosen
