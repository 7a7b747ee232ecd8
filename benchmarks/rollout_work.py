"""What the rollout benchmarks share: a checkpoint, requests with pictures, servers with and without the plugin."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Size:
    """A model's size. mrope: sections of the rotary embedding, together half a head."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    mrope: tuple[int, int, int]


QUICKSTART = Size(64, 2, 2, 192, (4, 6, 6))
SMALL = Size(512, 8, 8, 1408, (8, 12, 12))


def build(folder: Path, size: Size, family: str = "qwen2_5_vl") -> Path:
    """A random model of this family and size with latent tokens, K 8."""
    import torch

    from covt_model.checkpoints.tiny_checkpoint import build_tiny

    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8, generator=generator) for _ in range(4)]
    texts = ["Follow the arrows from the marked cell for 3 steps. Which cell do you reach? Answer: B3"]
    return build_tiny(
        folder,
        texts,
        pictures,
        family=family,
        hidden=size.hidden,
        layers=size.layers,
        heads=size.heads,
        intermediate=size.intermediate,
        mrope=size.mrope,
        init_std=0.08 * (64 / size.hidden) ** 0.5,
    )


def picture(seed: int, cells: int, side: int = 28) -> bytes:
    """A PNG of `cells` × `cells` random cells of `side` pixels, each one visual token."""
    import numpy as np
    from PIL import Image

    colors = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors.repeat(side, 0).repeat(side, 1)).save(buffer, "PNG")
    return buffer.getvalue()


class Prompts:
    """Prompts with one picture each that no round has seen before; they end where a latent span begins."""

    def __init__(self, checkpoint: Path, cells: int = 4) -> None:
        from tokenizers import Tokenizer

        from covt_model.families import read_image_settings

        self.side = read_image_settings(checkpoint).cell
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.cells = cells

    def of_round(self, number: int, count: int) -> list[Any]:
        """`count` PromptRequests; the same number gives the same ones."""
        from covt_rollout.client.rollout_requests import PromptRequest

        text = (
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Case {}. Which cell do you reach?<|im_end|>\n"
            "<|im_start|>assistant\n<|latent_start|>"
        )
        names = [number * count + index for index in range(count)]
        return [
            PromptRequest(
                tuple(self.tokenizer.encode(text.format(name), add_special_tokens=False).ids),
                (picture(name, self.cells, self.side),),
                str(name),
            )
            for name in names
        ]


def plain_command(checkpoint: Path, port: int) -> list[str]:
    """vLLM's own server for the same checkpoint with its own defaults, without anything of ours."""
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    line += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-num-seqs", "256"]
    line += ["--limit-mm-per-prompt", '{"image": 8, "video": 0}', "--enable-scale-out"]
    line += ["--enforce-eager", "--kv-cache-memory-bytes", str(512 * 2**20)]
    return [*line, "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]


@contextmanager
def serving(checkpoint: Path, log: Path, *, plugin: bool = True, **options: Any) -> Iterator[Any]:
    """A running `LatentServer` with our plugin, or of plain vLLM in the same environment."""
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer, free_port

    if plugin:
        with LatentServer.start(checkpoint, options=ServerOptions(**options), log_path=log) as server:
            yield server
        return
    port = free_port("127.0.0.1")
    with LatentServer(checkpoint, "127.0.0.1", port, None, log, plain_command(checkpoint, port)) as server:
        server.launch()
        yield server


class Load:
    """Sends rounds of requests to one server: every prompt `samples` times, `tokens` tokens each, end tokens ignored.

    bias: added to the logit of a latent span's start, so that a random model begins spans like a trained one.
    """

    def __init__(self, server: Any, prompts: Prompts, *, count: int, samples: int, tokens: int, bias: float) -> None:
        from covt_rollout.client.blocking_client import BlockingClient
        from covt_rollout.client.rollout_client import RolloutClient

        client = RolloutClient.for_checkpoint(server.url, server.checkpoint, timeout=300)
        self.blocking = BlockingClient(client)
        self.prompts, self.count, self.samples, self.tokens = prompts, count, samples, tokens
        self.bias = {client.latent.start_id: bias}
        self.round = 0
        self.answers: list[Any] = []

    def __enter__(self) -> Load:
        self.blocking.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.blocking.__exit__(None, None, None)

    def seconds_per_token(self) -> float:
        """Send a round's requests all at once; wall seconds a completion token."""
        from covt_rollout.client.rollout_requests import LatentInput, Sampling, request_body

        requests = []
        sampling = Sampling(max_tokens=self.tokens, n=self.samples)
        for prompt in self.prompts.of_round(self.round, self.count):
            # No seeds: plain vLLM on a CPU dies of one when a prompt is prefilled in parts.
            body = request_body(prompt, sampling, None, LatentInput())
            body["sampling_params"] |= {"ignore_eos": True, "logit_bias": self.bias}
            requests.append(body)
        self.round += 1
        begun = time.perf_counter()
        self.answers = self.blocking.run(self._all(requests))
        seconds = time.perf_counter() - begun
        sampled = sum(len(choice["token_ids"]) for answer in self.answers for choice in answer["choices"])
        assert sampled == self.count * self.samples * self.tokens, "the server ended a completion early"
        return seconds / sampled

    async def _all(self, requests: list[dict[str, Any]]) -> list[Any]:
        import asyncio

        from covt_rollout.vllm_plugin.protocol import GENERATE

        post = self.blocking.client.transport.post
        return await asyncio.gather(*(post(GENERATE, body) for body in requests))

    def latent_share(self) -> float:
        """Share of the last round's tokens that are latent pads."""
        pad = self.blocking.client.latent.pad_id
        ids = [token for answer in self.answers for choice in answer["choices"] for token in choice["token_ids"]]
        return ids.count(pad) / len(ids)
