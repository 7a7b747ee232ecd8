"""Answers after public bug reports, each with a person's verdict: the score by kind, and no wrong answer accepted."""

from collections import defaultdict

import graders_page
import pytest
from graders_page import Case, is_expected

Verdicts = list[tuple[Case, float | None]]


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    return [(case, graders_page.score(case)) for case in graders_page.read_cases()]


def test_settled_answers_get_a_persons_verdict(verdicts: Verdicts) -> None:
    by_kind: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for case, given in verdicts:
        if case["settled"]:
            by_kind[case["grader"], case["source"]].append(is_expected(case, given))
    for (grader, source), results in sorted(by_kind.items()):
        print(f"{grader or 'chosen':14} {source:45} {sum(results):4} of {len(results)}")
    right = sum(map(sum, by_kind.values()))
    count = sum(map(len, by_kind.values()))
    print(f"all: {right} of {count}, {right / count:.1%}")
    assert count == 846
    assert right / count >= 0.97


def test_no_settled_wrong_answer_is_accepted(verdicts: Verdicts) -> None:
    accepted = [case["id"] for case, given in verdicts if case["settled"] and (given or 0.0) > case["expected"] + 1e-6]
    assert accepted == []


def test_the_page_shows_these_verdicts(verdicts: Verdicts) -> None:
    """`python tests/integration/graders_page.py` writes the page."""
    page = graders_page.PAGE.read_text(encoding="utf-8")
    tables = graders_page.render([case for case, _ in verdicts], [given for _, given in verdicts])
    assert graders_page.insert(page, tables) == page
