"""Rollouts with latents from the server: against plain vLLM on the same requests, and against Transformers loops.

Costs are wall seconds a completion token. Plain vLLM serves the same checkpoint with its own defaults and without the
plugin, so it does the same work except for the latents. The Transformers loops do what published evaluation code of
latent models does: one prompt at a time, with a KV cache or with a forward over the whole prefix for every token. They
are given the pictures' features, which the server computes itself.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case
from rollout_work import QUICKSTART, SMALL, Load, Prompts, Size, build, serving

HEADLINE = "quickstart model, against plain vLLM"
# Makes a random model begin spans so often that half of its tokens are latents, as in the quickstart's answers.
BIAS = 4.0


class Loop:
    """Greedy latent decoding of one prompt after another in stock Transformers."""

    def __init__(self, checkpoint: Path, prompts: Prompts, threads: int) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        from covt_model.latent_config import LatentConfig

        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.latent = LatentConfig.read(checkpoint)
        self.prompts, self.threads = prompts, threads
        self.round = 0

    def seconds_per_token(self, *, cache: bool, count: int, tokens: int) -> float:
        """Wall seconds a token of `count` prompts."""
        import torch

        torch.set_num_threads(self.threads)
        requests = self.prompts.of_round(self.round, count)
        self.round += 1
        prepared = [self.prepare(prompt) for prompt in requests]
        begun = time.perf_counter()
        with torch.no_grad():
            for embeds, positions, visual in prepared:
                self.decode(embeds, positions, visual, tokens, cache)
        return (time.perf_counter() - begun) / (count * tokens)

    def prepare(self, prompt: Any) -> tuple[Any, Any, dict[str, Any]]:
        """The prompt's embeddings [1, P, H] with the picture's features in them, its positions [3, 1, P], and where the
        model has DeepStack, which tokens are visual and the features of its levels."""
        import io

        import torch
        from PIL import Image

        inputs = self.processor(images=[Image.open(io.BytesIO(data)) for data in prompt.images], return_tensors="pt")
        grids, image_id = inputs["image_grid_thw"], self.model.config.image_token_id
        vision: Any = self.model.model
        with torch.no_grad():
            output = vision.get_image_features(inputs["pixel_values"], grids)
            features = torch.cat(list(output.pooler_output))
            levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
            ids = torch.tensor([[i for t in prompt.ids for i in [t] * (len(features) if t == image_id else 1)]])
            embeds = self.model.get_input_embeddings()(ids)
            embeds[ids == image_id] = features
            kinds = (ids == image_id).int()
            positions, _ = vision.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)
        return embeds, positions, {"mask": ids == image_id, "levels": levels} if levels else {}

    def decode(self, embeds: Any, positions: Any, visual: dict[str, Any], tokens: int, cache: bool) -> list[int]:
        """The prompt ends with a latent start; `tokens` tokens follow."""
        import torch
        from transformers import DynamicCache

        latent, language = self.latent, self.model.model.language_model
        held = DynamicCache() if cache else None
        fed, places, ids = embeds, positions, []
        pads: int | None = 0
        for _ in range(tokens):
            stacked: dict[str, Any] = {}
            if visual and (not cache or not ids):
                mask = torch.nn.functional.pad(visual["mask"], (0, fed.shape[1] - visual["mask"].shape[1]))
                stacked = {"visual_pos_masks": mask, "deepstack_visual_embeds": visual["levels"]}
            output = language(inputs_embeds=fed, position_ids=places, past_key_values=held, use_cache=cache, **stacked)
            hidden = output.last_hidden_state[:, -1]
            token = int(self.model.lm_head(hidden).argmax())
            if pads is not None:
                token = latent.pad_id if pads < latent.size else latent.end_id
            pads = (pads or 0) + 1 if token == latent.pad_id else 0 if token == latent.start_id else None
            ids.append(token)
            if token == latent.pad_id:
                row = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)
            else:
                row = self.model.get_input_embeddings()(torch.tensor([token]))
            place = (places.amax() + 1).expand(3, 1, 1)
            if cache:
                fed, places = row[:, None], place
            else:
                fed, places = torch.cat([fed, row[:, None]], 1), torch.cat([places, place], -1)
        return ids


@contextmanager
def cases(family: str) -> Iterator[list[Case]]:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        build_model = partial(build, family=family)
        quickstart = of_size(
            stack, folder, "quickstart model", QUICKSTART, build_model, cells=4, count=32, tokens=64, threads=1
        )
        small = of_size(stack, folder, "26 M parameters", SMALL, build_model, cells=16, count=8, tokens=32, threads=2)
        yield [*quickstart, *small]


def of_size(
    stack: ExitStack,
    folder: Path,
    name: str,
    size: Size,
    build_model: Callable[[Path, Size], Path],
    *,
    cells: int,
    count: int,
    tokens: int,
    threads: int,
) -> list[Case]:
    """The three comparisons for one model; `count` prompts with 8 samples each go to the servers at once.

    A picture has `cells`² visual tokens. threads: for Transformers, what was faster of one and two.
    """
    checkpoint = build_model(folder / name, size)
    prompts = Prompts(checkpoint, cells)
    how: dict[str, Any] = {"count": count, "samples": 8, "tokens": tokens, "bias": BIAS}
    loads = []
    for plugin in (True, False):
        server = stack.enter_context(serving(checkpoint, folder / f"{name} {plugin}.log", plugin=plugin))
        loads.append(stack.enter_context(Load(server, prompts, **how)))
    ours, plain = loads
    loop = Loop(checkpoint, prompts, threads)
    print(f"{name}: both servers run", file=sys.stderr)
    return [
        Case(f"{name}, against plain vLLM", ours.seconds_per_token, plain.seconds_per_token),
        Case(
            f"{name}, against Transformers with a KV cache",
            ours.seconds_per_token,
            lambda: loop.seconds_per_token(cache=True, count=2, tokens=tokens),
        ),
        Case(
            f"{name}, against Transformers over the whole prefix",
            ours.seconds_per_token,
            lambda: loop.seconds_per_token(cache=False, count=1, tokens=tokens),
        ),
    ]


def for_family(family: str) -> Benchmark:
    return Benchmark(
        name="rollout",
        about="completions with latents from the server, against plain vLLM and against Transformers loops",
        headline=HEADLINE,
        cases=partial(cases, family),
        rounds=5,
    )


BENCHMARK = for_family("qwen2_5_vl")

if __name__ == "__main__":
    harness.main(BENCHMARK, for_family)
