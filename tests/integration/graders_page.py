"""The tables of docs/graders.md, from the graded answers: `python tests/integration/graders_page.py` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from covt_rewards import GoldError, Group, Rollout, grade
from covt_rewards.rewards.format import FormatReward

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
PAGE = ROOT / "docs" / "graders.md"
Case = dict[str, Any]
PEERS = {"math-verify": "math-verify", "trl": "TRL", "mathruler": "mathruler"}
COMPARED = ("math", "choice", "text", "")
"""Graders whose cases other graders are asked, too."""


def read_cases() -> list[Case]:
    lines = (DATA / "graded_answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def score(case: Case) -> float | None:
    """Grade as the accuracy reward does, or check the format; None for a gold answer that is refused."""
    completion = Rollout(case["completion"])
    if case["grader"].startswith("format:"):
        style = case["grader"].removeprefix("format:")
        reward = FormatReward(think=True) if style == "think" else FormatReward(answer=style)
        return reward(Group(case["answer"], (completion,)))[0].value
    try:
        return grade(completion.text, case["answer"], case["grader"], case.get("metadata"), case.get("options") or ())
    except GoldError:
        return None


def is_expected(case: Case, given: float | None) -> bool:
    """Whether a verdict is a person's; refusing a gold answer accepts nothing."""
    return abs((given or 0.0) - case["expected"]) < 1e-6


def render(cases: Sequence[Case], verdicts: Sequence[float | None]) -> str:
    """Render all tables of the page."""
    scored = list(zip(cases, verdicts, strict=True))
    parts = [_compare(scored), "## By kind\n", _by_kind(scored), "## Where people differ\n", _unsettled(scored)]
    return "\n".join(parts)


def _compare(scored: Sequence[tuple[Case, float | None]]) -> str:
    peers = json.loads((DATA / "peer_verdicts.json").read_text(encoding="utf-8"))
    asked = [(case, given) for case, given in scored if case["settled"] and case["grader"] in COMPARED]
    rows = [["covt-rewards", *_count(asked)]]
    for name, title in PEERS.items():
        right = set(peers[name]["right"])
        version = peers[name]["version"]
        rows.append([f"{title} {version}", *_count([(case, float(case["id"] in right)) for case, _ in asked])])
    head = [
        "grader",
        "all",
        "math",
        "choice",
        "text, words and labels",
        "wrong answers accepted",
        "right answers missed",
    ]
    return _table(head, rows)


def _count(scored: Sequence[tuple[Case, float | None]]) -> list[str]:
    def share(chosen: Iterable[tuple[Case, float | None]]) -> str:
        results = [is_expected(case, given) for case, given in chosen]
        return f"{sum(results)} of {len(results)}, {sum(results) / len(results):.1%}"

    by = {name: [pair for pair in scored if pair[0]["grader"] == name] for name in ("math", "choice")}
    other = [pair for pair in scored if pair[0]["grader"] in ("text", "")]
    accepted = sum((given or 0.0) > case["expected"] for case, given in scored)
    missed = sum((given or 0.0) < case["expected"] for case, given in scored)
    return [share(scored), share(by["math"]), share(by["choice"]), share(other), str(accepted), str(missed)]


def _by_kind(scored: Sequence[tuple[Case, float | None]]) -> str:
    peers = json.loads((DATA / "peer_verdicts.json").read_text(encoding="utf-8"))
    kinds: dict[str, list[str]] = json.loads((DATA / "answer_kinds.json").read_text(encoding="utf-8"))
    rows: list[list[str]] = []
    for kind, sources in kinds.items():
        own = [(case, given) for case, given in scored if case["source"] in sources and case["settled"]]
        shares = [f"{sum(is_expected(case, given) for case, given in own)}/{len(own)}"]
        for name in PEERS:
            right = set(peers[name]["right"])
            asked = [case for case, _ in own if case["grader"] in COMPARED]
            same = sum((case["id"] in right) == bool(case["expected"]) for case in asked)
            shares.append(f"{same}/{len(asked)}" if asked else "–")
        rows.append([kind, _examples([case for case, _ in own]), *shares])
    return _table(["kind", "gold ← answer: verdict", "covt-rewards", *PEERS.values()], rows)


def _examples(cases: Sequence[Case]) -> str:
    """Show a right and a wrong answer of other gold answers."""
    shown: list[str] = []
    for wanted in (1, 0, 1):
        found = next((_show(case) for case in cases if case["expected"] == wanted and _show(case) not in shown), "")
        shown += [found] if found else []
    return "<br>".join(shown)


def _show(case: Case) -> str:
    sign = {1: "right", 0: "wrong"}.get(case["expected"], str(case["expected"]))
    return f"{_code(case['answer'])} ← {_code(_answer(case['completion']))}: {sign}"


def _answer(completion: str) -> str:
    r"""Shorten a completion to its answer where it is one `\boxed{…}` or `<answer>` in the usual frame."""
    inner = re.fullmatch(r"So we get \\boxed\{(.*)\}\.", completion, re.DOTALL)
    tag = re.fullmatch(r"<think>Let me look at the picture.</think>\n<answer>(.*)</answer>", completion, re.DOTALL)
    found = inner or tag
    return found.group(1) if found else completion


def _code(text: str) -> str:
    short = text.replace("\n", "⏎").strip()
    short = short if len(short) <= 60 else f"{short[:28]}…{short[-28:]}"
    return "``" + short.replace("|", "\\|").replace("`", "'") + "``" if short else "*nothing*"


def _unsettled(scored: Sequence[tuple[Case, float | None]]) -> str:
    rows = [
        [
            _code(case["answer"]),
            ", ".join(map(_code, case.get("options") or [])),
            _code(_answer(case["completion"])),
            f"{case['expected']}",
            "refused" if given is None else f"{given:g}",
        ]
        for case, given in scored
        if not case["settled"]
    ]
    return _table(["gold", "options", "answer", "a person", "covt-rewards"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def insert(page: str, tables: str) -> str:
    """Put the tables between their markers."""
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


if __name__ == "__main__":
    all_cases = read_cases()
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), render(all_cases, [score(case) for case in all_cases])))
