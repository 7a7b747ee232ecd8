"""Decides which tokens may follow: a latent start is followed by K pads and the end, which occur nowhere else.

A request may limit its spans: a completion that begins one more is ended there, as it is at its greatest length. The
start itself is sampled as always, so the probabilities stay those of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from covt_rollout.vllm_plugin.engine_settings import EngineSettings
from covt_rollout.vllm_plugin.request_latents import check_params, stop_token

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

CLOSED = float("-inf")


@dataclass(frozen=True, slots=True)
class Row:
    """A request in the batch.

    Attributes:
        prompt: the last tokens of the prompt.
        output: the engine's own growing list of output tokens.
        max_spans: spans that the output may have; None sets no limit.
        stop: the token that ends the completion.
    """

    prompt: list[int]
    output: list[int]
    max_spans: int | None
    stop: int | None


class LatentLogitsProcessor(LogitsProcessor):
    """Forces latent spans by a rule on the last K + 1 tokens of prompt and output.

    The rule has no state, so it holds after a preemption and for a prompt that ends inside a span. A forced token has
    log-probability 0.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check the latent fields in the API server, which answers a ValueError with HTTP 400."""
        check_params(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        latent = EngineSettings.read(vllm_config).latent
        self.start, self.pad, self.end, self.size = latent.start_id, latent.pad_id, latent.end_id, latent.size
        self.inside = (self.start, self.pad)
        self.closed = torch.tensor([self.pad, self.end], device=device)
        self.rows: dict[int, Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Forcing tokens changes greedy decoding."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the rows of the batch as requests come, go and move."""
        if batch_update is None:
            return
        rows = self.rows
        for row in batch_update.removed:
            rows.pop(row, None)
        for row, params, prompt, output in batch_update.added:
            max_spans = (params.extra_args or {}).get("latent_max_spans")
            rows[row] = Row((prompt or [])[-self.size - 1 :], output, max_spans, stop_token(params))
        for a, b, direction in batch_update.moved:
            moved, replaced = rows.pop(a, None), rows.pop(b, None)
            if moved is not None:
                rows[b] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                rows[a] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask the logits [rows, V] in place."""
        logits.index_fill_(1, self.closed, CLOSED)
        rows: list[int] = []
        tokens: list[int] = []
        inside = self.inside
        for number, row in self.rows.items():
            prompt, output = row.prompt, row.output
            if (output[-1] if output else prompt[-1] if prompt else -1) in inside:
                rows.append(number)
                tokens.append(self.next_token(row))
        if rows:
            index = torch.tensor(rows, device=logits.device)
            logits.index_fill_(0, index, CLOSED)
            logits[index, torch.tensor(tokens, device=logits.device)] = 0.0
        return logits

    def next_token(self, row: Row) -> int:
        """The only token that may follow a start or a pad."""
        output = row.output
        is_start = bool(output) and output[-1] == self.start
        if is_start and row.max_spans is not None and row.stop is not None and output.count(self.start) > row.max_spans:
            return row.stop
        return self.end if self.pads_before(row.prompt, output) >= self.size else self.pad

    def pads_before(self, prompt: list[int], output: list[int]) -> int:
        """How many pads end prompt + output, counted up to K."""
        count, size, pad = 0, self.size, self.pad
        for tokens in (output, prompt):
            for token in reversed(tokens):
                if token != pad or count == size:
                    return count
                count += 1
        return count
