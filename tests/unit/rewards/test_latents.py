"""Latent spans in token ids against a regular expression over the same ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import LatentFormat
from covt_rewards.latents import LatentSpan, find_latent_spans, find_pad_runs, find_whole_spans

START, PAD, END, WORD = 100, 101, 102, 1
LATENT = LatentFormat(START, PAD, END, 3)
LETTERS = {START: "S", PAD: "P", END: "E", WORD: "x"}
ids_lists = st.lists(st.sampled_from([START, PAD, PAD, PAD, END, WORD]), max_size=24)


@given(ids_lists)
def test_whole_spans_are_found(ids: list[int]) -> None:
    text = "".join(LETTERS[token] for token in ids)
    expected = [match.span() for match in re.finditer(r"(?<=S)PPP(?=E)", text)]
    assert find_whole_spans(ids, LATENT) == expected
    assert find_whole_spans(tuple(ids), LATENT) == expected


@given(ids_lists)
def test_all_runs_are_found_with_the_markers_around_them(ids: list[int]) -> None:
    text = "".join(LETTERS[token] for token in ids)
    spans = [
        LatentSpan(*match.span(1), opened=match[0].startswith("S"), closed=text[match.end() :].startswith("E"))
        for match in re.finditer(r"S?(P+)", text)
    ]
    assert find_latent_spans(ids, START, PAD, END) == spans
    assert find_pad_runs(ids, PAD) == tuple((span.start, span.end) for span in spans)


@pytest.mark.parametrize("ids", [(), (START, END), (START,), (WORD,)])
def test_without_pads_there_is_no_span(ids: tuple[int, ...]) -> None:
    assert find_latent_spans(ids, START, PAD, END) == []
