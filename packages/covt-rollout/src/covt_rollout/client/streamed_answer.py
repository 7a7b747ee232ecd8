"""A generate request's answer while the server is still sampling it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from covt_rollout.endpoints import GeneratedAnswer, GeneratedChoice, read_event

OnProgress = Callable[[GeneratedChoice], None]
"""Called with an unfinished sample, whose lists of tokens and log-probabilities still grow."""
STREAM_INTERVAL = 16
"""Tokens of a completion in each piece: smaller pieces cost the server more, larger ones come later."""


class StreamedAnswer:
    """Puts a streamed answer together (`covt_rollout.endpoints.AnswerAssembler`).

    A piece costs what it adds: the lists of a sample grow in place.
    """

    def __init__(self, n: int, on_progress: OnProgress) -> None:
        """Wait for `n` samples.

        Args:
            n: samples of the request.
            on_progress: called after each piece with the sample so far.
        """
        self._n, self._on_progress = n, on_progress
        self._restarted = False
        self.prompt_ids: list[int] | None = None
        self.choices = self._empty()

    def _empty(self) -> list[GeneratedChoice]:
        return [GeneratedChoice(index, [], [], "", ()) for index in range(self._n)]

    def restart(self) -> None:
        """Forget all pieces, and stop reporting progress: a second answer may differ from the first."""
        self.prompt_ids, self.choices = None, self._empty()
        self._restarted = True

    def add(self, event: dict[str, Any]) -> None:
        """Append the pieces of one event to their samples."""
        prompt_ids, pieces = read_event(event)
        if self.prompt_ids is None:
            self.prompt_ids = prompt_ids
        for piece in pieces:
            choice = self.choices[piece.index]
            choice.token_ids.extend(piece.token_ids)
            choice.logprobs.extend(piece.logprobs)
            choice = replace(choice, finish_reason=piece.finish_reason, versions=piece.versions)
            self.choices[piece.index] = choice
            if not self._restarted:
                self._on_progress(choice)

    def answer(self) -> GeneratedAnswer:
        """The whole answer; raises ValueError when a sample has no end."""
        unfinished = [choice.index for choice in self.choices if not choice.finish_reason]
        if unfinished or self.prompt_ids is None:
            raise ValueError(f"samples {unfinished} have no end")
        return GeneratedAnswer(self.prompt_ids, self.choices)
