"""The latents that were fed, for requests that are running and for requests that have ended."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from covt_rollout.vllm_plugin.protocol import LatentOptions

T = TypeVar("T")

FINISHED_LIMIT = 4096
"""Keys whose latents wait to be fetched."""


class RowPool:
    """A growing matrix [capacity, H] whose rows are allocated and released."""

    def __init__(self, hidden: int, dtype: torch.dtype, device: torch.device, capacity: int = 1024) -> None:
        self.rows = torch.zeros(capacity, hidden, dtype=dtype, device=device)
        self.free = list(range(capacity))

    @property
    def used(self) -> int:
        """Number of allocated rows."""
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
        """Make the rows available again."""
        self.free.extend(taken)


@dataclass
class RequestLatents:
    """What one running request feeds at its pads.

    Attributes:
        options: the request's latent fields.
        prompt_length: tokens of the prompt.
        slots: row in the pool for the absolute position of each pad, in the order of the pads. Because positions are
            the keys, a recomputation after a preemption feeds exactly what was fed before.
    """

    options: LatentOptions
    prompt_length: int
    slots: dict[int, int] = field(default_factory=dict)

    def output_slots(self) -> list[int]:
        """Rows of the pads after the prompt."""
        return [slot for position, slot in self.slots.items() if position >= self.prompt_length]


class FinishedLatents(Generic[T]):
    """Latents of ended requests, by key and choice; when there are too many, the oldest are dropped."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.by_key: OrderedDict[str, dict[int, T]] = OrderedDict()
        self.dropped = 0

    def add(self, key: str, choice: int, latents: T) -> None:
        """Keep the latents of one choice."""
        self.by_key.setdefault(key, {})[choice] = latents
        while len(self.by_key) > self.limit:
            self.by_key.popitem(last=False)
            self.dropped += 1

    def take(self, key: str) -> dict[int, T]:
        """Remove and return the latents by choice; empty for an unknown key."""
        return self.by_key.pop(key, {})
