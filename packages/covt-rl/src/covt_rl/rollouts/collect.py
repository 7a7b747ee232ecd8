"""Sample the completions of a step's prompts, and the continuations that show how much their latents mattered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from covt_data.schema import Row
from covt_eval.evaluation.prompt_requests import build_request
from covt_model.encoding.encode import Encoder
from covt_model.latents.latent_modes import LatentMode
from covt_rl.rl_recipe import RewardsSection
from covt_rl.rollout_sections import RolloutSection
from covt_rl.scoring.collected import Collected, Group
from covt_rollout.branches.branch_points import choose_foreign_latents, count_given_tokens
from covt_rollout.branches.continuations import PendingBranch, continue_from
from covt_rollout.branches.speculative_branches import SPECULATIVE_MODES, SpanCountHistory, SpeculativeBranches
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.completions import Completion
from covt_rollout.client.concurrency import run_all
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.client.streamed_answer import OnProgress
from covt_rollout.vllm_plugin.protocol import Latents


@dataclass(frozen=True)
class _Prompt:
    """One prompt's group while it is collected.

    Attributes:
        request: the prompt.
        continued: numbers of the samples that get continuations.
        first: the number that the first of these samples has among all continued samples of the step.
        completions: the samples, once they are finished.
        latents: the server's [pads, H] of each sample, where they are needed.
        abandoned: tokens of continuations that were aborted because they began too early.
    """

    request: PromptRequest
    continued: list[int]
    first: int
    completions: Group = field(default_factory=list)
    latents: Sequence[Latents] = ()
    abandoned: int = 0


class Collector:
    """Samples rollouts through the server; lives on rank 0.

    A continuation is requested as soon as its completion has closed the latent span, while the server still samples
    the rest of the completion (`SpeculativeBranches`). Modes that need latents wait until all completions of the prompt
    are finished. `shuffle` needs the latents of another prompt, so it waits for all prompts.
    """

    def __init__(
        self,
        client: BlockingClient,
        encoder: Encoder,
        rollout: RolloutSection,
        rewards: RewardsSection,
        seed: int,
        *,
        replay: bool = False,
    ) -> None:
        self.client, self.encoder = client, encoder
        self.rollout, self.rewards, self.seed, self.replay = rollout, rewards, seed, replay
        self.spans = SpanCountHistory()
        self.needs_latents = (
            replay
            or rewards.control > 0
            or rewards.ablation.needs_own_latents
            or rewards.ablation.needs_foreign_latents
        )

    def collect(self, rows: Sequence[Row], step: int, turn: int = 0) -> Collected:
        """Sample `rollout.samples` completions of each row, and continuations of some of them.

        Args:
            rows: the prompts.
            step: the GRPO step, counted from 0, which seeds the samples.
            turn: number of this call within the step; each call draws other samples.
        """
        transport = self.client.client.transport
        before = transport.resent
        collected = self.client.run(self._collect(rows, step, turn))
        return replace(collected, resent=transport.resent - before)

    async def _collect(self, rows: Sequence[Row], step: int, turn: int) -> Collected:
        encoded = [self.encoder.encode_prompt(row) for row in rows]
        prompts = [build_request(prompt, row) for prompt, row in zip(encoded, rows, strict=True)]
        n = self.rollout.samples
        rng = np.random.default_rng((self.seed, step, turn) if turn else (self.seed, step))
        chosen = rng.random((len(prompts), n)) < self.rewards.share
        first = np.cumsum(chosen.sum(1)) - chosen.sum(1)
        later = self.rewards.ablation.needs_foreign_latents
        at_once = self.rewards.early and self.rewards.ablation in SPECULATIVE_MODES

        async def one(index: int) -> tuple[_Prompt, tuple[list[Group], list[Group]]]:
            prompt = _Prompt(prompts[index], np.flatnonzero(chosen[index]).tolist(), int(first[index]))
            sampling = self._sampling(n, step * 2, turn, index * n)
            if not at_once or not prompt.continued:
                prompt = await self._rollouts(prompt, sampling, None)
                return prompt, ([], []) if later else await self._continue(prompt, step, turn)
            ablated = self._ablated(prompt, step, turn)
            async with SpeculativeBranches(
                self.client.client,
                prompt.request,
                prompt.continued,
                self.rewards.ablation,
                ablated,
                self.rewards.span,
                self.spans,
            ) as branches:
                prompt = await self._rollouts(prompt, sampling, branches.observe)
                pending = branches.settle(prompt.completions)
                prompt = replace(prompt, abandoned=branches.wasted_tokens)
                return prompt, await self._continue(prompt, step, turn, pending=pending)

        groups = await run_all([one(index) for index in range(len(prompts))])
        collected = [prompt for prompt, _ in groups]
        found = [continuations for _, continuations in groups]
        if later:
            foreign = self._foreign(collected, step)
            found = await run_all(
                [self._continue(one, step, turn, foreign=own) for one, own in zip(collected, foreign, strict=True)]
            )
        return replace(self._assemble(collected, found), prompts={prompt.row_id: prompt for prompt in encoded})

    async def _rollouts(self, prompt: _Prompt, sampling: Sampling, on_progress: OnProgress | None) -> _Prompt:
        client = self.client.client
        if self.needs_latents:
            completions, latents = await client.sample_with_latents(prompt.request, sampling, on_progress)
            return replace(prompt, completions=completions, latents=latents)
        (completions,) = await client.generate([prompt.request], [sampling], on_progress=on_progress)
        return replace(prompt, completions=completions)

    async def _continue(
        self,
        prompt: _Prompt,
        step: int,
        turn: int,
        *,
        foreign: list[Latents | None] | None = None,
        pending: Mapping[int, PendingBranch] | None = None,
    ) -> tuple[list[Group], list[Group]]:
        """Ablated and control continuations of one prompt's completions."""
        numbers = prompt.continued
        own = [prompt.latents[number] for number in numbers] if prompt.latents else None

        async def run(
            mode: LatentMode, sampling: Sampling | None, pending: Mapping[int, PendingBranch] | None
        ) -> list[Group]:
            results: list[Group] = [[] for _ in prompt.completions]
            if not numbers or sampling is None:
                return results
            answers = await continue_from(
                self.client.client,
                [prompt.request] * len(numbers),
                [prompt.completions[number] for number in numbers],
                mode,
                sampling,
                which=self.rewards.span,
                own=own,
                foreign=None if foreign is None else [foreign[number] for number in numbers],
                pending=pending,
            )
            for number, answer in zip(numbers, answers, strict=True):
                results[number] = answer
            return results

        n = self.rewards.control
        kept = self._sampling(n, -step - 1, turn, prompt.first * n) if n else None
        ablated, control = await asyncio.gather(
            run(self.rewards.ablation, self._ablated(prompt, step, turn), pending), run(LatentMode.KEEP, kept, None)
        )
        return ablated, control

    def _ablated(self, prompt: _Prompt, step: int, turn: int) -> Sampling:
        """How a prompt's ablated continuations are sampled.

        Seeds of rollouts come from even numbers, of ablated continuations from odd ones, of control ones from negative
        ones.
        """
        n = self.rewards.continuations
        return self._sampling(n, step * 2 + 1, turn, prompt.first * n)

    def _foreign(self, prompts: Sequence[_Prompt], step: int) -> list[list[Latents | None]]:
        flat = [one for prompt in prompts for one in prompt.completions]
        own = [latents for prompt in prompts for latents in prompt.latents]
        given = iter(choose_foreign_latents(flat, own, self.seed + step))
        return [[next(given) for _ in prompt.completions] for prompt in prompts]

    def _assemble(self, prompts: Sequence[_Prompt], found: Sequence[tuple[list[Group], list[Group]]]) -> Collected:
        return Collected(
            [prompt.completions for prompt in prompts],
            [ablated for ablated, _ in found],
            [control for _, control in found] if self.rewards.control else [],
            [list(prompt.latents) for prompt in prompts] if self.replay else [],
            sum(
                len(each.token_ids) - self._given(one, mode)
                for prompt, sides in zip(prompts, found, strict=True)
                for mode, side in zip((self.rewards.ablation, LatentMode.KEEP), sides, strict=True)
                for one, continuations in zip(prompt.completions, side, strict=True)
                for each in continuations
            )
            + sum(prompt.abandoned for prompt in prompts),
        )

    def _given(self, completion: Completion, mode: LatentMode) -> int:
        return count_given_tokens(completion, mode, self.rewards.span, self.client.client.latent)

    def _sampling(self, n: int, salt: int, turn: int, offset: int) -> Sampling:
        """How n samples are drawn; `offset` counts the samples of this kind that come before them in the step."""
        words = (self.seed, salt) if salt >= 0 else (self.seed, -salt, 1)
        seed = int(np.random.default_rng((*words, turn, 2) if turn else words).integers(2**31))
        return Sampling(
            max_tokens=self.rollout.max_tokens,
            n=n,
            temperature=self.rollout.temperature,
            seed=seed + offset,
            max_spans=self.rollout.max_spans or None,
        )
