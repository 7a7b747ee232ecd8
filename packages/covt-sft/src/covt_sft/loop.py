"""One rank of a supervised training: set-up, stages, evaluation, checkpoints."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.hf_folder import write_checkpoint
from covt_model.checkpoints.lora import add_lora, merged
from covt_model.encoding.encode import Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latent_config import LatentConfig
from covt_model.latents.policy import LatentPolicy, load_split
from covt_runtime.checkpoints.checkpoint import CheckpointStore, Loaded
from covt_runtime.engine.optimizer_settings import OptimConfig
from covt_runtime.engine.weights import DTYPES
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.launch.distributed import Worker
from covt_runtime.metrics.metric_log import MetricsLog
from covt_runtime.metrics.progress import advance_event, note_event, phase_event
from covt_runtime.recipe_schema import LatentSection
from covt_runtime.run_folder import RunFolder
from covt_sft.accuracy_probe import AccuracyProbe
from covt_sft.checks import RowChecks
from covt_sft.data import SampleSource, StepRows
from covt_sft.objective import Objective
from covt_sft.plan import training_stream
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig, StageSection
from covt_sft.stage import StageLoss
from covt_sft.step import Stepper, decoder_work
from covt_sft.targets import TargetMaker


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch.workers`: train as `payload` says and return the run's results."""
    trainer = Trainer(payload, worker)
    try:
        return trainer.run()
    finally:
        trainer.engine.close()


def check_settings(served: LatentConfig, section: LatentSection, checkpoint: Path) -> None:
    """Raise SftError where a checkpoint has other latent settings than the recipe."""
    found = {"size": served.size, "normalize": served.normalize, "head": served.head}
    wanted = {"size": section.size, "normalize": section.normalize, "head": section.head}
    for key, value in found.items():
        if value != wanted[key] and value != "none":
            raise SftError(
                f"{checkpoint} has latent {key} {value!r}; the recipe says {wanted[key]!r}",
                f"set latent.{key} to the checkpoint's",
            )


