"""What the tests of GRPO share: a recipe, a small data set, one training with its metrics."""

import json
from pathlib import Path
from typing import Any

from server_tools import RunningServer

from covt_data.ingest.prepare import prepare
from covt_rl.rl_recipe import RlConfig
from covt_rl.training.train import plan, train
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.weights.weight_sync import push_weights
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress

# A random model is never right: this pays for what it does often enough to differ within a group.
REWARD = """
from covt_rewards import RewardResult

def evenness(group):
    return [RewardResult(float(sum(one.token_ids) % 2)) for one in group.rollouts]
"""


def make_data(folder: Path) -> Path:
    """A `trace` set with 12 prompts."""
    prepare("trace", folder, options={"n_train": 1, "n_prompts": 12, "n_test": 1})
    return folder


def put_weights_back(server: RunningServer) -> None:
    """Other tests want the server's own checkpoint."""
    client = RolloutClient.for_checkpoint(server.url, server.checkpoint)
    with BlockingClient(client) as blocking:
        version = blocking.run(client.weight_version()) + 1
        blocking.run(push_weights(client, server.checkpoint, version))


def settings(server: RunningServer, data: Path, out: Path, /, **sections: dict[str, Any]) -> RlConfig:
    reward = out / "reward.py"
    reward.write_text(REWARD)
    values: dict[str, dict[str, Any]] = {
        "run": {"out": str(out), "name": "rl"},
        "model": {"path": str(server.checkpoint)},
        "data": {"path": str(data), "split": "prompts", "micro_batch": 4},
        "optim": {"lr": 1e-3, "schedule": "constant", "warmup_steps": 0},
        "zero": {"dtype": "fp32", "gather": "step", "persistence_threshold": 0},
        "rollout": {"prompts": 3, "samples": 4, "max_tokens": 20, "base_url": server.url},
        "rewards": {"use": f"{reward}:evenness,format=0.1,necessity=0"},
        "algorithm": {"steps": 3},
        "log": {"wandb": "disabled", "every": 1},
    }
    for section, changes in sections.items():
        values[section] = values.get(section, {}) | changes
    return RlConfig.model_validate(values)


def run(config: RlConfig, workers: WorkerGroup, progress: Progress | None = None) -> tuple[Path, list[dict[str, Any]]]:
    result = train(config, plan(config), progress=progress or Progress(quiet=True), workers=workers)
    folder = Path(result["run"])
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def recipe_text(config: RlConfig) -> str:
    """A recipe as TOML with dotted keys; strings, numbers and lists are written as in JSON."""
    return _toml(config.model_dump(mode="json", exclude_defaults=True))


def _toml(values: dict[str, Any], prefix: str = "") -> str:
    lines = [
        _toml(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} = {json.dumps(value)}\n"
        for key, value in values.items()
    ]
    return "".join(lines)
