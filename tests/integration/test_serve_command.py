"""`covt serve` as people use it: replicas, a key, an OpenAI client, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.server.server_process import check_port

pytestmark = pytest.mark.slow


@contextmanager
def covt_serve(checkpoint: Path, *options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """The command, and what it has printed once it is ready."""
    line = [sys.executable, "-m", "covt.main", "serve", str(checkpoint), "--json", "--max-model-len", "512", *options]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            printed = ""
            while not printed.endswith("\n}\n"):
                read = process.stdout.readline()
                assert read, "covt serve ended before it was ready"
                printed += read
            yield process, json.loads(printed)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_replicas_share_the_work_and_end_cleanly(tiny_checkpoint: Path) -> None:
    with covt_serve(tiny_checkpoint, "--replicas", "2") as (process, said):
        assert len(said["replicas"]) == 2
        prompts = [PromptRequest((5, 6, 7 + n), group_id=str(n)) for n in range(16)]

        async def work() -> Any:
            async with RolloutClient.for_checkpoint(said["url"], tiny_checkpoint) as client:
                return await client.generate(prompts, Sampling(max_tokens=8, seed=0)), await client.weight_version()

        groups, version = asyncio.run(work())
        assert (len(groups), version) == (16, 0)
        for replica in said["replicas"]:
            with urllib.request.urlopen(replica["url"] + "/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
            assert any(line.startswith("vllm:prompt_tokens_total") and not line.endswith(" 0.0") for line in lines)
    assert process.returncode == 0
    for replica in said["replicas"]:
        assert not Path(f"/proc/{replica['pid']}").exists()
        check_port("127.0.0.1", int(replica["url"].rpartition(":")[2]))


def test_a_key_is_asked_for_on_every_path(tiny_checkpoint: Path) -> None:
    with covt_serve(tiny_checkpoint, COVT_API_KEY="secret") as (_, said):
        url = said["url"] + "/v1"
        with openai.OpenAI(base_url=url, api_key="secret") as client:
            assert client.models.list().data[0].id == str(tiny_checkpoint)
        with openai.OpenAI(base_url=url, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        request = urllib.request.Request(said["url"] + "/pause", b"")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=60)
