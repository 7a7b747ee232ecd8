"""Decoding on a preallocated KV cache, without gradients, for rows whose prompts differ in length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from covt_model.decoder.attention import additive

if TYPE_CHECKING:
    from covt_model.decoder.deepstack import Deepstack
    from covt_model.decoder.model_types import LanguageModel


class _LayerBuffer:
    """One layer's keys and values [B, heads, S, D], written in place; what attention sees as its cache."""

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None
        self.used = 0
        self.extra = 0

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            room = (*keys.shape[:2], keys.shape[2] + self.extra, keys.shape[3])
            self.keys, self.values = keys.new_empty(room), values.new_empty(room)
        start, self.used = self.used, self.used + keys.shape[2]
        self.keys[:, :, start : self.used] = keys
        self.values[:, :, start : self.used] = values
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]


class CachedDecoder:
    """`prompt` once, then `step` up to `steps` times. Prompts are padded on the right, steps follow in shared slots."""

    def __init__(self, language_model: LanguageModel, steps: int) -> None:
        self.model = language_model
        self.steps = steps
        self.taken = 0
        self.buffers = [_LayerBuffer() for _ in language_model.layers]
        for buffer in self.buffers:
            buffer.extra = steps

    def prompt(
        self,
        embeds: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: list[int],
        deepstack: Deepstack | None = None,
    ) -> torch.Tensor:
        """embeds: [B, P, H]; position_ids: [3, B, P]. Returns the hidden state at each row's last token [B, H]."""
        rows, width, _ = embeds.shape
        last = torch.tensor(lengths, device=embeds.device) - 1
        every_row = torch.arange(rows, device=embeds.device)
        hidden = self._run(embeds, None, self.model.rotary_emb(embeds, position_ids), deepstack)[every_row, last]
        following = position_ids.amax(dim=(0, 2)) + 1  # padding has position 0
        after = following[:, None] + torch.arange(self.steps, device=embeds.device)
        self.cos, self.sin = self.model.rotary_emb(embeds, after.expand(3, -1, -1))
        self.mask = None
        if min(lengths) < width:
            visible = torch.arange(width + self.steps, device=embeds.device)[None, :].expand(rows, -1)
            visible = (visible <= last[:, None]) | (visible >= width)
            self.mask = additive(visible, embeds.dtype)[:, None, None, :]
        self.width = width
        return hidden

    def step(self, embeds: torch.Tensor) -> torch.Tensor:
        """Next position of every row: embeds [B, H] → hidden state [B, H]."""
        now = slice(self.taken, self.taken + 1)
        self.taken += 1
        mask = None if self.mask is None else self.mask[..., : self.width + self.taken]
        return self._run(embeds[:, None], mask, (self.cos[:, now], self.sin[:, now]))[:, 0]

    def _run(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        deepstack: Deepstack | None = None,
    ) -> torch.Tensor:
        for number, (layer, buffer) in enumerate(zip(self.model.layers, self.buffers, strict=True)):
            hidden = layer(
                hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=buffer, use_cache=True
            )
            if deepstack is not None:
                hidden = deepstack.add(hidden, number)
        return self.model.norm(hidden)
