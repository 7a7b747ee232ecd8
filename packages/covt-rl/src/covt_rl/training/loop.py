"""One rank of a GRPO training, read top to bottom: collect → advantages → update → publish → validate → log → save.

`Trainer.run` trains step after step; `train_step` is one step and everything that follows it. `training_setup` builds
the parts of a rank, and `Coordinator` holds what only rank 0 has.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from covt_model.checkpoints.hf_folder import checkpoint_name, write_checkpoint
from covt_model.checkpoints.lora import merged
from covt_rl.rl_errors import RlError
from covt_rl.rl_job import TrainJob
from covt_rl.rollouts.journal import StepRollouts
from covt_rl.rollouts.rollout_stream import training_stream
from covt_rl.scoring.completions_table import table_rows, write_table
from covt_rl.scoring.group_advantages import with_advantages
from covt_rl.scoring.score_groups import ScoredGroup, build_rewards
from covt_rl.scoring.train_groups import TrainGroup
from covt_rl.training.alarms import Alarms
from covt_rl.training.coordinator import Coordinator
from covt_rl.training.gpu_handover import GpuHandover
from covt_rl.training.live_view import live_values
from covt_rl.training.training_setup import build_encoder, build_updater, find_bad_prompts
from covt_rollout.weights.weight_files import drain
from covt_runtime.checkpoints.checkpoint import CheckpointStore
from covt_runtime.engine.profiler import StepProfiler
from covt_runtime.launch.distributed import Worker
from covt_runtime.metrics.metric_log import MetricsLog
from covt_runtime.metrics.progress import advance_event, note_event, phase_event
from covt_runtime.run_folder import RunFolder


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch.workers`: run the `TrainJob` in `payload` and return the run's results."""
    with ExitStack() as stack:
        return Trainer(TrainJob.model_validate(payload), worker, stack).run()


