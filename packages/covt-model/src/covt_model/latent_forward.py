"""KV-incremental forward with self-generated latents (ILVR stage 2, arXiv 2512.05665), with gradients through them.

The public implementation runs the whole prefix again for every latent. Here each text chunk is one forward and each
latent one single-position step on the keys and values so far, for all rows of the batch together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from covt_model.decoder import Decoder, additive, plain_forward
from covt_model.encode import Span
from covt_model.segments import plan

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel


def latent_forward(
    language_model: Qwen2_5_VLTextModel,
    embeds: torch.Tensor,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    spans: Sequence[Sequence[Span]],
    feedback: Callable[[torch.Tensor], torch.Tensor],
    *,
    size: int,
    latents: torch.Tensor | None = None,
    max_segments: int | None = None,
    checkpoint: bool = False,
) -> torch.Tensor:
    """Final-norm hidden states [B, T, H] where each pad's input is `feedback(hidden at the position before)`.

    embeds: [B, T, H], padded on the right; what it holds at pads is ignored. position_ids: [3, B, T].
    attention_mask: [B, T]. spans: per row the half-open ranges of its pads, at most `size` each. latents: [P, H] for
    all pads in order, given from outside: then one plain forward does. max_segments: number of segments to compute,
    at least the most of any row (under ZeRO-3 the largest over all ranks: each rank must run the same number of
    forwards). checkpoint: recompute each layer in the backward pass instead of keeping its activations.

    Hidden states at padding are those of the row's first token. Under ZeRO-3 call this inside the engine's forward.
    """
    segments = max((len(row) for row in spans), default=0)
    if max_segments is not None:
        if max_segments < segments:
            raise ValueError(f"max_segments is {max_segments} but a row has {segments} segments")
        segments = max_segments
    rows, total, width = embeds.shape
    if latents is not None:
        pads = [(row, t) for row, ranges in enumerate(spans) for start, end in ranges for t in range(start, end)]
        index = torch.tensor([row * total + t for row, t in pads], dtype=torch.long, device=embeds.device)
        filled = embeds.reshape(-1, width).index_copy(0, index, latents.to(embeds.dtype)).view_as(embeds)
        return plain_forward(language_model, filled, position_ids, checkpoint=checkpoint)
    if segments == 0:
        return plain_forward(language_model, embeds, position_ids, checkpoint=checkpoint)

    device = embeds.device
    layout = plan(attention_mask.sum(1).tolist(), spans, total, size, segments)
    slots = torch.from_numpy(layout.token_of_slot).to(device)
    used = torch.from_numpy(layout.used).to(device)
    last = torch.from_numpy(layout.last).to(device)
    every_row = torch.arange(rows, device=device)
    inputs = embeds.gather(1, slots[..., None].expand(-1, -1, width))
    decoder = Decoder(language_model, checkpoint=checkpoint)
    cos, sin = decoder.rotary(embeds, position_ids.gather(2, slots.expand(3, -1, -1)))
    column_mask = additive(used, embeds.dtype)[:, None, None, :]

    outputs: list[torch.Tensor] = []
    fed: torch.Tensor | None = None
    for number, (start, stop) in enumerate(layout.chunks):
        chunk = inputs[:, start:stop]
        if fed is not None:
            # Column 0 of a later chunk is the last pad of the segment before; rows without it keep their own input.
            own = torch.from_numpy(layout.fed[number - 1]).to(device)[:, None]
            chunk = torch.cat([torch.where(own, fed, chunk[:, 0])[:, None], chunk[:, 1:]], dim=1)
        mask = _chunk_mask(column_mask, start, stop)
        hidden = decoder.run(chunk, mask, (cos[:, start:stop], sin[:, start:stop]))
        outputs.append(hidden)
        if number == segments:
            break
        fed = feedback(hidden[every_row, last[number]])
        for column in range(stop, stop + layout.steps):
            now = (cos[:, column : column + 1], sin[:, column : column + 1])
            hidden = decoder.run(fed[:, None], column_mask[..., : column + 1], now)
            outputs.append(hidden)
            following = feedback(hidden[:, 0])
            full = layout.used[:, column] | ~layout.fed[number]
            # A row whose segment is shorter keeps the input of its last pad for the next chunk.
            fed = following if full.all() else torch.where(used[:, column, None], following, fed)
    hidden = torch.cat(outputs, dim=1)
    back = torch.from_numpy(layout.slot_of_token).to(device)
    return hidden.gather(1, back[..., None].expand(-1, -1, width))


def _chunk_mask(column_mask: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """[B, 1, L, stop] additive: used earlier slots, and within the chunk the used slots not after the query's own.

    column_mask: [B, 1, 1, S]. A slot always sees itself, so that unused slots attend to something.
    """
    rows = column_mask.shape[0]
    length = stop - start
    mask = column_mask[..., :stop].expand(rows, 1, length, stop).clone()
    own = torch.arange(length, device=mask.device)
    later = own[None, :] > own[:, None]
    mask[..., start:].masked_fill_(later, torch.finfo(mask.dtype).min)
    mask[..., own, start + own] = 0
    return mask
