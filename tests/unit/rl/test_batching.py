"""How a step's completions are cut: all of them, in order, within the limits."""

from hypothesis import given
from hypothesis import strategies as st

from covt_rl.updates.batching import chunks, pack


@given(st.integers(0, 30), st.integers(1, 10))
def test_chunks_hold_everything_in_order_and_nearly_equal(count, parts):
    found = chunks(count, parts)
    assert [i for part in found for i in part] == list(range(count))
    sizes = {len(part) for part in found}
    assert not sizes or (min(sizes) >= 1 and max(sizes) - min(sizes) <= 1)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8), st.none() | st.integers(1, 120))
def test_micro_batches_keep_to_rows_and_tokens(lengths, rows, tokens):
    lengths = sorted(lengths)
    found = pack(lengths, rows=rows, tokens=tokens)
    assert [i for part in found for i in part] == list(range(len(lengths)))
    for part in found:
        assert len(part) <= rows
        assert tokens is None or len(part) == 1 or len(part) * lengths[part[-1]] <= tokens


def test_a_token_budget_is_used_up():
    assert pack([10, 10, 10, 20, 20], rows=8, tokens=40) == [range(0, 3), range(3, 5)]
