"""Latent spans in token ids against a regular expression over the same ids."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import LatentFormat
from covt_rewards.latents import (
    LatentSpan,
    count_closed_spans,
    find_latent_spans,
    find_pad_runs,
    find_whole_spans,
    span_usage,
)

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


@given(st.lists(st.lists(st.sampled_from(["x", "SPPPE"]), max_size=4).map("".join), min_size=1), st.integers(0, 5))
def test_usage_counts_whole_spans_of_answers_that_may_end_inside_one(texts: list[str], cut: int) -> None:
    ids = {letter: token for token, letter in LETTERS.items()}
    answers = []
    for text in texts:
        tokens = tuple(ids[letter] for letter in text[: max(0, len(text) - cut)])
        answers.append(SimpleNamespace(token_ids=tokens, latent_spans=find_pad_runs(tokens, PAD)))
    whole = [len(find_whole_spans(one.token_ids, LATENT)) for one in answers]
    assert [count_closed_spans(one) for one in answers] == whole
    used, spans = span_usage(answers)
    assert used == pytest.approx(sum(count > 0 for count in whole) / len(whole))
    assert spans == pytest.approx(sum(whole) / len(whole))
