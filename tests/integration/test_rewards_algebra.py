"""The math grader with its real worker processes: verdicts, time limits, hostile answers, and a light import."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covt_rewards import GoldError, Group, Rollout, parse_rewards, score_groups
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.accuracy.math import as_latex, compare_without_algebra
from covt_rewards.algebra.algebra_worker import AlgebraWorker
from covt_rewards.algebra.worker_pool import WorkerPool, shared_pool
from covt_rewards.expressions.constants import Value, read_constant


def grade(gold: str, text: str, **options: object) -> float:
    return AccuracyReward(grader="math", **options)(Group(gold, (Rollout(text),)))[0].value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("4", r"so it is \boxed{4}", True),
        ("4", r"\boxed{\frac{8}{2}}", True),
        ("0.5", r"<answer>\frac12</answer>", True),
        (r"25\pi", r"\boxed{25\pi}", True),
        ("$[0, 1)$", r"\boxed{[0, 1]}", False),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}", True),
        ("4", "no idea", False),
        ("4", "", False),
        ("B", r"\boxed{\text{(B)}}", True),
        ("1,234", r"\boxed{1234}", True),
    ],
)
def test_mathematics_is_compared_by_value(gold: str, text: str, right: bool) -> None:
    assert grade(gold, text) == float(right)


def test_decimals_can_be_asked_for() -> None:
    assert grade(r"$\frac{1}{3}$", r"\boxed{0.33}") == 0.0
    assert grade(r"$\frac{1}{3}$", r"\boxed{0.33}", precision=2) == 1.0
    for own in (2, 2.0):
        group = Group(r"$\frac{1}{3}$", (Rollout(r"\boxed{0.33}"),), metadata={"precision": own})
        assert AccuracyReward()(group)[0].value == 1.0


def test_a_gold_answer_without_mathematics_is_an_error() -> None:
    with pytest.raises(GoldError):
        AccuracyReward(grader="math").check_gold(Group("???", ()))


whole = st.integers(0, 99999).map(str)
decimal = st.tuples(st.integers(0, 99), st.integers(0, 9999), st.integers(1, 4)).map(
    lambda n: f"{n[0]}.{n[1]:0{n[2]}d}"[: len(str(n[0])) + 1 + n[2]]
)
thousands = st.integers(1000, 9_999_999).map(lambda n: f"{n:,}")
operand = st.one_of(whole, decimal, st.just(r"\pi"))


def composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return st.one_of(
        two.map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
        two.map(lambda p: f"{p[0]} + {p[1]}"),
        two.map(lambda p: f"{p[0]}-{p[1]}"),
        two.map(lambda p: rf"{p[0]} \cdot {p[1]}"),
        inner.map(lambda x: rf"\sqrt{{{x}}}"),
        inner.map(lambda x: rf"3\sqrt{{{x}}}"),
        inner.map(lambda x: rf"\left({x}\right)^2"),
        inner.map(lambda x: f"-{x}"),
    )


expression = st.one_of(whole, decimal, thousands, st.recursive(operand, composed, max_leaves=4))


def spelled(value: Value, form: int) -> str:
    """The same value in another spelling, or a near one."""
    if form == 0:
        return str(value) if isinstance(value, Fraction) else f"{value:.6f}"
    return f"{float(value):.{form}f}"


@given(st.lists(st.tuples(expression, expression, st.sampled_from([None, 0, 0, 2, 6])), min_size=1, max_size=6))
@settings(max_examples=40)
def test_the_fast_path_gives_the_verdict_of_the_full_path(pairs: list[tuple[str, str, int | None]]) -> None:
    for gold, other, form in pairs:
        value = read_constant(gold)
        answer = other if form is None or value is None else spelled(value, form)
        fast = compare_without_algebra(gold, answer)
        if fast is not None:
            verdicts = shared_pool().verify(as_latex(gold), [rf"\boxed{{{answer}}}"], 20.0)
            assert not verdicts.gold_problem, gold
            assert fast == verdicts.items[0].equal, (gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.000001", "0.000002"),  # one rounding step apart
        ("0.333333", r"\frac{1}{3}"),
        (r"14 \times 53.778", "188223/250"),  # equal, and not so in floating point
        ("1 / 31.774", "500/15887"),
        (r"12\left(6\right)/16", "4.5"),  # latex2sympy reads a mixed number
        (r"13\,20", "1320"),
        (r"15\frac{1}{3}", "5"),
        ("681,853-19", "681834"),  # a comma inside an expression lists
        ("-2^2", "4"),
        (r"2\pi^2", r"4\pi^2"),
        (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}"),
        ("1/2/2", "0.25"),
    ],
)
def test_close_calls_and_odd_spellings_get_the_verdict_of_the_full_path(gold: str, answer: str) -> None:
    (full,) = shared_pool().verify(as_latex(gold), [rf"\boxed{{{answer}}}"], 20.0).items
    assert compare_without_algebra(gold, answer) in (None, full.equal)


def test_plain_numbers_and_fractions_need_no_algebra() -> None:
    """Otherwise the property above would hold because the fast path decides nothing."""
    for gold, answer, verdict in [
        ("4", "4.0", True),
        ("1,234", "1234", True),
        ("0.75", r"\frac{3}{4}", True),
        ("3/4", r"\dfrac{6}{8}", True),
        ("-12.5", "12.5", False),
        (r"25\pi", "25", False),
        ("13", r"4\sqrt{3} + 1", False),
    ]:
        assert compare_without_algebra(gold, answer) is verdict, (gold, answer)
    for gold, answer in [("2x", "2"), ("0.333333", r"\frac{1}{3}"), (r"2\frac12", "2.5"), ("1 234", "1234")]:
        assert compare_without_algebra(gold, answer) is None, (gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("2x", "2x"), ("7^{3}", "343"), ("3:4", "0.75"), ("(1, 2]", "(1,2]"), ("x = 5", "5"), ("1 234", "1234")],
)
def test_a_bare_gold_answer_is_read_whole(gold: str, answer: str) -> None:
    assert grade(gold, rf"\boxed{{{answer}}}") == 1.0
    assert grade(gold, r"\boxed{77}") == 0.0


def test_one_answer_in_two_boxes_is_read_as_one() -> None:
    assert grade(r"\{1, 2\}", r"$\boxed{1}$ and $\boxed{2}$") == 1.0
    assert grade("2", "First $\\boxed{1}$.\n\nNo, it is $\\boxed{2}$.") == 1.0


def test_a_number_in_bold_is_the_answer_where_nothing_else_marks_one() -> None:
    said = "The bar reads **52**.\n\n* It is the tallest of 13 bars.\n"
    assert grade("52", said) == 1.0
    assert grade("13", said) == 0.0
    assert grade("13", said + "\\boxed{13}") == 1.0
    assert grade("52", said, lenient=False) == 0.0


@pytest.mark.shared_data
def test_extraction_finds_what_math_verify_finds(shared_data: Path) -> None:
    """On real responses and on math-verify's own cases; patterns are skipped only where they cannot match."""
    from math_verify import parse

    from covt_rewards.algebra.extraction import extract

    folder = shared_data / "reference_vectors"
    texts = [
        json.loads(line)[key]
        for name, key in (("math_verify_cases", "pred"), ("mathvista_bard_scored", "response"))
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[::4]
    ]
    for text in texts:
        assert str(extract(text)) == str(parse(text, parsing_timeout=0)), text[:200]


