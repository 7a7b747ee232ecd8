"""Log-probabilities of chosen tokens from hidden states, without ever holding the logits of the whole vocabulary.

The vocabulary is divided into blocks. The forward pass keeps a running maximum and sum over them (online softmax,
Milakov and Gimelshein, arXiv 1805.02867); the backward pass computes each block's logits again and turns them into
gradients in place. So each row of the weight's gradient comes from one product over all tokens.

A head is scored by calling it as a module with a `Scoring`, so that hooks on it, such as ZeRO-3's gathering, run once
around all blocks. `scoring_head` makes one of a plain linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

CHUNK_BYTES = 64 << 20
"""Most bytes of logits at a time, with everything that is derived from them."""
FP32_BYTES = 4
LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How to score N hidden states.

    Attributes:
        targets: int64 [N], the token whose log-probability to return.
        temperature: divides the logits; 0 means greedy sampling, which is scored at 1.
        banned: tokens that can't be sampled; their logits are −∞.
        entropy: whether to return the entropy of each distribution too.
        chunk_bytes: most bytes of logits at a time.
    """

    targets: torch.Tensor
    temperature: float = 1.0
    banned: tuple[int, ...] = ()
    entropy: bool = False
    chunk_bytes: int = CHUNK_BYTES


Scores = tuple[torch.Tensor, torch.Tensor]
"""Log-probabilities of the targets and entropies, fp32 [N] each; entropies that were not asked for are 0."""


class ScoringHead(nn.Module):
    """A head whose `forward(states, scoring)` returns `Scores`, and whose `forward(states)` returns logits."""


class ScoringLinear(nn.Linear, ScoringHead):
    """A linear head."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: torch.Tensor, scoring: Scoring | None = None, rows: Rows | None = None
    ) -> Any:
        """Logits [..., V] of states [..., H]; with `scoring` the scores of states [N, H].

        `rows` are differences that an adapter adds to rows of the weight.
        """
        if scoring is None:
            return functional.linear(input, self.weight, self.bias)
        difference = None if rows is None else rows.values
        return _Score.apply(scoring, () if rows is None else rows.ids, input, self.weight, self.bias, difference)


@dataclass(frozen=True)
class Rows:
    """Trained differences [n, H] of the rows `ids` of a head's weight."""

    ids: tuple[int, ...]
    values: torch.Tensor


def scoring_head(head: nn.Module) -> ScoringHead:
    """Make a head able to score: a plain linear layer changes its class and keeps its parameters and hooks.

    Raises:
        TypeError: the head is of another kind.
    """
    if type(head) is nn.Linear:
        head.__class__ = ScoringLinear
    if not isinstance(head, ScoringHead):
        raise TypeError(f"the output head is a {type(head).__name__}, which can't score tokens")
    return head


