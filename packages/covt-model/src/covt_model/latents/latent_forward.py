"""KV-incremental forward with self-generated latents (ILVR stage 2, arXiv 2512.05665), with gradients through them.

The public implementation runs the whole prefix again for every latent. Here each text chunk is one forward and each
latent one single-position step on the keys and values so far, for all rows of the batch together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from covt_model.decoder.attention import Attention, Chunk, Grid, Step, VarlenChunk, additive
from covt_model.decoder.deepstack import Deepstack
from covt_model.decoder.layered_decoder import Decoder, plain_forward
from covt_model.decoder.varlen_attention import KERNELS
from covt_model.encoding.encode import Span
from covt_model.latents.segments import Plan, plan

if TYPE_CHECKING:
    from covt_model.decoder.model_types import LanguageModel


def latent_forward(
    language_model: LanguageModel,
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
    lengths: Sequence[int] | None = None,
    deepstack: Deepstack | None = None,
) -> torch.Tensor:
    """Final-norm hidden states [B, T, H] where each pad's input is `feedback(hidden at the position before)`.

    embeds: [B, T, H], padded on the right; what it holds at pads is ignored. position_ids: [3, B, T].
    attention_mask: [B, T]. spans: per row the half-open ranges of its pads, at most `size` each. latents: [P, H] for
    all pads in order, given from outside: then one plain forward does. max_segments: number of segments to compute,
    at least the most of any row (under ZeRO-3 the largest over all ranks: each rank must run the same number of
    forwards). checkpoint: recompute each layer in the backward pass instead of keeping its activations. lengths: embeds
    is one row of samples of these lengths laid end to end, [1, sum of lengths, H]; none sees another, and spans are
    per sample, counted from its beginning. deepstack: visual features of further levels, for tokens before each
    sample's first pad.

    Hidden states at padding are those of the first row's first token. Under ZeRO-3 call this inside the engine's
    forward.
    """
    segments = max((len(row) for row in spans), default=0)
    if max_segments is not None:
        if max_segments < segments:
            raise ValueError(f"max_segments is {max_segments} but a row has {segments} segments")
        segments = max_segments
    total = embeds.shape[1]
    if lengths is None:
        sizes, starts = attention_mask.sum(1).tolist(), np.arange(len(embeds)) * total
    else:
        sizes, starts = list(lengths), np.cumsum([0, *lengths[:-1]])
    if latents is not None:
        pads = [first + t for first, row in zip(starts, spans, strict=True) for a, b in row for t in range(a, b)]
        index = torch.tensor(pads, dtype=torch.long, device=embeds.device)
        embeds = embeds.flatten(0, 1).index_copy(0, index, latents.to(embeds.dtype)).view_as(embeds)
    if latents is not None or segments == 0:
        return plain_forward(
            language_model, embeds, position_ids, lengths=lengths, checkpoint=checkpoint, deepstack=deepstack
        )
    has_kernel = language_model.config._attn_implementation in KERNELS
    order = sorted(range(len(spans)), key=lambda row: -len(spans[row]))
    starts, sizes, spans = np.asarray(starts)[order], [sizes[row] for row in order], [spans[row] for row in order]
    layout = plan(sizes, spans, size, segments, always_pack=has_kernel)
    back = np.zeros(embeds.shape[0] * total, dtype=np.int64)
    for row, (first, length) in enumerate(zip(starts, sizes, strict=True)):
        back[first : first + length] = layout.output_of_token[row]
    place = torch.from_numpy(back).to(embeds.device)
    moved = None if deepstack is None else deepstack.moved(place)
    states = _Unroll(language_model, embeds, position_ids, starts, layout, checkpoint).run(feedback, moved)
    return states.index_select(0, place).view_as(embeds)


class _Unroll:
    """The computation of one batch: chunk, steps, chunk, … over the slots of a plan."""

    def __init__(
        self,
        language_model: LanguageModel,
        embeds: torch.Tensor,
        position_ids: torch.Tensor,
        starts: np.ndarray,
        layout: Plan,
        checkpoint: bool,
    ) -> None:
        self.layout, self.device = layout, embeds.device
        tokens = self._tensor(layout.token_of_slot + starts[:, None])
        self.inputs = embeds.flatten(0, 1).index_select(0, tokens.flatten()).unflatten(0, tokens.shape)
        self.decoder = Decoder(language_model, slots=tokens.shape[1], checkpoint=checkpoint)
        self.cos, self.sin = self.decoder.rotary(embeds, position_ids.flatten(1)[:, tokens])
        self.used = self._tensor(layout.used)
        self.column_mask = additive(self.used, embeds.dtype)[:, None, None, :]
        self.heads = language_model.config.num_key_value_heads or language_model.config.num_attention_heads
        self.step_mask = additive(self.used, torch.float32).repeat_interleave(self.heads, 0)[:, None, :]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def run(self, feedback: Callable[[torch.Tensor], torch.Tensor], deepstack: Deepstack | None = None) -> torch.Tensor:
        """Hidden states of all slots computed, stretch by stretch, [M, H]: the order of `Plan.output_of_token`.

        deepstack: by places in that order, all of them in the first chunk.
        """
        layout, outputs = self.layout, []
        fed: torch.Tensor | None = None
        for number, (start, stop) in enumerate(layout.chunks):
            hidden = self._chunk(number, start, stop, fed, deepstack if number == 0 else None)
            outputs.append(hidden)
            if number == len(layout.last):
                break
            rows = layout.active[number + 1]
            fed = feedback(hidden.index_select(0, self._tensor(layout.last[number, :rows])))
            for column in range(stop, stop + layout.steps):
                hidden = self._step(column, stop, fed)
                outputs.append(hidden)
                full = layout.used[:rows, column] | ~layout.fed[number, :rows]
                # A row whose segment is shorter keeps the input of its last pad for the next chunk.
                following = feedback(hidden)
                fed = following if full.all() else torch.where(self.used[:rows, column, None], following, fed)
        return torch.cat(outputs)

    def _chunk(
        self, number: int, start: int, stop: int, fed: torch.Tensor | None, deepstack: Deepstack | None
    ) -> torch.Tensor:
        rows = self.layout.active[number]
        chunk = self.inputs[:rows, start:stop]
        if fed is not None:
            # Column 0 of a later chunk is the last pad of the segment before; a row without it keeps its own input.
            own = self._tensor(self.layout.fed[number - 1, :rows])[:, None]
            chunk = torch.cat([torch.where(own, fed, chunk[:, 0])[:, None], chunk[:, 1:]], dim=1)
        rotary = self.cos[:rows, start:stop], self.sin[:rows, start:stop]
        grid, attend = self._attention(number, start, stop)
        if grid is not None:
            chunk, rotary = grid.gather(chunk), (grid.gather(rotary[0]), grid.gather(rotary[1]))
        return self.decoder.run(chunk, rotary, attend, deepstack).flatten(0, 1)

    def _attention(self, number: int, start: int, stop: int) -> tuple[Grid | None, Attention]:
        layout, rows = self.layout, self.layout.active[number]
        used = layout.used[:rows, start:stop]
        grid = None
        if layout.packed[number]:
            grid = Grid(rows, stop - start, self._tensor(np.flatnonzero(used)), used.sum(1).tolist())
        if grid is not None and self.decoder.kernel is not None:
            seen = layout.used[:rows, :stop]
            counts = seen.sum(1).tolist()
            return grid, VarlenChunk(start, grid, self._tensor(np.flatnonzero(seen)), counts, self.decoder.kernel)
        earlier = None if layout.used[:rows, :start].all() else self.column_mask[:rows, ..., :start]
        return grid, Chunk(start, earlier, grid)

    def _step(self, column: int, first: int, fed: torch.Tensor) -> torch.Tensor:
        """One slot of the first rows, as many as `fed` [rows, H] has."""
        rows, now = len(fed), slice(column, column + 1)
        is_full = self.layout.used[:rows, : column + 1].all()
        mask = None if is_full else self.step_mask[: rows * self.heads, :, : column + 1]
        rotary = self.cos[:rows, now], self.sin[:rows, now]
        return self.decoder.run(fed[:, None], rotary, Step(column, first, mask)).squeeze(1)
