"""Builds the parts of one rank of a reinforcement training from its job."""

import torch.distributed as dist

from covt_data.stream.row_stream import RowStream
from covt_model.checkpoints.lora import add_lora
from covt_model.checkpoints.split_load import load_split
from covt_model.encoding.encode import Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_rl.planning.prompt_lengths import (
    LongPrompt,
    describe_long_prompts,
    find_long_prompts,
    reachable_rows,
    refuse_long_prompts,
    share_of_rank,
)
from covt_rl.rl_job import TrainJob
from covt_rl.updates.objective import GrpoObjective
from covt_rl.updates.updater import Updater
from covt_runtime.engine.weights import DTYPES
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.engine.zero_sharding import ZeroSharding
from covt_runtime.launch.distributed import Worker
from covt_runtime.metrics.progress import note_event


def build_encoder(job: TrainJob) -> Encoder:
    """The encoder of the checkpoint, with the recipe's prompt."""
    prompt = PromptConfig(system=job.config.prompt.system, template=job.config.prompt.template)
    return Encoder(job.model, prompt, max_length=job.config.data.max_length)


def find_bad_prompts(job: TrainJob, encoder: Encoder, stream: RowStream, worker: Worker) -> frozenset[int]:
    """Indexes of the prompts that are left out, since they leave no room for an answer (collective).

    Each rank reads and encodes its own part of the rows that the run can sample.

    Raises:
        RlError: there are such prompts, and `data.on_bad` is `refuse` or no other prompts remain.
    """
    indexes = reachable_rows(stream, job.config, job.steps)
    mine = share_of_rank(indexes, worker.rank, worker.world_size)
    parts: list[list[LongPrompt]] = [[] for _ in range(worker.world_size)]
    dist.all_gather_object(parts, find_long_prompts(stream.rows, mine, encoder, job.config))
    found = [one for part in parts for one in part]
    refuse_long_prompts(found, len(indexes), job.config)
    if found:
        worker.emit(note_event(f"{describe_long_prompts(found, len(indexes), job.config)}; they are left out"))
    return frozenset(one.index for one in found)


def build_updater(job: TrainJob, encoder: Encoder, worker: Worker) -> Updater:
    """Load the policy, shard it, and build what updates it (collective)."""
    config = job.config
    model, visual = load_split(
        job.model,
        DTYPES[config.zero.dtype],
        worker.device,
        attention=config.model.attention,
        sharding=ZeroSharding(config.zero, maps=worker.device.type == "cpu" and config.lora.rank > 0),
    )
    if config.lora.rank:
        add_lora(model, encoder.latent, **config.lora.model_dump())
    policy = LatentPolicy(model, encoder.latent, "latent", checkpoint=config.model.gradient_checkpointing)
    objective = GrpoObjective(
        policy, config.algorithm, config.rollout.temperature, max_tokens=config.rollout.max_tokens
    )
    updates = job.steps * config.algorithm.epochs * config.algorithm.mini_batches
    engine = ZeroEngine(objective, config.optim, config.zero, total_steps=updates)
    features = VisionFeatures(visual, encoder.settings, keeps=False)
    return Updater(engine, policy, encoder, features, config, lambda text: worker.emit(note_event(text)))
