"""A linear layer that many calls share, whose weight gradient is computed for all of them together.

Autograd makes a whole weight-sized gradient for each call and adds them up: for a call on one position that moves
more memory than all the rest of its forward and backward. Here a call only leaves its inputs and output gradients;
when all calls have been through the backward pass, one matrix product makes the gradient of the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from covt_model.decoder.layer_ops import linear_gradient

# From this many positions on, a product of its own is as fast, and the inputs need not be kept.
MANY = 64
# Inputs of smaller calls are collected up to this many positions and multiplied at once. More would take as much
# memory as checkpointing saves.
MOST_WAITING = 512


class SharedLinear:
    """`module(x)` for a plain linear layer, to be called several times in one graph."""

    def __init__(self, module: nn.Linear) -> None:
        self.weight = module.weight
        self.bias = module.bias
        self.weight_sum: torch.Tensor | None = None
        self.bias_sum: torch.Tensor | None = None
        self.waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.positions = 0
        # Weight and bias are in the graph once, through this scalar that every call takes as an input.
        self.link = _Collect.apply(self, self.weight, self.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] → [..., outputs]."""
        return _Call.apply(self, x, self.link)  # pyright: ignore[reportReturnType]

    @property
    def wanted(self) -> bool:
        """Whether the running backward pass asks for the weight's gradient.

        One that asks for other gradients only must not leave anything behind for the next.
        """
        collect = self.link.grad_fn
        return collect is not None and torch._C._will_engine_execute_node(collect)  # pyright: ignore[reportAttributeAccessIssue]

    def back(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of x [N, inputs] from that of the output [N, outputs], which is taken in for the weight's."""
        if self.wanted:
            self.add(x, gradient)
        return linear_gradient(gradient, self.weight)

    def add(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take in one call's inputs and output gradients, [N, inputs] and [N, outputs]."""
        if len(x) >= MANY:
            self._sum(x, gradient)
            return
        self.waiting.append((x, gradient))
        self.positions += len(x)
        if self.positions >= MOST_WAITING:
            self._sum_waiting()

    def take(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Gradients of weight and bias over all calls so far; the sums start again."""
        self._sum_waiting()
        sums = self.weight_sum, self.bias_sum
        self.weight_sum, self.bias_sum = None, None
        return sums

    def _sum_waiting(self) -> None:
        if self.waiting:
            inputs, gradients = zip(*self.waiting, strict=True)
            self._sum(torch.cat(inputs), torch.cat(gradients))
        self.waiting.clear()
        self.positions = 0

    def _sum(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        if self.weight_sum is None:
            self.weight_sum = gradient.t() @ x
            self.bias_sum = None if self.bias is None else gradient.sum(0)
            return
        self.weight_sum.addmm_(gradient.t(), x)
        if self.bias_sum is not None:
            self.bias_sum += gradient.sum(0)


class _Collect(torch.autograd.Function):
    """Runs in the backward pass after every call's, and hands the collected gradients to the parameters."""

    @staticmethod
    def forward(ctx: Any, shared: SharedLinear, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.shared = shared
        ctx.set_materialize_grads(False)
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, *ctx.shared.take()


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: SharedLinear, x: torch.Tensor, link: torch.Tensor) -> torch.Tensor:
        ctx.shared = shared
        ctx.save_for_backward(x, shared.weight)
        return functional.linear(x, shared.weight, shared.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        if ctx.shared.wanted:
            ctx.shared.add(x.flatten(0, -2), gradient.flatten(0, -2))
        return None, gradient @ weight if ctx.needs_input_grad[1] else None, None
