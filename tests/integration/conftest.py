"""One real vLLM server for all integration tests, with a random tiny checkpoint in float32; two ranks per module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_tools import BATCHED_TOKENS, KV_BYTES, MODEL_LENGTH, RunningServer, build_checkpoint
from zero_jobs import JOBS

from covt_model.families import DEFAULT_FAMILY
from covt_runtime.launch.workers import WorkerGroup


@pytest.fixture(scope="session")
def tiny_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root-mean-square normalized feedback, K 4; of another family where `family_params.every_family` says so."""
    family = getattr(request, "param", DEFAULT_FAMILY)
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", family=family)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    """Two real ranks on gloo, which import the modules beside this file."""
    with WorkerGroup(2, log_dir=tmp_path_factory.mktemp("ranks"), env=JOBS) as group:
        yield group


@pytest.fixture(scope="session")
def latent_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server, started once. COVT_TEST_SERVER="URL CHECKPOINT" uses one that is already there."""
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer

    if existing := os.environ.get("COVT_TEST_SERVER"):
        url, checkpoint = existing.split(maxsplit=1)
        yield RunningServer(url, Path(checkpoint))
        return
    options = ServerOptions(
        max_model_len=MODEL_LENGTH,
        kv_cache_bytes=KV_BYTES,
        extra=("--max-num-batched-tokens", str(BATCHED_TOKENS), "--block-size", "32"),
    )
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    with LatentServer.start(tiny_checkpoint, options=options, log_path=log) as server:
        yield RunningServer(server.url, tiny_checkpoint)
