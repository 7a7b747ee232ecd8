"""Latents on the device: rows go where plain lists of a sequence's pads say, for chunks, preemptions and every mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covt_model.latents.latent_modes import LatentMode
from covt_model.latents.latent_replacement import replacement_latent
from covt_rollout.vllm_plugin.protocol import LatentOptions
from covt_rollout.vllm_plugin.v2.device_latents import DeviceLatents, HostCopy

HIDDEN, PADS, SLOTS = 3, 6, 4
GIVEN = np.arange(6, dtype=np.float32).reshape(2, HIDDEN) + 1


def make(seed: int = 0) -> DeviceLatents:
    store = DeviceLatents(SLOTS, PADS, HIDDEN, torch.float32, torch.device("cpu"))
    # What an earlier owner of the slots has left.
    store.rows.copy_(torch.randn(store.rows.shape, generator=torch.Generator().manual_seed(seed)))
    store.counts.fill_(5)
    return store


def sampled(store: DeviceLatents, slots: list[int], pads: list[bool], seed: int) -> torch.Tensor:
    own = torch.randn(len(slots), HIDDEN, generator=torch.Generator().manual_seed(seed))
    store.store(torch.tensor(slots), torch.tensor(pads), own)
    return own


@pytest.mark.parametrize("mode", ["keep", "zeros", "noise", "given"])
def test_sampled_pads_are_fed_what_the_mode_says_of_their_number(mode: str) -> None:
    data = GIVEN if mode == "given" else None
    store, options = make(), LatentOptions(LatentMode(mode), data, seed=3)
    store.add(1, options, True, None, 0)
    store.add(2, LatentOptions(), True, None, 0)
    given_rows = None if data is None else torch.from_numpy(data)
    for number in range(4):
        own = sampled(store, [2, 1], [number % 2 == 0, True], number)
        expected = replacement_latent(options.mode, own[1], number, given=given_rows, seed=3)
        assert torch.allclose(store.rows[1, number], expected)
    assert store.counts[1:3].tolist() == [4, 2]


def test_what_is_no_pad_and_what_feeds_nothing_leaves_the_rows_alone() -> None:
    store = make()
    store.add(0, LatentOptions(), True, None, 1)
    store.add(3, LatentOptions(LatentMode.NONE), False, None, 1)
    before = store.rows.clone()
    sampled(store, [0, 3], [False, True], 1)
    assert torch.equal(store.rows[:, :PADS], before[:, :PADS])
    assert store.counts[[0, 3]].tolist() == [1, 2]
    embeds = torch.ones(2, HIDDEN)
    slots, first = torch.tensor([0, 3]), torch.full((2,), -1)
    store.feed(embeds, torch.tensor([False, True]), torch.tensor([0, 1, 2]), slots, first)
    assert torch.equal(embeds, torch.ones(2, HIDDEN))


def test_a_decoded_pad_is_fed_the_newest_row() -> None:
    store = make()
    store.add(2, LatentOptions(), True, torch.full((2, HIDDEN), 7.0), 2)
    own = sampled(store, [2], [True], 5)
    embeds = torch.zeros(1, HIDDEN)
    store.feed(embeds, torch.tensor([True]), torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([-1]))
    assert torch.equal(embeds, own)


sequences = st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=SLOTS)


@given(sequences, st.data())
def test_chunks_of_several_prompts_are_fed_their_own_pads_in_order(pads: list[list[bool]], data: st.DataObject) -> None:
    pads = [[pad and sum(row[:i]) < PADS for i, pad in enumerate(row)] for row in pads]
    store, slots = make(), list(range(len(pads)))[::-1]
    fed = [torch.randn(sum(row), HIDDEN) for row in pads]
    for slot, row, rows in zip(slots, pads, fed, strict=True):
        store.add(slot, LatentOptions(), True, rows, sum(row))
    chunks = [sorted(data.draw(st.tuples(st.integers(0, len(row)), st.integers(0, len(row))))) for row in pads]
    starts = np.cumsum([0] + [stop - start for start, stop in chunks])
    here = [pad for row, (start, stop) in zip(pads, chunks, strict=True) for pad in row[start:stop]]
    first = [sum(row[:start]) for row, (start, _) in zip(pads, chunks, strict=True)]
    embeds = torch.full((len(here), HIDDEN), -1.0)
    arguments = torch.tensor(here, dtype=torch.bool), torch.from_numpy(starts), torch.tensor(slots), torch.tensor(first)
    store.feed(embeds, *arguments)
    expected = [
        rows[sum(row[:i])] if row[i] else torch.full((HIDDEN,), -1.0)
        for row, rows, (start, stop) in zip(pads, fed, chunks, strict=True)
        for i in range(start, stop)
    ]
    assert torch.equal(embeds, torch.stack(expected) if expected else embeds)


def test_a_full_request_stores_no_more_and_others_keep_their_rows() -> None:
    store = make()
    store.add(0, LatentOptions(), True, torch.zeros(PADS, HIDDEN), PADS)
    store.add(1, LatentOptions(), True, torch.full((1, HIDDEN), 2.0), 1)
    sampled(store, [0], [True], 0)
    assert torch.equal(store.rows[1, :1], torch.full((1, HIDDEN), 2.0))


def test_a_copy_for_the_host_has_the_counted_rows() -> None:
    rows = torch.arange(12.0).reshape(4, 3)
    copy = HostCopy.start(rows, torch.tensor([2]))
    rows.zero_()
    assert copy.read().tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
