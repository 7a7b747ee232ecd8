"""Momentum teacher: an exponential moving average of the student, kept as fp32 shards.

Each rank holds and moves the average of its own partition only, so no rank ever has a whole teacher. The average is
kept in fp32: in bf16 a step of 0.001 rounds away.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from covt_model.model_errors import ModelError


class Teacher:
    """`average ← decay · average + (1 − decay) · student` over named tensors, this rank's shards of the student.

    decay 1 is the frozen teacher: it stays the student it was made from.
    """

    def __init__(self, shards: Mapping[str, torch.Tensor], decay: float = 0.999) -> None:
        if not 0 <= decay <= 1:
            raise ModelError(f"the teacher's decay is {decay}", "use a decay between 0 and 1")
        self.decay = decay
        self.average = {name: shard.detach().to(torch.float32, copy=True) for name, shard in shards.items()}

    @torch.no_grad()
    def update(self, shards: Mapping[str, torch.Tensor]) -> None:
        """Move towards the student; call after every optimizer step."""
        if self.decay == 1:
            return
        for name, average in self.average.items():
            average.lerp_(shards[name].float(), 1 - self.decay)

    @torch.no_grad()
    def swap(self, shards: Mapping[str, torch.Tensor]) -> None:
        """Exchange the student's values with the teacher's in place; calling it again puts both back.

        Exact when the shards are fp32 (the optimizer's master copies).
        """
        for name, average in self.average.items():
            student = shards[name].to(torch.float32, copy=True)
            shards[name].copy_(average)
            average.copy_(student)

    def move(self, device: torch.device | str) -> None:
        """Keep the average on another device."""
        self.average = {name: average.to(device) for name, average in self.average.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The average by name, for a checkpoint."""
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over an average with the same names and shapes; raises ModelError otherwise."""
        for name, average in self.average.items():
            if name not in state or state[name].shape != average.shape:
                raise ModelError(f"the teacher's {name} is missing or has another shape", "resume with as many ranks")
            average.copy_(state[name])
