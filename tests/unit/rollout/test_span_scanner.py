"""A growing completion is read once, and its spans are those that a search of the whole would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from covt_model.latent_config import LatentConfig
from covt_rewards.latents import find_whole_spans
from covt_rollout.branches.span_scanner import SpanScanner

START, PAD, END = 100, 101, 102
LATENT = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=2)
PART = st.sampled_from([[START, PAD, PAD, END], [START, PAD, END], [START], [PAD], [END], [7]])
TOKENS = st.lists(PART, max_size=12).map(lambda parts: [token for part in parts for token in part])


@given(TOKENS, st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_in_pieces_of_any_size_the_spans_are_those_of_the_whole(tokens: list[int], sizes: list[int]) -> None:
    scanner, seen, closed = SpanScanner(LATENT), 0, 0
    while seen < len(tokens):
        seen = min(len(tokens), seen + sizes[seen % len(sizes)])
        found = len(find_whole_spans(tokens[:seen], LATENT))
        assert scanner.scan(tokens[:seen]) == (found > closed)
        assert scanner.closed == found
        closed = found


class Counting(list[int]):
    """A list that counts how often its items are read."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[override]
        self.reads += 1
        return super().__getitem__(index)


def test_no_token_is_read_twice() -> None:
    scanner, tokens = SpanScanner(LATENT), Counting()
    for _ in range(200):
        tokens.extend([7] * 12 + [START, PAD, PAD, END])
        scanner.scan(tokens)
    assert tokens.reads == len(tokens) == 3200
    assert scanner.closed == 200
