"""What the tests of the running server share: its requests, a checkpoint, the comparison with the reference."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latent_oracle import Decoded, data_url

TOLERANCE = 1e-4
STEPS = 24
# Small enough that long prompts are prefilled in chunks, and that 100 requests at once preempt each other.
BATCHED_TOKENS = 256
KV_BYTES = 6 * 2**20
MODEL_LENGTH = 1024
RUNNERS: dict[str, dict[str, Any]] = {
    "v1": {},
    "v2": {
        "runner": "v2",
        "variables": (
            ("PYTHONPATH", str(Path(__file__).parent / "triton_cpu")),
            ("TRITON_INTERPRET", "1"),
            ("TRITON_DEFAULT_BACKEND", "cpu"),
        ),
    },
}
"""Options of a server for each of vLLM's model runners. V2's kernels run in Triton's interpreter."""
both_runners = pytest.mark.parametrize(
    "runner", ["v1", pytest.param("v2", marks=pytest.mark.slow)], indirect=True, scope="session"
)
"""For tests of `latent_server` that are to hold on both of vLLM's model runners."""


@dataclass(frozen=True)
class RunningServer:
    """url: of the server. checkpoint: the folder it was started with; tests that push weights put them back."""

    url: str
    checkpoint: Path

    def post(self, path: str, body: Any = None, timeout: float = 600) -> tuple[int, Any]:
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
    """A random tiny checkpoint with latent tokens: H 64, two layers, tied embeddings, K 4 unless told otherwise.

    Beside the default family, the vision tower has two blocks, which attend to the whole picture.
    """
    import torch

    from covt_model.checkpoints.tiny_checkpoint import build_tiny
    from covt_model.families import DEFAULT_FAMILY

    if options.get("family", DEFAULT_FAMILY) != DEFAULT_FAMILY:
        options = {"layers": 3, "vision_depth": 2, "window": MODEL_LENGTH} | options
    texts = ["Follow the arrows from the marked cell for 3 steps. Which cell do you reach? Answer: B3"] * 4
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8, generator=generator) for _ in range(4)]
    return build_tiny(folder, texts, pictures, **({"latent_size": 4, "seed": 3} | options))


@dataclass
class Answer:
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str


def prompt(checkpoint: Path, text: str, pictures: int = 1, start: bool = False) -> list[int]:
    from transformers import AutoTokenizer

    shown = "<|vision_start|><|image_pad|><|vision_end|>" * pictures
    tail = "<|latent_start|>" if start else ""
    whole = f"<|im_start|>user\n{shown}{text}<|im_end|>\n<|im_start|>assistant\n{tail}"
    return AutoTokenizer.from_pretrained(checkpoint)(whole).input_ids


def generate(
    server: RunningServer,
    token_ids: list[int],
    images: tuple[bytes, ...] = (),
    *,
    bias: dict[int, float] | None = None,
    salt: str | None = None,
    extra: dict[str, Any] | None = None,
    **sampling: Any,
) -> list[Answer]:
    params = {"temperature": 0.0, "max_tokens": STEPS, "logprobs": 0, "ignore_eos": True} | sampling
    body: dict[str, Any] = {
        "token_ids": token_ids,
        "content_parts": [{"type": "image_url", "url": data_url(image)} for image in images],
        "sampling_params": params | {"logit_bias": bias, "extra_args": extra},
        "return_token_ids": True,
    }
    if salt is not None:
        body["cache_salt"] = salt
    status, answer = server.post("/inference/v1/generate", body)
    assert status == 200, answer
    return [
        Answer(
            answer["prompt_token_ids"],
            choice["token_ids"],
            [entry["logprob"] for entry in choice["logprobs"]["content"]],
            choice["finish_reason"],
        )
        for choice in answer["choices"]
    ]


def latents_of(server: RunningServer, key: str) -> list[np.ndarray]:
    entries = server.call("covt_take_latents", [key])[key]
    return [np.frombuffer(base64.b64decode(one["data"]), "<f4").reshape(one["shape"]) for one in entries]


def assert_same(answer: Answer, expected: Decoded) -> None:
    assert answer.prompt_ids == expected.prompt_ids
    assert answer.token_ids == expected.token_ids
    assert np.abs(np.array(answer.logprobs) - np.array(expected.logprobs)).max() <= TOLERANCE


def push(server: RunningServer, folder: Path, version: int) -> None:
    """Load weights as a trainer does: pause, load, name the version, resume."""
    assert server.post("/pause?mode=abort")[0] == 200
    assert server.call("covt_load_weights", str(folder), version)["version"] == version
    assert server.post("/update_weight_version", {"new_version": str(version)})[0] == 200
    assert server.post("/resume")[0] == 200