class Trainer:
    """The policy, its optimizer and, on rank 0, the coordinator.

    The weights after step s are served as version `first version + s`.

    Args:
        job: what to train.
        worker: this rank.
        stack: closes what the trainer opens.
    """

    def __init__(self, job: TrainJob, worker: Worker, stack: ExitStack) -> None:
        self.job, self.config, self.worker = job, job.config, worker
        self.folder = RunFolder(job.run)
        torch.manual_seed(job.config.run.seed)
        self.encoder = build_encoder(job)
        self.stream = training_stream(job.data, job.config, self.encoder.settings.cell)
        self.skip = find_bad_prompts(job, self.encoder, self.stream, worker)
        self.updater = build_updater(job, self.encoder, worker)
        self.engine = self.updater.engine
        stack.callback(self.engine.close)
        self.store = CheckpointStore(self.folder.checkpoints, job.config.log.keep)
        self.rewards = build_rewards(
            job.config.rewards, job.config.prompt, self.encoder.latent, job.config.rollout.max_tokens
        )
        self.alarms = Alarms()
        self.profiler = StepProfiler(job.profile, job.profile_steps, rank=worker.rank)
        self.started = time.monotonic()
        self.log = stack.enter_context(MetricsLog(self.folder, job.config.log.wandb, job.config.log.project))
        self.coordinator = self._build_coordinator(stack) if worker.is_main else None
        self.handover: GpuHandover | None = None
        if job.config.server.sleep:
            client = self.coordinator.client if self.coordinator is not None else None
            self.handover = GpuHandover(self.updater, client, dist.barrier, worker.emit)
        self.times: dict[str, float] = {}
        self.best = -1.0
        self.cursor = 0

    def _build_coordinator(self, stack: ExitStack) -> Coordinator:
        return Coordinator(
            self.job,
            self.encoder,
            self.stream,
            self.rewards,
            self.worker.device,
            skip=self.skip,
            note=self.note,
            stack=stack,
        )

    def run(self) -> dict[str, Any]:
        """Train all steps that are left, and write the model as a Hugging Face folder."""
        done = self.restore()
        self.worker.emit(phase_event("rl", self.job.steps))
        if done == 0 and self.config.eval.every:
            self.log.log(0, "rl", self.validate(0))
        while not self.is_over(done):
            with self.profiler.trace(done + 1):
                self.train_step(done)
            done += 1
        seconds = time.monotonic() - self.started
        self.take_gpus()
        self.export()
        if self.handover is not None and self.config.rollout.base_url:
            # Whoever started the server gets it back awake, with the last weights.
            self.publish(done, needed=lambda: True)
        return {"run": str(self.folder.path), "hf": str(self.folder.hf), "steps": done, "seconds": seconds}

    def is_over(self, done: int) -> bool:
        """Whether the run ends after `done` steps: it has all of them, or an epoch-long run has used all prompts.

        An epoch may end before the planned number of steps, where `rollout.dynamic` replaces groups or prompts are left
        out.
        """
        return done == self.job.steps or (self.config.algorithm.steps is None and self.cursor >= len(self.stream.rows))

    def train_step(self, step: int) -> None:
        """Train one step, then log, validate and save where the step is due."""
        metrics = self.optimize(step)
        last = self.is_over(step + 1)
        best = False
        if self.is_due(self.config.eval.every, step) or (self.config.eval.every and last):
            validated = self.validate(step + 1)
            best = validated["eval/accuracy"] > self.best
            self.best = max(self.best, validated["eval/accuracy"])
            metrics |= validated
        if step % self.config.log.every == 0 or last:
            self.log.log(step + 1, "rl", metrics)
        self.report_progress(step, metrics)
        if last or best or self.is_due(self.config.log.save_every, step):
            self.save(step + 1, best=best)

    def optimize(self, step: int) -> dict[str, float]:
        """Collect, compute advantages, update and publish; returns the step's metrics, complete on rank 0."""
        self.times = {}
        begun = time.perf_counter()
        with self.timed("wait"):
            self.publish(step, needed=lambda: self.samples_now(step))
            rollouts, groups = self.collect(step)
        self.take_gpus()
        self.updater.features.begin_step()
        with self.timed("advantages"):
            groups = self.compute_advantages(groups)
        if self.config.rollout.ahead:
            self.sample_ahead(step)
        with self.timed("update"):
            metrics = rollouts.metrics | self.updater.update(groups, fresh=rollouts.weights == step)
        if self.config.rollout.ahead and self.coordinator is not None:
            with self.timed("settle"):
                self.coordinator.rollouts.settle()
        if self.handover is None:
            # Where trainer and server share GPUs, the weights are published once the trainer has saved.
            self.publish_next(step, weights=step + 1)
        metrics["sampling/staleness"] = float(step - rollouts.weights)
        self.write_completions(step + 1, rollouts.groups, groups)
        return metrics | self.time_metrics(metrics, time.perf_counter() - begun)

    def collect(self, step: int) -> tuple[StepRollouts, list[TrainGroup]]:
        """Collect on rank 0, and give every rank what it trains on (collective).

        Returns:
            The rollouts, without their groups on ranks other than 0; and the groups as they are trained on.
        """
        found = self.coordinator.collect(step) if self.coordinator is not None else None
        bare = None if found is None else (replace(found[0], groups=[], prompts={}), found[1])
        shared, groups = self._from_main(lambda _: bare)
        self.cursor = shared.cursor
        return shared if found is None else found[0], groups

    def compute_advantages(self, groups: list[TrainGroup]) -> list[TrainGroup]:
        """Turn rewards, less the KL where the recipe puts it there, into advantages (collective)."""
        algorithm = self.config.algorithm
        found = with_advantages(groups, self.rewards, algorithm)
        if not algorithm.kl_weight or algorithm.kl_in == "loss":
            return found
        penalties = self.updater.kl_penalties(found)
        weighted = [[algorithm.kl_weight * value for value in group] for group in penalties]
        return with_advantages(groups, self.rewards, algorithm, weighted)

    def sample_ahead(self, step: int) -> None:
        """Begin the next step's rollouts, with the weights before this step's update."""
        self.publish_next(step, weights=step)
        if self.coordinator is not None:
            self.coordinator.rollouts.begin(step + 1, step)

    def publish_next(self, step: int, weights: int) -> None:
        """Serve the weights of step `weights`, if the step after `step` samples with them (collective)."""
        with self.timed("publish"):
            self.publish(weights, needed=lambda: not self.is_over(step + 1) and self.samples_now(step + 1))

    def publish(self, step: int, needed: Callable[[], bool]) -> None:
        """Serve the current weights as those of `step`, unless they are served or not needed (collective).

        The weights of the last step are always served. A resumed run that reads its rollouts from the journal asks
        nothing of the server.

        Args:
            step: the step that the weights belong to.
            needed: asked on rank 0.
        """
        last = self.is_over(step)
        if not self._from_main(lambda coordinator: coordinator.served != step and (last or needed())):
            return
        tensors = ((checkpoint_name(name), tensor) for name, tensor in self.parameters())
        coordinator = self.coordinator
        written = drain(tensors) if coordinator is None else coordinator.publisher.write(tensors)
        if self.handover is not None:
            with self.timed("switch"):
                self.handover.to_server()
        if coordinator is not None and written is not None:
            coordinator.push(written, step)

    def validate(self, step: int) -> dict[str, float]:
        """Accuracy of the current weights on held-out rows, on every rank (collective)."""
        with self.timed("validate"):
            self.publish(step, needed=lambda: True)
            return self._from_main(lambda coordinator: coordinator.validate())

    def report_progress(self, step: int, metrics: dict[str, float]) -> None:
        """Show the step on the terminal, with new alarms."""
        shown = live_values(metrics, [reward.name for reward in self.rewards])
        self.worker.emit(advance_event(step + 1, shown))
        for text in self.alarms.check(metrics):
            self.note(f"step {step + 1}: {text}")

    def write_completions(self, step: int, groups: list[ScoredGroup], trained: list[TrainGroup]) -> None:
        """Write the table of sampled completions on rank 0, in the steps that the recipe chooses."""
        every = self.config.log.completions_every
        if self.coordinator is None or not every or step % every:
            return
        rows = table_rows(step, groups, trained, self.coordinator.row_of, self.config.log.completions)
        write_table(rows, self.folder.path / "completions" / f"step_{step}.jsonl")
        self.log.table("completions", rows)

    def save(self, step: int, *, best: bool) -> None:
        """Write a checkpoint (collective), and drop rollouts that no resumed run reads.

        A run resumes from the newest checkpoint that is whole, so the best one, which may be much older, keeps none.
        """
        self.take_gpus()
        extra = {"cursor": self.cursor, "best": self.best, "data": self.stream.state()}
        self.store.save(step, self.engine, extra=extra, best=best)
        if self.coordinator is not None:
            self.coordinator.rollouts.journal.forget_before(min(self.store.steps()[-self.store.keep :]))

    def restore(self) -> int:
        """Load the newest checkpoint where the run is resumed (collective).

        The log of later steps, which are done again, is dropped.

        Returns:
            The number of steps that are done.
        """
        if not self.job.resume:
            return 0
        loaded = self.store.load(self.engine, on_note=self.note)
        done = loaded.step if loaded else 0
        if loaded is not None:
            self.stream.resume(loaded.extra["data"])
            self.cursor, self.best = loaded.extra["cursor"], loaded.extra["best"]
        if self.coordinator is not None:
            self.coordinator.rollouts.cursor = self.cursor
        self.log.forget_after(done)
        return done

    def export(self) -> None:
        """Write the model as a stock Hugging Face folder (collective)."""
        write_checkpoint(
            self.parameters(), self.job.model, self.folder.hf, self.encoder.latent, is_main=self.worker.is_main
        )

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """The policy's parameters under a plain model's names, gathered and merged bucket by bucket (collective)."""
        tensors = self.engine.gathered_named_parameters()
        return merged(tensors, self.config.lora.scale, self.encoder.latent) if self.config.lora.rank else tensors

    def take_gpus(self) -> None:
        """Give shared GPUs to the trainer (collective); the server has no weights then."""
        if self.handover is None:
            return
        with self.timed("switch"):
            self.handover.to_trainer()
        if self.coordinator is not None:
            self.coordinator.served = -1

    def samples_now(self, step: int) -> bool:
        """Whether the rollouts of a step are still to be sampled; asked on rank 0."""
        assert self.coordinator is not None
        return not self.coordinator.rollouts.has(step)

    def is_due(self, every: int, step: int) -> bool:
        """Whether something that is done every so many steps is done after `step`; 0 is never."""
        return every > 0 and (step + 1) % every == 0

    def note(self, text: str) -> None:
        """Show a line on the terminal."""
        self.worker.emit(note_event(text))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's seconds to `time/<phase>`."""
        begun = time.perf_counter()
        yield
        self.times[f"time/{phase}"] = self.times.get(f"time/{phase}", 0.0) + time.perf_counter() - begun

    def time_metrics(self, metrics: dict[str, float], seconds: float) -> dict[str, float]:
        """Seconds of each phase, tokens per second, and the share of the step in which each side waited."""
        waited = self.times["time/wait"] + self.times.get("time/settle", 0.0)
        return self.times | {
            "time/step": seconds,
            "step_time": seconds,
            "perf/tokens_per_second": metrics["num_tokens"] / seconds,
            "perf/trainer_idle": min(1.0, waited / seconds),
            "perf/server_idle": max(0.0, 1 - metrics["time/collect"] / seconds),
        }

    def _from_main(self, ask: Callable[[Coordinator], Any]) -> Any:
        """What rank 0 finds out, on every rank (collective)."""
        shared: list[Any] = [ask(self.coordinator) if self.coordinator is not None else None]
        try:
            dist.broadcast_object_list(shared, src=0)
        except RuntimeError as error:
            if "Timed out" not in str(error):
                raise
            minutes = self.config.run.collective_minutes
            raise RlError(
                f"rank {self.worker.rank} has waited {minutes:g} minutes for rank 0, which samples",
                "raise run.collective_minutes over the time of a step's rollouts, or look at the server's log",
            ) from error
        return shared[0]
