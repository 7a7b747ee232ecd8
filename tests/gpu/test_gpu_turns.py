"""Trainer and server by turns on one GPU: what each gives back, and that the answers survive. Run with `-m gpu`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "rl"))
from rl_tools import REWARD, make_data
from server_tools import build_checkpoint

from covt_rl.rl_recipe import RlConfig
from covt_rl.training.gpu_handover import first_sleep, waking
from covt_rl.training.train import plan, train
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import LatentServer
from covt_rollout.weights.weight_sync import load_weight_files, push_weights
from covt_runtime.metrics.progress import Progress

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]

SHARE = 0.5
PROMPTS = [PromptRequest((5 + number, 9, 14, 21), group_id=str(number)) for number in range(8)]
GREEDY = Sampling(max_tokens=16, temperature=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatentServer]:
    options = ServerOptions(
        max_model_len=1024, dtype="float32", sleep=True, extra=("--gpu-memory-utilization", str(SHARE))
    )
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    with LatentServer.start(checkpoint, options=options, log_path=log) as server:
        yield server


def test_a_sleeping_server_gives_its_memory_back_and_answers_the_same_when_it_wakes(
    server: LatentServer, checkpoint: Path
):
    async def work():
        async with RolloutClient.for_checkpoint(server.url, checkpoint) as client:
            before = await client.generate(PROMPTS, GREEDY)
            awake, total = torch.cuda.mem_get_info()
            await first_sleep(client)
            asleep, _ = torch.cuda.mem_get_info()
            await push_weights(client, checkpoint, 1, load=waking(load_weight_files))
            return before, await client.generate(PROMPTS, GREEDY), (asleep - awake) / total

    before, after, freed = asyncio.run(work())
    assert freed > 0.8 * SHARE
    for old, new in zip(before, after, strict=True):
        assert new[0].token_ids == old[0].token_ids
        assert new[0].logprobs == pytest.approx(old[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_a_training_by_turns_agrees_with_its_server(checkpoint: Path, tmp_path: Path, offload: str):
    (tmp_path / "reward.py").write_text(REWARD)
    config = RlConfig.model_validate(
        {
            "run": {"out": str(tmp_path), "name": "rl", "ranks": 1},
            "model": {"path": str(checkpoint)},
            "data": {"path": str(make_data(tmp_path / "trace")), "split": "prompts", "micro_batch": 4},
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup_steps": 0},
            "zero": {"dtype": "fp32", "offload_optimizer": offload},
            "server": {"sleep": True, "memory_share": SHARE, "dtype": "float32", "max_model_len": 1024},
            "rollout": {"prompts": 3, "samples": 4, "max_tokens": 20},
            "rewards": {"use": f"{tmp_path / 'reward.py'}:evenness,format=0.1,necessity=0"},
            "algorithm": {"steps": 3, "kl_weight": 0.01},
            "eval": {"every": 2, "split": "prompts", "rows": 3},
            "log": {"wandb": "disabled", "every": 1, "save_every": 1},
        }
    )
    folder = Path(train(config, plan(config), progress=Progress(quiet=True))["run"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["latent/logprob_gap"] for line in lines if "latent/logprob_gap" in line]
    assert gaps and max(gaps) <= 1e-3