@dataclass(frozen=True)
class _Weights:
    """A head's tensors: weight [V, H], bias [V], and differences [n, H] of the rows `ids`."""

    ids: tuple[int, ...]
    weight: torch.Tensor
    bias: torch.Tensor | None
    rows: torch.Tensor | None

    def block(self, states: torch.Tensor, scoring: Scoring, start: int, stop: int) -> torch.Tensor:
        """Logits [N, stop − start] in fp32, over the temperature and with banned tokens masked."""
        bias = None if self.bias is None else self.bias[start:stop]
        logits = functional.linear(states, self.weight[start:stop], bias)
        for number, token in self.inside(start, stop):
            assert self.rows is not None
            logits[:, token] += states @ self.rows[number]
        logits = logits.float()
        if scoring.temperature not in (0, 1):
            logits.div_(scoring.temperature)
        for token in scoring.banned:
            if start <= token < stop:
                logits[:, token - start] = float("-inf")
        return logits

    def inside(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The differences whose rows lie in the block: (number, row within the block)."""
        for number, token in enumerate(self.ids):
            if start <= token < stop:
                yield number, token - start


def _blocks(count: int, weights: _Weights, scoring: Scoring) -> Iterator[tuple[int, int]]:
    """Ranges of the vocabulary whose logits of `count` tokens, with the tensors derived from them, fit into a chunk."""
    width = weights.weight.element_size()
    each = FP32_BYTES * (2 if scoring.entropy else 1) + (width if width < FP32_BYTES else 0)
    size = max(1, scoring.chunk_bytes // (each * max(count, 1)))
    vocabulary = len(weights.weight)
    return ((start, min(start + size, vocabulary)) for start in range(0, vocabulary, size))


class _Score(torch.autograd.Function):
    """`apply(scoring, ids, states [N, H], weight, bias, rows)` → (log-probabilities, entropies)."""

    @staticmethod
    def forward(
        ctx: Any,
        scoring: Scoring,
        ids: tuple[int, ...],
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> Scores:
        weights, sums = _Weights(ids, weight, bias, rows), _Sums(scoring)
        for start, stop in _blocks(len(states), weights, scoring):
            # Only the call that consumes a block refers to it, so that it is freed before the next one is made.
            sums.add(weights.block(states, scoring, start, stop), start)
        normalizer, logprobs, entropy = sums.scores()
        ctx.set_materialize_grads(False)
        if not scoring.entropy:
            ctx.mark_non_differentiable(entropy)
        ctx.scoring, ctx.ids = scoring, ids
        ctx.save_for_backward(states, weight, bias, rows, normalizer, entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *of_scores: torch.Tensor | None) -> Any:
        states, weight, bias, rows, normalizer, entropy = ctx.saved_tensors
        weights, scoring = _Weights(ctx.ids, weight, bias, rows), ctx.scoring
        gradients = _Gradients(states, weights, ctx.needs_input_grad[2:])
        for start, stop in _blocks(len(states), weights, scoring):
            shares = weights.block(states, scoring, start, stop).sub_(normalizer[:, None]).exp_()
            gradients.add(_logit_gradients(shares, scoring, of_scores, entropy, start), start)
            del shares
        return None, None, *gradients.found()


class _Sums:
    """Running sums over the blocks of the vocabulary, [N] each."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        count, device = len(scoring.targets), scoring.targets.device
        self.highest = torch.full((count,), LOWEST, device=device)
        self.chosen, self.total, self.weighted = (torch.zeros(count, device=device) for _ in range(3))

    def add(self, logits: torch.Tensor, start: int) -> None:
        """Accumulate a block's logits [N, L], which are overwritten; the block begins at token `start`."""
        here, place = _inside(self.scoring.targets, start, logits.shape[1])
        self.chosen = torch.where(here, logits.gather(1, place).squeeze(1), self.chosen)
        highest = torch.maximum(self.highest, logits.amax(1))
        shift = self.highest - highest
        scale, self.highest = shift.exp(), highest
        powers = logits.sub_(highest[:, None]).exp_()
        if self.scoring.entropy:
            # Σ e^d · d over the distances d from the highest logit; all of them grow when a higher one is found.
            self.weighted = scale * (self.weighted + self.total * shift) - torch.special.entr(powers).sum(1)
        self.total = scale * self.total + powers.sum(1)

    def scores(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logarithm of the normalizer, log-probability and entropy."""
        logs = self.total.log()
        entropy = logs - self.weighted / self.total if self.scoring.entropy else torch.zeros_like(logs)
        return self.highest + logs, self.chosen - self.highest - logs, entropy


class _Gradients:
    """Gradients of states (summed in fp32), weight, bias and rows; None for those that need none."""

    def __init__(self, states: torch.Tensor, weights: _Weights, wanted: tuple[bool, ...]) -> None:
        self.given, self.weights = states, weights
        of_states, of_weight, of_bias, of_rows = wanted
        self.states = torch.zeros(states.shape, device=states.device) if of_states else None
        self.weight = torch.empty_like(weights.weight) if of_weight else None
        self.bias = torch.empty_like(weights.bias) if of_bias and weights.bias is not None else None
        self.rows = torch.zeros_like(weights.rows) if of_rows and weights.rows is not None else None

    def add(self, wide: torch.Tensor, start: int) -> None:
        """Accumulate the gradients of a block's logits [N, L] in fp32; the block begins at token `start`."""
        given, weights, stop = self.given, self.weights, start + wide.shape[1]
        block = wide.to(given.dtype)
        if self.states is not None:
            _add_product(self.states, block, weights.weight[start:stop])
        if self.weight is not None:
            torch.mm(block.t(), given, out=self.weight[start:stop])
        if self.bias is not None:
            self.bias[start:stop] = block.sum(0)
        for number, token in weights.inside(start, stop):
            if self.states is not None and weights.rows is not None:
                self.states.addcmul_(block[:, token, None].float(), weights.rows[number].float())
            if self.rows is not None:
                self.rows[number] = block[:, token] @ given

    def found(self) -> tuple[torch.Tensor | None, ...]:
        """Cast each gradient to the dtype of its tensor."""
        states = None if self.states is None else self.states.to(self.given.dtype)
        return states, self.weight, self.bias, self.rows


def _inside(targets: torch.Tensor, start: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which targets [N] lie in the block, and their places in it [N, 1]; 0 or the last for the others."""
    places = targets - start
    return (places >= 0) & (places < length), places.clamp(0, length - 1)[:, None]


def _logit_gradients(
    shares: torch.Tensor,
    scoring: Scoring,
    of_scores: tuple[torch.Tensor | None, ...],
    entropy: torch.Tensor,
    start: int,
) -> torch.Tensor:
    """Turn a block's probabilities [N, L] into the gradients of its logits, in place.

    d log p(target) / d logit = 1[target] − p; d entropy / d logit = −p (log p + entropy). `of_scores` are the gradients
    of log-probabilities and entropies [N]; None for a score that nothing depends on.
    """
    of_logprobs, of_entropy = (None if part is None else part[:, None] for part in of_scores)
    factor = torch.zeros_like(entropy)[:, None] if of_logprobs is None else -of_logprobs
    if of_entropy is None:
        shares.mul_(factor)
    else:
        spread = torch.special.entr(shares).mul_(of_entropy)
        shares.mul_(factor - of_entropy * entropy[:, None]).add_(spread)
    if of_logprobs is not None:
        here, place = _inside(scoring.targets, start, shares.shape[1])
        shares.scatter_add_(1, place, torch.where(here[:, None], of_logprobs, 0))
    return shares if scoring.temperature in (0, 1) else shares.div_(scoring.temperature)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """`total += left @ right`, in the dtype of `total`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
