"""`covt eval` through a running server: figures, several sets and modes, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from covt_data.ingest.prepare import prepare
from covt_eval.eval_errors import EvalError
from covt_eval.evaluation import evaluate_models as evaluation
from covt_eval.evaluation.evaluate_models import EvalPlan, evaluate_models
from covt_runtime.metrics.progress import Progress

ROWS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "trace"
    prepare("trace", out, options={"n_train": 8, "n_prompts": 8, "n_test": ROWS})
    return out


def run(server: Any, data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"models": {"tiny": server.checkpoint}, "data": {"trace": data}, "max_tokens": 24}
    return evaluate_models(EvalPlan(**(values | changes)), out, progress=Progress(quiet=True), base_url=server.url)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": None} for line in path.read_text().splitlines()]


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_answers(
    latent_server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluation, "CHUNK_ROWS", 4)
    modes = ("keep", "zeros", "drop_latents")
    whole = run(latent_server, data, tmp_path / "a", modes=modes)
    files = [f"tiny.trace.{mode}.jsonl" for mode in modes]
    # As a kill during the second chunk leaves it: one mode whole, one cut in a line, one without any of it.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "settings.json").write_text((tmp_path / "a" / "settings.json").read_text())
    for file, kept in zip(files, (8, 6, 4), strict=True):
        text = (tmp_path / "a" / file).read_text().splitlines(keepends=True)
        (tmp_path / "b" / file).write_text("".join(text[:kept]) + ('{"id": "tra' if kept == 6 else ""))
    resumed = run(latent_server, data, tmp_path / "b", modes=modes)
    for file in files:
        assert lines(tmp_path / "a" / file) == lines(tmp_path / "b" / file)
        assert len(lines(tmp_path / "b" / file)) == ROWS
    for ours, theirs in zip(whole["results"], resumed["results"], strict=True):
        assert ours["accuracy"] == theirs["accuracy"] and ours.get("minus_keep") == theirs.get("minus_keep")
    before = (tmp_path / "b" / files[0]).stat().st_mtime_ns
    latent_server_is_not_asked = run(latent_server, data, tmp_path / "b", modes=modes)
    assert latent_server_is_not_asked["results"] == resumed["results"]
    assert lines(tmp_path / "b" / files[0]) == lines(tmp_path / "a" / files[0]) and before


def test_samples_give_pass_at_k_majority_tokens_and_latencies(latent_server, data: Path, tmp_path: Path):
    summary = run(latent_server, data, tmp_path / "out", samples=4, temperature=1.0, rows=5)
    (result,) = summary["results"]
    assert (result["rows"], result["samples"]) == (5, 4)
    assert list(result["pass_at"]) == ["1", "2", "4"] and "majority" in result
    assert result["pass_at"]["1"]["value"] == pytest.approx(result["accuracy"]["value"])
    assert 0 < result["tokens"]["completion"] <= 24 and result["tokens"]["prompt"] > 16
    assert 0 < result["seconds"]["p50"] <= result["seconds"]["p95"]
    answers = lines(tmp_path / "out" / "tiny.trace.keep.jsonl")
    assert [one["sample"] for one in answers] == [0, 1, 2, 3] * 5
    assert len({tuple(one["token_ids"]) for one in answers}) > 5
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_another_evaluation_in_the_same_folder_is_refused(latent_server, data: Path, tmp_path: Path):
    run(latent_server, data, tmp_path / "out", rows=2)
    with pytest.raises(EvalError, match="another rows, seed"):
        run(latent_server, data, tmp_path / "out", rows=3, seed=1)
