"""New weights in the running server: all of them arrive, and a bad push changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from family_params import every_family, stored_name
from latent_oracle import Oracle, png
from safetensors.torch import load_file, save_file
from server_tools import STEPS, RunningServer, assert_same, both_runners, generate, latents_of, prompt, push

from covt_rollout.vllm_plugin import latent_args

pytestmark = [every_family, both_runners]

# What is wrong with a pushed folder → what the answer says about it.
FAULTS = {
    "missing tensor": "lacks 1 tensors, first language_model.model.norm.weight",
    "other shape": "has other shapes for 1 tensors",
    "unknown tensor": "has unknown 1 tensors",
    "cut off": "can't be read",
    "no files": "has no *.safetensors",
}


@pytest.fixture
def restored(latent_server: RunningServer) -> Iterator[RunningServer]:
    """The server; afterwards it has the weights of its checkpoint again."""
    yield latent_server
    push(latent_server, latent_server.checkpoint, 0)


@pytest.fixture
def changed(latent_server: RunningServer, tmp_path: Path) -> Path:
    """A copy of the checkpoint with every tensor changed."""
    folder = tmp_path / "changed"
    shutil.copytree(latent_server.checkpoint, folder)
    generator = torch.Generator().manual_seed(9)
    tensors = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        tensors[name] = value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_pushed_weights_are_what_the_server_decodes_with(restored: RunningServer, changed: Path) -> None:
    old, new = Oracle(restored.checkpoint), Oracle(changed)
    ids, image, bias = prompt(changed, "Follow", start=True), png(112, 112, 0), {new.latent.start_id: 2.5}
    assert_same(generate(restored, ids, (image,), bias=bias)[0], old.decode(ids, [image], steps=STEPS, bias=bias))
    push(restored, changed, 7)
    expected = new.decode(ids, [image], steps=STEPS, bias=bias)
    assert_same(generate(restored, ids, (image,), bias=bias, extra=latent_args(key="pushed"))[0], expected)
    (latents,) = latents_of(restored, "pushed")
    assert np.allclose(latents, torch.stack(expected.latents), atol=1e-4)
    with pytest.raises(AssertionError):
        assert_same(generate(restored, ids, (image,), bias=bias)[0], old.decode(ids, [image], steps=STEPS, bias=bias))
    assert restored.call("covt_status")["weight_version"] == 7


def test_completions_carry_the_version_they_were_sampled_with(restored: RunningServer, changed: Path) -> None:
    push(restored, changed, 12)
    body = {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 4, "ignore_eos": True}}
    (choice,) = restored.post("/inference/v1/generate", body)[1]["choices"]
    assert choice["weight_versions"] == [{"version": "12", "start": 0, "end": 4}]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_push_leaves_the_old_weights_serving(restored: RunningServer, changed: Path, fault: str) -> None:
    ids, image = prompt(changed, "Follow", start=True), png(112, 112, 0)
    before = generate(restored, ids, (image,))[0]
    path = changed / "model.safetensors"
    tensors, norm = load_file(path), stored_name(changed, "model.norm.weight")
    if fault == "missing tensor":
        del tensors[norm]
    elif fault == "other shape":
        tensors[norm] = torch.ones(3)
    elif fault == "unknown tensor":
        tensors["model.extra.weight"] = torch.ones(3)
    save_file(tensors, path, {"format": "pt"})
    if fault == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "no files":
        path.unlink()
    restored.post("/pause?mode=abort")
    status, answer = restored.post("/collective_rpc", {"method": "covt_load_weights", "args": [str(changed), 3]})
    restored.post("/resume")
    assert status == 500
    assert FAULTS[fault] in answer["error"]["message"]
    after = generate(restored, ids, (image,))[0]
    assert after == before
    assert restored.call("covt_status")["weight_version"] != 3
