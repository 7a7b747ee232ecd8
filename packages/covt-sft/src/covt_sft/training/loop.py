"""One rank of a supervised training, read top to bottom: stages → steps → evaluation → checkpoints → export.

`Trainer.run` trains the stages one after another. A step deals rows, computes and updates, logs, evaluates where the
recipe says so, reports, and saves. `training_setup` builds the parts; `optimizer_step` and `stage_loss` compute.
"""

import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.hf_folder import write_checkpoint
from covt_model.checkpoints.lora import merged
from covt_runtime.checkpoints.checkpoint import CheckpointStore, LoadedCheckpoint
from covt_runtime.engine.profiler import StepProfiler
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.launch.distributed import Worker
from covt_runtime.run_folder import RunFolder
from covt_sft.batches.sample_source import SampleSource, StepRows
from covt_sft.batches.step_loader import RowsOfStep, StepLoader
from covt_sft.losses.objective import Objective
from covt_sft.losses.stage_loss import StageLoss
from covt_sft.losses.target_maker import TargetMaker
from covt_sft.planning.plan import sees_images_again, training_stream
from covt_sft.sft_errors import SftError
from covt_sft.sft_job import SftJob
from covt_sft.training.accuracy_probe import AccuracyProbe
from covt_sft.training.optimizer_step import Stepper, decoder_work
from covt_sft.training.run_reporter import RunReporter
from covt_sft.training.stages import Position, Stage, planned_stages
from covt_sft.training.training_setup import build_encoder, build_policy, build_source, stage_optimizer


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch.workers`: run the `SftJob` in `payload` and return the run's results."""
    trainer = Trainer(SftJob.model_validate(payload), worker)
    try:
        return trainer.run()
    finally:
        trainer.engine.close()


class Trainer:
    """The model, its data and its optimizer on one rank."""

    def __init__(self, job: SftJob, worker: Worker) -> None:
        self.job = job
        self.config = config = job.config
        self.worker = worker
        self.clock: Callable[[], float] = time.monotonic
        self.folder = RunFolder(job.run)
        self.stages = planned_stages(job)
        torch.manual_seed(config.run.seed)
        self.noise = torch.Generator().manual_seed(config.run.seed * 1000 + worker.rank)
        self.encoder = build_encoder(config, job.model)
        prepared = PreparedSet(job.data)
        self.stream = training_stream(job.data, config, self.encoder.settings.cell)
        keeps = sees_images_again(config, self.stream, sum(stage.steps for stage in self.stages))
        self.policy, self.features = build_policy(config, self.encoder, job.model, worker.device, keeps_features=keeps)
        self.data = build_source(config, self.encoder, self.stream.rows, worker.device)
        rows = max(config.eval.rows, config.eval.loss_rows) if config.eval.split in prepared.splits else 0
        held_out = list(prepared.rows(config.eval.split, rows, limits=self.stream.limits)) if rows else []
        graded = held_out[: config.eval.rows]
        self.probe = AccuracyProbe(graded, self.encoder, self.features, config.eval.max_tokens) if graded else None
        scored = [row for row in held_out[: config.eval.loss_rows] if row.steps]
        self.held_out = build_source(config, self.encoder, scored, worker.device)
        self.best: float | None = None
        self.store = CheckpointStore(self.folder.checkpoints, config.log.keep)
        self.reporter = RunReporter(self.folder, config.log, worker)
        self.profiler = StepProfiler(job.profile, job.profile_steps, rank=worker.rank)
        work = decoder_work(self.policy.model)
        optim = stage_optimizer(config, self.stages[0].section)
        self.engine = ZeroEngine(Objective(self.policy), optim, config.zero, total_steps=self.stages[0].steps)
        self.targets = TargetMaker(self.engine, self.policy, self.encoder, self.features, config.latent)
        self.loader = self.load_steps(self.data, self.rows_of_step, threads=config.data.workers)
        self.held_out_loader = self.load_steps(self.held_out, lambda _: range(len(scored)), threads=0)
        self.stepper = Stepper(self.engine, work, self.noise, skips=config.data.on_bad == "skip")

    def run(self) -> dict[str, Any]:
        """Train all stages, each from a fresh optimizer, and export the model."""
        started = time.monotonic()
        with self.reporter, self.loader:
            self.prepare_targets()
            position = (self.restore() if self.job.resume else None) or Position(self.stages[0].name)
            names = [stage.name for stage in self.stages]
            for stage in self.stages[names.index(position.stage) :]:
                if stage.name != position.stage:
                    position.enter(stage)
                    self.engine.reset_optimizer(stage_optimizer(self.config, stage.section), stage.steps)
                self.train_stage(stage, position)
                if not stage.is_final:
                    self.export(self.folder.path / stage.name / "hf")
        seconds = time.monotonic() - started
        self.export(self.folder.hf)
        return {"run": str(self.folder.path), "hf": str(self.folder.hf), "steps": position.done, "seconds": seconds}

    def train_stage(self, stage: Stage, position: Position) -> None:
        """Train a stage from `position` to its end, which is before its last step when its time is up."""
        limit, every = stage.section.seconds, self.config.log.save_every
        self.reporter.begin_phase(f"sft {self.config.method}, {stage.name}", None if limit else stage.steps)
        began = self.clock() - position.seconds
        loss = StageLoss(stage.section, self.config.method, self.engine, self.features, self.targets)
        if not loss.uses_targets:
            self.targets.release_teacher()
        self.loader.helpers = loss.uses_targets and self.targets.cache is None
        while not position.ended:
            step_began = time.monotonic()
            with self.profiler.trace(position.done + 1):
                rows = self.deal_rows(position.done)
                waited = time.monotonic() - step_began
                _, metrics = self.stepper.step(loss, rows)
            position.advance(stage, self.elapsed_seconds(began, limit))
            metrics["time/step"] = time.monotonic() - step_began
            metrics["perf/data_wait"] = waited / metrics["time/step"]
            if (position.steps - 1) % self.config.log.every == 0 or position.ended:
                self.reporter.log_metrics(position.done, stage.name, metrics)
            improved = False
            if position.ended or (self.config.eval.every and position.steps % self.config.eval.every == 0):
                improved = self.evaluate(stage, loss, position.done)
            self.reporter.report_progress(position.steps, metrics["loss"])
            if position.ended or improved or (every and position.done % every == 0):
                self.save(position, best=improved)

    def load_steps(self, source: SampleSource, rows_of_step: RowsOfStep, *, threads: int) -> StepLoader:
        """A loader for this rank."""
        engine = self.engine
        share = engine.global_sum
        return StepLoader(source, self.features, rows_of_step, engine.rank, engine.world_size, share, threads=threads)

    def rows_of_step(self, number: int) -> list[int]:
        """The rows of step `number`, counted from 0 and independent of earlier steps."""
        batch = self.config.data.batch_size
        return [self.stream.index(place) for place in range(number * batch, (number + 1) * batch)]

    def deal_rows(self, number: int) -> StepRows:
        """This rank's rows of step `number` (collective)."""
        rows = self.loader.deal(number)
        self.reporter.name_skipped_rows(self.data, rows.skipped)
        return rows

    def evaluate(self, stage: Stage, loss: StageLoss, done: int) -> bool:
        """Log accuracy and loss on held-out rows (collective).

        Returns:
            Whether `eval.best` has its best value so far; only the final stage counts.
        """
        metrics: dict[str, float] = {}
        if self.probe is not None:
            metrics |= self.probe.measure(self.engine, self.policy)
        if self.held_out.rows:
            held_out = loss.evaluate(self.held_out_loader.deal(0))
            metrics |= {f"eval/{key}": value for key, value in held_out.items()}
        if metrics:
            self.reporter.log_metrics(done, stage.name, metrics)
        judge = self.config.eval.best
        if not stage.is_final or f"eval/{judge}" not in metrics:
            return False
        value = metrics[f"eval/{judge}"]
        better = self.best is None or (value < self.best if judge == "loss" else value > self.best)
        self.best = value if better else self.best
        return better

    def elapsed_seconds(self, began: float, limit: float | None) -> float:
        """Seconds since `began`; where a limit depends on them, the most of any rank (collective)."""
        seconds = self.clock() - began
        return seconds if limit is None else float(self.engine.global_max(seconds))

    def prepare_targets(self) -> None:
        """Compute a frozen teacher's targets once, while the model still has the teacher's weights."""
        if not self.targets.frozen or not (self.stages[0].name == "stage1" or self.config.stage2.align_weight):
            return
        self.reporter.begin_phase("targets of the frozen teacher")
        usable = chain(self.data.usable(), self.held_out.usable())
        cache = Path(self.config.latent.target_cache or self.folder.path.parent / ".targets")
        made, found = self.targets.prepare(usable, cache, self.job.model, self.config.data.micro_batch)
        self.reporter.note(f"targets: {made} rows computed, {found} found in {cache}")

    def save(self, position: Position, *, best: bool) -> None:
        """Write a checkpoint (collective)."""
        skipped = [self.stepper.skipped_rows, self.stepper.skipped_steps]
        extra = {"position": position.as_dict(), "best": self.best, "skipped": skipped, "data": self.stream.state()}
        tensors = {"rank/noise": self.noise.get_state()} | self.targets.state()
        self.store.save(position.done, self.engine, extra=extra, tensors=tensors, best=best)

    def restore(self) -> Position | None:
        """Load the newest checkpoint (collective); None where there is none.

        The engine continues in the stage that the checkpoint was saved in.
        """
        loaded = self.store.load(self.engine, on_note=self.reporter.note)
        if loaded is None:
            return None
        position = Position.from_checkpoint(loaded.extra, self.engine.schedule_state(), self.stages)
        self.stream.resume(loaded.extra["data"])
        stage = next((stage for stage in self.stages if stage.name == position.stage), None)
        if stage is None:
            raise SftError(
                f"{loaded.path} was saved in {position.stage}, which has no steps in this recipe",
                "resume with the recipe the run was started with (its config.json)",
            )
        self.engine.set_optimizer(stage_optimizer(self.config, stage.section))
        self.restore_own_state(loaded, position)
        self.reporter.forget_after(loaded.step)
        return position

    def restore_own_state(self, loaded: LoadedCheckpoint, position: Position) -> None:
        """Restore what the engine doesn't hold. On another number of ranks the noise gets a fresh seed."""
        if "rank/noise" in loaded.tensors:
            self.noise.set_state(loaded.tensors["rank/noise"])
        else:
            self.noise.manual_seed((self.config.run.seed * 1000 + self.worker.rank) * 1_000_003 + loaded.step)
        if position.stage != "stage1" and not self.config.stage2.align_weight:
            self.targets.release_teacher()
        self.targets.load_state(loaded.tensors)
        self.best = loaded.extra["best"]
        self.stepper.skipped_rows, self.stepper.skipped_steps = loaded.extra["skipped"]

    def export(self, out: Path) -> None:
        """Write the model as a stock Hugging Face folder (collective)."""
        tensors = self.engine.gathered_named_parameters()
        if self.config.lora.rank:
            tensors = merged(tensors, self.config.lora.scale, self.encoder.latent)
        write_checkpoint(tensors, self.job.model, out, self.policy.latent, is_main=self.worker.is_main)
