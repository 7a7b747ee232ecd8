"""Latent spans in token ids: are the markers balanced, and is each span exactly K pads long?"""

from __future__ import annotations

from dataclasses import dataclass

from covt_rewards.types import Rollout


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """The latent vocabulary of a checkpoint: what its `config.json` holds under `covt_latent`.

    Attributes:
        start_id, pad_id, end_id: ids of `<|latent_start|>`, `<|latent_pad|>`, `<|latent_end|>`.
        size: pads of one span, K.
    """

    start_id: int
    pad_id: int
    end_id: int
    size: int


@dataclass(frozen=True, slots=True)
class SpanReport:
    """The spans found, half-open over the pads only, and the first thing wrong (empty when all is well)."""

    spans: tuple[tuple[int, int], ...]
    problem: str = ""


def read_spans(token_ids: tuple[int, ...], latent: LatentFormat) -> SpanReport:
    """Walk the ids once: every start is followed by exactly K pads and an end; no marker stands elsewhere."""
    spans: list[tuple[int, int]] = []
    markers = (latent.start_id, latent.pad_id, latent.end_id)
    at = 0
    while at < len(token_ids):
        token = token_ids[at]
        if token not in markers:
            at += 1
            continue
        if token != latent.start_id:
            name = "pad" if token == latent.pad_id else "end"
            return SpanReport(tuple(spans), f"latent {name} at token {at} outside a span")
        first = at + 1
        end = first
        while end < len(token_ids) and token_ids[end] == latent.pad_id:
            end += 1
        if end == len(token_ids):
            return SpanReport(tuple(spans), f"latent span at token {at} is never closed")
        if token_ids[end] != latent.end_id:
            return SpanReport(tuple(spans), f"latent span at token {at} is broken by id {token_ids[end]}")
        if end - first != latent.size:
            return SpanReport(tuple(spans), f"latent span at token {at} has {end - first} pads, not {latent.size}")
        spans.append((first, end))
        at = end + 1
    return SpanReport(tuple(spans))


def well_formed_spans(rollout: Rollout, latent: LatentFormat | None) -> SpanReport:
    """Spans by token ids where the vocabulary and the ids are known, else the spans the trainer recorded."""
    if latent is not None and rollout.token_ids:
        return read_spans(rollout.token_ids, latent)
    return SpanReport(tuple(span for span in rollout.latent_spans if span[1] > span[0]))
