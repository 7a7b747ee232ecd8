"""One real vLLM server for all integration tests, with a random tiny checkpoint in float32; two ranks per module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_tools import BATCHED_TOKENS, KV_BYTES, MODEL_LENGTH, RUNNERS, RunningServer, build_checkpoint
from zero_jobs import JOBS

from covt_model.families import DEFAULT_FAMILY
from covt_runtime.launch.workers import WorkerGroup


@pytest.fixture(scope="session", params=[DEFAULT_FAMILY])
def tiny_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root-mean-square normalized feedback, K 4; of another family where `family_params.every_family` says so."""
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", family=request.param)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    """Two real ranks on gloo, which import the modules beside this file."""
    with WorkerGroup(2, log_dir=tmp_path_factory.mktemp("ranks"), env=JOBS) as group:
        yield group


@pytest.fixture(scope="session", params=["v1"])
def runner(request: pytest.FixtureRequest) -> str:
    """vLLM's model runner. The tests in `both_runners` are also run with V2."""
    return request.param


@pytest.fixture(scope="session")
def latent_server(
    tiny_checkpoint: Path, runner: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The server, started once. COVT_TEST_SERVER="URL CHECKPOINT" uses one that is already there."""
    if existing := os.environ.get("COVT_TEST_SERVER"):
        url, checkpoint = existing.split(maxsplit=1)
        yield RunningServer(url, Path(checkpoint))
        return
    with start_server(tiny_checkpoint, tmp_path_factory, RUNNERS[runner]) as server:
        yield server


@contextmanager
def start_server(checkpoint: Path, folders: pytest.TempPathFactory, runner: dict[str, Any]) -> Iterator[RunningServer]:
    """A server whose memory and batches are small enough for the tests of chunks and preemptions."""
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer

    settings = ServerOptions(
        max_model_len=MODEL_LENGTH,
        kv_cache_bytes=KV_BYTES,
        extra=("--max-num-batched-tokens", str(BATCHED_TOKENS), "--block-size", "32"),
        **runner,
    )
    log = folders.mktemp("server") / "vllm.log"
    with LatentServer.start(checkpoint, options=settings, log_path=log) as server:
        yield RunningServer(server.url, checkpoint)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The V2 runner is tested with the default family alone: what differs between families is vLLM's own model."""
    left_out = [item for item in items if is_v2(item) and not is_for_v2(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def is_v2(item: pytest.Item) -> bool:
    return parameters(item).get("runner") == "v2"


def is_for_v2(item: pytest.Item) -> bool:
    """Not with thousands of requests, for which Triton's interpreter takes an hour."""
    family = parameters(item).get("tiny_checkpoint", DEFAULT_FAMILY)
    return family == DEFAULT_FAMILY and item.get_closest_marker("many_requests") is None
