"""The frozen initial policy that the KL is measured to."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from covt_model.targets.momentum_teacher import Teacher
from covt_runtime.engine.zero_engine import ZeroEngine


class Reference:
    """The weights the engine had when this was made, as fp32 shards: no rank holds a second whole model.

    Only what is trained is kept. With LoRA that is the adapters, which begin at zero: the reference is then the policy
    without them. Make it before a checkpoint is loaded, or the reference would be the resumed policy.
    """

    def __init__(self, engine: ZeroEngine) -> None:
        self.engine = engine
        self._frozen = Teacher(engine.trainable_shards(), decay=1.0)

    def move(self, device: torch.device | str) -> None:
        """Keep the shards on another device; they are used on the engine's."""
        self._frozen.move(device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The engine computes with the reference's weights inside the block (collective)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        self._frozen.swap(self.engine.trainable_shards())
        self.engine.adopt_shards()
