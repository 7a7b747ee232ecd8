"""A training that fails ends: the process is gone, with the error, whatever was being sampled at that moment."""

import os
import subprocess
import sys
from pathlib import Path

from rl_tools import recipe_text, settings
from server_tools import RunningServer

from covt_rollout.server.server_process import free_port

# As a rank of torchrun, whose own process runs the training.
FAILING_UPDATE = """
import sys
from covt_rl.updates.updater import Updater

def fail(self, *arguments, **settings):
    raise RuntimeError("the update has failed")

Updater.update = fail
from covt.main import main
sys.argv = ["covt", "rl", *sys.argv[1:]]
main()
"""


def test_a_failing_update_ends_the_process_while_the_next_rollouts_are_sampled(
    latent_server: RunningServer, data: Path, tmp_path: Path
):
    config = settings(
        latent_server, data, tmp_path, rollout={"ahead": 1, "max_tokens": 900, "samples": 16}, algorithm={"steps": 3}
    )
    recipe = tmp_path / "ahead.toml"
    recipe.write_text(recipe_text(config))
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env = {**os.environ, **place, "MASTER_PORT": str(free_port("127.0.0.1")), "OMP_NUM_THREADS": "1"}
    env |= {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", FAILING_UPDATE, str(recipe)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "the update has failed" in done.stderr
