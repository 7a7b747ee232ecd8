"""Latent spans in token ids: where they are, which are whole, and whether a completion uses the markers correctly.

A whole span is `<|latent_start|>`, exactly K pads, `<|latent_end|>`. Ranges are half-open and cover the pads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple, Protocol

from covt_rewards.types import Rollout


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """The latent vocabulary of a checkpoint: what its `config.json` holds under `covt_latent`.

    Attributes:
        start_id, pad_id, end_id: ids of `<|latent_start|>`, `<|latent_pad|>`, `<|latent_end|>`.
        size: pads per span, K.
    """

    start_id: int
    pad_id: int
    end_id: int
    size: int


class LatentVocabulary(Protocol):
    """What the functions below need of a checkpoint's latent settings: three ids and the pads per span, K."""

    @property
    def start_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def size(self) -> int: ...


class LatentSpan(NamedTuple):
    """A maximal run of latent pads, `token_ids[start:end]`.

    Attributes:
        start: position of the first pad.
        end: position after the last pad.
        opened: whether the start marker stands right before the pads.
        closed: whether the end marker stands right after them.
    """

    start: int
    end: int
    opened: bool
    closed: bool

    def is_whole(self, size: int) -> bool:
        """Whether both markers are there and exactly `size` pads between them."""
        return self.opened and self.closed and self.end - self.start == size


def find_pad_runs(token_ids: Sequence[int], pad_id: int) -> tuple[tuple[int, int], ...]:
    """Find the maximal runs of `pad_id` as half-open ranges, whatever stands around them."""
    runs: list[tuple[int, int]] = []
    length, end = len(token_ids), 0
    while True:
        try:
            start = token_ids.index(pad_id, end)
        except ValueError:
            return tuple(runs)
        end = start + 1
        while end < length and token_ids[end] == pad_id:
            end += 1
        runs.append((start, end))


def find_latent_spans(token_ids: Sequence[int], start_id: int, pad_id: int, end_id: int) -> list[LatentSpan]:
    """Find all runs of pads and the markers around them, broken spans included.

    Args:
        token_ids: a list or tuple of ids; the search takes time linear in its length.
        start_id: id of `<|latent_start|>`.
        pad_id: id of `<|latent_pad|>`.
        end_id: id of `<|latent_end|>`.

    Returns:
        One span per maximal run of pads, in order. A start marker without a pad behind it gives no span.
    """
    return [
        LatentSpan(
            start,
            end,
            opened=start > 0 and token_ids[start - 1] == start_id,
            closed=end < len(token_ids) and token_ids[end] == end_id,
        )
        for start, end in find_pad_runs(token_ids, pad_id)
    ]


def find_whole_spans(token_ids: Sequence[int], latent: LatentVocabulary) -> list[tuple[int, int]]:
    """Find the pad ranges of spans with both markers and exactly `latent.size` pads; broken spans are left out."""
    spans = find_latent_spans(token_ids, latent.start_id, latent.pad_id, latent.end_id)
    return [(span.start, span.end) for span in spans if span.is_whole(latent.size)]


class DecodedAnswer(Protocol):
    """A completion whose decoder forces K pads and the end marker after each start marker."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def latent_spans(self) -> Sequence[tuple[int, int]]: ...


class SpanUsage(NamedTuple):
    """How much answers use latents.

    Attributes:
        used: share of answers with at least one well-formed span: the trigger rate.
        spans: well-formed spans per answer.
    """

    used: float
    spans: float


def count_closed_spans(answer: DecodedAnswer) -> int:
    """Count the well-formed spans of an answer: all but one that the answer's end cut off."""
    return sum(end < len(answer.token_ids) for _, end in answer.latent_spans)


def span_usage(answers: Sequence[DecodedAnswer]) -> SpanUsage:
    """Measure how often answers have a well-formed span, and how many; there must be at least one answer."""
    counts = [count_closed_spans(answer) for answer in answers]
    return SpanUsage(fmean(count > 0 for count in counts), fmean(counts))


@dataclass(frozen=True, slots=True)
class SpanCheck:
    """The latent spans of a completion.

    Attributes:
        spans: half-open ranges of the pads; those before the problem when there is one.
        problem: the first misuse of a marker, in words; empty when there is none.
    """

    spans: tuple[tuple[int, int], ...]
    problem: str = ""


def check_spans(token_ids: tuple[int, ...], latent: LatentFormat) -> SpanCheck:
    """Check that every start marker is followed by exactly K pads and an end marker, and no marker stands elsewhere.

    Args:
        token_ids: the completion's ids.
        latent: the checkpoint's latent vocabulary.

    Returns:
        The spans up to the first problem, and the problem.
    """
    spans: list[tuple[int, int]] = []
    markers = (latent.start_id, latent.pad_id, latent.end_id)
    position = 0
    while position < len(token_ids):
        token = token_ids[position]
        if token not in markers:
            position += 1
            continue
        if token != latent.start_id:
            name = "pad" if token == latent.pad_id else "end"
            return SpanCheck(tuple(spans), f"latent {name} at token {position} outside a span")
        first = position + 1
        end = first
        while end < len(token_ids) and token_ids[end] == latent.pad_id:
            end += 1
        if end == len(token_ids):
            return SpanCheck(tuple(spans), f"latent span at token {position} is never closed")
        if token_ids[end] != latent.end_id:
            return SpanCheck(tuple(spans), f"latent span at token {position} is broken by id {token_ids[end]}")
        if end - first != latent.size:
            return SpanCheck(tuple(spans), f"latent span at token {position} has {end - first} pads, not {latent.size}")
        spans.append((first, end))
        position = end + 1
    return SpanCheck(tuple(spans))


def check_rollout_spans(rollout: Rollout, latent: LatentFormat | None) -> SpanCheck:
    """Check the spans by token ids where vocabulary and ids are known, else take the spans the trainer recorded."""
    if latent is not None and rollout.token_ids:
        return check_spans(rollout.token_ids, latent)
    return SpanCheck(tuple(span for span in rollout.latent_spans if span[1] > span[0]))
