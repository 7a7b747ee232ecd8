"""Division of a step's rows among ranks and forwards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_sft.batches.row_groups import Entry, group_by_length, group_in_order, group_packed, packed_cost, padded_cost

LENGTHS = st.lists(st.integers(1, 900), min_size=1, max_size=40)
METHODS = [(group_by_length, padded_cost), (group_packed, packed_cost)]


def entries(lengths):
    return [Entry(index, length) for index, length in enumerate(lengths)]


@pytest.mark.parametrize(("divide", "cost"), METHODS)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 8), st.sampled_from([0, 500, 2000]))
def test_every_row_is_in_one_group_within_the_limits(divide, cost, lengths, ranks, micro, budget):
    rows = entries(lengths)
    divided = divide(rows, ranks, micro, budget)
    groups = [group for rank in divided for group in rank]
    assert len(divided) == ranks
    assert len({len(rank) for rank in divided}) == 1
    assert sorted(entry.index for group in groups for entry in group) == list(range(len(lengths)))
    assert all(len(group) <= micro for group in groups)
    assert all(cost(group) <= budget for group in groups if budget and len(group) > 1)


def test_in_order_keeps_every_rows_rank_and_place():
    divided = group_in_order(entries([5] * 10), 2, 2)
    assert [[[entry.index for entry in group] for group in rank] for rank in divided] == [
        [[0, 2], [4, 6], [8]],
        [[1, 3], [5, 7], [9]],
    ]


def test_rows_alike_in_length_pad_less():
    rows = entries([10, 100] * 8)
    mixed = sum(padded_cost(group) for rank in group_in_order(rows, 1, 4) for group in rank)
    alike = sum(padded_cost(group) for rank in group_by_length(rows, 1, 4) for group in rank)
    assert mixed == 16 * 100
    assert alike == 8 * 10 + 8 * 100


def test_packed_groups_have_about_equally_many_tokens():
    rows = entries([900, 500, 400, 300, 300, 200, 100, 100])
    costs = [packed_cost(group) for rank in group_packed(rows, 2, 4) for group in rank]
    assert sum(costs) == 2800
    assert max(costs) - min(costs) <= 200


def test_a_row_over_the_budget_has_a_forward_of_its_own():
    groups = [group for rank in group_packed(entries([50, 900, 60]), 1, 8, 200) for group in rank]
    assert sorted(sorted(entry.length for entry in group) for group in groups if group) == [[50, 60], [900]]
