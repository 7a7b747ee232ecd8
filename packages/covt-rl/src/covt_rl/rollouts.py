"""Collecting: completions of a step's prompts, and their counterfactual continuations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from covt_data.schema import Row
from covt_model.encode import Encoder
from covt_rl.blocking import BlockingClient
from covt_rl.client import Latents, Sampling
from covt_rl.config import RewardsSection, RolloutSection
from covt_rl.counterfactual import continue_from, foreign_latents
from covt_rl.evaluate import request
from covt_rl.records import Completion, PromptRequest


@dataclass(frozen=True)
class Collected:
    """Rollouts of the prompts of one step, in the prompts' order."""

    completions: list[list[Completion]]
    ablated: list[list[list[Completion]]]
    """Counterfactual continuations of each completion; empty lists where there are none."""
    extra_tokens: int
    """Tokens sampled for the continuations."""


class Collector:
    """Samples rollouts through the server; lives on rank 0."""

    def __init__(
        self, client: BlockingClient, encoder: Encoder, rollout: RolloutSection, rewards: RewardsSection, seed: int
    ) -> None:
        self.client = client
        self.encoder = encoder
        self.rollout = rollout
        self.rewards = rewards
        self.seed = seed

    def collect(self, rows: Sequence[Row], step: int) -> Collected:
        """`rollout.samples` completions of each row, and `rewards.continuations` counterfactuals of a share of them."""
        prompts = [request(self.encoder.encode_prompt(row), row) for row in rows]
        sampling = self._sampling(self.rollout.samples, step * 2)
        needs_latents = self.rewards.ablation in ("noise", "shuffle")
        groups = self.client.run(self.client.client.generate(prompts, sampling, hold_latents=needs_latents))
        flat = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
        continued = self._continue(flat, step, needs_latents)
        sizes = [len(group) for group in groups]
        edges = np.cumsum([0, *sizes])
        ablated = [continued[start:end] for start, end in pairwise(edges.tolist())]
        extra = sum(
            max(len(each.token_ids) - self._cut_at(one), 0)
            for (_, one), continuations in zip(flat, continued, strict=True)
            for each in continuations
        )
        return Collected(groups, ablated, extra)

    def _cut_at(self, completion: Completion) -> int:
        """Tokens a continuation of `completion` was given: up to the last span's end, less the dropped pads."""
        if not completion.latent_spans:
            return 0
        end = completion.latent_spans[-1][1] + 1
        dropped = sum(stop - start for start, stop in completion.latent_spans)
        return end - dropped if self.rewards.ablation in ("drop_latents", "drop_span") else end

    def _continue(
        self, flat: Sequence[tuple[PromptRequest, Completion]], step: int, needs_latents: bool
    ) -> list[list[Completion]]:
        rng = np.random.default_rng((self.seed, step))
        chosen = np.flatnonzero(rng.random(len(flat)) < self.rewards.share).tolist()
        completions = [flat[index][1] for index in chosen]
        own: list[Latents | None] | None = None
        foreign: list[Latents | None] | None = None
        if needs_latents:
            own = self.client.run(self.client.client.take_latents(completions))
            foreign = foreign_latents(completions, own, self.seed + step)
        answers = self.client.run(
            continue_from(
                self.client.client,
                [flat[index][0] for index in chosen],
                completions,
                self.rewards.ablation,
                self._sampling(self.rewards.continuations, step * 2 + 1),
                own=own,
                foreign=foreign,
            )
        )
        results: list[list[Completion]] = [[] for _ in flat]
        for index, answer in zip(chosen, answers, strict=True):
            results[index] = answer
        return results

    def _sampling(self, n: int, salt: int) -> Sampling:
        seed = int(np.random.default_rng((self.seed, salt)).integers(2**31))
        return Sampling(max_tokens=self.rollout.max_tokens, n=n, temperature=self.rollout.temperature, seed=seed)
