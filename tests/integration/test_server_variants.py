"""Parity for other checkpoints and other ways to run the server; each starts its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_oracle import Oracle, png
from safetensors.torch import load_file, save_file
from server_tools import (
    RUNNERS,
    STEPS,
    RunningServer,
    assert_same,
    build_checkpoint,
    generate,
    latents_of,
    prompt,
    push,
)

from covt_model.checkpoints import latent_rows
from covt_model.latent_config import LatentConfig
from covt_rollout.server import supervisor
from covt_rollout.vllm_plugin import cache_salt, latent_args

pytestmark = pytest.mark.slow
both_runners = pytest.mark.parametrize("runner", RUNNERS)


@contextmanager
def serving(checkpoint: Path, **options: Any) -> Iterator[RunningServer]:
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer

    log = checkpoint.parent / "vllm.log"
    with LatentServer.start(checkpoint, options=ServerOptions(max_model_len=512, **options), log_path=log) as server:
        yield RunningServer(server.url, checkpoint)


def untie(checkpoint: Path, seed: int) -> None:
    """Give a checkpoint an output matrix of its own."""
    from transformers import AutoModelForImageTextToText

    latent = LatentConfig.read(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    embedding = model.get_input_embeddings().weight.detach()
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(seed))
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(embedding + 0.5 * embedding.std() * noise)
    model.save_pretrained(checkpoint)
    latent.write(checkpoint)


def assert_parity(server: RunningServer, oracle: Oracle) -> None:
    """Greedy with latents, sampled, two pictures, and latents replaced."""
    bias = {oracle.latent.start_id: 2.5}
    images = (png(112, 84, 0), png(56, 56, 1))
    ids = prompt(server.checkpoint, "Follow", pictures=2, start=True)
    expected = oracle.decode(ids, images, steps=STEPS, bias=bias)
    (answer,) = generate(server, ids, images, bias=bias, extra=latent_args(key="parity"))
    assert_same(answer, expected)
    (latents,) = latents_of(server, "parity")
    assert np.allclose(latents, torch.stack(expected.latents), atol=1e-4)
    for sampled in generate(server, ids, images, bias=bias, temperature=1.0, seed=1, n=2):
        assert_same(sampled, oracle.decode(ids, images, forced=sampled.token_ids, bias=bias))
    zeroed = oracle.decode(ids, images, steps=STEPS, bias=bias, replace=lambda _, own: torch.zeros_like(own))
    (answer,) = generate(server, ids, images, bias=bias, extra=latent_args("zeros"), salt=cache_salt("zeros"))
    assert_same(answer, zeroed)


def changed(checkpoint: Path, folder: Path) -> Path:
    """A copy with every tensor scaled."""
    shutil.copytree(checkpoint, folder)
    for path in folder.rglob("*.safetensors"):
        save_file({name: 1.05 * value for name, value in load_file(path).items()}, path)
    return folder


@both_runners
def test_ilvr_feedback_with_untied_head_and_pushed_weights(tmp_path: Path, runner: str) -> None:
    """`normalize: "none"` is ILVR's rule; an untied output matrix has its own packed copy."""
    checkpoint = build_checkpoint(tmp_path / "untied", normalize="none", latent_size=8)
    untie(checkpoint, 1)
    assert "lm_head.weight" in load_file(checkpoint / "model.safetensors")
    with serving(checkpoint, **RUNNERS[runner]) as server:
        assert_parity(server, Oracle(checkpoint))
        pushed = changed(checkpoint, tmp_path / "changed")
        push(server, pushed, 3)
        assert_parity(server, Oracle(pushed))


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_the_latent_tokens_beside_linked_weights(tmp_path: Path, tied: bool) -> None:
    """The served model has the rows that lie beside the weights, and pushed weights replace them."""
    checkpoint = build_checkpoint(tmp_path / "rows")
    if not tied:
        untie(checkpoint, 1)
    names = ["model.embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    matrices, ids = load_file(checkpoint / "model.safetensors"), list(LatentConfig.read(checkpoint).token_ids)
    rows = {name: matrices[name][ids] for name in names}
    latent_rows.save_rows(checkpoint, rows)
    for name in names:
        matrices[name][ids] = 0
    save_file(matrices, checkpoint / "model.safetensors", metadata={"format": "pt"})
    oracle = Oracle(checkpoint)
    with torch.no_grad():
        oracle.model.get_input_embeddings().weight[ids] = rows[names[0]]
        oracle.model.get_output_embeddings().weight[ids] = rows[names[-1]]
    with serving(checkpoint) as server:
        assert_parity(server, oracle)


@both_runners
def test_the_pause_control_feeds_the_pads_own_embedding(tmp_path: Path, runner: str) -> None:
    checkpoint = build_checkpoint(tmp_path / "pause", head="none")
    oracle = Oracle(checkpoint)
    ids, image, bias = prompt(checkpoint, "Follow", start=True), png(112, 112, 0), {oracle.latent.start_id: 2.5}
    replacements: dict[str, Callable[[int, torch.Tensor], torch.Tensor | None]] = {
        "keep": lambda ordinal, own: None,
        "zeros": lambda ordinal, own: torch.zeros_like(own),
    }
    with serving(checkpoint, **RUNNERS[runner]) as server:
        for mode, replace in replacements.items():
            (answer,) = generate(server, ids, (image,), bias=bias, extra=latent_args(mode), salt=cache_salt(mode))
            assert_same(answer, oracle.decode(ids, [image], steps=STEPS, bias=bias, replace=replace))
        continued = [*ids, *answer.token_ids[: oracle.latent.size + 1]]
        (rest,) = generate(server, continued, (image,), bias=bias)
        none = [None] * oracle.latent.size
        expected = oracle.decode(
            continued, [image], steps=STEPS, bias=bias, replace=replacements["keep"], prompt_latents=none
        )
        assert_same(rest, expected)


@pytest.mark.parametrize(("head", "runner"), [("linear", "v1"), ("mlp", "v1"), ("mlp", "v2")])
def test_heads_with_weights_and_their_updates(tmp_path: Path, head: str, runner: str) -> None:
    checkpoint = build_checkpoint(tmp_path / head, head=head)
    path = checkpoint / "covt_latent" / "head.safetensors"
    generator = torch.Generator().manual_seed(6)
    drawn = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in load_file(path).items()
    }
    save_file(drawn, path)
    with serving(checkpoint, **RUNNERS[runner]) as server:
        assert_parity(server, Oracle(checkpoint))
        pushed = changed(checkpoint, tmp_path / "changed")
        push(server, pushed, 3)
        assert_parity(server, Oracle(pushed))
        shutil.rmtree(pushed / "covt_latent")
        status, answer = server.post("/collective_rpc", {"method": "covt_load_weights", "args": [str(pushed), 4]})
        assert status == 500 and "head.safetensors" in answer["error"]["message"]
        assert_parity(server, Oracle(changed(checkpoint, tmp_path / "again")))


