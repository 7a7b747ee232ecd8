"""One question answered with its latents ablated, and the log-probability of the kept answer under each ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covt_data.schema import Row
from covt_eval.evaluation.latent_ablations import drop_latents, latent_input
from covt_eval.evaluation.prompt_requests import PromptEncoder, build_request
from covt_model.latents.latent_modes import LatentMode
from covt_rewards.latents import find_whole_spans
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling, request_body
from covt_rollout.reading_endpoints import score_tokens
from covt_rollout.vllm_plugin.protocol import Latents

MAX_DONORS = 4
"""Rows that are asked for their latents, until one has some."""


@dataclass(frozen=True)
class KeptAnswer:
    """The greedy answer with its latents kept.

    Attributes:
        prompt: what was asked.
        sampling: how it was sampled.
        completion: the answer.
        latents: [pads, H] that its pads were fed; empty for a checkpoint whose pads are fed their own embedding.
    """

    prompt: PromptRequest
    sampling: Sampling
    completion: Completion
    latents: Latents


@dataclass(frozen=True)
class Score:
    """The sum of the log-probabilities of `tokens` tokens."""

    logprob: float
    tokens: int


class Ablations:
    """Answers and scores of one question in other latent modes.

    What is scored is the text of the kept answer behind its first span, the end of the turn included and markers and
    pads left out, so that every mode scores the same tokens.
    """

    def __init__(self, client: RolloutClient, kept: KeptAnswer, seed: int) -> None:
        self.client, self.kept, self.seed = client, kept, seed

    def reason_against(self, mode: LatentMode, donor: Latents | None) -> str:
        """Why the mode says nothing about this answer; empty when it does."""
        ids = self.kept.completion.token_ids
        if not find_whole_spans(ids, self.client.latent):
            return "the answer has no whole latent span"
        if not self.client.placeholder_ids.isdisjoint(ids):
            return "the answer holds an image placeholder, which no prompt may repeat"
        if mode.replaces_latents and self.client.latent.head == "none":
            return "this model feeds its pads their own embedding: there are no latents to replace"
        if mode.needs_foreign_latents and donor is None:
            return "no other row with latents is known; start the server with --data SET"
        return ""

    async def answer(self, mode: LatentMode, donor: Latents | None) -> Completion:
        """The same question, answered in this mode with the same budget, as `covt eval --modes` does."""
        kept = self.kept
        if mode.edits_ids:
            (answer,) = await drop_latents(self.client, [kept.prompt], [kept.completion], mode, kept.sampling)
            return answer
        fed = latent_input(mode, donor, self.seed)
        ((answer,),) = await self.client.generate([kept.prompt], kept.sampling, inputs=[fed], mode=mode)
        return answer

    async def score(self, mode: LatentMode, donor: Latents | None) -> Score:
        """The log-probability of the kept answer's text in this mode."""
        given = edited(self.kept.completion.token_ids, mode, self.client)
        scored = scored_positions(given, self.kept.completion.token_ids, self.client)
        if not scored:
            return Score(0.0, 0)
        prompt = PromptRequest((*self.kept.prompt.ids, *given), self.kept.prompt.images)
        body = request_body(prompt, Sampling(max_tokens=1, temperature=0.0), None, self._fed(mode, donor))
        logprobs = await score_tokens(self.client.transport, body, len(given))
        return Score(sum(logprobs[position] for position in scored), len(scored))

    def _fed(self, mode: LatentMode, donor: Latents | None) -> LatentInput:
        """What the pads of the kept answer are fed when they stand in a prompt."""
        if mode.edits_ids or self.client.latent.head == "none":
            return LatentInput()
        if mode is LatentMode.KEEP:
            return LatentInput(latents=self.kept.latents)
        if mode.needs_own_latents:
            return LatentInput(mode=mode.wire_mode, latents=self.kept.latents, seed=self.seed)
        return latent_input(mode, donor, self.seed)


def edited(token_ids: Sequence[int], mode: LatentMode, client: RolloutClient) -> tuple[int, ...]:
    """The ids without what the mode drops."""
    latent = client.latent
    dropped = set(latent.token_ids if mode.dropped_markers else (latent.pad_id,)) if mode.edits_ids else set[int]()
    return tuple(token for token in token_ids if token not in dropped)


def scored_positions(given: Sequence[int], kept: Sequence[int], client: RolloutClient) -> list[int]:
    """Positions in the edited ids of the text behind the first span of the kept ids."""
    spans = find_whole_spans(kept, client.latent)
    if not spans:
        return []
    marks = set(client.latent.token_ids)
    text = sum(token not in marks for token in kept[spans[0][1] :])
    positions = [position for position, token in enumerate(given) if token not in marks]
    return positions[len(positions) - text :]


async def find_donor(
    client: RolloutClient, encoder: PromptEncoder, rows: Sequence[Row], sampling: Sampling
) -> tuple[Row | None, Latents | None]:
    """The first of some rows whose greedy answer has latents, and these [pads, H]."""
    if client.latent.head == "none":
        return None, None
    for row in rows[:MAX_DONORS]:
        prompt = build_request(encoder.encode_prompt(row), row)
        _, (latents,) = await client.sample_with_latents(prompt, sampling)
        if len(latents):
            return row, latents
    return None, None
