"""Rows to token sequences: prompt, interleaved text and latent segments, labels, positions, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from covt_model.encoding.control_tokens import ControlTokens
from covt_model.encoding.prompt import PromptConfig, messages
from covt_model.encoding.row_images import Picture
from covt_model.families import find_family, read_image_settings
from covt_model.families.family import visual_tokens
from covt_model.families.image_settings import Grid
from covt_model.latent_config import LatentConfig, read_config
from covt_model.model_errors import ModelError

if TYPE_CHECKING:
    from covt_data.schema import Row, Step

IGNORE = -100
Mode = Literal["latent", "pause", "plain"]
Selection = Literal["focus", "ilvr"]
Span = tuple[int, int]


@dataclass(frozen=True)
class EncodedPrompt:
    """A rendered prompt. The server takes `ids` and expands pictures itself; the trainer takes `expanded`."""

    row_id: str
    ids: np.ndarray
    """int64 [P]: one `<|image_pad|>` a picture."""
    expanded: np.ndarray
    """int64 [P']: as many `<|image_pad|>` as the picture has visual tokens."""
    pictures: tuple[Picture, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Sample:
    """A sequence to train on.

    Spans are half-open ranges of the pads of one segment. `helpers[s]` are the pictures whose features are segment
    s's targets, in order. Labels are aligned with `input_ids` (the loss shifts them): −100 for prompt and pads.
    """

    row_id: str
    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    spans: tuple[Span, ...]
    pictures: tuple[Picture, ...]
    helpers: tuple[tuple[Picture, ...], ...]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays and of the pictures' files."""
        pictures = (*self.pictures, *(picture for segment in self.helpers for picture in segment))
        arrays = (self.input_ids, self.labels, self.position_ids)
        return sum(array.nbytes for array in arrays) + sum(len(picture.data) for picture in pictures)


class Encoder:
    """Encodes rows for one checkpoint.

    mode: `latent` (markers and K pads a segment), `pause` (the same ids), `plain` (text steps only).
    require_latent: rows without a latent step are refused, unless False.
    selection: `focus` crops helper images to the boxes of `row.meta["focus"]`, `ilvr` keeps them whole.
    Reads tokenizer, chat template, picture and latent settings from the checkpoint folder.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        prompt: PromptConfig | None = None,
        *,
        mode: Mode = "latent",
        selection: Selection = "focus",
        max_length: int | None = None,
        require_latent: bool = True,
    ) -> None:
        from transformers import AutoTokenizer

        self.prompt = prompt or PromptConfig()
        self.mode: Mode = mode
        self.selection: Selection = selection
        self.max_length = max_length
        self.require_latent = require_latent
        self.tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
        self.settings = read_image_settings(checkpoint)
        self.latent = LatentConfig.read(checkpoint)
        config = read_config(checkpoint)
        self.family = find_family(config)
        self.image_pad_id: int = config["image_token_id"]
        self.eos_id: int = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.pad_id: int = self.tokenizer.pad_token_id
        self.control_tokens = ControlTokens(self.tokenizer)

    def encode_prompt(self, row: Row) -> EncodedPrompt:
        """Render the prompt with the checkpoint's chat template, up to where the assistant begins.

        Raises:
            ModelError: the row's text has a control token, or the prompt another number of pictures than the row.
        """
        self.control_tokens.check_prompt(row)
        text = self.tokenizer.apply_chat_template(
            messages(row, self.prompt), add_generation_prompt=True, tokenize=False
        )
        ids = np.array(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)
        pictures = tuple(Picture(image.bytes) for image in row.images)
        grids = tuple(self.family.grid_of(*picture.size, self.settings) for picture in pictures)
        found = int((ids == self.image_pad_id).sum())
        if found != len(pictures):
            raise ModelError(
                f"row {row.id}: the rendered prompt has {found} picture places for {len(pictures)} pictures",
                "correct the checkpoint's chat template, or remove picture tokens from prompt.template",
            )
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == self.image_pad_id] = [visual_tokens(grid, self.settings.merge) for grid in grids]
        return EncodedPrompt(row.id, ids, np.repeat(ids, repeats), pictures, grids)

    def encode(self, row: Row) -> Sample:
        """Encode a reasoning row; raises ModelError with the row's id when it can't be trained on."""
        prompt = self.encode_prompt(row)
        self.control_tokens.check_steps(row)
        steps = [step for step in row.steps if self.mode != "plain" or step.type == "text"]
        if not steps:
            raise ModelError(f"row {row.id} has no reasoning steps", "use rows with steps for supervised training")
        if self.require_latent and self.mode != "plain" and not any(step.type == "latent" for step in steps):
            raise ModelError(f"row {row.id} has no latent step", "filter such rows, or set latent.required = false")
        ids, labels = self._assistant(steps)
        helpers = self._helpers(row) if self.mode == "latent" else ()
        return self._sample(prompt, np.array(ids), np.array(labels), helpers)

    def completion(self, prompt: EncodedPrompt, token_ids: Sequence[int]) -> Sample:
        """A sampled completion as a sequence to score.

        Labels are the sampled tokens; forced ones (pads, and the end marker after them) are −100.
        """
        ids = np.asarray(token_ids, dtype=np.int64)
        forced = np.zeros(len(ids), dtype=bool)
        for start, end in find_spans(ids, self.latent):
            forced[start : min(end + 1, len(ids)) if end - start == self.latent.size else end] = True
        return self._sample(prompt, ids, np.where(forced, IGNORE, ids), ())

    def _assistant(self, steps: Sequence[Step]) -> tuple[list[int], list[int]]:
        """Ids and labels of the assistant turn. Adjacent text steps are one text, joined by a line break."""
        ids: list[int] = []
        labels: list[int] = []
        texts: list[str] = []
        latent = self.latent

        def flush() -> None:
            if texts:
                encoded = self.tokenizer.encode("\n".join(texts), add_special_tokens=False)
                ids.extend(encoded)
                labels.extend(encoded)
                texts.clear()

        for step in steps:
            if step.type == "text":
                texts.append(step.text or "")
                continue
            flush()
            ids += [latent.start_id, *[latent.pad_id] * latent.size, latent.end_id]
            labels += [latent.start_id, *[IGNORE] * latent.size, latent.end_id]
        flush()
        return [*ids, self.eos_id], [*labels, self.eos_id]

    def _helpers(self, row: Row) -> tuple[tuple[Picture, ...], ...]:
        segments = [step.images or [] for step in row.steps if step.type == "latent"]
        if self.selection == "ilvr":
            return tuple(tuple(Picture(image.bytes) for image in images) for images in segments)
        focus = row.meta.get("focus", [])
        if [len(boxes) for boxes in focus] != [len(images) for images in segments]:
            raise ModelError(
                f'row {row.id}: metadata "focus" has no box for each helper image',
                'use data prepared with boxes, or set latent.selection = "ilvr"',
            )
        helpers = []
        for images, boxes in zip(segments, focus, strict=True):
            pictures = tuple(
                Picture(image.bytes, (box[0], box[1], box[2], box[3])) for image, box in zip(images, boxes, strict=True)
            )
            tokens = sum(
                visual_tokens(self.family.grid_of(*picture.size, self.settings), self.settings.merge)
                for picture in pictures
            )
            if tokens != self.latent.size:
                raise ModelError(
                    f"row {row.id}: the focus boxes have {tokens} visual tokens for {self.latent.size} latents",
                    f"set latent.size to {tokens}, or prepare the data with other helper images",
                )
            helpers.append(pictures)
        return tuple(helpers)

    def _sample(
        self, prompt: EncodedPrompt, ids: np.ndarray, labels: np.ndarray, helpers: tuple[tuple[Picture, ...], ...]
    ) -> Sample:
        start = len(prompt.expanded)
        input_ids = np.concatenate([prompt.expanded, ids])
        if self.max_length is not None and len(input_ids) > self.max_length:
            raise ModelError(
                f"row {prompt.row_id} has {len(input_ids)} tokens, more than max_length {self.max_length}",
                "raise data.max_length, or lower the pictures' max_pixels",
            )
        # A picture token that was sampled, not rendered, is a text token: no picture belongs to it.
        positions = self.family.positions(prompt.expanded, self.image_pad_id, prompt.grids, self.settings.merge)
        following = positions[:, -1:] + 1
        return Sample(
            row_id=prompt.row_id,
            input_ids=input_ids,
            labels=np.concatenate([np.full(start, IGNORE, dtype=np.int64), labels]),
            position_ids=np.concatenate([positions, following + np.arange(len(ids))], axis=1),
            spans=tuple((start + a, start + b) for a, b in find_spans(ids, self.latent)),
            pictures=prompt.pictures,
            helpers=helpers,
            prompt_length=start,
        )


def find_spans(ids: np.ndarray, latent: LatentConfig) -> list[Span]:
    """Half-open ranges of the pad runs in `ids` [T]. Adjacent segments have markers between them."""
    is_pad = np.concatenate([[False], ids == latent.pad_id, [False]])
    edges = np.flatnonzero(is_pad[1:] != is_pad[:-1])
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
