"""Looks into one answer: its tokens, what its latents resemble, what becomes of it without them, and other samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covt_data.schema import Row
from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.grade_completions import grade_completion
from covt_eval.evaluation.prompt_requests import build_request
from covt_eval.inspection.ablations import Ablations, KeptAnswer, find_donor
from covt_eval.inspection.inspect_request import (
    DEFAULT_MODES,
    MAX_BODY,
    MAX_NEAREST,
    MAX_QUESTION,
    MAX_SAMPLES,
    MAX_TOKENS,
    UPLOADED,
    InspectRequest,
    uploaded_row,
)
from covt_eval.inspection.latent_numbers import same_answer
from covt_eval.inspection.latent_views import LatentViews
from covt_eval.inspection.offered_rows import HELPER_SIDE, OfferedRows, picture_size, picture_url, plain_question
from covt_model.encoding.encode import EncodedPrompt, Encoder
from covt_model.latents.latent_modes import LatentMode
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.answers import final_answer
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import Sampling
from covt_rollout.endpoints import GeneratedChoice
from covt_rollout.reading_endpoints import read_latents
from covt_rollout.vllm_plugin.protocol import Latents

Event = dict[str, Any]
MAX_LATENTS = 256
"""Latents of an answer that are read; later ones are only counted."""


@dataclass(frozen=True)
class Asked:
    """The question of one request, ready to be sent."""

    row: Row
    encoded: EncodedPrompt
    kept_sampling: Sampling


class Inspector:
    """Answers requests with the server that it is a part of."""

    def __init__(
        self,
        client: RolloutClient,
        encoder: Encoder,
        rows: OfferedRows,
        *,
        name: str,
        max_length: int,
        max_pictures: int,
    ) -> None:
        """Prepare for a server.

        Args:
            client: of the server, entered.
            encoder: of its checkpoint.
            rows: the rows that a request may name.
            name: of the model, for people.
            max_length: tokens of prompt and answer that the server takes.
            max_pictures: pictures that it takes in a prompt.
        """
        self.client, self.encoder, self.rows = client, encoder, rows
        self.name, self.max_length, self.max_pictures = name, max_length, max_pictures
        self.grader, self.views = AccuracyReward(), LatentViews(encoder, client.latent)

    def describe(self) -> dict[str, Any]:
        """What a request may ask for."""
        latent = self.client.latent
        modes = [mode for mode in LatentMode if mode.ablates]
        return {
            "model": self.name,
            "latent": {"size": latent.size, "head": latent.head, "normalize": latent.normalize},
            "modes": [
                {
                    "name": str(mode),
                    "label": mode.label,
                    "description": mode.description,
                    "default": mode in DEFAULT_MODES,
                }
                for mode in modes
            ],
            "limits": {
                "body_bytes": MAX_BODY,
                "question_characters": MAX_QUESTION,
                "pictures": self.max_pictures,
                "max_tokens": min(MAX_TOKENS, self.max_length),
                "samples": MAX_SAMPLES,
                "nearest": MAX_NEAREST,
                "latents": MAX_LATENTS,
            },
            "set": self.rows.summary(),
        }

    def ask(self, request: InspectRequest) -> Asked:
        """Encode a request's question; raises EvalError, DataError or ModelError for one that can't be asked."""
        row = uploaded_row(request, self.max_pictures) if request.row is None else self.rows.find(request.row)
        encoded = self.encoder.encode_prompt(row)
        room = self.max_length - len(encoded.expanded) - 1
        if room < 1:
            raise EvalError(
                f"the prompt has {len(encoded.expanded)} tokens, the server takes {self.max_length}",
                "send a shorter question or smaller pictures, or start the server with --max-model-len",
            )
        return Asked(row, encoded, Sampling(max_tokens=min(request.max_tokens, room), temperature=0.0))

    async def events(self, request: InspectRequest, asked: Asked) -> AsyncIterator[Event]:
        """Look into the answer and yield each part once it is known, in the order that docs/inspect.md describes."""
        began = time.perf_counter()
        yield self._question(asked)
        kept: KeptAnswer | None = None
        async for part in self._stream_answer(asked):
            if isinstance(part, KeptAnswer):
                kept = part
            else:
                yield part
        assert kept is not None
        yield {"event": "answer", "answer": self._answer(asked.row, kept.completion, tokens=True)}
        yield {"event": "latents", **await self._read(request, asked, kept)}
        async for event in self._ablated(request, asked, kept):
            yield event
        if request.samples:
            yield {"event": "samples", "samples": await self._samples(request, asked)}
        yield {"event": "done", "seconds": round(time.perf_counter() - began, 3)}

    def _question(self, asked: Asked) -> Event:
        row, uploaded = asked.row, asked.row.id == UPLOADED
        pairs = zip(asked.encoded.pictures, asked.encoded.grids, strict=True)
        pictures = [
            {"width": width, "height": height, "rows": rows, "columns": columns}
            for (height, width), (rows, columns) in ((one.size, self.views.cells(grid)) for one, grid in pairs)
        ]
        return {
            "event": "question",
            "model": self.name,
            "question": plain_question(row),
            "row": None if uploaded else {"id": row.id, "gold": row.answer},
            "prompt_tokens": len(asked.encoded.expanded),
            "pictures": pictures,
        }

    async def _stream_answer(self, asked: Asked) -> AsyncIterator[Event | KeptAnswer]:
        """The tokens of the greedy answer as they are sampled, and at the end the answer."""
        prompt = build_request(asked.encoded, asked.row)
        arrived: asyncio.Queue[None] = asyncio.Queue()
        shown, so_far = 0, list[GeneratedChoice]()

        def on_progress(choice: GeneratedChoice) -> None:
            so_far[:] = [choice]
            arrived.put_nowait(None)

        async def sample() -> tuple[Completion, Latents]:
            if self.client.latent.head != "none":
                (completion,), (latents,) = await self.client.sample_with_latents(
                    prompt, asked.kept_sampling, on_progress
                )
                return completion, latents
            ((completion,),) = await self.client.generate([prompt], asked.kept_sampling, on_progress=on_progress)
            return completion, np.zeros((0, 0), np.float32)

        task = asyncio.create_task(sample())
        task.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while not task.done() or not arrived.empty():
                await arrived.get()
                count = len(so_far[0].token_ids) if so_far else 0
                if count > shown:
                    new = range(shown, count)
                    shown = count
                    yield {"event": "tokens", "tokens": [self.views.token(so_far[0], position) for position in new]}
        finally:
            task.cancel()
        completion, latents = await task
        yield KeptAnswer(prompt, asked.kept_sampling, completion, latents)

    def _answer(self, row: Row, completion: Completion, *, tokens: bool = False) -> dict[str, Any]:
        """An answer as people read it; `right` is None where nothing says what is right."""
        if row.id == UPLOADED:
            final, right = final_answer(completion.text, self.grader.lenient).text, None
        else:
            graded = grade_completion(row, completion, self.grader)
            final, right = graded.answer, graded.correct
        found: dict[str, Any] = {
            "text": completion.text,
            "final": final,
            "right": right,
            "finish_reason": completion.finish_reason,
            "logprob": round(sum(completion.logprobs), 4),
            "token_count": len(completion.token_ids),
            "spans": [list(span) for span in completion.latent_spans],
        }
        if tokens:
            found["weight_version"] = completion.weight_version
            found["tokens"] = [self.views.token(completion, position) for position in range(len(completion.token_ids))]
        return found

    async def _read(self, request: InspectRequest, asked: Asked, kept: KeptAnswer) -> dict[str, Any]:
        latents = kept.latents[:MAX_LATENTS]
        if not len(latents):
            return {"latents": [], "unread": 0, "helpers": []}
        helpers = self.rows.helpers(asked.row)
        pictures = [*kept.prompt.images, *(data for _, data in helpers)]
        readings = await read_latents(self.client.transport, latents, pictures, request.nearest)
        sizes = [end - start for start, end in kept.completion.latent_spans]
        own = list(kept.prompt.images)
        found = self.views.latents(latents, sizes, readings, own, [data for _, data in helpers], request.nearest)
        named: list[int] = sorted({one["helper"] for latent in found for one in latent["helpers"]})
        shown: list[dict[str, Any]] = []
        for number in named:
            row, data = helpers[number]
            width, height = picture_size(data)
            size = {"width": width, "height": height, "source": picture_url(data, HELPER_SIDE)}
            shown.append({"helper": number, "row": row.id, "own": row.id == asked.row.id, **size})
        return {"latents": found, "unread": len(kept.latents) - len(latents), "helpers": shown}

    async def _ablated(self, request: InspectRequest, asked: Asked, kept: KeptAnswer) -> AsyncIterator[Event]:
        """The kept answer's score, and answer and score in each mode."""
        ablations = Ablations(self.client, kept, request.seed)
        modes, donor, donor_row = request.latent_modes, None, None
        if any(mode.needs_foreign_latents for mode in modes) and kept.completion.latent_spans:
            rows = self.rows.donors(asked.row)
            donor_row, donor = await find_donor(self.client, self.encoder, rows, kept.sampling)

        async def run(mode: LatentMode) -> Event:
            found: dict[str, Any] = {"mode": str(mode), "label": mode.label, "description": mode.description}
            if mode.needs_foreign_latents and donor_row is not None:
                found["donor"] = donor_row.id
            if reason := ablations.reason_against(mode, donor):
                return {"event": "ablation", "ablation": found | {"skipped": reason}}
            answer = kept.completion if mode is LatentMode.KEEP else await ablations.answer(mode, donor)
            score = await ablations.score(mode, donor)
            found |= self._answer(asked.row, answer)
            found |= {"kept_logprob": round(score.logprob, 4), "kept_tokens": score.tokens}
            return {"event": "ablation", "ablation": found}

        running = [asyncio.create_task(run(mode)) for mode in (LatentMode.KEEP, *modes)]
        try:
            for task in running:
                yield await task
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _samples(self, request: InspectRequest, asked: Asked) -> dict[str, Any]:
        """Sampled answers and how far they agree."""
        sampling = Sampling(
            max_tokens=asked.kept_sampling.max_tokens,
            n=request.samples,
            temperature=request.temperature,
            seed=request.seed,
        )
        (group,) = await self.client.generate([build_request(asked.encoded, asked.row)], sampling)
        answers = [self._answer(asked.row, one) for one in group]
        majority, agreement = same_answer([one["final"] for one in answers])
        return {
            "temperature": request.temperature,
            "majority": majority,
            "agreement": round(agreement, 4),
            "answers": answers,
        }


def collect(events: Sequence[Event]) -> dict[str, Any]:
    """One JSON object of all events of a request, for answers that are not streamed."""
    found: dict[str, Any] = {"ablations": [], "samples": None}
    for event in events:
        kind = event["event"]
        if kind == "ablation":
            found["ablations"].append(event["ablation"])
        elif kind != "tokens":
            found |= {name: value for name, value in event.items() if name != "event"}
    return found


async def open_inspector(checkpoint: Path, client: RolloutClient, rows: OfferedRows, **limits: Any) -> Inspector:
    """An inspector for the server of a checkpoint; its tokenizer is read in a thread, beside running requests."""
    encoder = await asyncio.to_thread(Encoder, checkpoint)
    return Inspector(client, encoder, rows, name=checkpoint.name, **limits)
