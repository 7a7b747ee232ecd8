"""How long a supervised step waits for its rows, with threads that prepare them ahead and without.

SmolLM2-135M with a fresh vision tower (`covt model build --text smollm2`) in bf16 on two ranks, stage 1 of the latent
method. A row has two photographs of 640×480 pixels in JPEG files, its image and its helper image, of 391 visual tokens
each; the rows of a step are new, so no cache helps. Both sides are the trainer's own loop on the same model: only the
number of threads differs (`data.workers`). Waiting is what the log calls `perf/data_wait`.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case

HEADLINE = "share of a step that waits for rows"
ROWS, BATCH, STEPS, ROUNDS = 128, 8, 2, 3
RANKS, THREADS = 2, 2
_TRAINERS: dict[str, Any] = {}


def photo(number: int) -> bytes:
    """A JPEG of 640×480 with soft colors and noise, about 100 KB."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse) + draw.normal(0, 6, (480, 640, 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_set(folder: Path) -> Path:
    """A prepared set of such rows."""
    from covt_data.ingest.prepare import prepare

    raw = folder / "raw"
    raw.mkdir()
    lines = []
    for number in range(ROWS):
        names = [f"{number}-{kind}.jpg" for kind in ("image", "helper")]
        for place, name in enumerate(names):
            (raw / name).write_bytes(photo(2 * number + place))
        steps = [{"type": "text", "text": f"This is photograph {number}. A closer look at the brightest spot:"}]
        steps += [{"type": "latent", "images": names[1:]}, {"type": "text", "text": f"It is spot {number % 7}."}]
        question = f"Which spot of photograph {number} is the brightest?"
        row = {"question": question, "images": names[:1], "answer": str(number % 7), "steps": steps}
        lines.append(json.dumps(row))
    (raw / "rows.jsonl").write_text("\n".join(lines) + "\n")
    prepare("jsonl", folder / "data", options={"path": str(raw / "rows.jsonl")})
    return folder / "data"


def job(folder: Path) -> dict[str, Any]:
    """The training, for the ranks."""
    from covt_model.checkpoints.build_checkpoint import build_checkpoint
    from covt_runtime.run_folder import RunFolder
    from covt_sft.sft_job import SftJob
    from covt_sft.sft_recipe import SftConfig

    config = SftConfig.model_validate(
        {
            "run": {"ranks": RANKS, "out": str(folder)},
            "latent": {"normalize": "rms"},
            "data": {"batch_size": BATCH, "micro_batch": 4, "sample_cache_gib": 0.0},
            "zero": {"dtype": "bf16", "gather": "step"},
            "stage1": {"steps": ROWS // BATCH},
            "stage2": {"steps": 0},
            "eval": {"rows": 0},
            "log": {"wandb": "disabled"},
        }
    )
    run = RunFolder.create(folder, "run", {}, resume=False, overwrite=False)
    model = build_checkpoint("smollm2", folder / "model")
    made = SftJob(
        config=config, run=run.path, data=write_set(folder), model=model, stage1_steps=ROWS // BATCH, stage2_steps=0
    )
    return made.model_dump(mode="json")


def steps(payload: dict[str, Any], worker: Any) -> list[float]:
    """Runs on every rank: (seconds a step, share of them that waits) over the next steps of the training."""
    from covt_sft.losses.stage_loss import StageLoss
    from covt_sft.training.loop import Trainer

    if not _TRAINERS:
        from covt_sft.sft_job import SftJob

        _TRAINERS["one"] = Trainer(SftJob.model_validate(payload["job"]), worker)
    trainer = _TRAINERS["one"]
    stage = trainer.stages[0].section
    loss = StageLoss(stage, trainer.config.method, trainer.engine, trainer.features, trainer.targets)
    waited = total = 0.0
    with trainer.load_steps(trainer.data, trainer.rows_of_step, threads=payload["threads"]) as loader:
        # The first step has nothing to be prepared behind.
        for number in range(payload["first"], payload["first"] + STEPS + 1):
            begun = time.perf_counter()
            rows = loader.deal(number)
            dealt = time.perf_counter()
            trainer.stepper.step(loss, rows)
            if number > payload["first"]:
                waited, total = waited + dealt - begun, total + time.perf_counter() - begun
    return [total / STEPS, waited / total]


@contextmanager
def cases() -> Iterator[list[Case]]:
    from covt_runtime.launch.workers import WorkerGroup

    with (
        tempfile.TemporaryDirectory() as temporary,
        WorkerGroup(RANKS, log_dir=Path(temporary), env={"PYTHONPATH": str(Path(__file__).parent)}) as workers,
    ):
        made = job(Path(temporary))
        done: dict[str, list[float]] = {}
        position = 0

        def run(side: str) -> float:
            nonlocal position
            first, position = position, (position + STEPS + 1) % (ROWS // BATCH - STEPS)
            threads = THREADS if side == "ours" else 0
            done[side] = workers.run("data_wait:steps", {"job": made, "threads": threads, "first": first})
            return done[side][0]

        yield [
            Case("seconds a step", lambda: run("ours"), lambda: run("base")),
            Case(HEADLINE, lambda: 100 * done["ours"][1], lambda: 100 * done["base"][1], unit="%"),
        ]


BENCHMARK = Benchmark(
    name="data_wait",
    about="how long a supervised step of SmolLM2-135M waits for rows with photographs",
    headline=HEADLINE,
    cases=cases,
    rounds=ROUNDS,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
