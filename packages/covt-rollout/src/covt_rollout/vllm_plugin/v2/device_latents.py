"""Latents of running requests as tensors on the device, for vLLM's V2 model runner.

Nothing here waits for the device: which tokens are pads, and how many a request has, is known to the device alone, so
stores and reads are masked by tensors and go out in stream order. They stay right when the next step is prepared before
this one's tokens are known on the host (asynchronous scheduling), and they write into buffers that CUDA graphs only
read. A pad is addressed by its number among the pads of its sequence, not by its position: a recomputation after a
preemption, and a prompt that is prefilled in chunks, feed the same rows again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from covt_model.latents.feedback import noise_draw
from covt_model.latents.latent_modes import LatentMode
from covt_rollout.vllm_plugin.protocol import LatentOptions, Latents

FEEDS_NOTHING = -1
CODES = {LatentMode.KEEP: 0, LatentMode.ZEROS: 1, LatentMode.NOISE: 2, LatentMode.GIVEN: 3}
"""What a request's sampled pads are fed, as a number on the device."""


@dataclass(frozen=True)
class HostCopy:
    """Rows on their way to the host.

    Attributes:
        rows: [n, H], of which the first `count` are latents.
        count: [1], how many.
        arrived: event after the copy; None on a CPU.
    """

    rows: torch.Tensor
    count: torch.Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def start(cls, rows: torch.Tensor, count: torch.Tensor) -> Self:
        """Begin to copy rows [n, H] and their count [1]."""
        if rows.device.type == "cpu":
            return cls(rows.clone(), count.clone(), None)
        copies = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in (rows, count)]
        for copy, part in zip(copies, (rows, count), strict=True):
            copy.copy_(part, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return cls(copies[0], copies[1], arrived)

    def read(self) -> Latents:
        """Wait for the copy; float32 [count, H]."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.rows[: int(self.count)].float().numpy()


class DeviceLatents:
    """What the pads of up to R requests are fed, up to P pads each.

    Attributes:
        rows: [R, P + 1, H]; row P of a request takes what belongs to no pad.
        counts: [R], pads of the sequence so far.
        codes: [R], a value of `CODES`, or `FEEDS_NOTHING`.
        given: [R], rows of `replacements` that `given` cycles through.
        replacements: float32 [R, P, H], noise or given latents; None until a request needs them.
    """

    def __init__(self, requests: int, pads: int, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
        self.pads = pads
        self.rows = torch.zeros(requests, pads + 1, hidden, dtype=dtype, device=device)
        self.counts = torch.zeros(requests, dtype=torch.long, device=device)
        self.codes = torch.full((requests,), FEEDS_NOTHING, dtype=torch.long, device=device)
        self.given = torch.ones(requests, dtype=torch.long, device=device)
        self.replacements: torch.Tensor | None = None

    def add(self, slot: int, options: LatentOptions, feeds: bool, fed: torch.Tensor | None, count: int) -> None:
        """Take over a request.

        Args:
            slot: the request's index, 0 to R − 1.
            options: its latent fields.
            feeds: whether its pads are fed anything but their token embedding.
            fed: [n, H], what the first pads of its sequence are fed.
            count: pads in the tokens known so far.
        """
        self.counts[slot] = count
        self.codes[slot] = CODES[options.mode] if feeds and options.mode in CODES else FEEDS_NOTHING
        if fed is not None and len(fed):
            self.rows[slot, : len(fed)] = fed.to(self.rows, non_blocking=True)
        if options.mode is LatentMode.NOISE:
            draws = [noise_draw(options.seed, number, self.rows.shape[-1]) for number in range(self.pads)]
            self._replace(slot, np.stack(draws))
        elif options.mode is LatentMode.GIVEN and options.data is not None:
            self._replace(slot, options.data)
            self.given[slot] = len(options.data)

    def _replace(self, slot: int, rows: Latents) -> None:
        if self.replacements is None:
            shape = (self.rows.shape[0], self.pads, self.rows.shape[-1])
            self.replacements = torch.zeros(shape, dtype=torch.float32, device=self.rows.device)
        self.replacements[slot, : len(rows)] = torch.from_numpy(rows).to(self.rows.device, non_blocking=True)

    def store(self, slots: torch.Tensor, pads: torch.Tensor, own: torch.Tensor) -> None:
        """Store the latents that sampled pads will be fed.

        Args:
            slots: [B], the requests of a batch, each once.
            pads: bool [B], whether the token sampled for a request is a pad.
            own: [B, H], the feedback of the hidden states that sampled the tokens.
        """
        stored = pads & (self.codes[slots] != FEEDS_NOTHING)
        ordinals = self.counts[slots].clamp(max=self.pads - 1)
        latents = self._replaced(slots, ordinals, own)
        self.rows[slots, torch.where(stored, ordinals, self.pads)] = latents.to(self.rows.dtype)
        self.counts[slots] += pads

    def _replaced(self, slots: torch.Tensor, ordinals: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        codes = self.codes[slots][:, None]
        latents = torch.where(codes == CODES[LatentMode.ZEROS], torch.zeros_like(own), own)
        if self.replacements is None:
            return latents
        drawn = self.replacements[slots, ordinals]
        scale = own.float().norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
        given = self.replacements[slots, ordinals % self.given[slots]]
        latents = torch.where(codes == CODES[LatentMode.NOISE], (drawn * scale).to(own.dtype), latents)
        return torch.where(codes == CODES[LatentMode.GIVEN], given.to(own.dtype), latents)

    def feed(
        self, embeds: torch.Tensor, pads: torch.Tensor, starts: torch.Tensor, slots: torch.Tensor, first: torch.Tensor
    ) -> None:
        """Overwrite the embeddings of a step's pads in place.

        Args:
            embeds: [N, H], one request after the other.
            pads: bool [N], which tokens are pads.
            starts: [B + 1], where each request's tokens start and the last one's end.
            slots: [B], the requests.
            first: [B], number of the first pad that a request could have here; −1 means its newest pad.
        """
        tokens = torch.arange(len(pads), device=pads.device)
        batch = torch.searchsorted(starts[1:].contiguous(), tokens.to(starts.dtype), right=True)
        before = pads.cumsum(0) - pads.long()
        first = torch.where(first < 0, self.counts[slots] - 1, first)
        ordinals = (first[batch] + before - before[starts[batch].long()]).clamp(0, self.pads)
        owners = slots[batch]
        fed = pads & (self.codes[owners] != FEEDS_NOTHING)
        embeds.copy_(torch.where(fed[:, None], self.rows[owners, ordinals].to(embeds.dtype), embeds))