class Trainer:
    """The model, its data and its optimizer on one rank."""

    def __init__(self, payload: dict[str, Any], worker: Worker) -> None:
        self.config = config = SftConfig.model_validate(payload["config"])
        self.worker = worker
        self.folder = RunFolder(Path(payload["run"]))
        self.source_checkpoint = Path(payload["model"])
        stages = [("stage1", config.stage1, payload["steps"][0]), ("stage2", config.stage2, payload["steps"][1])]
        self.stages: list[tuple[str, StageSection, int]] = [stage for stage in stages if stage[2]]
        if not self.stages:
            raise SftError("neither stage has steps", "set stage1.steps or stage2.steps")
        torch.manual_seed(config.run.seed)
        self.noise = torch.Generator().manual_seed(config.run.seed * 1000 + worker.rank)
        self.encoder = self._encoder()
        self.policy, self.features = self._model()
        prepared = PreparedSet(payload["data"])
        self.stream = training_stream(payload["data"], config)
        self.data = self._source(self.stream.rows)
        judged = config.eval.split in prepared.splits
        rows = max(config.eval.rows, config.eval.loss_rows) if judged else 0
        held_out = list(prepared.rows(config.eval.split, rows, limits=self.stream.limits)) if rows else []
        self.probe = self._probe(held_out[: config.eval.rows])
        self.held_out = self._source([row for row in held_out[: config.eval.loss_rows] if row.steps])
        self.named: set[int] = set()
        self.shown: dict[str, float] = {}
        self.best: float | None = None
        self.store = CheckpointStore(self.folder.checkpoints, config.log.keep)
        self.resume: bool = payload["resume"]
        _, stage, steps = self.stages[0]
        work = decoder_work(self.policy.model)
        self.engine = ZeroEngine(Objective(self.policy), self.optim(stage), config.zero, total_steps=steps)
        self.targets = TargetMaker(self.engine, self.policy, self.encoder, self.features, config.latent)
        self.stepper = Stepper(self.engine, work, self.noise, skips=config.data.on_bad == "skip")

    def _encoder(self) -> Encoder:
        """For the recipe's prompt and method; raises SftError where the checkpoint has other latent settings."""
        config = self.config
        encoder = Encoder(
            self.source_checkpoint,
            PromptConfig(system=config.prompt.system, template=config.prompt.template),
            mode=config.method,
            selection=config.latent.selection,
            max_length=config.data.max_length,
            require_latent=config.latent.required,
        )
        check_settings(encoder.latent, config.latent, self.source_checkpoint)
        return encoder

    def _model(self) -> tuple[LatentPolicy, VisionFeatures]:
        config = self.config
        dtype = DTYPES[config.zero.dtype]
        model, visual = load_split(self.source_checkpoint, dtype, self.worker.device, attention=config.model.attention)
        if config.lora.rank:
            add_lora(model, self.encoder.latent, **config.lora.model_dump())
        # The pause control keeps the pads' own embedding, and its checkpoint says so.
        latent = replace(self.encoder.latent, head="none") if config.method == "pause" else self.encoder.latent
        policy = LatentPolicy(model, latent, config.method, checkpoint=config.model.gradient_checkpointing)
        return policy, VisionFeatures(
            visual, self.encoder.settings, capacity_bytes=int(config.data.feature_cache_gib * 2**30)
        )

    def _source(self, rows: Sequence[Row]) -> SampleSource:
        config = self.config
        selects = config.method == "latent" and config.latent.selection == "ilvr"
        refused = config.data.max_pixels if config.data.oversize == "refuse" else None
        checks = RowChecks(refused, config.latent.size, selects=selects)
        return SampleSource(rows, self.encoder, config.data, checks, device=self.worker.device)

    def _probe(self, rows: Sequence[Row]) -> AccuracyProbe | None:
        return AccuracyProbe(rows, self.encoder, self.features, self.config.eval.max_tokens) if rows else None

    def optim(self, stage: StageSection) -> OptimConfig:
        """The recipe's optimizer with the stage's rate and schedule."""
        values = {"lr": stage.lr, "schedule": stage.schedule, "warmup_steps": stage.warmup_steps}
        return self.config.optim.model_copy(update=values)

    def _note(self, text: str) -> None:
        self.worker.emit(note_event(text))

    def run(self) -> dict[str, Any]:
        """All stages, one after another, each from a fresh optimizer."""
        begun = time.monotonic()
        with MetricsLog(self.folder, self.config.log.wandb, self.config.log.project) as log:
            self._prepare_targets()
            done = self._restore(log)
            first = 0
            for name, stage, steps in self.stages:
                if done < first + steps:
                    if done == first and first:
                        self.engine.reset_optimizer(self.optim(stage), steps)
                    done = self.train_stage(name, stage, first, steps, done, log)
                    if name != self.stages[-1][0]:
                        self.save(self.folder.path / name / "hf")
                first += steps
        seconds = time.monotonic() - begun
        self.save(self.folder.hf)
        return {"run": str(self.folder.path), "hf": str(self.folder.hf), "steps": done, "seconds": seconds}

    def _prepare_targets(self) -> None:
        """A frozen teacher is asked once, while the model still is the teacher."""
        if not self.targets.frozen or self.stages[0][0] != "stage1":
            return
        self.worker.emit(phase_event("targets of the frozen teacher", None))
        usable = chain(self.data.usable(), self.held_out.usable())
        cache = Path(self.config.latent.target_cache or self.folder.path.parent / ".targets")
        made, found = self.targets.prepare(usable, cache, self.source_checkpoint, self.config.data.micro_batch)
        self._note(f"targets: {made} rows computed, {found} found in {cache}")

    def _restore(self, log: MetricsLog) -> int:
        """Steps done before, when resuming; the engine then continues in the stage it was in."""
        if not self.resume:
            return 0
        loaded = self.store.load(self.engine, on_note=self._note)
        if loaded is None:
            return 0
        self.stream.resume(loaded.extra["data"])
        stage = next(stage for name, stage, _ in self.stages if name == loaded.extra["stage"])
        self.engine.use(self.optim(stage))
        self._adopt(loaded)
        log.forget_after(loaded.step)
        return loaded.step

    def _adopt(self, loaded: Loaded) -> None:
        """This package's own state; the noise starts afresh on another number of ranks."""
        if "rank/noise" in loaded.tensors:
            self.noise.set_state(loaded.tensors["rank/noise"])
        else:
            self.noise.manual_seed((self.config.run.seed * 1000 + self.worker.rank) * 1_000_003 + loaded.step)
        if loaded.extra["stage"] != "stage1":
            self.targets.finish()
        self.targets.load(loaded.tensors)
        self.best = loaded.extra["best"]
        self.stepper.skipped_rows, self.stepper.skipped_steps = loaded.extra["skipped"]

    def train_stage(self, name: str, stage: StageSection, first: int, steps: int, done: int, log: MetricsLog) -> int:
        """Steps `done` to `first + steps` of the training; returns where it ended, earlier when its time is up."""
        self.worker.emit(phase_event(f"sft {self.config.method}, {name}", None if stage.seconds else steps))
        begun = time.monotonic()
        every, last = self.config.log.save_every, first + steps
        loss = StageLoss(stage, self.config.method, self.engine, self.features, self.targets)
        if loss.aligned is None:
            self.targets.finish()
        while done < last:
            started = time.monotonic()
            _, metrics = self.stepper.step(loss, self._rows(done))
            done += 1
            metrics["time/step"] = time.monotonic() - started
            ended = done == last or self._time_is_up(stage, begun)
            if (done - first - 1) % self.config.log.every == 0 or ended:
                log.log(done, name, metrics)
            improved = False
            if ended or (self.config.eval.every and (done - first) % self.config.eval.every == 0):
                improved = self._evaluate(name, loss, done, log)
            self.worker.emit(advance_event(done - first, {"loss": metrics["loss"]} | self.shown))
            if ended or improved or (every and done % every == 0):
                self._checkpoint(name, done, best=improved)
            if ended:
                break
        return done

    def _rows(self, number: int) -> StepRows:
        """The rows of step `number` (from 0), whatever came before (collective)."""
        batch = self.config.data.batch_size
        indices = [self.stream.index(place) for place in range(number * batch, (number + 1) * batch)]
        rows = self.data.deal(indices, self.engine.rank, self.engine.world_size, self.engine.global_sum)
        for index in rows.skipped:
            if self.worker.is_main and index not in self.named:
                self.named.add(index)
                self._note(f"row {self.data.rows[index].id} is left out: {self.data.problem(index)}")
        return rows

    def _evaluate(self, name: str, loss: StageLoss, done: int, log: MetricsLog) -> bool:
        """Log accuracy and loss on held-out rows; whether this is the best the last stage has had."""
        metrics = {}
        if self.probe is not None:
            metrics["eval/accuracy"] = self.probe.measure(self.engine, self.policy)
            self.shown = {"accuracy": metrics["eval/accuracy"]}
        if self.held_out.rows:
            indices = range(len(self.held_out.rows))
            rows = self.held_out.deal(indices, self.engine.rank, self.engine.world_size, self.engine.global_sum)
            metrics |= {f"eval/{key}": value for key, value in loss.held_out(rows).items()}
        if metrics:
            log.log(done, name, metrics)
        if name != self.stages[-1][0] or f"eval/{self.config.eval.best}" not in metrics:
            return False
        value = metrics[f"eval/{self.config.eval.best}"]
        better = self.best is None or (value < self.best if self.config.eval.best == "loss" else value > self.best)
        self.best = value if better else self.best
        return better

    def _checkpoint(self, name: str, done: int, *, best: bool) -> None:
        skipped = [self.stepper.skipped_rows, self.stepper.skipped_steps]
        extra = {"stage": name, "best": self.best, "skipped": skipped, "data": self.stream.state()}
        tensors = {"rank/noise": self.noise.get_state()} | self.targets.state()
        self.store.save(done, self.engine, extra=extra, tensors=tensors, best=best)

    def _time_is_up(self, stage: StageSection, begun: float) -> bool:
        if stage.seconds is None:
            return False
        return float(self.engine.global_max(time.monotonic() - begun)) >= stage.seconds

    def save(self, out: Path) -> None:
        """Write the model as a stock Hugging Face folder (all ranks call this)."""
        tensors = self.engine.gathered_named_parameters()
        if self.config.lora.rank:
            tensors = merged(tensors, self.config.lora.scale, self.encoder.latent)
        write_checkpoint(tensors, self.source_checkpoint, out, self.policy.latent, is_main=self.worker.is_main)
