"""Supervised training on interleaved samples: tokens a second of one process, against the Hugging Face Trainer.

Both train the same rows (the pause control's ids and labels: plain cross-entropy, which the Trainer computes too) with
the same AdamW in fp32 on one thread, the vision tower frozen; before anything is timed, their losses are compared.
Costs are seconds a token of the rows: padding is paid, not counted. Texts differ in length as in interleaved data (log-
normal); a third of the rows have two pictures.

Ours keeps the features of pictures it has seen: any epoch but the first, of the 15 a recipe has. In "first epoch" it
computes them. The Trainer runs the tower on every row of every epoch; by itself it takes rows in a random order.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case

HEADLINE = "packed, against the Trainer as it comes"
ROWS, MICRO, SEED = 16, 4, 3
_ENGINES: dict[str, Any] = {}


def rows() -> list[Any]:
    """Made-up interleaved rows with pictures of 4 × 4 to 8 × 8 visual tokens."""
    import numpy as np
    from PIL import Image as PilImage

    from covt_data.schema import Image, Row, Step

    draw = np.random.default_rng(SEED)
    words = [f"word{number}" for number in range(60)]

    def picture() -> Image:
        cells = draw.integers(4, 9, 2)
        pixels = draw.integers(0, 256, (cells[0] * 4, cells[1] * 4, 3), dtype=np.uint8).repeat(7, 0).repeat(7, 1)
        buffer = io.BytesIO()
        PilImage.fromarray(pixels).save(buffer, "PNG")
        return Image(bytes=buffer.getvalue())

    def text() -> str:
        return " ".join(draw.choice(words, int(np.clip(draw.lognormal(3.3, 0.9), 6, 130))))

    made = []
    for number in range(ROWS):
        pictures = [picture() for _ in range(1 + (number % 3 == 0))]
        steps = [
            Step(type="text", text=text()),
            Step(type="latent", images=[picture()]),
            Step(type="text", text=text()),
        ]
        made.append(
            Row(
                id=f"row-{number}", source="made", split="train", question="<image>" * len(pictures) + " What is it?",
                images=pictures, answer="A", grader="text", steps=steps,
            )
        )  # fmt: skip
    return made


def build(folder: Path) -> Path:
    """A Qwen2.5-VL of 7 M parameters with four layers of hidden size 256 and a vision tower of four."""
    from covt_model.checkpoints.tiny_checkpoint import build_tiny
    from covt_model.encoding.row_images import decode

    made = rows()
    texts = [text for row in made for text in (row.question, *(step.text or "" for step in row.steps))]
    pictures = [decode(image.bytes) for row in made[:4] for image in row.images]
    shape: dict[str, Any] = {"hidden": 256, "layers": 4, "heads": 8, "intermediate": 768}
    return build_tiny(folder / "model", texts, pictures, **shape, vision_depth=4, vision_hidden=160, window=112)


class Ours:
    """Our step on one rank of the ZeRO-3 engine: the objects that `covt sft` makes."""

    def __init__(self, checkpoint: str, batching: str) -> None:
        import torch

        from covt_model.checkpoints.split_load import load_split
        from covt_model.encoding.encode import Encoder
        from covt_model.encoding.vision_features import VisionFeatures
        from covt_model.latents.policy import LatentPolicy
        from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
        from covt_runtime.engine.zero_engine import ZeroEngine
        from covt_runtime.recipe_schema import LatentSection
        from covt_sft.batches.row_checks import RowChecks
        from covt_sft.batches.sample_source import SampleSource
        from covt_sft.losses.objective import Objective
        from covt_sft.losses.stage_loss import StageLoss
        from covt_sft.losses.target_maker import TargetMaker
        from covt_sft.sft_recipe import SftDataSection, Stage2Section
        from covt_sft.training.optimizer_step import Stepper, decoder_work

        encoder = Encoder(checkpoint, mode="pause", selection="ilvr")
        section = SftDataSection.model_validate(
            {"batch_size": ROWS, "micro_batch": ROWS if batching == "packed" else MICRO, "batching": batching}
            | ({"micro_tokens": 1500} if batching == "packed" else {})
        )
        checks = RowChecks(None, encoder.latent.size, selects=False)
        self.source = SampleSource(rows(), encoder, section, checks, device=torch.device("cpu"))
        model, visual = load_split(checkpoint, torch.float32)
        self.features = VisionFeatures(visual, encoder.settings)
        policy = LatentPolicy(model, encoder.latent, "pause")
        work = decoder_work(model)
        zero = ZeroConfig(dtype="fp32", gather="step", persistence_threshold=0)
        optim = OptimConfig(lr=1e-3, schedule="constant", warmup_steps=0, clip=1.0)
        self.engine = ZeroEngine(Objective(policy), optim, zero, total_steps=10_000)
        targets = TargetMaker(self.engine, policy, encoder, self.features, LatentSection(selection="focus"))
        self.loss = StageLoss(Stage2Section(steps=1), "pause", self.engine, self.features, targets)
        self.stepper = Stepper(self.engine, work, torch.Generator(), skips=False)

    def step(self, *, forget: bool) -> tuple[float, float, float]:
        """(loss, seconds, tokens) of an epoch: all rows, one optimizer step."""
        if forget:
            self.loss.features = type(self.features)(self.features.visual, self.features.decoder.settings)
        begun = time.perf_counter()
        lengths = [self.source.length(index) for index in range(ROWS)]
        batch = self.source.build(self.source.deal(range(ROWS), lengths, rank=0, ranks=1))
        _, metrics = self.stepper.step(self.loss, batch)
        seconds = time.perf_counter() - begun
        return metrics["loss"], seconds, float(sum(len(s) for m in batch.micro_batches for s in m.samples))


def ours(payload: dict[str, Any], worker: Any) -> list[float]:
    """Runs in a worker: one epoch of the engine of this kind of batching."""
    name = payload["batching"]
    if name not in _ENGINES:
        _ENGINES[name] = Ours(payload["checkpoint"], name)
    return list(_ENGINES[name].step(forget=payload["forget"]))


class Trainer:
    """transformers.Trainer on the same rows: padded micro-batches, gradient accumulation over the epoch."""

    def __init__(self, checkpoint: Path, folder: Path, *, group_by_length: bool) -> None:
        import torch
        import transformers

        from covt_model.encoding.encode import Encoder

        torch.set_num_threads(1)
        self.encoder = Encoder(checkpoint, mode="pause", selection="ilvr")
        self.samples = [self.encoder.encode(row) for row in rows()]
        loaded: Any = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained
        self.model = model = loaded(str(checkpoint), dtype=torch.float32)
        model.model.visual.requires_grad_(False)
        self.ends: list[float] = []
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=ROWS // MICRO,
            max_steps=2,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length" if group_by_length else "random",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            disable_tqdm=True,
            seed=SEED,
        )
        dataset: Any = [{"sample": sample, "input_ids": sample.input_ids.tolist()} for sample in self.samples]
        self.trainer = transformers.Trainer(model, arguments, train_dataset=dataset, data_collator=self.collate)
        self.trainer.add_callback(self._clock())

    def _clock(self) -> Any:
        import transformers

        ends = self.ends

        class Clock(transformers.TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.perf_counter())

        return Clock()

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Padded on the right, with pixel values as the processor makes them."""
        import torch

        from covt_model.encoding.batch import collate
        from covt_model.families.image_patches import patchify

        samples = [feature["sample"] for feature in features]
        batch = collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)
        patches = [patchify(p.pixels()[None], self.encoder.settings) for s in samples for p in s.pictures]
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "labels": batch.labels,
            "pixel_values": torch.cat([values for values, _ in patches]),
            "image_grid_thw": torch.tensor([grid for _, grid in patches]),
        }

    def loss(self) -> float:
        """The mean over all supervised tokens, before the first step."""
        import torch

        with torch.no_grad():
            return float(self.model(**self.collate([{"sample": sample} for sample in self.samples])).loss)

    def epoch(self) -> float:
        """Seconds of an optimizer step over all rows: of the second of two, since the first carries the start-up."""
        self.ends.clear()
        self.trainer.train()
        return self.ends[1] - self.ends[0]


