"""The latents that were fed, row by row, for the requests that are running and for those that ended."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from covt_model.latents.latent_replacement import replacement_latent
from covt_rollout.vllm_plugin.protocol import LatentOptions, Latents


class RowPool:
    """A growing matrix [capacity, H] whose rows are handed out and taken back."""

    def __init__(self, hidden: int, dtype: torch.dtype, device: torch.device, capacity: int = 1024) -> None:
        self.rows = torch.zeros(capacity, hidden, dtype=dtype, device=device)
        self.free = list(range(capacity))

    @property
    def used(self) -> int:
        return len(self.rows) - len(self.free)

    def put(self, block: torch.Tensor) -> list[int]:
        """Store block [n, H] and return its n row numbers."""
        n = len(block)
        while len(self.free) < n:
            old = len(self.rows)
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
            self.free.extend(range(old, 2 * old))
        taken = self.free[-n:]
        del self.free[-n:]
        self.rows[torch.tensor(taken, device=self.rows.device)] = block.to(self.rows.dtype)
        return taken

    def read(self, taken: list[int]) -> torch.Tensor:
        """The rows [n, H] of these numbers."""
        return self.rows[torch.tensor(taken, dtype=torch.long, device=self.rows.device)]

    def release(self, taken: list[int]) -> None:
        self.free.extend(taken)


@dataclass
class RequestLatents:
    """What one running request feeds at its pads.

    prompt_length: tokens. slots: absolute position of a pad → its row in the pool, in the order of the pads. Keyed by
    position, a recomputation after a preemption feeds exactly what was fed before.
    """

    options: LatentOptions
    prompt_length: int
    slots: dict[int, int] = field(default_factory=dict)

    def replacement(self, ordinal: int, own: torch.Tensor) -> torch.Tensor:
        """What the `ordinal`-th pad of the sequence gets in place of its own latent `own` [H]."""
        options = self.options
        given = None if options.data is None else torch.from_numpy(options.data)
        return replacement_latent(options.mode, own, ordinal, given=given, seed=options.seed)

    def output_slots(self) -> list[int]:
        return [slot for position, slot in self.slots.items() if position >= self.prompt_length]


class FinishedLatents:
    """Latents of ended requests by key, each a list with one array [n, H] a choice; bounded, the oldest go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.by_key: OrderedDict[str, dict[int, Latents]] = OrderedDict()
        self.dropped = 0

    def add(self, key: str, choice: int, latents: Latents) -> None:
        self.by_key.setdefault(key, {})[choice] = latents
        while len(self.by_key) > self.limit:
            self.by_key.popitem(last=False)
            self.dropped += 1

    def take(self, key: str) -> dict[int, Latents]:
        """The arrays by choice, forgotten afterwards; empty for an unknown key."""
        return self.by_key.pop(key, {})
