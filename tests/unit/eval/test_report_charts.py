"""Scales, labels, intervals and series behind the report's charts."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_eval.report.charts.bars import Value, bar_chart
from covt_eval.report.charts.curves import phase_marks, points_of, positions
from covt_eval.report.charts.lines import Series, line_chart, spread, thin
from covt_eval.report.content.numbers import duration, nice_ticks, percent, plain, points, tick_texts
from covt_eval.statistics.intervals import wilson_interval


@given(n=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_ends_are_where_the_score_test_is_exactly_rejected(n: int, share: float) -> None:
    right = round(share * n)
    interval = wilson_interval(right, n)
    for end in (interval.low, interval.high):
        if 0 < end < 1:
            assert abs(right / n - end) == pytest.approx(
                1.959963984540054 * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-7
            )


@given(low=st.floats(-1e4, 1e4), width=st.floats(1e-3, 1e5))
def test_ticks_lie_inside_are_even_and_have_distinct_texts(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks)
    assert len(set(tick_texts(ticks))) == len(ticks)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=8))
def test_labels_keep_their_distance_and_order(wanted: list[float]) -> None:
    placed = spread(wanted, 79.0)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    for above, below in pairwise(order):
        assert placed[below] - placed[above] >= 79.0 - 1e-6
    assert max(placed) <= 1000.0


def test_labels_that_do_not_collide_stay_where_they_belong() -> None:
    assert spread([800.0, 100.0, 400.0], 79.0) == [800.0, 100.0, 400.0]


def test_numbers_read_like_numbers() -> None:
    assert [plain(value) for value in (0, 0.0288, 21.25, 1234, -0.5, 2e-5)] == [
        "0",
        "0.0288",
        "21.2",
        "1 234",
        "−0.5",
        "2e−5",
    ]
    assert (percent(0.9741), percent(1), percent(0)) == tuple(f"{n}\N{NO-BREAK SPACE}%" for n in ("97.4", "100", "0"))
    assert (points(0.326), points(-0.01)) == ("+32.6", "−1.0")
    assert [duration(s) for s in (0.4, 48, 192, 7500)] == ["0.4 s", "48 s", "3 min 12 s", "2 h 05 min"]
    assert tick_texts([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]


def test_thinned_points_are_means_and_end_at_the_last_step() -> None:
    points, run = thin([(float(x), float(x)) for x in range(1, 401)], most=100)
    assert (len(points), run) == (100, 4)
    assert points[0] == (4.0, 2.5)
    assert points[-1][0] == 400.0


def test_a_line_chart_puts_the_highest_value_highest() -> None:
    chart = line_chart("Loss", "nats", "step", [Series("a", "plain", [(0, 1.0), (1, 2.0), (2, 1.5)])])
    ys = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", chart.lines[0].path)]
    assert min(ys) == ys[1] < ys[2] < ys[0] <= 1000
    assert chart.lines[0].label == "1.5"
    assert chart.table == (["step", "a"], [["0", "1"], ["1", "2"], ["2", "1.5"]])


def test_two_decades_of_loss_get_a_log_axis_that_says_so() -> None:
    wide = line_chart("Loss", "nats", "step", [Series("a", "plain", [(0, 5.0), (1, 0.01)])])
    assert wide.unit == "nats, log scale"
    assert [text for _, text in wide.y_ticks] == ["0.01", "0.1", "1"]
    narrow = line_chart("Loss", "nats", "step", [Series("a", "plain", [(0, 5.0), (1, 0.5)])])
    assert narrow.unit == "nats"


def test_a_single_point_is_still_a_chart() -> None:
    chart = line_chart("Loss", "nats", "step", [Series("a", "plain", [(3, 0.0)])])
    assert chart.lines[0].path.startswith("M500")


def test_bars_place_value_interval_and_reference_on_one_scale() -> None:
    chart = bar_chart([Value("x", 0.5, "50 %", low=0.4, high=1.2)], 1.0, [(1.0, "100 %")], lines=[(0.25, "chance")])
    row = chart.rows[0]
    assert (row.width, row.low, row.high, chart.lines, chart.ticks) == (
        50.0,
        40.0,
        100.0,
        [(25.0, "chance")],
        [(100.0, "100 %")],
    )


def test_steps_that_start_again_in_a_later_phase_go_on_to_the_right() -> None:
    lines = [
        {"step": s, "phase": p, "ce": 1.0} for p, last in (("stage1", 3), ("stage2", 2)) for s in range(1, last + 1)
    ]
    assert positions(lines) == [1, 2, 3, 4, 5]
    assert phase_marks(lines) == [(4.0, "stage 2 →")]


def test_values_that_are_not_finite_numbers_are_left_out_of_a_curve() -> None:
    lines = [{"step": 1, "ce": math.nan}, {"step": 2, "ce": 0.5}, {"step": 3, "ce": "high"}, {"step": 4}]
    assert points_of(lines, "ce") == [(2.0, 0.5)]


def test_a_step_that_a_resumed_run_logged_again_counts_once() -> None:
    lines = [
        {"step": step, "phase": "rl", "reward": value}
        for step, value in ((1, 0.1), (2, 0.2), (3, 0.9), (2, 0.3), (3, 0.4))
    ]
    assert points_of(lines, "reward") == [(1.0, 0.1), (2.0, 0.3), (3.0, 0.4)]


def test_a_metric_that_is_always_zero_is_drawn_on_the_axis() -> None:
    chart = line_chart("clip_ratio", "share of tokens", "step", [Series("value", "a6", [(1.0, 0.0), (2.0, 0.0)])])
    assert chart.lines[0].path == "M0.0 1000.0 L1000.0 1000.0"
