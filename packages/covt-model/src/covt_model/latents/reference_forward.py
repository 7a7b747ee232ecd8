"""The latent forward in its plainest form: the oracle for tests and benchmarks.

One row at a time, no cache: for each pad, in order, the whole prefix goes through Transformers' own model again, and
the pad's input becomes the feedback of the last hidden state. Quadratic, and obviously right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from covt_model.decoder.deepstack import Deepstack
from covt_model.encoding.encode import Span

if TYPE_CHECKING:
    from covt_model.decoder.model_types import LanguageModel


def reference_forward(
    language_model: LanguageModel,
    embeds: torch.Tensor,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    spans: Sequence[Sequence[Span]],
    feedback: Callable[[torch.Tensor], torch.Tensor],
    deepstack: Deepstack | None = None,
) -> torch.Tensor:
    """As `latent_forward`, in [B, T, H]; zeros at padding. Transformers' model adds the features of `deepstack`."""
    total = embeds.shape[1]

    def run(row: int, row_embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        visual: dict[str, Any] = {}
        if deepstack is not None:
            own = (deepstack.index >= row * total) & (deepstack.index < row * total + len(row_embeds))
            mask = torch.zeros(1, len(row_embeds), dtype=torch.bool)
            mask[0, deepstack.index[own] - row * total] = True
            visual = {"visual_pos_masks": mask, "deepstack_visual_embeds": list(deepstack.levels[:, own])}
        output = language_model(
            inputs_embeds=row_embeds[None], position_ids=positions[:, None], use_cache=False, **visual
        )
        return output.last_hidden_state[0]

    rows = []
    for row, ranges in enumerate(spans):
        length = int(attention_mask[row].sum())
        inputs = list(embeds[row, :length])
        positions = position_ids[:, row]
        for start, end in ranges:
            for pad in range(start, end):
                hidden = run(row, torch.stack(inputs[:pad]), positions[:, :pad])
                inputs[pad] = feedback(hidden[-1])
        hidden = run(row, torch.stack(inputs), positions[:, :length])
        rows.append(torch.cat([hidden, hidden.new_zeros(embeds.shape[1] - length, embeds.shape[2])]))
    return torch.stack(rows)
