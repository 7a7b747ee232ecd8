"""The rule of `logits` for vLLM's V2 model runner: spans are forced on the device, from the tokens that lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from covt_rollout.vllm_plugin.engine_settings import EngineSettings
from covt_rollout.vllm_plugin.request_latents import check_params, stop_token

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams

CLOSED = float("-inf")


class DeviceLatentLogits(LogitsProcessor):
    """Forces latent spans by a rule on the last K + 1 tokens of a sequence.

    A request has room for a fixed number of pads on the device. A completion that begins a span beyond it, or beyond
    the request's own limit, is ended there.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.states = req_states
        settings = EngineSettings.read(vllm_config)
        latent, device, requests = settings.latent, req_states.device, req_states.max_num_reqs
        self.start, self.pad, self.end, self.size = latent.start_id, latent.pad_id, latent.end_id, latent.size
        self.most_spans = settings.max_pads // self.size
        self.closed = torch.tensor([self.pad, self.end], device=device)
        self.back = torch.arange(self.size, device=device)
        self.stops = torch.zeros(requests, dtype=torch.long, device=device)
        self.limits = torch.zeros(requests, dtype=torch.long, device=device)
        self.begun = torch.zeros(requests, dtype=torch.long, device=device)
        self.new: list[tuple[int, int, int]] = []

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check the latent fields in the API server, which answers a ValueError with HTTP 400."""
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Stage the request's stop token and its limit of spans."""
        wanted = (sampling_params.extra_args or {}).get("latent_max_spans")
        stop = stop_token(sampling_params)
        self.new.append((req_idx, self.pad if stop is None else stop, self.most_spans if wanted is None else wanted))
        return True

    def apply_staged_writes(self) -> None:
        """Count the spans and pads that new requests bring along, and set their limits."""
        if not self.new:
            return
        device = self.closed.device
        slots, stops, limits = torch.tensor(self.new, dtype=torch.long).T.to(device, non_blocking=True)
        self.new = []
        tokens = self.states.all_token_ids.gpu[slots]
        place = torch.arange(tokens.shape[1], device=device)
        in_prompt = place < self.states.prompt_len.gpu[slots][:, None]
        known = place < self.states.prefill_len.gpu[slots][:, None]
        pads = ((tokens == self.pad) & in_prompt).sum(1)
        self.stops[slots] = stops
        # A span that the prompt leaves open needs room too.
        self.limits[slots] = torch.minimum(limits, (self.most_spans - 1 - pads // self.size).clamp(min=0))
        self.begun[slots] = ((tokens == self.start) & known & ~in_prompt).sum(1)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Mask the logits [rows, V] in place."""
        slots, place, last = ctx.expanded_idx_mapping.long(), ctx.pos.long(), ctx.input_ids
        self.begun[slots] += (last == self.start) & (place >= self.states.prefill_len.gpu[slots])
        back = place[:, None] - self.back
        tokens = self.states.all_token_ids.gpu[slots[:, None], back.clamp(min=0)]
        pads = ((tokens == self.pad) & (back >= 0)).long().cumprod(1).sum(1)
        forced = torch.where(pads >= self.size, self.end, self.pad)
        output = place >= self.states.prompt_len.gpu[slots]
        is_over = (last == self.start) & output & (self.begun[slots] > self.limits[slots])
        forced = torch.where(is_over, self.stops[slots], forced)[:, None]
        inside = ((last == self.start) | (last == self.pad))[:, None]
        logits.index_fill_(1, self.closed, CLOSED)
        logits.masked_fill_(inside, CLOSED)
        own = logits.gather(1, forced)
        return logits.scatter_(1, forced, torch.where(inside, torch.zeros_like(own), own))
