"""Stage-1 targets of a step: focused crops, or ILVR's selection by a momentum teacher, sharded like the model."""

from collections.abc import Sequence

import torch

from covt_model.batch import Batch
from covt_model.encode import Encoder
from covt_model.policy import LatentPolicy
from covt_model.targets import make_targets
from covt_model.teacher import Teacher
from covt_model.vision import VisionFeatures
from covt_runtime.engine import ZeroEngine
from covt_runtime.sections import LatentSection

KIND = "teacher/"


class TargetMaker:
    """Targets [P, H] of each micro-batch, normalized like fed-back hidden states.

    For `ilvr` each rank keeps the average of its own shards in fp32, and the model takes the teacher's values for the
    time of one pass a sample: no rank ever holds a second whole model.
    """

    def __init__(
        self,
        engine: ZeroEngine,
        policy: LatentPolicy,
        encoder: Encoder,
        features: VisionFeatures,
        section: LatentSection,
    ) -> None:
        self.engine = engine
        self.policy = policy
        self.encoder = encoder
        self.features = features
        self.section = section
        self.teacher = Teacher(engine.named_shards(), section.teacher_decay) if section.selection == "ilvr" else None

    def make(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Targets of the step's micro-batches (collective: all ranks have equally many)."""
        if self.teacher is None:
            return [self._targets(batch) for batch in batches]
        self._swap(self.teacher)
        with self.engine.forwards():
            targets = [self._targets(batch) for batch in batches]
        self._swap(self.teacher)
        return targets

    def moved(self) -> None:
        """The student has taken a step: the teacher follows."""
        if self.teacher is not None:
            self.teacher.update(self.engine.named_shards())

    def state(self) -> dict[str, torch.Tensor]:
        """This rank's part of the teacher, for a checkpoint."""
        return {} if self.teacher is None else {KIND + name: t for name, t in self.teacher.state_dict().items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `state` returned."""
        if self.teacher is not None:
            own = {name.removeprefix(KIND): t for name, t in tensors.items() if name.startswith(KIND)}
            self.teacher.load_state_dict(own)

    def _swap(self, teacher: Teacher) -> None:
        teacher.swap(self.engine.named_shards())
        self.engine.adopt_shards()

    def _targets(self, batch: Batch) -> torch.Tensor:
        helpers = [picture for row in batch.helpers for segment in row for picture in segment]
        pictures = [picture for row in batch.pictures for picture in row]
        return make_targets(
            batch,
            self.encoder.latent,
            self.features(helpers),
            selection=self.section.selection,
            teacher=self.policy.model.model.language_model if self.teacher is not None else None,
            embed_tokens=self.policy.model.get_input_embeddings(),
            image_features=self.features(pictures),
            top_p=self.section.top_p,
            temperature=self.section.temperature,
        ).values
