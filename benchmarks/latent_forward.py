"""The KV-incremental latent forward against the plain full-prefix oracle: forward and backward, time and peak memory.

Both sides run the same rows through the same language model and take the gradient of the same sum over the final
hidden states. A row is half prompt; the segments of K = 8 latents are spread evenly over the other half. Batch 8 has
rows of different segment counts, from one up to the number named, and a smaller shape: the oracle computes a row at a
time and would take minutes a round otherwise. The oracle keeps the activations of each of its prefixes; nothing is
recomputed on either side. With `--family` of a model with DeepStack, the first quarter of a row is visual tokens with
three levels of features. Memory is the peak over what was held before: allocated on a GPU, resident on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
from harness import Benchmark, Case

SIZE = 8
LEVELS = 3
HEADLINE = "4 segments, batch 1, hidden 512, 8 layers, 512 tokens: time"


@dataclass(frozen=True)
class Shape:
    """A language model and the length of its rows."""

    hidden: int
    layers: int
    tokens: int


LARGE, SMALL = Shape(512, 8, 512), Shape(256, 4, 256)


def build(shape: Shape, family: str) -> Any:
    """A language model of the family's kind with random weights, in evaluation mode."""
    import torch
    from transformers import AutoModel

    from covt_model.families import find_family

    heads = shape.hidden // 64
    config = (
        find_family(family)
        .model_class()
        .config_class.sub_configs["text_config"](
            vocab_size=64,
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=shape.hidden,
            intermediate_size=shape.hidden * 11 // 4,
            num_hidden_layers=shape.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            pad_token_id=None,
        )
    )
    if hasattr(config, "head_dim"):
        config.head_dim = 64
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(config, dtype=torch.float32).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def row_spans(tokens: int, segments: int) -> list[tuple[int, int]]:
    """Pads of a row: after the prompt, each share of the rest ends with text that follows its segment."""
    prompt = tokens // 2
    share = (tokens - prompt) // segments
    return [(start, start + SIZE) for start in range(prompt + 1, prompt + segments * share, share)]


class Comparison:
    """One batch for both sides. `run` gives seconds and remembers the peak memory of the run."""

    def __init__(self, model: Any, shape: Shape, batch: int, segments: int) -> None:
        import torch

        device = next(model.parameters()).device
        self.model = model
        counts = [segments] if batch == 1 else [1 + row * (segments - 1) // (batch - 1) for row in range(batch)]
        self.spans = [row_spans(shape.tokens, count) for count in counts]
        generator = torch.Generator().manual_seed(segments)
        self.embeds = torch.randn(batch, shape.tokens, shape.hidden, generator=generator).to(device)
        self.positions = torch.arange(shape.tokens, device=device).expand(3, batch, -1)
        self.deepstack = None
        if hasattr(model, "_deepstack_process"):
            from covt_model.decoder.deepstack import Deepstack

            visual = torch.arange(shape.tokens // 4)
            index = torch.cat([row * shape.tokens + visual for row in range(batch)])
            levels = torch.randn(LEVELS, len(index), shape.hidden, generator=generator)
            self.deepstack = Deepstack(index.to(device), levels.to(device))
        self.mask = torch.ones(batch, shape.tokens, dtype=torch.long, device=device)
        self.peak: dict[str, float] = {}

    def run(self, side: str) -> float:
        from covt_model.latents.feedback import feedback
        from covt_model.latents.latent_forward import latent_forward
        from covt_model.latents.reference_forward import reference_forward

        rule = partial(feedback, normalize="rms")
        arguments = (self.model, self.embeds, self.positions, self.mask, self.spans, rule)
        forward = partial(reference_forward, *arguments, deepstack=self.deepstack)
        if side == "ours":
            forward = partial(latent_forward, *arguments, size=SIZE, deepstack=self.deepstack)
        self.model.zero_grad()
        seconds, self.peak[side] = harness.measured(lambda: forward().square().mean().backward(), self.embeds.is_cuda)
        return seconds


@contextmanager
def cases(family: str) -> Iterator[list[Case]]:
    found: list[Case] = []
    for shape, batch in ((LARGE, 1), (SMALL, 8)):
        model = build(shape, family)
        for segments in (1, 2, 4, 8):
            plural = "segment" if segments == 1 else "segments"
            size = f"hidden {shape.hidden}, {shape.layers} layers, {shape.tokens} tokens"
            name = f"{segments} {plural}, batch {batch}, {size}"
            found += harness.time_and_memory(name, Comparison(model, shape, batch, segments))
    yield found


def for_family(family: str) -> Benchmark:
    return Benchmark(
        name="latent_forward",
        about="forward and backward through self-generated latents, against the full-prefix oracle",
        headline=HEADLINE,
        cases=partial(cases, family),
        rounds=3,
    )


BENCHMARK = for_family("qwen2_5_vl")

if __name__ == "__main__":
    harness.main(BENCHMARK, for_family)
