"""One rank of a GRPO training. A step reads: collect → advantages → update → publish → validate → log → save."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from covt_data.store.prepared_set import PreparedSet
from covt_data.stream.lazy_rows import RowsById
from covt_model.checkpoints.hf_folder import checkpoint_name, write_checkpoint
from covt_model.checkpoints.latent_checkpoint import load_split
from covt_model.checkpoints.lora import add_lora, merged
from covt_model.encoding.encode import Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollouts.collect import Collector
from covt_rl.rollouts.journal import Journal, StepRollouts
from covt_rl.rollouts.rollout_stream import RolloutStream, training_stream
from covt_rl.scoring.completions_table import table_rows, write_table
from covt_rl.scoring.score_groups import ScoredGroup, build_rewards, with_advantages
from covt_rl.training.alarms import Alarms
from covt_rl.training.checks import check_prompts, check_server
from covt_rl.training.gpu_handover import GpuHandover, waking
from covt_rl.training.live_view import live_values
from covt_rl.training.objective import GrpoObjective
from covt_rl.training.update import Updater
from covt_rl.training.validate import Validator
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.weights.weight_files import ServedNames, drain
from covt_rollout.weights.weight_sync import Publisher, load_weight_files
from covt_rollout.weights.weight_transfer import choose_weight_transport, nccl_loader
from covt_runtime.checkpoints.checkpoint import CheckpointStore
from covt_runtime.engine.weights import DTYPES
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.launch.distributed import Worker
from covt_runtime.metrics.metric_log import MetricsLog
from covt_runtime.metrics.progress import advance_event, note_event, phase_event
from covt_runtime.run_folder import RunFolder


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch.workers`: train as `payload` says and return the run's results."""
    trainer = Trainer(payload, worker)
    try:
        return trainer.run()
    finally:
        trainer.engine.close()


