"""Work and throughput figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from covt_runtime.metrics.performance import DecoderWork, memory_gib, peak_flops


def test_work_is_what_torch_counts_for_the_matrices():
    """Two linear layers on 12 tokens, forward and backward, the input's gradient included."""
    layers = nn.Sequential(nn.Linear(32, 64, bias=False), nn.Linear(64, 32, bias=False))
    tokens = torch.randn(12, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        layers(tokens).sum().backward()
    work = DecoderWork(weights=2 * 32 * 64, layers=0, width=0)
    assert work.flops([5, 7]) == counted.get_total_flops()


def test_frozen_weights_cost_no_gradient_of_their_own():
    layer = nn.Linear(32, 64, bias=False).requires_grad_(False)
    tokens = torch.randn(12, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        layer(tokens).sum().backward()
    assert DecoderWork(32 * 64, 0, 0, trains_weights=False).flops([12]) == counted.get_total_flops()


def test_attention_is_half_of_what_torch_counts_without_causality():
    """Scores and weighted sum of two sequences, each on its own."""
    heads, size = 4, 8
    total = 0
    for length in (6, 10):
        queries, keys, values = (torch.randn(1, heads, length, size, requires_grad=True) for _ in range(3))
        with FlopCounterMode(display=False) as counted:
            weights = (queries @ keys.transpose(2, 3)).softmax(-1)
            (weights @ values).sum().backward()
        total += counted.get_total_flops()
    assert DecoderWork(weights=0, layers=1, width=heads * size).flops([6, 10]) == pytest.approx(total / 2)


def test_a_cpu_has_no_peak_but_memory():
    assert peak_flops(torch.device("cpu")) is None
    assert 0.01 < memory_gib(torch.device("cpu")) < 1000
