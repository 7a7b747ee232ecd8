"""pass@k, majority, categories and differences, against counting and against formulas written down again."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.eval_metrics import compare, majority, mean_scores, pass_at_k, powers_of_two, summarize
from covt_eval.evaluation.eval_rows import EvalRow
from covt_eval.statistics.intervals import accuracy_interval, bootstrap_mean, paired_difference


def answer(row: int, correct: float, said: str = "A", sample: int = 0, **values) -> EvalRow:
    defaults = {
        "id": f"r{row}", "gold": "A", "answer": said, "text": said, "token_ids": (1, 2, 3), "latent_spans": ((0, 2),),
        "finish_reason": "stop", "meta": {},
    }  # fmt: skip
    return EvalRow(**(defaults | {"correct": correct, "sample": sample} | values))


@given(n=st.integers(1, 8), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations(range(n), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(min(s) < correct for s in subsets) / len(subsets))


def test_pass_at_more_than_there_are_samples_is_refused():
    with pytest.raises(EvalError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)


def test_the_majority_is_the_most_frequent_answer_and_ties_go_to_the_first():
    assert majority([answer(0, 0, "B"), answer(0, 1, "A"), answer(0, 1, " A ")]) == 1
    assert majority([answer(0, 0, "B"), answer(0, 1, "A")]) == 0
    assert majority([answer(0, 0, ""), answer(0, 0, " "), answer(0, 1, "A")]) == 1
    assert majority([answer(0, 0, "")]) == 0


def test_powers_of_two_end_with_the_number_itself():
    assert powers_of_two(1) == [1] and powers_of_two(8) == [1, 2, 4, 8] and powers_of_two(6) == [1, 2, 4, 6]


def test_a_summary_counts_rows_and_not_samples():
    rows = [answer(r, float(s <= r), sample=s, category=f"{10 if r else 2} hops") for r in range(2) for s in range(3)]
    found = summarize(rows)
    assert (found["rows"], found["samples"]) == (2, 3)
    assert found["accuracy"]["value"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert list(found["by_category"]) == ["2 hops", "10 hops"]
    assert found["by_category"]["2 hops"]["rows"] == 1
    assert found["pass_at"]["1"]["value"] == pytest.approx(0.5) and found["pass_at"]["3"]["value"] == 1
    assert found["tokens"] == {"completion": 3, "latent": 2, "spans": 1, "prompt": 0}
    assert found["seconds"] == {} and "judges" not in found


def test_the_trigger_rate_is_over_rows_and_a_cut_off_span_is_none():
    spans: dict[str, dict[str, object]] = {
        "whole": {},
        "cut off": {"token_ids": (0, 1, 1), "latent_spans": ((1, 3),)},
        "none": {"latent_spans": ()},
    }
    rows = [
        answer(0, 1, sample=0, **spans["whole"]),
        answer(0, 0, sample=1, **spans["none"]),
        answer(1, 0, sample=0, **spans["cut off"]),
        answer(1, 1, sample=1, **spans["cut off"]),
    ]
    found = summarize(rows)["latents"]
    assert (found["trigger_rate"]["value"], found["spans"]) == (0.25, 0.25)
    assert (found["accuracy_with"], found["accuracy_without"]) == (1, pytest.approx(1 / 3))
    assert summarize(rows[:1])["latents"]["accuracy_without"] is None


def test_latency_and_the_other_judge_are_reported_where_they_are_known():
    rows = [answer(r, 1, seconds=float(r), judges={"end_on_goal": float(r > 1)}) for r in range(5)]
    found = summarize(rows)
    assert found["seconds"] == pytest.approx({"mean": 2, "p50": 2, "p95": 3.8})
    assert found["judges"]["end_on_goal"]["value"] == pytest.approx(0.6)


def test_differences_are_paired_by_row_and_other_rows_are_refused():
    ours, base = [answer(r, r % 2) for r in range(30)], [answer(r, 0) for r in reversed(range(30))]
    expected = paired_difference([r % 2 for r in range(30)], [0] * 30)
    assert compare(ours, base) == {"value": expected.value, "low": expected.low, "high": expected.high}
    assert mean_scores(ours)["r3"] == 1
    with pytest.raises(EvalError, match="different rows"):
        compare(ours, base[:-1])


def test_bootstrap_bounds_agree_with_the_normal_approximation_and_have_width_at_the_ends():
    values = [float(i % 4 == 0) for i in range(400)]
    found = bootstrap_mean(values)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.value == 0.25
    assert found.low == pytest.approx(0.25 - half, abs=0.006) and found.high == pytest.approx(0.25 + half, abs=0.006)
    assert bootstrap_mean([1.0] * 20) == accuracy_interval([1.0] * 20)
