"""What a model card takes from the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

from covt.card_facts import evaluations, last_metrics


def result(model: str, mode: str, value: float) -> dict:
    accuracy = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"model": model, "data": "trace", "mode": mode, "accuracy": accuracy}


def test_a_card_shows_the_runs_own_model_and_not_what_it_was_compared_with(tmp_path: Path):
    run = tmp_path / "runs" / "a"
    (run / "eval").mkdir(parents=True)
    models = {"a-export": str(run / "export"), "b-export": str(tmp_path / "runs" / "b" / "export")}
    results = [result("a-export", "keep", 0.8), result("a-export", "zeros", 0.2), result("b-export", "keep", 0.5)]
    (run / "eval" / "summary.json").write_text(json.dumps({"settings": {"models": models}, "results": results}))
    accuracy, ablation = evaluations(run)
    assert accuracy["trace"][0] == 0.8
    assert {name: value[0] for name, value in ablation.items()} == {"trace, keep": 0.8, "trace, zeros": 0.2}


def test_a_metrics_last_value_counts(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "ce": 2.0, "secret": 1}\n{"step": 2, "ce": 1.5}\n{"step": 2, "eval/accuracy": 0.25}\n')
    assert last_metrics(path) == {"ce": "1.5", "eval/accuracy": "0.25"}
