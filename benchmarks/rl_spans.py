"""One update of many completions with one latent span and one with many: how much slower the update gets."""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
from harness import Benchmark, Case
from rollout_work import QUICKSTART

ROWS, TOKENS, MICRO_BATCH = 32, 200, 4
MANY = (20, 100)
"""Spans of the one completion that has many."""
K = 4


class PlainEngine:
    """The calls of an update on plain PyTorch, as one rank that holds the whole model."""

    rank, world_size = 0, 1

    def __init__(self, module: Any) -> None:
        import torch

        self.module, self.device = module, torch.device("cpu")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def backward(self, loss: Any) -> None:
        loss.backward()

    def step(self) -> Any:
        from covt_runtime.engine.zero_engine import StepResult

        for parameter in self.module.parameters():
            parameter.grad = None
        return StepResult(1, 0.0, 0.0)

    def global_sum(self, value: Any) -> Any:
        import torch

        return torch.as_tensor(value, dtype=torch.float64)


class Update:
    """An updater on a tiny model, and completions that no model sampled."""

    def __init__(self, folder: Path) -> None:
        import torch
        from PIL import Image as PilImage

        from covt_data.schema import Image, Row
        from covt_model.checkpoints.split_load import load_split
        from covt_model.checkpoints.tiny_checkpoint import build_tiny
        from covt_model.encoding.encode import Encoder
        from covt_model.encoding.vision_features import VisionFeatures
        from covt_model.latents.policy import LatentPolicy
        from covt_rl.rl_recipe import RlConfig
        from covt_rl.updates.objective import GrpoObjective
        from covt_rl.updates.updater import Updater

        torch.set_num_threads(1)
        picture = torch.zeros((3, 56, 56), dtype=torch.uint8)
        build_tiny(folder, ["Follow the arrows."] * 4, [picture], latent_size=K, vocab_size=512, **asdict(QUICKSTART))
        buffer = io.BytesIO()
        PilImage.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "PNG")
        row = Row(
            id="r",
            source="s",
            split="p",
            question="<image>Follow the arrows.",
            images=[Image(bytes=buffer.getvalue())],
            answer="B3",
            grader="text",
            metadata=json.dumps({}),
        )
        self.encoder = Encoder(folder)
        self.prompt = self.encoder.encode_prompt(row)
        values: dict[str, dict[str, Any]] = {
            "data": {"micro_batch": MICRO_BATCH},
            "zero": {"gather": "module"},
            "algorithm": {"gap_limit": 1e9},
        }
        config = RlConfig.model_validate(values)
        model, visual = load_split(folder, torch.float32)
        policy = LatentPolicy(model, self.encoder.latent, "latent")
        engine: Any = PlainEngine(GrpoObjective(policy, config.algorithm, 1.0, 2000))
        features = VisionFeatures(visual, self.encoder.settings)
        self.updater = Updater(engine, policy, self.encoder, features, config)
        self.planner = self.updater.planner

    def completion(self, spans: int, seed: int) -> Any:
        import numpy as np

        from covt_rewards.latents import find_pad_runs
        from covt_rl.scoring.train_groups import TrainCompletion

        latent, draw = self.encoder.latent, random.Random(seed)
        ids: list[int] = []
        for _ in range(spans):
            ids += [draw.randrange(200), latent.start_id, *[latent.pad_id] * latent.size, latent.end_id]
        ids += [draw.randrange(200) for _ in range(max(1, TOKENS - len(ids)))]
        spans_found = find_pad_runs(ids, latent.pad_id)
        return TrainCompletion(np.array(ids, np.int32), np.full(len(ids), -5.0, np.float32), spans_found, False)

    def seconds(self, many: int, *, alone: bool) -> float:
        """CPU seconds of one update; `alone`: only the micro-batch with many spans computes as many, else all do."""
        from covt_rl.scoring.train_groups import TrainGroup

        completions = tuple(self.completion(1 if n else many, n) for n in range(ROWS))
        signs = tuple(1.0 if n % 2 else -1.0 for n in range(ROWS))
        group = TrainGroup("r", self.prompt, completions, signs, {}, advantages=signs)
        updater: Any = self.updater
        updater.planner = self.planner if alone else EveryForward(self.planner, many)
        begun = time.process_time()
        self.updater.update([group], fresh=False)
        return time.process_time() - begun


class EveryForward:
    """A planner after which every forward computes the step's greatest number of segments."""

    def __init__(self, planner: Any, segments: int) -> None:
        self.planner, self.segments = planner, segments

    def plan(self, groups: Any) -> Any:
        found = self.planner.plan(groups)
        for micro in found.micros:
            micro.segments = self.segments
        return found


@contextmanager
def cases() -> Iterator[Sequence[Case]]:
    with tempfile.TemporaryDirectory() as folder:
        update = Update(Path(folder) / "checkpoint")

        def case(many: int) -> Case:
            name = f"31 completions of one span beside one of {many}"
            return Case(
                f"{name}, against all forwards with {many}",
                lambda: update.seconds(many, alone=True),
                lambda: update.seconds(many, alone=False),
            )

        yield [
            *map(case, MANY),
            Case(COST, lambda: update.seconds(20, alone=True), lambda: update.seconds(1, alone=True)),
        ]


COST = "31 completions of one span beside one of 20, against 32 of one"
BENCHMARK = Benchmark(
    name="rl_spans",
    about="one update in which a single completion has many latent spans",
    headline=f"31 completions of one span beside one of {MANY[0]}, against all forwards with {MANY[0]}",
    cases=cases,
    rounds=3,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
