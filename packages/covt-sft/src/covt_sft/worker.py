"""One rank of a supervised training."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from covt_data.store import PreparedSet
from covt_model.encode import Encoder
from covt_model.export import write_checkpoint
from covt_model.losses import mean_loss
from covt_model.policy import LatentPolicy, load_split
from covt_model.prompt import PromptConfig
from covt_model.vision import VisionFeatures
from covt_runtime.checkpoint import CheckpointStore
from covt_runtime.config import OptimConfig
from covt_runtime.distributed import Worker
from covt_runtime.engine import StepResult, ZeroEngine
from covt_runtime.metrics import MetricsLog
from covt_runtime.progress import advance_event, note_event, phase_event
from covt_runtime.run import RunFolder
from covt_sft.config import SftConfig, Stage1Section, StageSection
from covt_sft.data import SampleSource
from covt_sft.errors import SftError
from covt_sft.objective import LossSums, Objective, target_noise
from covt_sft.probe import Probe
from covt_sft.targets import TargetMaker


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch`: train as `payload` says and return the run's results."""
    trainer = Trainer(payload, worker)
    try:
        return trainer.run()
    finally:
        trainer.engine.close()


class Trainer:
    """The model, its data and its optimizer on one rank."""

    def __init__(self, payload: dict[str, Any], worker: Worker) -> None:
        self.config = config = SftConfig.model_validate(payload["config"])
        self.worker = worker
        self.folder = RunFolder(Path(payload["run"]))
        self.source_checkpoint = Path(payload["model"])
        stages = [("stage1", config.stage1, payload["steps"][0]), ("stage2", config.stage2, payload["steps"][1])]
        self.stages: list[tuple[str, StageSection, int]] = [stage for stage in stages if stage[2]]
        torch.manual_seed(config.run.seed)
        self.noise = torch.Generator().manual_seed(config.run.seed * 1000 + worker.rank)

        prompt = PromptConfig(system=config.prompt.system, template=config.prompt.template)
        self.encoder = Encoder(
            self.source_checkpoint,
            prompt,
            mode=config.method,
            selection=config.latent.selection,
            max_length=config.data.max_length,
            require_latent=config.latent.required,
        )
        served = self.encoder.latent
        if (served.size, served.normalize) != (config.latent.size, config.latent.normalize):
            raise SftError(
                f"{self.source_checkpoint} has latent size {served.size}, normalize {served.normalize!r}; the recipe "
                f"says {config.latent.size}, {config.latent.normalize!r}",
                "set latent.size and latent.normalize to the checkpoint's",
            )
        self.data = SampleSource(
            Path(payload["data"]), config.data.split, config.data.limit, self.encoder, seed=config.run.seed
        )
        dtype = torch.bfloat16 if config.zero.dtype == "bf16" else torch.float32
        model, visual = load_split(self.source_checkpoint, dtype, worker.device)
        self.features = VisionFeatures(visual, self.encoder.settings)
        # The pause control keeps the pads' own embedding, and its checkpoint says so.
        latent = replace(self.encoder.latent, head="none") if config.method == "pause" else self.encoder.latent
        self.policy = LatentPolicy(model, latent, config.method, checkpoint=config.model.gradient_checkpointing)
        if not self.stages:
            raise SftError("neither stage has steps", "set stage1.steps or stage2.steps")
        self.probe = self._probe(payload["data"])
        self.shown: dict[str, float] = {}
        self.store = CheckpointStore(self.folder.checkpoints, config.log.keep)
        self.resume: bool = payload["resume"]
        _, stage, steps = self.stages[0]
        self.engine = ZeroEngine(Objective(self.policy), self.optim(stage), config.zero, total_steps=steps)
        self.targets = TargetMaker(self.engine, self.policy, self.encoder, self.features, config.latent)

    def optim(self, stage: StageSection) -> OptimConfig:
        """The recipe's optimizer with the stage's rate and schedule."""
        values = {"lr": stage.lr, "schedule": stage.schedule, "warmup_steps": stage.warmup_steps}
        return self.config.optim.model_copy(update=values)

    def _probe(self, data: str) -> Probe | None:
        section, prepared = self.config.eval, PreparedSet(data)
        if not section.rows or section.split not in prepared.splits:
            return None
        return Probe(list(prepared.rows(section.split, section.rows)), self.encoder, self.features, section.max_tokens)

    def run(self) -> dict[str, Any]:
        """All stages, one after another, each from a fresh optimizer."""
        begun = time.monotonic()
        with MetricsLog(self.folder, self.config.log.wandb, self.config.log.project) as log:
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

    def _restore(self, log: MetricsLog) -> int:
        """Steps done before, when resuming; the engine then continues in the stage it was in."""
        if not self.resume:
            return 0
        loaded = self.store.load(self.engine, on_note=lambda text: self.worker.emit(note_event(text)))
        if loaded is None:
            return 0
        stage = next(stage for name, stage, _ in self.stages if name == loaded.extra["stage"])
        self.engine.use(self.optim(stage))
        self.noise.set_state(loaded.tensors["noise"])
        self.targets.load(loaded.tensors)
        log.forget_after(loaded.step)
        return loaded.step

    def train_stage(self, name: str, stage: StageSection, first: int, steps: int, done: int, log: MetricsLog) -> int:
        """Steps `done` to `first + steps` of the training; returns where it ended, earlier when its time is up."""
        self.worker.emit(phase_event(f"sft {self.config.method}, {name}", None if stage.seconds else steps))
        begun = time.monotonic()
        every, last = self.config.log.save_every, first + steps
        while done < last:
            started = time.monotonic()
            result, metrics = self.step(stage, done)
            done += 1
            metrics |= {"lr": result.lr, "grad_norm": result.grad_norm, "time/step": time.monotonic() - started}
            ended = done == last or self._time_is_up(stage, begun)
            if (done - first - 1) % self.config.log.every == 0 or ended:
                log.log(done, name, metrics)
            if ended or (self.config.eval.every and (done - first) % self.config.eval.every == 0):
                self._evaluate(name, done, log)
            self.worker.emit(advance_event(done - first, {"loss": metrics["loss"]} | self.shown))
            if ended or (every and done % every == 0):
                self.store.save(done, self.engine, extra={"stage": name}, tensors=self._own_tensors())
            if ended:
                break
        return done

    def _evaluate(self, name: str, done: int, log: MetricsLog) -> None:
        if self.probe is not None:
            accuracy = self.probe.accuracy(self.engine, self.policy)
            log.log(done, name, {"eval/accuracy": accuracy})
            self.shown = {"accuracy": accuracy}

    def _own_tensors(self) -> dict[str, torch.Tensor]:
        return {"noise": self.noise.get_state()} | self.targets.state()

    def _time_is_up(self, stage: StageSection, begun: float) -> bool:
        if stage.seconds is None:
            return False
        return float(self.engine.global_max(time.monotonic() - begun)) >= stage.seconds

    def step(self, stage: StageSection, number: int) -> tuple[StepResult, dict[str, float]]:
        """One optimizer step on the rows of step `number`."""
        data, engine = self.config.data, self.engine
        micro_batches = self.data.micro_batches(
            number, data.batch_size, data.micro_batch, engine.rank, engine.world_size
        )
        batches = [batch.to(engine.device) for batch in micro_batches]
        supervised = float(sum(batch.supervised for batch in batches))
        pads = float(sum(len(batch.pad_index) for batch in batches))
        tokens, latents = engine.global_sum(torch.tensor([supervised, pads], dtype=torch.float64)).tolist()
        segments = int(engine.global_max(float(max(batch.max_segments for batch in batches))))
        aligned = stage if isinstance(stage, Stage1Section) and self.config.method == "latent" else None
        targets = self.targets.make(batches) if aligned else [None] * len(batches)

        sums = torch.zeros(2, dtype=torch.float64)
        for batch, target in zip(batches, targets, strict=True):
            features = self.features([picture for row in batch.pictures for picture in row])
            noise = None if aligned is None or target is None else target_noise(target, aligned.noise, self.noise)
            losses: LossSums = engine(batch, features, targets=target, noise=noise, max_segments=segments)
            parts = [(1.0 if aligned is None else aligned.ce_weight, losses.ce, int(tokens))]
            if aligned is not None and losses.align is not None:
                parts.append((aligned.align_weight, losses.align, int(latents)))
            engine.backward(mean_loss(parts))
            sums += torch.tensor([float(part.total.detach()) for _, part, _ in parts] + [0.0] * (2 - len(parts)))
        result = engine.step()
        if aligned is not None:
            self.targets.moved()
        ce, align = engine.global_sum(sums).tolist()
        metrics = {"loss": ce / max(tokens, 1), "ce": ce / max(tokens, 1), "tokens": tokens}
        if aligned is not None:
            metrics["align"] = align / max(latents, 1)
            metrics["loss"] = aligned.ce_weight * metrics["ce"] + aligned.align_weight * metrics["align"]
        return result, metrics

    def save(self, out: Path) -> None:
        """Write the model as a stock Hugging Face folder (all ranks call this)."""
        tensors = self.engine.gathered_named_parameters()
        write_checkpoint(tensors, self.source_checkpoint, out, self.policy.latent, is_main=self.worker.is_main)