@given(st.text(alphabet=st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="$\\[")))
def test_words_without_digits_or_latex_are_no_answer_for_math_verify_either(words: str) -> None:
    from math_verify import parse

    for text in (words, f"The final answer is {words}"):
        assert parse(text, parsing_timeout=0) == []
        assert grade("7", text) == 0.0


def test_an_answer_that_takes_too_long_is_really_ended_and_the_next_one_is_judged() -> None:
    pool = shared_pool()
    killed = pool.killed
    bomb = r"\boxed{" + "^".join(["{9"] * 6) + "}" * 6 + "}"
    group = Group(r"\frac{1}{2}", (Rollout(bomb), Rollout(r"\boxed{0.5}")))
    began = time.monotonic()
    first, second = AccuracyReward(grader="math", time_limit=2.0)(group)
    assert time.monotonic() - began < 120
    assert first.value == 0.0
    assert second.value == 1.0
    assert pool.killed > killed or first.reason


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1)
    assert equal(pool, "$x+1$", "$1+x$")
    yield pool
    pool.close()


def equal(pool: WorkerPool, gold: str, answer: str) -> bool:
    (verdict,) = pool.verify(gold, [answer], 20.0).items
    return verdict.equal


def worker_of(pool: WorkerPool) -> AlgebraWorker:
    worker = pool._slots.get()
    pool._slots.put(worker)
    assert worker is not None
    return worker


def processes(worker: AlgebraWorker) -> tuple[int, int]:
    """The worker's process and its child."""
    pid = worker._process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pid, int(child)


def test_a_worker_that_hangs_is_killed_and_replaced(pool: WorkerPool) -> None:
    process, child = processes(worker_of(pool))
    bombs = [r"$10^{10^{10^{10}}}$", r"$\int_0^1 \sin(x^x^x) dx$"]
    late = pool.verify("$x+1$", bombs, 0.5)
    assert [verdict.reason for verdict in late.items] == ["not decided within 0.5 s; stopped"] * 2
    assert "0.5 s" in pool.verify("$" + "(" * 2000 + ")" * 2000 + "$", ["$x+3$"], 0.5).gold_problem
    assert pool.killed == 3
    assert not alive(child)
    assert processes(worker_of(pool))[0] == process  # it has sympy loaded and forked a new child
    assert equal(pool, "$x+1$", "$1+x$")