class Trainer:
    """The policy, its optimizer and, on rank 0, the client of the rollout server."""

    def __init__(self, payload: dict[str, Any], worker: Worker) -> None:
        self.config = config = RlConfig.model_validate(payload["config"])
        self.worker = worker
        self.folder = RunFolder(Path(payload["run"]))
        self.checkpoint = Path(payload["model"])
        self.base_url: str = payload["base_url"]
        self.resume: bool = payload["resume"]
        self.asleep: int | None = payload["asleep"]
        self.steps: int = payload["steps"]
        torch.manual_seed(config.run.seed)
        prompt = PromptConfig(system=config.prompt.system, template=config.prompt.template)
        self.encoder = Encoder(self.checkpoint, prompt, max_length=config.data.max_length)
        self.data = PreparedSet(payload["data"])
        self.stream = training_stream(payload["data"], config)
        self.row_of = RowsById(self.stream.rows)
        check_prompts(
            self.stream.rows, range(worker.rank, len(self.stream.rows), worker.world_size), self.encoder, config
        )
        dtype = DTYPES[config.zero.dtype]
        model, visual = load_split(self.checkpoint, dtype, worker.device, attention=config.model.attention)
        if config.lora.rank:
            add_lora(model, self.encoder.latent, **config.lora.model_dump())
        features = VisionFeatures(visual, self.encoder.settings)
        policy = LatentPolicy(model, self.encoder.latent, "latent", checkpoint=config.model.gradient_checkpointing)
        objective = GrpoObjective(
            policy, config.algorithm, config.rollout.temperature, max_tokens=config.rollout.max_tokens
        )
        updates = config.algorithm.epochs * config.algorithm.mini_batches
        self.engine = ZeroEngine(objective, config.optim, config.zero, total_steps=self.steps * updates)
        self.updater = Updater(self.engine, policy, self.encoder, features, config, self.row_of)
        self.store = CheckpointStore(self.folder.checkpoints, config.log.keep)
        self.rewards = build_rewards(config.rewards, config.prompt, self.encoder.latent, config.rollout.max_tokens)
        self.alarms = Alarms()
        self.times: dict[str, float] = {}
        self.turns: GpuHandover | None = None
        self.best = -1.0
        self.cursor = 0

    def run(self) -> dict[str, Any]:
        """All steps; the weights of step s are served as version `first_version + s`."""
        started = time.monotonic()
        with ExitStack() as stack:
            self.log = stack.enter_context(MetricsLog(self.folder, self.config.log.wandb, self.config.log.project))
            self.client = self._connect(stack) if self.worker.is_main else None
            self.served = -1
            if self.config.server.sleep:
                self.turns = GpuHandover(self.updater, self.client, dist.barrier, self.worker.emit)
            done = self._restore()
            self.worker.emit(phase_event("rl", self.steps))
            if done == 0 and self.config.eval.every:
                self.log.log(0, "rl", self._validate(0))
            for step in range(done, self.steps):
                if not self._train_step(step):
                    break
            trained = time.monotonic() - started
            self._to_trainer()
            write_checkpoint(
                self._parameters(),
                self.checkpoint,
                self.folder.hf,
                self.encoder.latent,
                is_main=self.worker.is_main,
            )
            if self.turns is not None and self.config.rollout.base_url:
                # Whoever started the server gets it back awake, with the last weights.
                self._publish(self.steps, needed=lambda: True)
        return {"run": str(self.folder.path), "hf": str(self.folder.hf), "steps": self.steps, "seconds": trained}

    def _connect(self, stack: ExitStack) -> BlockingClient:
        options = self.config.rollout
        client = RolloutClient.for_checkpoint(
            self.base_url,
            self.checkpoint,
            api_key=os.environ.get(options.api_key_env),
            concurrency=options.concurrency,
            timeout=options.timeout,
        )
        blocking = stack.enter_context(BlockingClient(client))
        if self.asleep is None:
            blocking.run(check_server(client))
        served = blocking.run(client.weight_version()) if self.asleep is None else self.asleep
        # A server that has seen other weights goes on counting, so that no version ever means two models.
        self.first_version = served + 1 if served or self.config.rollout.base_url else 0
        names = ServedNames.read(self.checkpoint).without_vision()
        urls = [replica.url for replica in client.transport.replicas]
        over_nccl = (
            choose_weight_transport(
                options.transfer,
                self.worker.device.type,
                urls,
                self.checkpoint,
                server_gpus=self.config.server.gpus,
                sleeps=self.config.server.sleep,
            )
            == "nccl"
        )
        load = nccl_loader(self.worker.device) if over_nccl else load_weight_files
        load = waking(load) if self.config.server.sleep else load
        self.publisher = stack.enter_context(Publisher(client, names, load=load))
        # A server that was started again has the first weights: it gets the newest before it is asked anything.
        client.transport.on_down = self.publisher.restore
        self.source = self._source(blocking)
        stack.callback(self.source.close)
        if self.config.eval.every:
            rows = list(self.data.rows(self.config.eval.split, self.config.eval.rows, limits=self.stream.limits))
            self.validator = Validator(blocking, self.encoder, rows, self.config.eval, options.max_tokens)
        return blocking

    def _source(self, client: BlockingClient) -> RolloutStream:
        config = self.config
        replay = config.algorithm.latents == "replay"
        collector = Collector(client, self.encoder, config.rollout, config.rewards, config.run.seed, replay=replay)
        return RolloutStream(
            collector,
            self.rewards,
            self.stream,
            config,
            Journal(self.folder.path / "rollouts"),
            steps=self.steps,
            note=lambda text: self.worker.emit(note_event(text)),
        )

    def _restore(self) -> int:
        """Steps that are done; the log of later ones, which are done again, is dropped."""
        if not self.resume:
            return 0
        loaded = self.store.load(self.engine, on_note=lambda text: self.worker.emit(note_event(text)))
        done = loaded.step if loaded else 0
        if loaded is not None:
            self.stream.resume(loaded.extra["data"])
            self.cursor, self.best = loaded.extra["cursor"], loaded.extra["best"]
        if self.worker.is_main:
            self.source.cursor = self.cursor
        self.log.forget_after(done)
        return done

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the block's seconds to `time/<phase>`."""
        begun = time.perf_counter()
        yield
        self.times[f"time/{phase}"] = self.times.get(f"time/{phase}", 0.0) + time.perf_counter() - begun

    def _train_step(self, step: int) -> bool:
        """One step with everything that follows it; False when the epoch has no prompts left."""
        metrics = self.step(step)
        if metrics is None:
            return False
        last, every = step + 1 == self.steps, self.config.eval.every
        best = False
        if every and (last or (step + 1) % every == 0):
            validated = self._validate(step + 1)
            best = validated["eval/accuracy"] > self.best
            self.best = max(self.best, validated["eval/accuracy"])
            metrics |= validated
        if step % self.config.log.every == 0 or last:
            self.log.log(step + 1, "rl", metrics)
        self._tell(step, metrics)
        save_every = self.config.log.save_every
        if last or best or (save_every and (step + 1) % save_every == 0):
            self._save(step + 1, best)
        return True

    def step(self, step: int) -> dict[str, float] | None:
        """One GRPO step; the metrics are complete on rank 0. None when there are no prompts left."""
        self.times = {}
        begun = time.perf_counter()
        with self.timed("wait"):
            self._publish(step, needed=lambda: not self.source.has(step))
            rollouts = self._collect(step)
        if rollouts is None:
            return None
        self.cursor = rollouts.cursor
        self._to_trainer()
        with self.timed("advantages"):
            judged = self._advantages(rollouts.judged)
        if self.config.rollout.ahead:
            self._run_ahead(step)
        with self.timed("update"):
            metrics = rollouts.metrics | self.updater.update(judged, fresh=rollouts.weights == step)
        if self.config.rollout.ahead and self.client is not None:
            with self.timed("settle"):
                self.source.settle()
        if self.turns is None:
            # Where the two take turns, the weights are published when the trainer is saved and done.
            with self.timed("publish"):
                self._publish(step + 1, needed=lambda: step + 1 < self.steps and not self.source.has(step + 1))
        metrics["sampling/staleness"] = float(step - rollouts.weights)
        self._table(step + 1, judged)
        return metrics | self._timing(metrics, time.perf_counter() - begun)

    def _collect(self, step: int) -> StepRollouts | None:
        """Rank 0's rollouts of the step, on every rank."""
        shared: list[Any] = [self.source.take(step, step) if self.client is not None else None]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def _run_ahead(self, step: int) -> None:
        """The next step's rollouts begin now, with the weights before this step's update."""
        with self.timed("publish"):
            self._publish(step, needed=lambda: step + 1 < self.steps and not self.source.has(step + 1))
        if self.client is not None:
            self.source.begin(step + 1, step)

    def _advantages(self, judged: list[ScoredGroup]) -> list[ScoredGroup]:
        algorithm = self.config.algorithm
        found = with_advantages(judged, self.rewards, algorithm)
        if not algorithm.kl_weight or algorithm.kl_in == "loss":
            return found
        penalties = self.updater.kl_penalties(found)
        weighted = [[algorithm.kl_weight * value for value in group] for group in penalties]
        return with_advantages(judged, self.rewards, algorithm, weighted)

    def _timing(self, metrics: dict[str, float], seconds: float) -> dict[str, float]:
        """Phases, tokens a second, and which share of the step each side did nothing."""
        tokens = metrics["num_tokens"]
        return self.times | {
            "time/step": seconds,
            "step_time": seconds,
            "perf/tokens_per_second": tokens / seconds,
            "perf/trainer_idle": min(1.0, (self.times["time/wait"] + self.times.get("time/settle", 0.0)) / seconds),
            "perf/server_idle": max(0.0, 1 - metrics["time/collect"] / seconds),
        }

    def _publish(self, step: int, needed: Callable[[], bool]) -> None:
        """Serve the current weights as the version of `step`, where they are not and rank 0 finds them `needed`.

        A resumed run that reads its rollouts from the journal asks nothing of the server. Collective.
        """
        wanted: list[Any] = [self.client is not None and self.served != step and (self._always(step) or needed())]
        dist.broadcast_object_list(wanted, src=0)
        if not wanted[0]:
            return
        tensors = ((checkpoint_name(name), tensor) for name, tensor in self._parameters())
        written = drain(tensors) if self.client is None else self.publisher.write(tensors)
        if self.turns is not None:
            with self.timed("switch"):
                self.turns.to_server()
        if self.client is not None and written is not None:
            self.client.run(self.publisher.push(written, self.first_version + step))
            self.served = step

    def _to_trainer(self) -> None:
        """The GPUs are the trainer's, where it shares them with a server; that one has no weights then."""
        if self.turns is not None:
            with self.timed("switch"):
                self.turns.to_trainer()
            self.served = -1

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        """The policy's parameters as a plain model names them, gathered and merged a bucket at a time (collective)."""
        tensors = self.engine.gathered_named_parameters()
        return merged(tensors, self.config.lora.scale, self.encoder.latent) if self.config.lora.rank else tensors

    def _always(self, step: int) -> bool:
        """The last weights stay on the server for whoever looks at it next."""
        return step == self.steps

    def _validate(self, step: int) -> dict[str, float]:
        """Accuracy of the current weights, on every rank."""
        with self.timed("validate"):
            self._publish(step, needed=lambda: True)
            shared: list[Any] = [self.validator.run() if self.client is not None else None]
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def _table(self, step: int, judged: list[ScoredGroup]) -> None:
        every = self.config.log.completions_every
        if self.client is None or not every or step % every:
            return
        rows = table_rows(step, judged, self.row_of, self.config.log.completions)
        write_table(rows, self.folder.path / "completions" / f"step_{step}.jsonl")
        self.log.table("completions", rows)

    def _tell(self, step: int, metrics: dict[str, float]) -> None:
        shown = live_values(metrics, [reward.name for reward in self.rewards])
        self.worker.emit(advance_event(step + 1, shown))
        for text in self.alarms.check(metrics):
            self.worker.emit(note_event(f"step {step + 1}: {text}"))

    def _save(self, step: int, best: bool) -> None:
        self._to_trainer()
        extra = {"cursor": self.cursor, "best": self.best, "data": self.stream.state()}
        self.store.save(step, self.engine, extra=extra, best=best)
        if self.worker.is_main:
            self.source.journal.forget_before(min(self.store.steps()))
