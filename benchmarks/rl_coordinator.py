"""Work of rank 0 in a GRPO step beside the GPUs: streamed progress, scoring, and what the ranks are sent."""

from __future__ import annotations

import json
import pickle
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import harness
from harness import Benchmark, Case

TOKENS, PIECE, SPANS = 4000, 16, 8
"""Of a streamed completion: its length, the tokens of a piece, and its latent spans."""
PROMPTS, SAMPLES, LENGTH, PROMPT = 16, 8, 1000, 400
"""Of a step: prompts, rollouts per prompt, and tokens of a rollout and of a prompt with its picture."""
HEADLINE = "progress of a streamed completion of 4000 tokens"


def latent_settings() -> Any:
    from covt_model.latent_config import LatentConfig

    return LatentConfig(start_id=151_000, pad_id=151_001, end_id=151_002, size=8)


def tokens(length: int, spans: int, seed: int) -> list[int]:
    """A completion with spans at equal distances."""
    latent, draw = latent_settings(), random.Random(seed)
    text = length - spans * (latent.size + 2)
    ids: list[int] = []
    for number in range(spans + 1):
        ids += [
            draw.randrange(150_000) for _ in range(text * (number + 1) // (spans + 1) - text * number // (spans + 1))
        ]
        if number < spans:
            ids += [latent.start_id, *[latent.pad_id] * latent.size, latent.end_id]
    return ids


def events(ids: Sequence[int]) -> list[dict[str, Any]]:
    """The pieces of a streamed answer as parsed JSON."""
    found = []
    for start in range(0, len(ids), PIECE):
        piece = list(ids[start : start + PIECE])
        last = start + PIECE >= len(ids)
        choice = {
            "index": 0,
            "token_ids": piece,
            "logprobs": {"content": [{"logprob": -0.5} for _ in piece]},
            "finish_reason": "stop" if last else None,
            "weight_versions": [{"version": "1"}] if last else None,
        }
        found.append({"choices": [choice]} | ({"prompt_token_ids": [1] * PROMPT} if not start else {}))
    return found


class Progress:
    """Follows a completion piece by piece up to its branch point, as `SpeculativeBranches` does; nothing is sent."""

    def __init__(self) -> None:
        self.events, self.latent = events(tokens(TOKENS, SPANS, seed=0)), latent_settings()

    def ours(self) -> float:
        from covt_rollout.branches.branch_points import find_branch_point
        from covt_rollout.branches.span_scanner import SpanScanner
        from covt_rollout.client.streamed_answer import StreamedAnswer

        scanner, closed = SpanScanner(self.latent), 0

        def observe(choice: Any) -> None:
            nonlocal closed
            if scanner.scan(choice.token_ids):
                closed += 1
                find_branch_point(choice, "drop_latents", self.latent, max_tokens=TOKENS)

        return self.timed(StreamedAnswer(1, observe), lambda: closed)

    def base(self) -> float:
        """A completion for each piece, and its spans and branch point from its beginning."""
        from covt_rewards.latents import find_pad_runs, find_whole_spans
        from covt_rollout.branches.branch_points import find_branch_point
        from covt_rollout.client.completions import Completion
        from covt_rollout.client.streamed_answer import StreamedAnswer

        prompt, known, closed = (1,) * PROMPT, None, 0

        def observe(choice: Any) -> None:
            nonlocal known, closed
            whole = Completion(
                group_id="p",
                sample_index=0,
                prompt_ids=tuple(prompt),
                token_ids=tuple(choice.token_ids),
                logprobs=tuple(choice.logprobs),
                text="",
                finish_reason="",
                latent_spans=find_pad_runs(choice.token_ids, self.latent.pad_id),
            )
            point = find_branch_point(whole, "drop_latents", self.latent, max_tokens=TOKENS)
            if point is not None and (known is None or not known.same_request(point)):
                known, closed = point, len(find_whole_spans(whole.token_ids, self.latent))

        return self.timed(StreamedAnswer(1, observe), lambda: closed)

    def timed(self, answer: Any, closed: Any) -> float:
        begun = time.process_time()
        for event in self.events:
            answer.add(event)
        seconds = time.process_time() - begun
        assert len(answer.answer().choices[0].token_ids) == TOKENS and closed() == SPANS
        return seconds


class Step:
    """The rollouts of a step with one continuation each, and their rewards."""

    def __init__(self) -> None:
        from covt_data.schema import Row
        from covt_rl.scoring.collected import Collected

        self.rows = [
            Row(
                id=f"r{n}",
                source="s",
                split="p",
                question="Which?",
                answer="\\frac{3}{4}",
                grader="math",
                metadata=json.dumps({}),
            )
            for n in range(PROMPTS)
        ]
        groups = [[self.completion(prompt, sample) for sample in range(SAMPLES)] for prompt in range(PROMPTS)]
        ablated = [[[self.completion(prompt, sample + 100)] for sample in range(SAMPLES)] for prompt in range(PROMPTS)]
        self.collected = Collected(groups, ablated)

    def completion(self, prompt: int, sample: int) -> Any:
        from covt_rewards.latents import find_pad_runs
        from covt_rollout.client.completions import Completion

        ids = tokens(LENGTH, 2, seed=prompt * 1000 + sample)
        wrong = sample % 2
        return Completion(
            group_id=f"r{prompt}",
            sample_index=sample,
            prompt_ids=(1,) * PROMPT,
            token_ids=tuple(ids),
            logprobs=tuple(-random.Random(sample).random() for _ in ids),
            text=f"The answer of attempt {sample} is \\boxed{{\\frac{{{3 + wrong}}}{{4}}}}",
            finish_reason="stop",
            latent_spans=find_pad_runs(ids, latent_settings().pad_id),
        )

    def scored(self) -> Any:
        from covt_rl.scoring.score_groups import score

        return score(self.rows, self.collected, self.rewards())

    def rewards(self) -> Any:
        from covt_rl.rl_recipe import RewardsSection
        from covt_rl.scoring.score_groups import build_rewards
        from covt_runtime.recipe_schema import PromptSection

        return build_rewards(RewardsSection(use="format,accuracy,necessity"), PromptSection(), latent_settings())

    def ours(self) -> float:
        begun = time.perf_counter()
        self.scored()
        return time.perf_counter() - begun

    def base(self) -> float:
        """Convert through JSON, grade accuracy for each reward that needs it, and score one group after another."""
        from dataclasses import replace

        from covt_rewards import LatentFormat, Rollout, parse_rewards, score_groups
        from covt_rl.scoring.score_groups import to_group

        latent = latent_settings()
        ids = LatentFormat(start_id=latent.start_id, pad_id=latent.pad_id, end_id=latent.end_id, size=latent.size)
        rewards = parse_rewards("format,accuracy,necessity", common={"latent": ids})
        begun = time.perf_counter()
        groups = []
        for row, own, without in zip(self.rows, self.collected.completions, self.collected.ablated, strict=True):
            rollouts = tuple(
                replace(
                    Rollout.from_json(one.to_json()), ablated=tuple(Rollout.from_json(each.to_json()) for each in some)
                )
                for one, some in zip(own, without, strict=True)
            )
            groups.append(replace(to_group(row, [], []), rollouts=rollouts))
        score_groups(groups, rewards)
        return time.perf_counter() - begun

    def sent_bytes(self) -> float:
        """Bytes that each rank is sent of a step."""
        import numpy as np

        from covt_model.encoding.encode import EncodedPrompt
        from covt_rl.scoring.train_groups import to_train_group

        prompt = EncodedPrompt("r", np.zeros(PROMPT, np.int64), np.zeros(PROMPT, np.int64), (), ())
        groups, _ = self.scored()
        return float(len(pickle.dumps([to_train_group(group, prompt) for group in groups])))

    def whole_bytes(self) -> float:
        """The same with texts, continuations and Python numbers."""
        groups, _ = self.scored()
        return float(len(pickle.dumps(groups)))


@contextmanager
def cases() -> Iterator[Sequence[Case]]:
    progress, step = Progress(), Step()
    yield [
        Case(HEADLINE, progress.ours, progress.base),
        Case("scoring of 16 prompts × 8 rollouts, mathematical answers", step.ours, step.base),
        Case("what a rank is sent of 128 rollouts of 1000 tokens", step.sent_bytes, step.whole_bytes, "B"),
    ]


BENCHMARK = Benchmark(
    name="rl_coordinator",
    about="work of rank 0 in a GRPO step: streamed progress, scoring, and what the ranks are sent",
    headline=HEADLINE,
    cases=cases,
    rounds=7,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
