"""Records the verdicts of other graders on the graded answers, in `data/peer_verdicts.json` with their versions.

`python tests/integration/peer_graders.py` asks math-verify, TRL's accuracy reward and mathruler as their own trainers
do. A package that is not installed keeps its recorded verdicts. None of them sees options, boxes or maps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
Case = dict[str, Any]
GRADED = ("math", "choice", "text", "")


def math_verify() -> Callable[[Case], float]:
    from math_verify import parse, verify

    return lambda case: float(verify(parse(f"\\boxed{{{case['answer']}}}"), parse(case["completion"])))


def trl() -> Callable[[Case], float]:
    from trl.rewards.accuracy_rewards import accuracy_reward

    def grade(case: Case) -> float:
        (score,) = accuracy_reward([[{"content": case["completion"]}]], [f"\\boxed{{{case['answer']}}}"])
        return score or 0.0  # None for a gold answer that it cannot read

    return grade


def mathruler() -> Callable[[Case], float]:
    from mathruler.grader import extract_boxed_content, grade_answer

    return lambda case: float(grade_answer(extract_boxed_content(case["completion"]), case["answer"]))


PEERS = {"math-verify": math_verify, "trl": trl, "mathruler": mathruler}


def measure() -> None:
    """Ask every installed grader, and write the file."""
    file = DATA / "peer_verdicts.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    cases = [json.loads(line) for line in (DATA / "graded_answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, load in PEERS.items():
        try:
            grade = load()
        except ImportError:
            continue
        verdicts = {case["id"]: _ask(grade, case) for case in cases if case["grader"] in GRADED}
        record[name] = {
            "version": metadata.version(name),
            "right": sorted(id for id, score in verdicts.items() if score),
        }
    file.write_text(json.dumps(record) + "\n")


def _ask(grade: Callable[[Case], float], case: Case) -> float:
    try:
        return grade(case)
    except Exception as error:
        # A trainer would stop here; for the comparison the answer counts as not accepted.
        print(f"{case['id']}: {type(error).__name__}: {error}")
        return 0.0


if __name__ == "__main__":
    measure()
