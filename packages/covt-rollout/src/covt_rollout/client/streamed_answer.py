"""A generate request's answer while it is being sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# Tokens of a completion that a server streams at a time: fewer cost the server more, more come later.
PIECE = 16


class Pieces:
    """Puts a streamed answer of n samples together (`Assembly`).

    on_piece: called with the prompt's ids and a choice as it stands, for each piece.
    """

    def __init__(self, n: int, on_piece: Callable[[Sequence[int], dict[str, Any]], None]) -> None:
        self.on_piece = on_piece
        self.prompt_ids: list[int] | None = None
        self.choices: list[dict[str, Any]] = [
            {"index": index, "token_ids": [], "logprobs": {"content": []}, "finish_reason": ""} for index in range(n)
        ]

    def add(self, event: dict[str, Any]) -> None:
        if self.prompt_ids is None:
            self.prompt_ids = event["prompt_token_ids"]
        for piece in event["choices"]:
            choice = self.choices[piece["index"]]
            choice["token_ids"] += piece["token_ids"]
            choice["logprobs"]["content"] += piece["logprobs"]["content"]
            choice["finish_reason"] = piece["finish_reason"] or ""
            choice["weight_versions"] = piece["weight_versions"]
            self.on_piece(self.prompt_ids or (), choice)

    def answer(self) -> dict[str, Any]:
        """As the server gives it in one piece."""
        unfinished = [choice["index"] for choice in self.choices if not choice["finish_reason"]]
        if unfinished or self.prompt_ids is None:
            raise ValueError(f"samples {unfinished} have no end")
        return {"prompt_token_ids": self.prompt_ids, "choices": self.choices}
