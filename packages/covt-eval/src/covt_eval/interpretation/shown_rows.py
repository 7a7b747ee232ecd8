"""The rows that a report shows, and a model's latents for them, by the reference loop in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_eval.eval_errors import EvalError

if TYPE_CHECKING:
    import torch

    from covt_data.schema import Row
    from covt_model.generation.latent_generation import Generated

MAX_TOKENS = 64
BATCH = 64
"""Rows that are answered together."""


@dataclass(frozen=True)
class ShownRows:
    """The entries of `samples/samples.json` that a prepared set has the rows of."""

    path: Path
    entries: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    rows: list[Row]

    @classmethod
    def read(cls, folder: Path, data: Path, split: str) -> ShownRows:
        """Read the file; if it is missing, it is written for the first rows of the set.

        Raises:
            EvalError: none of the rows shown is in the set.
        """
        from covt_data.store.prepared_set import PreparedSet
        from covt_eval.evaluation.report_samples import COUNT, write_samples

        path = folder / "samples" / "samples.json"
        prepared = PreparedSet(data)
        if not path.is_file():
            write_samples(list(prepared.rows(split, COUNT)), folder)
        entries: list[dict[str, Any]] = json.loads(path.read_text())
        wanted = {entry["id"] for entry in entries}
        rows = {row.id: row for row in prepared.rows(split) if row.id in wanted}
        samples = [entry for entry in entries if entry["id"] in rows]
        if not samples:
            raise EvalError(f"{data} has none of the rows in {path}", "name the set that the run was evaluated on")
        return cls(path, entries, samples, [rows[sample["id"]] for sample in samples])

    def write(self) -> None:
        """Write the entries back."""
        self.path.write_text(json.dumps(self.entries, indent=1))


@dataclass(frozen=True)
class Answerer:
    """A model that answers rows greedily, and its vision tower."""

    model: Any
    encoder: Any
    features: Any
    latent: Any

    def latents(self, rows: Sequence[Row]) -> list[list[torch.Tensor]]:
        """For each row its latents [K, H] by segment."""
        from covt_model.generation.latent_generation import generate

        found: list[list[torch.Tensor]] = []
        for start in range(0, len(rows), BATCH):
            prompts = [self.encoder.encode_prompt(row) for row in rows[start : start + BATCH]]
            pictures = [picture for prompt in prompts for picture in prompt.pictures]
            answers = generate(self.model, prompts, self.features(pictures), self.latent, max_new_tokens=MAX_TOKENS)
            found += [_by_segment(one) for one in answers]
        return found

    def normalized_features(self, images: Sequence[bytes]) -> torch.Tensor:
        """Visual tokens [N, H] of images of one token each, normalized as latents are."""
        import torch

        from covt_model.encoding.row_images import Picture
        from covt_model.latents.feedback import feedback

        return feedback(torch.cat(self.features([Picture(image) for image in images])), self.latent.normalize)


def _by_segment(answer: Generated) -> list[torch.Tensor]:
    """The latents of an answer, [pads, H] for each of its spans."""
    segments: list[torch.Tensor] = []
    done = 0
    for start, end in answer.latent_spans:
        segments.append(answer.latents[done : done + end - start])
        done += end - start
    return segments


def load_answerer(model: Path) -> Answerer:
    """Load a checkpoint folder."""
    from covt_model.checkpoints.latent_checkpoint import load_model
    from covt_model.encoding.encode import Encoder
    from covt_model.encoding.vision_features import VisionFeatures
    from covt_model.families import read_image_settings
    from covt_model.latent_config import LatentConfig

    loaded: Any = load_model(model)
    features = VisionFeatures(loaded.model.visual, read_image_settings(model))
    return Answerer(loaded, Encoder(model), features, LatentConfig.read(model))
