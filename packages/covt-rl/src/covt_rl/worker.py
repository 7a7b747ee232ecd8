"""One rank of a GRPO training. A step reads: collect → score → update → publish → log → save."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist

from covt_data.order import batch_indices
from covt_data.schema import Row
from covt_data.store import PreparedSet
from covt_model.batch import collate
from covt_model.encode import EncodedPrompt, Encoder
from covt_model.export import checkpoint_name, write_checkpoint
from covt_model.policy import LatentPolicy, load_split
from covt_model.prompt import PromptConfig
from covt_model.vision import VisionFeatures
from covt_rl.blocking import BlockingClient
from covt_rl.client import RolloutClient
from covt_rl.config import RlConfig
from covt_rl.errors import RolloutError
from covt_rl.objective import GrpoObjective
from covt_rl.rollouts import Collected, Collector
from covt_rl.scoring import Judged, build_rewards, judge
from covt_rl.weight_sync import Publisher, ServedNames, drain
from covt_runtime.checkpoint import CheckpointStore
from covt_runtime.distributed import Worker
from covt_runtime.engine import ZeroEngine
from covt_runtime.metrics import MetricsLog
from covt_runtime.progress import advance_event, note_event, phase_event
from covt_runtime.run import RunFolder


def train_worker(payload: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Target of `covt_runtime.launch`: train as `payload` says and return the run's results."""
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
        self.steps: int = payload["steps"]
        torch.manual_seed(config.run.seed)
        prompt = PromptConfig(system=config.prompt.system, template=config.prompt.template)
        self.encoder = Encoder(self.checkpoint, prompt, max_length=config.data.max_length)
        self.rows: list[Row] = list(PreparedSet(payload["data"]).rows(config.data.split, config.data.limit))
        self.row_of = {row.id: row for row in self.rows}
        self._prompts: dict[str, EncodedPrompt] = {}
        dtype = torch.bfloat16 if config.zero.dtype == "bf16" else torch.float32
        model, visual = load_split(self.checkpoint, dtype, worker.device)
        self.features = VisionFeatures(visual, self.encoder.settings)
        policy = LatentPolicy(model, self.encoder.latent, "latent", checkpoint=config.model.gradient_checkpointing)
        objective = GrpoObjective(policy, config.algorithm, config.rollout.temperature)
        self.engine = ZeroEngine(objective, config.optim, config.zero, total_steps=self.steps * config.algorithm.epochs)
        self.store = CheckpointStore(self.folder.checkpoints, config.log.keep)
        self.rewards = build_rewards(config.rewards, config.prompt, self.encoder.latent)
        self.times: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """All steps; the weights of step s are served as version `first_version + s`."""
        started = time.monotonic()
        with ExitStack() as stack:
            log = stack.enter_context(MetricsLog(self.folder, self.config.log.wandb, self.config.log.project))
            self.client = self._connect(stack) if self.worker.is_main else None
            done = self._restore()
            self._publish(done)
            self.worker.emit(phase_event("rl", self.steps))
            for step in range(done, self.steps):
                metrics = self.step(step)
                if step % self.config.log.every == 0 or step == self.steps - 1:
                    log.log(step + 1, "rl", metrics)
                shown = {key: metrics[key] for key in ("reward", "necessity/nu") if key in metrics}
                self.worker.emit(advance_event(step + 1, shown))
                every = self.config.log.save_every
                if step + 1 == self.steps or (every and (step + 1) % every == 0):
                    self.store.save(step + 1, self.engine)
        trained = time.monotonic() - started
        write_checkpoint(
            self.engine.gathered_named_parameters(),
            self.checkpoint,
            self.folder.hf,
            self.encoder.latent,
            is_main=self.worker.is_main,
        )
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
        served = blocking.run(client.weight_version())
        # A server that has seen other weights goes on counting, so that no version ever means two models.
        self.first_version = served + 1 if served or self.config.rollout.base_url else 0
        self.publisher = stack.enter_context(Publisher(client, ServedNames.read(self.checkpoint).without_vision()))
        # A server that was started again has the first weights: it gets the newest before it is asked anything.
        client.transport.on_down = self.publisher.restore
        self.collector = Collector(blocking, self.encoder, options, self.config.rewards, self.config.run.seed)
        return blocking

    def _restore(self) -> int:
        if not self.resume:
            return 0
        loaded = self.store.load(self.engine, on_note=lambda text: self.worker.emit(note_event(text)))
        return loaded.step if loaded else 0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the block's seconds to `time/<phase>`."""
        begun = time.perf_counter()
        yield
        self.times[f"time/{phase}"] = self.times.get(f"time/{phase}", 0.0) + time.perf_counter() - begun

    def step(self, step: int) -> dict[str, float]:
        """One GRPO step; the metrics are complete on rank 0."""
        self.times = {}
        begun = time.perf_counter()
        with self.timed("collect"):
            rows, collected = self._collect(step)
        with self.timed("score"):
            judged, metrics = self._score(rows, collected)
        with self.timed("update"):
            metrics |= self.update(judged)
        with self.timed("publish"):
            self._publish(step + 1)
        self.times["time/step"] = time.perf_counter() - begun
        sampled = sum(len(one.token_ids) for group in judged for one in group.completions)
        return metrics | self.times | {"perf/tokens_per_second": sampled / self.times["time/step"]}

    def _collect(self, step: int) -> tuple[list[Row], Collected | None]:
        indices = batch_indices(len(self.rows), step, self.config.rollout.prompts, self.config.run.seed)
        rows = [self.rows[index] for index in indices]
        return rows, self.collector.collect(rows, step) if self.client is not None else None

    def _score(self, rows: Sequence[Row], collected: Collected | None) -> tuple[list[Judged], dict[str, float]]:
        """Rank 0 scores; every rank gets the judged rollouts."""
        shared: list[Any] = [None, {}]
        if collected is not None:
            judged, metrics = judge(rows, collected.completions, collected.ablated, self.rewards, self.config.algorithm)
            shared = [judged, metrics | _completion_metrics(collected)]
        dist.broadcast_object_list(shared, src=0)
        return shared[0], shared[1]

    def update(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Policy-gradient steps on the judged rollouts.

        Rollouts of groups without spread have no advantage and no gradient: they are counted, but not computed.
        """
        everything = [
            (group.row_id, one, advantage)
            for group in judged
            for one, advantage in zip(group.completions, group.advantages, strict=True)
        ]
        samples = {id(one): self._sample(row_id, one) for row_id, one, _ in everything}
        tokens = float(sum((samples[id(one)].labels >= 0).sum() for _, one, _ in everything))
        ranks = self.engine.world_size
        active = [item for item in everything if item[2] != 0]
        active.sort(key=lambda item: len(samples[id(item[1])]))
        if not active:
            return {"skipped_updates": 1.0}
        while len(active) % ranks:
            active.append((active[-1][0], active[-1][1], 0.0))
        mine = active[self.engine.rank :: ranks]
        segments = max(len(samples[id(one)].spans) for _, one, _ in active)
        sums = torch.zeros(5, dtype=torch.float64)
        result = None
        for _ in range(self.config.algorithm.epochs):
            micro = self.config.data.micro_batch
            for start in range(0, len(mine), micro):
                part = mine[start : start + micro]
                sums += self._micro_step(part, samples, tokens, float(len(everything)), segments)
            result = self.engine.step()
        assert result is not None
        counted, gap, kl, entropy, clipped = self.engine.global_sum(sums).tolist()
        means = {"latent/logprob_gap": gap, "kl": kl, "entropy": entropy, "clip_ratio": clipped}
        metrics = {name: value / max(counted, 1.0) for name, value in means.items()}
        self._check_gap(metrics["latent/logprob_gap"])
        return metrics | {"lr": result.lr, "grad_norm": result.grad_norm, "frac_trained": len(active) / len(everything)}

    def _micro_step(
        self, part: Sequence[Any], samples: dict[int, Any], tokens: float, sequences: float, segments: int
    ) -> torch.Tensor:
        """Forward and backward of some rollouts: sums of tokens, gap, KL, entropy and clipped tokens [5]."""
        chosen = [samples[id(one)] for _, one, _ in part]
        batch = collate(chosen, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)
        old = torch.zeros(batch.labels.shape)
        for row, (sample, (_, one, _)) in enumerate(zip(chosen, part, strict=True)):
            start = sample.prompt_length
            old[row, start : start + len(one.logprobs)] = torch.tensor(one.logprobs)
        device = self.engine.device
        features = self.features([picture for row in batch.pictures for picture in row])
        outcome = self.engine(
            batch.to(device),
            features,
            old_logprobs=old.to(device),
            advantages=torch.tensor([advantage for _, _, advantage in part], device=device),
            tokens=tokens,
            sequences=sequences,
            max_segments=segments,
        )
        self.engine.backward(outcome.loss)
        values = [outcome.tokens, outcome.gap, outcome.kl, outcome.entropy, outcome.clipped]
        return torch.tensor(values, dtype=torch.float64)

    def _sample(self, row_id: str, completion: Any) -> Any:
        if row_id not in self._prompts:
            self._prompts[row_id] = self.encoder.encode_prompt(self.row_of[row_id])
        return self.encoder.completion(self._prompts[row_id], completion.token_ids)

    def _check_gap(self, gap: float) -> None:
        limit = self.config.algorithm.gap_limit
        if gap > limit and self.config.algorithm.epochs == 1:
            raise RolloutError(
                f"trainer and server disagree: mean |log-probability gap| {gap:.4f} is over the limit {limit}",
                "check that the server runs the trainer's dtype and checkpoint, or raise algorithm.gap_limit",
            )

    def _publish(self, step: int) -> None:
        """Serve the current weights as the version of `step` (all ranks take part in the gather)."""
        tensors = ((checkpoint_name(name), tensor) for name, tensor in self.engine.gathered_named_parameters())
        if self.client is None:
            drain(tensors)
        else:
            self.client.run(self.publisher.publish(tensors, self.first_version + step))


def _completion_metrics(collected: Collected) -> dict[str, float]:
    """Lengths, latent spans and the price of the counterfactuals, in TRL's names where it has them."""
    flat = [one for group in collected.completions for one in group]
    sampled = sum(len(one.token_ids) for one in flat)
    return {
        "completions/mean_length": fmean(len(one.token_ids) for one in flat),
        "completions/max_length": float(max(len(one.token_ids) for one in flat)),
        "completions/clipped_ratio": fmean(float(one.finish_reason == "length") for one in flat),
        "latent/spans": fmean(len(one.latent_spans) for one in flat),
        "necessity/extra_tokens_per_token": collected.extra_tokens / max(sampled, 1),
    }