@contextmanager
def cases() -> Iterator[list[Case]]:
    from covt_runtime.launch.workers import WorkerGroup

    with (
        tempfile.TemporaryDirectory() as temporary,
        WorkerGroup(1, log_dir=Path(temporary), env={"PYTHONPATH": str(Path(__file__).parent)}) as workers,
    ):
        folder = Path(temporary)
        checkpoint = build(folder)
        bases = {on: Trainer(checkpoint, folder / f"hf-{on}", group_by_length=on) for on in (True, False)}
        tokens = float(sum(len(sample) for sample in bases[True].samples))

        def epoch(batching: str, forget: bool = False) -> list[float]:
            payload = {"batching": batching, "checkpoint": str(checkpoint), "forget": forget}
            return workers.run("sft_step:ours", payload)

        first, base = epoch("packed")[0], bases[True].loss()
        assert abs(first - base) < 1e-3 * base, f"the two train different losses: {first} and {base}"

        def us(batching: str, forget: bool = False) -> float:
            return epoch(batching, forget)[1] / tokens

        def trainer(grouped: bool) -> float:
            return bases[grouped].epoch() / tokens

        yield [
            Case(HEADLINE, lambda: us("packed"), lambda: trainer(False)),
            Case("packed, against the Trainer with group_by_length", lambda: us("packed"), lambda: trainer(True)),
            Case("packed, first epoch, against group_by_length", lambda: us("packed", True), lambda: trainer(True)),
            Case("grouped by length on both sides", lambda: us("length"), lambda: trainer(True)),
            Case("in order on both sides", lambda: us("order"), lambda: trainer(False)),
        ]


BENCHMARK = Benchmark(
    name="sft_step",
    about="supervised training against the Hugging Face Trainer, seconds a token",
    headline=HEADLINE,
    rounds=3,
    cases=cases,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