@pytest.mark.parametrize(("tied", "runner"), [(True, "v1"), (False, "v1"), (True, "v2")])
def test_tensor_parallel_2(tiny_checkpoint: Path, tmp_path: Path, tied: bool, runner: str) -> None:
    checkpoint = tiny_checkpoint
    if not tied:
        checkpoint = build_checkpoint(tmp_path / "untied")
        untie(checkpoint, 2)
    before = set(Path("/dev/shm").iterdir())
    with serving(checkpoint, tensor_parallel=2, **RUNNERS[runner]) as server:
        assert_parity(server, Oracle(checkpoint))
        pushed = changed(checkpoint, tmp_path / "changed")
        push(server, pushed, 3)
        assert_parity(server, Oracle(pushed))
    left = {path.name for path in set(Path("/dev/shm").iterdir()) - before}
    assert not left - supervisor.shared_memory(supervisor.processes())


def test_without_the_plugin_the_comparison_fails(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Plain vLLM loads the same checkpoint and answers, but neither closes spans nor feeds latents."""
    from covt_rollout.server.server_options import ServerOptions, server_command
    from covt_rollout.server.server_process import LatentServer, free_port

    port = free_port("127.0.0.1")
    ours = ("--worker-cls", "--logits-processors", "--middleware", "--logprobs-mode")
    line = server_command(tiny_checkpoint, "127.0.0.1", port, ServerOptions(max_model_len=512))
    line = [word for word, before in zip(line, ["", *line], strict=False) if not {word, before} & set(ours)]
    with LatentServer(tiny_checkpoint, "127.0.0.1", port, None, tmp_path / "vllm.log", line) as server:
        server.launch()
        oracle = Oracle(tiny_checkpoint)
        ids = prompt(tiny_checkpoint, "Follow", start=True)
        (answer,) = generate(RunningServer(server.url, tiny_checkpoint), ids, (png(112, 84, 0),))
        with pytest.raises(AssertionError):
            assert_same(answer, oracle.decode(ids, [png(112, 84, 0)], steps=STEPS))
        # The same tokens with nothing but the mask added are still others than with latents.
        with pytest.raises(AssertionError):
            assert_same(answer, oracle.decode(ids, [png(112, 84, 0)], steps=STEPS, replace=lambda _, own: None))
