"""Settings reach DeepSpeed as meant, and impossible ones are refused."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
from covt_runtime.engine.zero_config import deepspeed_config, parameter_groups
from covt_runtime.runtime_errors import ConfigError


def test_offloading_to_nvme_needs_a_folder() -> None:
    with pytest.raises(ValidationError, match="nvme_path"):
        ZeroConfig(offload_optimizer="nvme")


def test_one_gather_a_step_excludes_parameter_offloading() -> None:
    with pytest.raises(ValidationError, match="gather"):
        ZeroConfig(gather="step", offload_parameters="cpu")


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        ZeroConfig.model_validate({"persistance_threshold": 0})


def test_deepspeed_gets_stage_3_with_the_recipes_numbers() -> None:
    zero = ZeroConfig(dtype="bf16", persistence_threshold=7, reduce_bucket_size=1000, offload_optimizer="cpu")
    config = deepspeed_config(zero, clip=0.5, trainable=300)
    optimization = config["zero_optimization"]
    assert optimization["stage"] == 3
    assert optimization["stage3_param_persistence_threshold"] == 7
    assert optimization["reduce_bucket_size"] == 300
    assert optimization["offload_optimizer"]["device"] == "cpu"
    assert "offload_param" not in optimization
    assert config["bf16"] == {"enabled": True}
    assert config["gradient_clipping"] == 0.5


def test_norms_and_biases_do_not_decay_unless_asked() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    matrix, vector = parameter_groups(model, OptimConfig(weight_decay=0.1))
    assert [p.shape for p in matrix["params"]] == [torch.Size([3, 2])]
    assert len(vector["params"]) == 3
    assert (matrix["weight_decay"], vector["weight_decay"]) == (0.1, 0.0)
    assert [group["weight_decay"] for group in parameter_groups(model, OptimConfig(decay_all=True))] == [0.01, 0.01]


def test_a_wholly_frozen_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="trainable"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), OptimConfig())
