"""Run one GRPO training: check the plan, start a server where none is given, and let the workers train."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from covt_data.store.prepared_set import PreparedSet
from covt_model.encoding.data_cells import check_cells
from covt_model.families import read_image_settings
from covt_model.latent_config import LatentConfig
from covt_rl.algorithms.advantage_registry import load_advantage
from covt_rl.planning.checks import check_golds
from covt_rl.planning.memory_plan import MemoryPlan, check_machine, longest_rollout, plan_memory
from covt_rl.planning.placement import Placement
from covt_rl.rl_errors import RlError
from covt_rl.rl_job import TrainJob
from covt_rl.rl_recipe import RlConfig
from covt_rl.rollout_sections import ServerSection
from covt_rl.rollouts.rollout_stream import training_stream
from covt_rl.scoring.score_groups import build_rewards
from covt_rl.training.gpu_handover import EVENT as TURN
from covt_rl.training.gpu_handover import first_sleep, turn_event
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import LatentServer
from covt_rollout.server.watchdog import ServerWatchdog
from covt_rollout.server.weight_root import remove_stale_folders, weights_root
from covt_rollout.weights.weight_folder import check_room
from covt_rollout.weights.weight_transfer import choose_weight_transport
from covt_runtime.engine.profiler import DEFAULT_STEPS
from covt_runtime.launch.workers import WorkerGroup, launch
from covt_runtime.metrics.progress import Progress
from covt_runtime.process_environment import is_main_process, launched_from_outside, place_in_group, visible_gpus
from covt_runtime.run_folder import RunFolder, find_newest, run_name

TARGET = "covt_rl.training.loop:train_worker"


@dataclass(frozen=True)
class RlPlan:
    """Resolved inputs and sizes of one training."""

    data: Path
    model: Path
    prompts: int
    steps: int
    rewards: tuple[str, ...]
    placement: Placement
    memory: MemoryPlan

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return plain | {"memory": self.memory.as_dict()}

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts of {self.data}, model {self.model}, {self.steps} steps, "
            f"rewards {', '.join(self.rewards)}\n{self.placement}"
        )

    def details(self) -> str:
        """For `--dry-run`: with the memory estimate."""
        return "\n".join([str(self), *self.memory.lines()])


def plan(config: RlConfig) -> RlPlan:
    """Find the data and the model, check the rewards against the data, count the steps, place the processes.

    Raises:
        RlError: a split that doesn't exist or has too few prompts, or gold answers that can't be read.
        RewardError: an unknown reward, or an advantage of the user's own that can't be used.
    """
    data = Path(config.data.path) if config.data.path else find_newest(Path("data"), "data")
    model = Path(config.model.path) if config.model.path else find_newest(config.run.out, "hf", section="stage1")
    prepared = PreparedSet(data)
    check_cells([data, *(other.path for other in config.data.mix)], partial(read_image_settings, model), model)
    wanted = [config.data.split] + ([config.eval.split] if config.eval.every else [])
    for split in wanted:
        if split not in prepared.splits:
            raise RlError(f"{data} has no split {split!r}", f"choose one of {', '.join(prepared.splits)}")
    rewards = build_rewards(config.rewards, config.prompt, LatentConfig.read(model), config.rollout.max_tokens)
    rows = training_stream(data, config).rows
    count = len(rows)
    if config.data.mix and config.algorithm.steps is None:
        raise RlError(
            "data.mix has no epoch: its sets are drawn from by weight", "set algorithm.steps, the length of the run"
        )
    if count < config.rollout.prompts:
        raise RlError(f"rollout.prompts = {config.rollout.prompts}, the set has {count}", "use fewer prompts per step")
    load_advantage(config.algorithm.advantage)
    check_golds(prepared, config, rewards)
    placement = Placement.of(config)
    # The last step of an epoch has what is left.
    steps = config.algorithm.steps or -(-count // config.rollout.prompts)
    names = tuple(reward.name for reward in rewards)
    memory = plan_memory(model, config, placement, longest_rollout(rows, model, config))
    return RlPlan(data, model, count, steps, names, placement, memory)


def train(
    config: RlConfig,
    planned: RlPlan,
    *,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerGroup | None = None,
    profile: Path | None = None,
    profile_steps: tuple[int, ...] = DEFAULT_STEPS,
) -> dict[str, Any]:
    """Train; start servers and workers where none are given, and stop them at the end.

    Args:
        config: the recipe.
        planned: its plan.
        progress: shows the training.
        resume: continue from the run's newest checkpoint.
        overwrite: replace a run of the same name.
        workers: running worker processes to use.
        profile: folder for traces of `profile_steps`; None traces nothing.
        profile_steps: GRPO steps to trace, counted from 1.

    Returns:
        `{"run", "hf", "steps", "seconds"}`; empty on ranks other than 0 of another launcher.
    """
    outside, is_main = launched_from_outside(), is_main_process()
    placement, longest = planned.placement, planned.memory.longest
    check_machine(
        config,
        placement,
        planned.memory,
        estimate=lambda other: plan_memory(planned.model, other, placement, longest),
    )
    if is_main:
        check_weight_path(config, planned)
    name = run_name(config.run.name, "rl")
    stored = config.model_dump(mode="json") | {"resolved": {"model": str(planned.model), "data": str(planned.data)}}
    run = RunFolder(Path(config.run.out) / name)
    if is_main:
        # Other ranks wait for rank 0, which joins them when the servers are there.
        run = RunFolder.create(config.run.out, name, stored, resume=resume, overwrite=overwrite)
    with ExitStack() as stack:
        # A killed rank 0 has left the newest weights in shared memory.
        stack.callback(remove_stale_folders, weights_root(config.rollout.weight_folder))
        if workers is None and not outside:
            env = trainer_environment(planned.placement)
            workers = stack.enter_context(
                WorkerGroup(
                    planned.placement.ranks,
                    log_dir=run.logs,
                    env=env,
                    collective_minutes=config.run.collective_minutes,
                )
            )
        base_url, watches = config.rollout.base_url, []
        if is_main and not base_url:
            servers = [
                stack.enter_context(start_server(planned.model, run, progress, config.server, number))
                for number in range(planned.placement.replicas)
            ]
            watches = [stack.enter_context(ServerWatchdog(server, on_note=progress.note)) for server in servers]
            base_url = ",".join(server.url for server in servers)
        job = TrainJob(
            config=config,
            run=run.path,
            data=planned.data,
            model=planned.model,
            base_url=base_url,
            steps=planned.steps,
            resume=resume,
            asleep_version=sleep_servers(config, planned.model, base_url) if is_main and config.server.sleep else None,
            profile=profile,
            profile_steps=profile_steps,
        )
        payload = job.model_dump(mode="json")
        handle = partial(handle_event, watches, progress)
        if config.server.sleep:
            handle(turn_event("trainer"))
        if workers is not None:
            return workers.run(TARGET, payload, handle)
        # The server's GPUs come first, on the machine that has it.
        gpus = planned.placement.trainer
        gpu = gpus[place_in_group()[1]] if gpus else None
        minutes = config.run.collective_minutes
        found = launch(TARGET, payload, log_dir=run.logs, on_event=handle, gpu=gpu, collective_minutes=minutes)
        return found or {}


def check_weight_path(config: RlConfig, planned: RlPlan) -> None:
    """Check that new weights can reach the servers, before anything is started.

    Raises:
        RolloutError: a server on another machine would be given a folder of this one, or NCCL is impossible.
        WeightPushError: the folder has no room for two copies of the model.
    """
    choose_weight_transport(
        config.rollout.transfer,
        "cuda" if planned.placement.trainer else "cpu",
        config.rollout.base_url.split(",") if config.rollout.base_url else [],
        planned.model,
        server_gpus=config.server.gpus,
        sleeps=config.server.sleep,
        weight_folder=config.rollout.weight_folder,
    )
    check_room(weights_root(config.rollout.weight_folder), planned.memory.published)


def sleep_servers(config: RlConfig, model: Path, base_url: str) -> int:
    """Put the servers to sleep before the trainer takes memory; return the weight version that they served."""
    key = os.environ.get(config.rollout.api_key_env)
    with BlockingClient(RolloutClient.for_checkpoint(base_url, model, api_key=key)) as blocking:
        return blocking.run(first_sleep(blocking.client))


def handle_event(watches: Sequence[ServerWatchdog], progress: Progress, event: Mapping[str, Any]) -> None:
    """Handle an event of the workers: progress, or who has shared GPUs, where no server may be restarted meanwhile."""
    if event["event"] != TURN:
        progress.handle(event)
        return
    for watch in watches:
        watch.hold() if event["holder"] == "trainer" else watch.release()


def trainer_environment(placement: Placement) -> dict[str, str]:
    """The trainer sees its own GPUs only, where the server has some of its own."""
    if not placement.server:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(placement.trainer) + 1)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[number] for number in placement.trainer)}


def start_server(
    model: Path, run: RunFolder, progress: Progress, section: ServerSection | None = None, number: int = 0
) -> LatentServer:
    """Start replica `number` of the run's rollout server, with its log in the run's folder."""
    section = section or ServerSection()
    # On a CPU vLLM is told a number of bytes instead.
    share = ("--gpu-memory-utilization", str(section.memory_share)) if visible_gpus() else ()
    with progress.phase("start vLLM server") as phase:
        return LatentServer.start(
            model,
            log_path=run.logs / (f"server-{number}.log" if number else "server.log"),
            options=ServerOptions(
                dtype=section.dtype,
                max_model_len=section.max_model_len,
                max_num_seqs=section.max_num_seqs,
                tensor_parallel=section.tensor_parallel,
                replica=number,
                sleep=section.sleep,
                extra=(*share, *section.extra),
            ),
            on_progress=lambda stage, seconds: phase.update(seconds, stage=stage),
        )
