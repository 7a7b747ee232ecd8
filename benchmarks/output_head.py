"""Log-probabilities by blocks of the vocabulary against whole logits: forward and backward, time and peak memory.

The head is that of Qwen2.5-VL-3B: a vocabulary of 151 936 and hidden size 2048, in fp32 on a CPU and in bf16 on a GPU.
Supervised training takes the cross-entropy; reinforcement also logs the entropy. The base is PyTorch's own functions on
the logits of all tokens at once. Both sides make the gradients of states and weight, which are counted in the peak
over what was held before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
from harness import Benchmark, Case

VOCABULARY, HIDDEN = 151_936, 2048
BANNED = (7, 11)
HEADLINE = "1024 tokens, cross-entropy: memory"


class Comparison:
    """One kind of loss on both sides. `run` returns seconds and remembers the peak memory of the run."""

    def __init__(self, head: Any, tokens: int, *, entropy: bool) -> None:
        import torch

        self.head, self.entropy = head, entropy
        generator = torch.Generator().manual_seed(tokens)
        weight = head.weight
        states = torch.randn(tokens, HIDDEN, generator=generator).to(weight.device, weight.dtype)
        self.states = states.requires_grad_()
        self.targets = torch.randint(20, VOCABULARY, (tokens,), generator=generator).to(weight.device)
        self.peak: dict[str, float] = {}

    def run(self, side: str) -> float:
        self.head.weight.grad = self.states.grad = None
        seconds, self.peak[side] = harness.measured(self.ours if side == "ours" else self.base, self.states.is_cuda)
        return seconds

    def ours(self) -> None:
        from covt_model.latents.output_head import Scoring

        banned = BANNED if self.entropy else ()
        logprobs, _ = self.head(self.states, Scoring(targets=self.targets, banned=banned, entropy=self.entropy))
        logprobs.sum().backward()

    def base(self) -> None:
        import torch
        from torch.nn import functional

        logits = self.head(self.states).float()
        if not self.entropy:
            functional.cross_entropy(logits, self.targets, reduction="sum").backward()
            return
        logits = logits.index_fill(1, torch.tensor(BANNED, device=logits.device), float("-inf"))
        logprobs = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            finite = logprobs.masked_fill(logprobs == float("-inf"), 0)
            (finite.exp() * finite).sum(-1)
        logprobs.gather(1, self.targets[:, None]).sum().backward()


@contextmanager
def cases() -> Iterator[list[Case]]:
    import torch

    from covt_model.latents.output_head import scoring_head

    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
    found: list[Case] = []
    placed = head.to("cuda", torch.bfloat16) if torch.cuda.is_available() else head
    for tokens in (256, 1024):
        for entropy, loss in ((False, "cross-entropy"), (True, "log-probabilities and entropy")):
            comparison = Comparison(scoring_head(placed), tokens, entropy=entropy)
            found += harness.time_and_memory(f"{tokens} tokens, {loss}", comparison)
    yield found


BENCHMARK = Benchmark(
    name="output_head",
    about="log-probabilities by blocks of the vocabulary, against whole logits",
    headline=HEADLINE,
    cases=cases,
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
