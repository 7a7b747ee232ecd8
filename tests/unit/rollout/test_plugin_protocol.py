"""The latent fields of a request: what is read, what is refused, which requests may share a prefix cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import LatentMode
from covt_model.model_errors import ModelError
from covt_rollout.vllm_plugin import cache_salt, decode_latents, encode_latents, flags, latent_args
from covt_rollout.vllm_plugin.protocol import LatentOptions, check_prompt, longest_run, read_options

PAD = 9
LATENTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_latents_survive_the_wire() -> None:
    decoded = decode_latents(encode_latents(LATENTS[:, ::-1]))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, LATENTS[:, ::-1])


def test_a_request_without_latent_fields_keeps_its_latents() -> None:
    assert read_options(None) == read_options({}) == read_options({"other": 1}) == LatentOptions()


def test_the_fields_are_read() -> None:
    options = read_options(latent_args("noise", LATENTS, key="k", seed=3))
    assert (options.mode, options.key, options.seed) == ("noise", "k", 3)
    assert options.data is not None
    assert np.array_equal(options.data, LATENTS)


@pytest.mark.parametrize("max_spans", [None, 0, 7])
def test_a_limit_of_spans_is_carried(max_spans: int | None) -> None:
    assert read_options(latent_args(max_spans=max_spans)).max_spans == max_spans


GOOD = encode_latents(LATENTS)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"latent_mode": "shuffle"}, "latent_mode is 'shuffle'"),
        ({"latent_mode": None}, "latent_mode is None"),
        ({"latent_mod": "keep"}, "unknown fields latent_mod"),
        ({"latent_mode": "given"}, "has no latent_data"),
        ({"latent_key": ""}, "latent_key"),
        ({"latent_key": "k" * 201}, "latent_key"),
        ({"latent_key": 5}, "latent_key"),
        ({"latent_seed": -1}, "latent_seed"),
        ({"latent_seed": True}, "latent_seed"),
        ({"latent_seed": 1.0}, "latent_seed"),
        ({"latent_max_spans": -1}, "latent_max_spans is -1"),
        ({"latent_max_spans": True}, "latent_max_spans"),
        ({"latent_max_spans": "3"}, "latent_max_spans"),
        ({"latent_data": GOOD["latent_data"]}, "latent_shape is None"),
        ({"latent_shape": [3, 4]}, "latent_data is NoneType"),
        (GOOD | {"latent_shape": [3]}, "latent_shape"),
        (GOOD | {"latent_shape": [3, True]}, "latent_shape"),
        (GOOD | {"latent_shape": [0, 4]}, "latent_shape"),
        (GOOD | {"latent_shape": [4, 4]}, "48 bytes"),
        (GOOD | {"latent_data": "not base64!"}, "not base64"),
        (encode_latents(np.array([[np.nan, 1]], dtype=np.float32)), "not finite"),
        (encode_latents(np.array([[np.inf, 1]], dtype=np.float32)), "not finite"),
    ],
)
def test_malformed_fields_are_refused_with_a_remedy(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        read_options(extra)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1, PAD], LatentOptions(), "1 latent pads and 0 latents"),
        ([1], LatentOptions(data=LATENTS), "0 latent pads and 3 latents"),
        ([1, PAD], LatentOptions(LatentMode("noise")), "1 latent pads and 0 latents"),
        ([PAD] * 6, LatentOptions(LatentMode("zeros")), "6 latent pads in a row"),
        ([1], LatentOptions(LatentMode("given"), np.zeros((1, 5), dtype=np.float32)), "5 dimensions"),
    ],
)
def test_prompts_and_latents_must_fit(prompt: list[int], options: LatentOptions, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_prompt(prompt, options, PAD, size=5, hidden=4)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ([1, PAD, PAD, 2, PAD], LatentOptions(data=LATENTS)),
        ([1, PAD], LatentOptions(LatentMode("zeros"))),
        ([1, PAD], LatentOptions(LatentMode("none"))),
        ([1, PAD], LatentOptions(LatentMode("given"), LATENTS)),
        ([PAD] * 5 + [1] + [PAD] * 5, LatentOptions(LatentMode("zeros"))),
    ],
)
def test_fitting_prompts_pass(prompt: list[int], options: LatentOptions) -> None:
    check_prompt(prompt, options, PAD, size=5, hidden=4)


def test_a_pause_checkpoint_needs_no_latents() -> None:
    check_prompt([1, PAD], LatentOptions(), PAD, size=5, hidden=4, feeds=False)


def test_only_requests_with_their_own_latents_share_the_cache() -> None:
    assert cache_salt("keep") is None
    assert cache_salt("keep", LATENTS) is None
    salts = [
        cache_salt("zeros"),
        cache_salt("none"),
        cache_salt("given", LATENTS),
        cache_salt("given", LATENTS + 1),
        cache_salt("noise", seed=0),
        cache_salt("noise", seed=1),
        cache_salt("noise", LATENTS),
    ]
    assert len(set(salts)) == len(salts)
    assert None not in salts


def test_a_salt_depends_on_nothing_the_mode_does_not_use() -> None:
    assert cache_salt("zeros", LATENTS, seed=5) == cache_salt("zeros")
    assert cache_salt("given", LATENTS, seed=5) == cache_salt("given", LATENTS.astype(np.float64).astype(np.float32))


def test_longest_run() -> None:
    assert [longest_run(tokens, 1) for tokens in ([], [2], [1], [1, 1, 2, 1], [2, 1, 2, 1, 1, 1])] == [0, 0, 1, 2, 3]


def test_flags_refuse_a_checkpoint_without_latents(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no latent tokens"):
        flags(tmp_path)


def test_servers_on_gpus_take_weights_over_nccl(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    LatentConfig(start_id=1, pad_id=2, end_id=3, size=4).write(tmp_path)
    line = flags(tmp_path, "gpu")
    assert json.loads(line[line.index("--weight-transfer-config") + 1]) == {"backend": "nccl"}
    assert "--weight-transfer-config" not in flags(tmp_path, "cpu")


def test_the_protocol_loads_neither_vllm_nor_torch() -> None:
    code = "import sys, covt_rollout.vllm_plugin; sys.exit(bool({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
