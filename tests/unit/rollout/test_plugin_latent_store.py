"""Rows are handed out and taken back, replacements are what the mode says, finished latents are bounded."""

from __future__ import annotations

import numpy as np
import torch

from covt_model.latents.latent_modes import LatentMode
from covt_rollout.vllm_plugin.latent_store import FinishedLatents, RequestLatents, RowPool
from covt_rollout.vllm_plugin.protocol import LatentOptions
from covt_rollout.vllm_plugin.request_latents import replacement


def pool(capacity: int = 2) -> RowPool:
    return RowPool(3, torch.float32, torch.device("cpu"), capacity)


def test_the_pool_grows_and_keeps_what_it_holds() -> None:
    rows = pool()
    blocks = [torch.randn(n, 3) for n in (1, 2, 5)]
    taken = [rows.put(block) for block in blocks]
    assert len({slot for slots in taken for slot in slots}) == 8
    for slots, block in zip(taken, blocks, strict=True):
        assert torch.equal(rows.read(slots), block)
    assert rows.used == 8


def test_released_rows_are_used_again() -> None:
    rows = pool(4)
    for _ in range(100):
        rows.release(rows.put(torch.randn(3, 3)))
    assert (rows.used, len(rows.rows)) == (0, 4)


def test_reading_no_rows_gives_an_empty_matrix() -> None:
    assert pool().read([]).shape == (0, 3)


def test_replacements_by_mode() -> None:
    own, data = torch.tensor([3.0, 0.0, 4.0]), np.arange(6, dtype=np.float32).reshape(2, 3)
    assert torch.equal(replacement(LatentOptions(LatentMode("zeros")), 0, own), torch.zeros(3))
    given = LatentOptions(LatentMode("given"), data)
    assert [replacement(given, i, own).tolist() for i in range(3)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    drawn = replacement(LatentOptions(LatentMode("noise"), seed=1), 0, own)
    assert torch.allclose(drawn.norm(), torch.tensor(5.0))


def test_output_rows_are_those_after_the_prompt_in_order() -> None:
    state = RequestLatents(LatentOptions(), prompt_length=4, slots={2: 9, 3: 8, 4: 7, 6: 1})
    assert state.output_slots() == [7, 1]


def test_finished_latents_are_read_once_and_the_oldest_go_first() -> None:
    finished = FinishedLatents(limit=2)
    for key in "abc":
        finished.add(key, 0, np.zeros((1, 3), dtype=np.float32))
    finished.add("c", 1, np.ones((1, 3), dtype=np.float32))
    assert finished.dropped == 1
    assert finished.take("a") == {}
    assert sorted(finished.take("c")) == [0, 1]
    assert finished.take("c") == {}
