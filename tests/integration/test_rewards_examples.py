"""The examples of covt-rewards run as they stand; TRL's with its real GRPOTrainer."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "packages" / "covt-rewards" / "examples"


def run(name: str) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["verl_reward.py", "easyr1_reward.py"])
def test_the_example_runs(name: str) -> None:
    assert "'accuracy': 1.0" in run(name)


def test_trl_trains_with_our_rewards() -> None:
    logged = ast.literal_eval(run("trl_grpo.py").splitlines()[-1])
    assert len(logged) == 2
    for step in logged:
        assert 0 <= step["rewards/accuracy/mean"] <= 1
        assert step["reward"] == pytest.approx(
            0.1 * step["rewards/format/mean"] + step["rewards/accuracy/mean"], abs=1e-3
        )
