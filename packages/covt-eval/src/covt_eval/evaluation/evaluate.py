"""Evaluation through the server, greedy or sampled, with latents kept or ablated.

All modes of a row share what the model writes before its first latents. `zeros`, `noise`, `shuffle` and `none` change
what every pad is fed, from the first span on. `drop_latents` and `drop_span` cut the `keep` answer at its first
span, take the pads (or the whole span) out, let the model go on, and do the same with each span that it then writes.
Every mode has the budget of `keep`, and sample i of a row has the same seed in all of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from covt_data.schema import Row
from covt_model.encoding.latent_tokens import END, PAD, START
from covt_model.latents.latent_modes import EVALUATION_MODES, LatentMode
from covt_rewards import Group, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.answers import final_answer
from covt_rewards.latents import find_whole_spans
from covt_rollout.branches.continuations import continue_from
from covt_rollout.client.completions import Completion, Spans
from covt_rollout.client.concurrency import run_all
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling
from covt_rollout.rollout_errors import RolloutError
from covt_rollout.vllm_plugin.protocol import Latents

if TYPE_CHECKING:
    from covt_model.encoding.encode import EncodedPrompt

Progress = Callable[[LatentMode, int, int], None]


class PromptEncoder(Protocol):
    """What renders a row: `covt_model.encoding.encode.Encoder`."""

    def encode_prompt(self, row: Row) -> EncodedPrompt: ...


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One judged answer: a line of `eval/<label>.<mode>.jsonl`.

    gold: the expected answer. answer: the final answer read from the text, empty when there is none. correct: 1 or 0,
    or what a graded answer earned. text: with the latent tokens, without other special ones. latent_spans: into
    token_ids. meta: the row's.
    """

    id: str
    gold: str
    answer: str
    correct: float
    text: str
    token_ids: tuple[int, ...]
    latent_spans: Spans
    finish_reason: str
    meta: Mapping[str, Any]
    category: str | None = None
    sample: int = 0
    prompt_tokens: int = 0
    seconds: float | None = None
    judges: Mapping[str, float] = field(default_factory=dict[str, float])


async def evaluate(
    client: RolloutClient,
    encoder: PromptEncoder,
    rows: Sequence[Row],
    modes: Sequence[LatentMode | str] = (LatentMode.KEEP,),
    *,
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    concurrency: int = 64,
    grader: AccuracyReward | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> dict[LatentMode, list[EvalRow]]:
    """Answer every row in every mode and judge the answers; rows keep their order, a row's samples follow each other.

    samples, temperature: answers a row; more than one need a temperature above 0. concurrency: requests at once, which
    `seconds` depend on. seed: of sampling, of noise and of who is given whose latents. on_progress: called with mode,
    answers so far, all answers. Raises RolloutError for no rows, an unknown mode, or a mode that needs latents where
    the checkpoint has none.
    """
    chosen = _checked(client, rows, modes)
    repeated = [row for row in rows for _ in range(samples)]
    encoded = [request(encoder.encode_prompt(row), row) for row in rows]
    prompts = [prompt for prompt in encoded for _ in range(samples)]
    if samples > 1 and temperature == 0:
        raise RolloutError(f"{samples} greedy samples are all the same", "use one sample, or a temperature above 0")
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed if temperature > 0 else None)
    asking = _Asking(client, prompts, sampling, concurrency, on_progress or (lambda _mode, _done, _all: None))
    judge = grader or AccuracyReward()
    shuffled = any(mode.needs_foreign_latents for mode in chosen)
    kept: list[Completion] = []
    kept_seconds: list[float] = []
    own: list[Latents | None] = []
    seconds: Sequence[float | None] = ()
    if shuffled or any(mode is LatentMode.KEEP or mode.edits_ids for mode in chosen):
        kept, kept_seconds = await asking.answers(LatentMode.KEEP, None, hold_latents=shuffled)
        own = await client.take_latents(kept) if shuffled else []
    results: dict[LatentMode, list[EvalRow]] = {}
    for mode in chosen:
        if mode is LatentMode.KEEP:
            answers, seconds = kept, kept_seconds
        elif mode.edits_ids:
            answers = await without_latents(client, prompts, kept, mode, sampling)
            seconds = [None] * len(answers)
        else:
            donors = _donors(mode, own, len(prompts), seed, samples)
            inputs = [_fed(mode, donor, seed + index) for index, donor in enumerate(donors)]
            answers, seconds = await asking.answers(mode, inputs)
        asking.tell(mode, len(prompts), len(prompts))
        results[mode] = [
            replace(
                judged(row, answer, judge, marked_text(answer.token_ids, client)),
                sample=index % samples,
                seconds=seconds[index],
            )
            for index, (row, answer) in enumerate(zip(repeated, answers, strict=True))
        ]
    return results


@dataclass(frozen=True)
class _Asking:
    """Requests of one evaluation: every prompt once a mode, each timed by itself."""

    client: RolloutClient
    prompts: Sequence[PromptRequest]
    sampling: Sampling
    concurrency: int
    tell: Progress

    async def answers(
        self, mode: LatentMode, inputs: Sequence[LatentInput] | None, *, hold_latents: bool = False
    ) -> tuple[list[Completion], list[float]]:
        """The completions and how many seconds each took, in the order of the prompts."""
        places = asyncio.Semaphore(self.concurrency)
        done = 0

        async def one(index: int) -> tuple[Completion, float]:
            nonlocal done
            async with places:
                begun = time.perf_counter()
                groups = await self.client.generate(
                    [self.prompts[index]],
                    _seeded(self.sampling, index),
                    inputs=None if inputs is None else [inputs[index]],
                    mode=None if mode is LatentMode.KEEP else mode,
                    hold_latents=hold_latents,
                )
                seconds = time.perf_counter() - begun
            done += 1
            self.tell(mode, done, len(self.prompts))
            return groups[0][0], seconds

        found: list[tuple[Completion, float]] = await run_all(one(index) for index in range(len(self.prompts)))
        return [completion for completion, _ in found], [seconds for _, seconds in found]


