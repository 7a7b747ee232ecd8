"""One real vLLM server for all integration tests, with a random tiny checkpoint in float32."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Small enough that long prompts are prefilled in chunks, and that 100 requests at once preempt each other.
BATCHED_TOKENS = 256
KV_BYTES = 6 * 2**20
MODEL_LENGTH = 1024


@dataclass(frozen=True)
class RunningServer:
    """url: of the server. checkpoint: the folder it was started with; tests that push weights put them back."""

    url: str
    checkpoint: Path

    def post(self, path: str, body: Any = None, timeout: float = 300) -> tuple[int, Any]:
        """HTTP status and the answer's JSON."""
        data = json.dumps(body).encode() if body is not None else b""
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, raw = error.code, error.read()
        return status, json.loads(raw) if raw else None

    def call(self, method: str, *args: Any) -> Any:
        """The worker's answer to a /collective_rpc method."""
        status, answer = self.post("/collective_rpc", {"method": method, "args": list(args)})
        assert status == 200, answer
        return answer["results"][0]

    def metric(self, name: str) -> float:
        """Sum of a Prometheus counter over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def build_checkpoint(folder: Path, **options: Any) -> Path:
    """A random tiny checkpoint with latent tokens: H 64, two layers, tied embeddings, K 4 unless told otherwise."""
    import torch

    from covt_model.tiny import build_tiny

    texts = ["Follow the arrows from the marked cell for 3 steps. Which cell do you reach? Answer: B3"] * 4
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8, generator=generator) for _ in range(4)]
    return build_tiny(folder, texts, pictures, **({"latent_size": 4, "seed": 3} | options))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root-mean-square normalized feedback, K 4."""
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def latent_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server, started once. COVT_TEST_SERVER="URL CHECKPOINT" uses one that is already there."""
    from covt_rl.serving.options import ServerOptions
    from covt_rl.serving.process import LatentServer

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
