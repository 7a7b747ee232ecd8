"""What only rank 0 has: the client of the rollout server, the publisher of weights, the rollouts and validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

import torch

from covt_data.store.prepared_set import PreparedSet
from covt_data.stream.lazy_rows import RowsById
from covt_data.stream.row_stream import RowStream
from covt_model.encoding.encode import Encoder
from covt_rewards import ConfiguredReward
from covt_rl.planning.checks import check_server
from covt_rl.rl_job import TrainJob
from covt_rl.rollouts.collect import Collector
from covt_rl.rollouts.journal import Journal, StepRollouts
from covt_rl.rollouts.rollout_stream import RolloutStream
from covt_rl.scoring.train_groups import TrainGroup, to_train_group
from covt_rl.training.gpu_handover import waking
from covt_rl.training.validate import Validator
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.server.weight_root import weights_root
from covt_rollout.weights.http_loader import load_over_http
from covt_rollout.weights.weight_files import ServedNames
from covt_rollout.weights.weight_path import confirm_weight_path
from covt_rollout.weights.weight_sync import LoadWeights, Publisher, WrittenWeights, load_weight_files
from covt_rollout.weights.weight_transfer import choose_weight_transport, nccl_loader


class Coordinator:
    """Rank 0's connection to the server, and everything that needs it.

    Attributes:
        client: the rollout client.
        row_of: the prompts' rows by their ids.
        publisher: writes and pushes weights.
        rollouts: the rollouts of each step.
        served: the step whose weights the server has; -1 when it has none of this run's.

    Raises:
        RlError: the server does not serve this model.
        ServerError: the server can't be reached.
    """

    def __init__(
        self,
        job: TrainJob,
        encoder: Encoder,
        stream: RowStream,
        rewards: list[ConfiguredReward],
        device: torch.device,
        *,
        skip: frozenset[int],
        note: Callable[[str], None],
        stack: ExitStack,
    ) -> None:
        config, options = job.config, job.config.rollout
        client = RolloutClient.for_checkpoint(
            job.base_url,
            job.model,
            api_key=os.environ.get(options.api_key_env),
            concurrency=options.concurrency,
            timeout=options.timeout,
            on_note=note,
        )
        self.client = stack.enter_context(BlockingClient(client))
        self.served = -1
        self._first_version = self._read_first_version(job)
        names = ServedNames.read(job.model).without_vision()
        load = choose_loader(job, self.client, device, note)
        self.publisher = stack.enter_context(
            Publisher(client, names, folder=weights_root(options.weight_folder), load=load)
        )
        # A restarted server has the first weights: it gets the newest ones before it is asked anything.
        client.transport.on_down = self.publisher.restore
        replay = config.algorithm.latents == "replay"
        self.rollouts = RolloutStream(
            Collector(self.client, encoder, options, config.rewards, config.run.seed, replay=replay),
            rewards,
            stream,
            config,
            Journal(job.run / "rollouts"),
            steps=job.steps,
            skip=skip,
            note=note,
        )
        stack.callback(self.rollouts.close)
        self.row_of = RowsById(stream.rows)
        self._encoder = encoder
        self._validator: Validator | None = None
        if config.eval.every:
            rows = list(PreparedSet(job.data).rows(config.eval.split, config.eval.rows, limits=stream.limits))
            self._validator = Validator(self.client, encoder, rows, config.eval, options.max_tokens)

    def _read_first_version(self, job: TrainJob) -> int:
        """The weight version that step 0 is served as.

        A server that had other weights before continues its count, so that no version ever names two models.
        """
        served = job.asleep_version
        if served is None:
            self.client.run(check_server(self.client.client))
            served = self.client.run(self.client.client.weight_version())
        return served + 1 if served or job.config.rollout.base_url else 0

    def collect(self, step: int) -> tuple[StepRollouts, list[TrainGroup]]:
        """The rollouts of a step, also as the ranks train on them."""
        rollouts = self.rollouts.take(step, step)
        assert rollouts is not None, "asked for a step after the epoch's last"
        # Rollouts that were read from the journal have not been encoded yet.
        prompts = {
            group.row_id: rollouts.prompts.get(group.row_id) or self._encoder.encode_prompt(self.row_of[group.row_id])
            for group in rollouts.groups
        }
        return rollouts, [to_train_group(group, prompts[group.row_id]) for group in rollouts.groups]

    def push(self, written: WrittenWeights, step: int) -> None:
        """Give the server the weights of a step."""
        self.client.run(self.publisher.push(written, self._first_version + step))
        self.served = step

    def validate(self) -> dict[str, float]:
        """Metrics of the served weights on held-out rows."""
        assert self._validator is not None, "only called where eval.every > 0"
        return self._validator.run()


def choose_loader(
    job: TrainJob, client: BlockingClient, device: torch.device, note: Callable[[str], None]
) -> LoadWeights:
    """How the server loads new weights, after waking up where it sleeps.

    Raises:
        RolloutError: weights can't reach a server by the path that the recipe names.
    """
    options, sleeps = job.config.rollout, job.config.server.sleep
    transport = client.client.transport
    chosen = choose_weight_transport(
        options.transfer,
        device.type,
        [replica.url for replica in transport.replicas],
        job.model,
        server_gpus=job.config.server.gpus,
        sleeps=sleeps,
        weight_folder=options.weight_folder,
    )
    root = weights_root(options.weight_folder)
    path = client.run(confirm_weight_path(transport, chosen, options.transfer, root, note))
    load = {"files": load_weight_files, "http": load_over_http, "nccl": nccl_loader(device)}[path]
    return waking(load) if sleeps else load