def test_a_worker_killed_while_it_waits_costs_no_verdict(pool: WorkerPool) -> None:
    """As the system does when memory runs out."""
    os.kill(processes(worker_of(pool))[1], signal.SIGKILL)
    assert equal(pool, "$x+1$", "$1+x$")
    for process in processes(worker_of(pool)):
        os.kill(process, signal.SIGKILL)
    assert equal(pool, "$x+1$", "$1+x$")
    assert pool.killed == 0


def test_an_answer_that_crashes_its_worker_is_wrong_and_the_next_one_is_judged(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in C code cannot be caught: here the child is killed whenever it is to read the request."""
    worker = worker_of(pool)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_write", lambda line, deadline: os.kill(processes(worker)[1], signal.SIGKILL))
        (verdict,) = pool.verify("$x+1$", ["$x+1$"], 20.0).items
    assert verdict.reason == "math-verify crashed on it"
    assert equal(pool, "$x+1$", "$1+x$")


SLOW_TO_JUDGE = [
    r"\boxed{" + "{" * 3000 + "}" * 3001,
    r"\boxed{" + "(" * 2000 + ")" * 2000 + "}",
    r"\boxed{10^{10^{10^{10}}}}",
    r"\boxed{" + r"\frac{1}{" * 500 + "1" + "}" * 501,
    r"\boxed{1000000!!!}",
    r"\boxed{\int_0^1 \sin(x^x^x) dx}",
    "<answer>" + "1+" * 20_000 + "1</answer>",
]
"""Each of these runs into the time limit."""

HOSTILE = [
    *SLOW_TO_JUDGE,
    "\x00",
    "\ud800\\boxed{\udfff}",
    r"\boxed{" * 3000,
    r"\boxed{" + "9" * 100_000 + "}",
    r"\boxed{__import__('os').system('true')}",
    r"\def\a{\a\a}\boxed{\a}",
    "$" * 50_000,
    "\n" * 50_000 + "1",
    "x" * 5_000_000,
    r"\boxed{\sqrt[" + "9" * 50 + "]{2}}",
    r"\boxed{e^{" * 100,
]


LIMIT = 2.0


def judge_hostile(texts: list[str], rewards: str) -> None:
    """Each alone beside a sound neighbor, which must get its point whatever happened before it."""
    configured = parse_rewards(rewards, {"accuracy": {"time_limit": LIMIT}})
    for i, text in enumerate(texts):
        group = Group(r"\frac{7}{3}", (Rollout(text), Rollout(r"\boxed{\frac{14}{6}}")), id=str(i))
        began = time.monotonic()
        score = score_groups([group], configured).groups[0]
        assert not score.failures, (text[:80], score.failures)
        assert score.values["accuracy"] == [0.0, 1.0], text[:80]
        # accuracy and necessity each ask; a killed worker's successor has to import sympy again
        assert time.monotonic() - began < 4 * LIMIT + 60, text[:80]


def test_nothing_a_model_writes_raises_or_takes_more_than_its_time() -> None:
    judge_hostile([text for text in HOSTILE if text not in SLOW_TO_JUDGE[1:]], "format,accuracy,reasoning,usage")


@pytest.mark.slow
def test_no_bomb_raises_or_takes_more_than_its_time() -> None:
    judge_hostile(HOSTILE, "format,accuracy,reasoning,usage,necessity")


def test_threads_share_the_workers() -> None:
    groups = [Group(rf"\frac{{{i}}}{{3}}", (Rollout(rf"\boxed{{\frac{{{2 * i}}}{{6}}}}"),)) for i in range(1, 30)]
    scores = score_groups(groups, parse_rewards("accuracy"), workers=2)
    assert all(score.totals == (1.0,) for score in scores.groups)
    assert threading.active_count() < 10


def test_workers_end_with_their_process() -> None:
    code = (
        "import json, os; from covt_rewards.algebra.worker_pool import shared_pool; p = shared_pool();"
        "p.verify('$x$', ['$x$'], 60.0); print(p._slots.get()._process.pid, flush=True); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    worker = int(done.stdout)
    deadline = time.monotonic() + 20
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_importing_the_package_imports_no_algebra_and_no_torch() -> None:
    """In a fresh interpreter: this one has everything loaded."""
    code = (
        "import sys, covt_rewards; covt_rewards.parse_rewards('format,accuracy,necessity');"
        "print([m for m in ('sympy', 'math_verify', 'torch', 'numpy', 'covt_data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "[]"


@pytest.mark.shared_data
def test_the_cases_of_math_verify_get_their_verdicts(shared_data: Path) -> None:
    accuracy = AccuracyReward(grader="math", time_limit=30.0)
    lines = (shared_data / "reference_vectors" / "math_verify_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    right = 0
    for case in cases:
        precision = {"precision": case["extra"]["precision"]} if "precision" in case["extra"] else {}
        (result,) = accuracy(Group(case["gold"], (Rollout(case["pred"]),), metadata=precision))
        right += bool(result.value) == case["expected"]
    assert len(cases) == 168
    assert right / len(cases) >= 0.99
