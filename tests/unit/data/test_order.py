"""The order of rows in training."""

from hypothesis import given
from hypothesis import strategies as st

from covt_data.order import batch_indices


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_holds_every_row_once(count, batch, seed):
    steps = -(-3 * count // batch)
    order = [index for step in range(steps) for index in batch_indices(count, step, batch, seed)]
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_seeds_and_epochs_differ():
    first = batch_indices(50, 0, 50, 0)
    assert first != batch_indices(50, 1, 50, 0)
    assert first != batch_indices(50, 0, 50, 1)
    assert first == batch_indices(50, 0, 50, 0)
