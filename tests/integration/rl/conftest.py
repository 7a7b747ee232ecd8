"""What all tests of GRPO run on: two ranks, a small data set, and the server, given back with its own weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rl_tools import make_data, put_weights_back
from server_tools import RunningServer

from covt_runtime.launch.workers import WorkerGroup


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    with WorkerGroup(2, log_dir=tmp_path_factory.mktemp("logs")) as group:
        yield group


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "trace")


@pytest.fixture(scope="module", autouse=True)
def weights_put_back(latent_server: RunningServer) -> Iterator[None]:
    yield
    put_weights_back(latent_server)
