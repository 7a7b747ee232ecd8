"""Stage-1 targets: focused crops, or ILVR's selection by a teacher that is sharded like the model."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from covt_model.encoding.batch import Batch, collate
from covt_model.encoding.encode import Encoder, Sample
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_model.targets.alignment_targets import SelectionRule, make_targets
from covt_model.targets.momentum_teacher import Teacher
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.recipe_schema import LatentSection
from covt_sft.losses.target_cache import TargetCache, sample_digest, settings_digest, weights_digest

KIND = "teacher/"
ROWS_PER_FILE = 256


class TargetMaker:
    """Makes the targets [P, H] of micro-batches, normalized like fed-back hidden states.

    With `ilvr` and an `ema` teacher, each rank keeps the average of its own shards in fp32. The model takes the
    teacher's values while targets are computed, gathered module by module, so no rank holds a second full model. Only
    trained parameters are averaged: with LoRA, the teacher is the base model with averaged adapters. A `frozen` teacher
    is the model before its first step, and `prepare` computes its targets once for all rows.

    Args:
        engine: the training engine, whose shards the teacher averages.
        policy: the model.
        encoder: token ids and image settings.
        features: the vision tower.
        section: selection, teacher and decay.
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
        self.rule = SelectionRule(
            top_p=section.top_p,
            temperature=section.temperature,
            image_context=section.image_context,
            teacher_pads=section.teacher_pads,
            unfilled=section.unfilled,
        )
        selects = section.selection == "ilvr" and policy.mode == "latent"
        self.frozen = selects and section.teacher == "frozen"
        moves = selects and not self.frozen
        self.teacher = Teacher(engine.trainable_shards(), section.teacher_decay) if moves else None
        self.cache: TargetCache | None = None

    def make(self, batches: Sequence[Batch], samples: Sequence[Sequence[Sample]]) -> list[torch.Tensor]:
        """Targets [P, H] of each micro-batch (collective: all ranks have equally many).

        Args:
            batches: the micro-batches.
            samples: the encoded rows of each micro-batch.
        """
        if self.cache is not None:
            return [self._cached(self.cache, rows) for rows in samples]
        if self.teacher is None:
            return [self._targets(batch) for batch in batches]
        self._swap(self.teacher)
        with self.engine.forwards(whole=False):
            targets = [self._targets(batch) for batch in batches]
        self._swap(self.teacher)
        return targets

    def prepare(self, samples: Iterable[Sample], folder: Path, checkpoint: Path, micro: int) -> tuple[int, int]:
        """Write a frozen teacher's targets of these rows to disk (collective).

        Args:
            samples: the rows.
            folder: folder of the target cache.
            checkpoint: the model's weights, unchanged so far; with the settings they identify the targets.
            micro: rows per forward.

        Returns:
            How many rows were computed now, and how many were on disk.
        """
        name: list[str] = [""]
        if self.engine.rank == 0:
            weights = weights_digest(checkpoint)
            name[0] = settings_digest(weights, self.encoder, self.section, self.engine.dtype)
        dist.broadcast_object_list(name, src=0)
        self.cache = TargetCache(folder / name[0])
        made = found = 0
        remaining = (sample for sample in samples if sample.spans)
        while some := list(islice(remaining, ROWS_PER_FILE * self.engine.world_size)):
            wanted = {sample_digest(sample): sample for sample in some}
            waiting = [sample for digest, sample in wanted.items() if digest not in self.cache]
            with self.engine.forwards(whole=False):
                self._compute(self.cache, waiting, micro)
            dist.barrier()
            self.cache.refresh()
            made, found = made + len(waiting), found + len(wanted) - len(waiting)
        return made, found

    def _compute(self, cache: TargetCache, waiting: Sequence[Sample], micro: int) -> None:
        """Compute this rank's part of `waiting` and write it as one file; all ranks run equally many forwards."""
        done: dict[str, torch.Tensor] = {}
        mine = waiting[self.engine.rank :: self.engine.world_size]
        for number in range(-(-len(waiting) // (micro * self.engine.world_size))):
            rows = mine[number * micro : (number + 1) * micro] or waiting[:1]
            batch = collate(rows, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)
            targets = self._targets(batch.to(self.engine.device))
            counts = [sum(end - start for start, end in row.spans) for row in rows]
            done |= {sample_digest(row): part for row, part in zip(rows, targets.split(counts), strict=True)}
        cache.write(done)

    def update_teacher(self) -> None:
        """Move the teacher's average towards the student, after an optimizer step."""
        if self.teacher is not None:
            self.teacher.update(self.engine.trainable_shards())

    def release_teacher(self) -> None:
        """Free the teacher's memory at the end of stage 1."""
        self.teacher = None
        self.cache = None

    def state(self) -> dict[str, torch.Tensor]:
        """This rank's part of the teacher, for `load_state`."""
        return {} if self.teacher is None else {KIND + name: t for name, t in self.teacher.state_dict().items()}

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        if self.teacher is not None:
            own = {name.removeprefix(KIND): t for name, t in tensors.items() if name.startswith(KIND)}
            self.teacher.load_state_dict(own)

    def _swap(self, teacher: Teacher) -> None:
        teacher.swap(self.engine.trainable_shards())
        self.engine.adopt_shards()

    def _cached(self, cache: TargetCache, rows: Sequence[Sample]) -> torch.Tensor:
        found = [cache.read(sample_digest(row)) for row in rows if row.spans]
        return torch.cat(found).to(self.engine.device) if found else self._none()

    def _none(self) -> torch.Tensor:
        """Targets [0, H] of rows without a latent segment."""
        return torch.zeros(0, self.policy.model.config.get_text_config().hidden_size, device=self.engine.device)

    def _targets(self, batch: Batch) -> torch.Tensor:
        if self.section.selection == "focus" and not len(batch.pad_index):
            return self._none()
        helpers = [image for row in batch.helpers for segment in row for image in segment]
        images = [image for row in batch.pictures for image in row]
        return make_targets(
            batch,
            self.encoder.latent,
            self.features.merged(helpers),
            selection=self.section.selection,
            teacher=self.policy.model.model.language_model if self.section.selection == "ilvr" else None,
            embed_tokens=self.policy.model.get_input_embeddings(),
            image_features=self.features(images),
            rule=self.rule,
        ).values