def _seeded(sampling: Sampling, index: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)


async def without_latents(
    client: RolloutClient,
    prompts: Sequence[PromptRequest],
    kept: Sequence[Completion],
    mode: LatentMode,
    sampling: Sampling,
) -> list[Completion]:
    """Answers with the latents of every span taken out, also of spans that the continuations begin.

    sampling: what the answers were sampled with. An answer that can't be continued, because it has sampled a picture's
    placeholder as text, is left as it is.
    """
    answers = list(kept)
    removed = client.latent.size + mode.dropped_markers
    spent = [0] * len(answers)
    left: set[int] = set()
    while open_rows := [
        i for i, one in enumerate(answers) if i not in left and find_whole_spans(one.token_ids, client.latent)
    ]:
        continued = await continue_from(
            client,
            [prompts[i] for i in open_rows],
            [answers[i] for i in open_rows],
            mode,
            sampling,
            which="first",
            spent=[spent[i] for i in open_rows],
        )
        for i, found in zip(open_rows, continued, strict=True):
            if found:
                answers[i] = found[0]
                spent[i] += removed
            else:
                left.add(i)
    return answers


def request(prompt: EncodedPrompt, row: Row) -> PromptRequest:
    """The server's request for a row: unexpanded ids and the row's pictures as they are stored."""
    ids = tuple(int(token) for token in prompt.ids)
    return PromptRequest(ids, tuple(image.bytes for image in row.images), group_id=row.id)


def marked_text(token_ids: Sequence[int], client: RolloutClient) -> str:
    """The completion as a person reads it, with the latent tokens in their places."""
    latent = client.latent
    names = {latent.start_id: START, latent.pad_id: PAD, latent.end_id: END}
    runs = groupby(token_ids, key=lambda token: names.get(token))
    return "".join(client.decode(list(run)) if name is None else name * len(list(run)) for name, run in runs)


def judged(row: Row, completion: Completion, judge: AccuracyReward, shown: str | None = None) -> EvalRow:
    """The row's answer and whether it is right. `shown` is written as its text, by default the completion's."""
    group = Group(
        answer=row.answer,
        rollouts=(Rollout(completion.text),),
        id=row.id,
        grader=row.grader,
        options=tuple(row.options),
        metadata=row.meta,
    )
    mirage = replace(judge, vsp_rule="end_on_goal").grade(group)[0].score if row.grader == "vsp" else None
    return EvalRow(
        id=row.id,
        gold=row.answer,
        answer=final_answer(completion.text, judge.lenient).text,
        correct=judge.grade(group)[0].score,
        text=completion.text if shown is None else shown,
        token_ids=completion.token_ids,
        latent_spans=completion.latent_spans,
        finish_reason=completion.finish_reason,
        meta=row.meta,
        category=row.category,
        sample=completion.sample_index,
        prompt_tokens=len(completion.prompt_ids),
        judges={} if mirage is None else {"end_on_goal": mirage},
    )


def to_line(row: EvalRow) -> str:
    """The row as a line of JSON."""
    record = asdict(row)
    record["correct"] = int(row.correct) if row.correct in (0, 1) else row.correct
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_rows(rows: Sequence[EvalRow], path: Path) -> None:
    """One JSON object a line; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w") as file:
            file.writelines(to_line(row) for row in rows)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fed(mode: LatentMode, donor: Latents | None, seed: int) -> LatentInput:
    if not mode.needs_foreign_latents:
        return LatentInput(mode=mode.wire_mode, seed=seed if mode.traits.salted_by_seed else 0)
    # A row whose answers hold no latents anywhere can't be given foreign ones; it keeps its own.
    return LatentInput() if donor is None else LatentInput(mode=mode.wire_mode, latents=donor)


def _donors(
    mode: LatentMode, own: Sequence[Latents | None], count: int, seed: int, samples: int
) -> list[Latents | None]:
    """For each answer another row's latents: those that have some pass theirs around one circle in random order.

    Each sample index has a circle of its own, so that no row is given what another of its samples thought.
    """
    donors: list[Latents | None] = [None] * count
    if not mode.needs_foreign_latents:
        return donors
    for sample in range(samples):
        having = [i for i in range(sample, count, samples) if (latents := own[i]) is not None and len(latents)]
        if len(having) < 2:
            continue
        order = np.random.default_rng((seed, sample) if sample else seed).permutation(having)
        for giver, taker in zip(order, np.roll(order, 1), strict=True):
            donors[taker] = own[giver]
    return donors


def _checked(client: RolloutClient, rows: Sequence[Row], modes: Sequence[str]) -> list[LatentMode]:
    """The modes; raises RolloutError for no rows and for modes that the checkpoint can't be evaluated in."""
    if not rows:
        raise RolloutError("there are no rows to evaluate", "choose a split that has rows")
    for mode in modes:
        if mode not in EVALUATION_MODES:
            raise RolloutError(
                f"there is no evaluation mode {str(mode)!r}", f"use some of {', '.join(EVALUATION_MODES)}"
            )
        if LatentMode(mode).replaces_latents and client.latent.head == "none":
            raise RolloutError(
                f"mode {str(mode)!r} replaces latents, and this checkpoint has none (head 'none')",
                "evaluate it with keep, drop_latents or drop_span",
            )
    return [LatentMode(mode) for mode in modes]
