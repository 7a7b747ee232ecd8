"""The table of metrics: every logged name is in it, and what it says agrees with how names are used."""

import ast
import re
from pathlib import Path

import pytest

from covt_runtime.metrics.metric_table import METRICS, find_metric, live_labels, render_markdown, title_of, unit_of

ROOT = Path(__file__).parents[3]
FAMILY = re.compile(
    r"(perf|time|latent|necessity|rewards|sampling|eval|completions|skipped|dynamic|clip_ratio)/[\w*]+(/[\w*]+)*"
)
LOGGERS = ("covt-sft", "covt-rl", "covt-runtime")
PLAIN = ("loss", "ce", "align", "reward", "reward_std", "entropy", "kl", "grad_norm", "lr", "learning_rate", "tokens")
NOT_METRICS = {"rewards/*"}  # a column of the table of completions


def logged_names() -> set[str]:
    """Literals of the logging packages that look like metric names; a `*` stands for each f-string field."""
    found: set[str] = set()
    for package in LOGGERS:
        for file in sorted((ROOT / "packages" / package / "src").rglob("*.py")):
            if file.name == "metric_table.py":
                continue
            tree = ast.parse(file.read_text())
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                text = ""
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                    text = node.value
                if FAMILY.fullmatch(text):
                    found.add(text)
    return found - NOT_METRICS


def in_table(name: str) -> bool:
    """Whether the table has the name, or, for a family, a member of it."""
    if find_metric(name):
        return True
    return "*" in name and any(re.fullmatch(name.replace("*", ".*"), metric.name) for metric in METRICS)


def test_every_logged_metric_is_in_the_table() -> None:
    names = logged_names()
    assert len(names) > 25
    assert {name for name in names if not in_table(name)} == set()


@pytest.mark.parametrize("name", PLAIN)
def test_metrics_without_a_prefix_are_in_the_table(name: str) -> None:
    assert unit_of(name)


def test_names_are_unique_and_no_family_hides_a_later_entry() -> None:
    for metric in METRICS:
        assert find_metric(metric.name.replace("*", "x")) is metric


def test_unknown_names_have_no_unit_and_are_their_own_title() -> None:
    assert (unit_of("mine/own"), title_of("mine/own")) == ("", "mine/own")


def test_the_live_line_shows_the_reward_and_its_spread_first() -> None:
    assert list(live_labels())[:2] == ["reward", "reward_std"]


def test_the_rendered_table_has_a_line_for_each_entry() -> None:
    lines = render_markdown().splitlines()
    assert len(lines) == len(METRICS) + 2
    assert all(line.count("|") == 5 for line in lines)
