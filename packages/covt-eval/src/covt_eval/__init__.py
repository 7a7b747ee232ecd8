"""Evaluates models and shows results: evaluation, statistics and the report. Imports no training code and no app."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_eval.eval_errors import EvalError, ReportError
    from covt_eval.evaluation.eval_metrics import compare, summarize
    from covt_eval.evaluation.eval_rows import EvalRow, write_rows
    from covt_eval.evaluation.evaluate import evaluate
    from covt_eval.evaluation.evaluate_models import EvalPlan, evaluate_models
    from covt_eval.evaluation.grade_completions import grade_completion
    from covt_eval.report.page import write_report
    from covt_eval.statistics.intervals import (
        Interval,
        accuracy_interval,
        bootstrap_mean,
        paired_difference,
        wilson_interval,
    )

_HOMES = {
    "eval_errors": ("EvalError", "ReportError"),
    "evaluation.eval_metrics": ("compare", "summarize"),
    "evaluation.eval_rows": ("EvalRow", "write_rows"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.evaluate_models": ("EvalPlan", "evaluate_models"),
    "evaluation.grade_completions": ("grade_completion",),
    "report.page": ("write_report",),
    "statistics.intervals": (
        "Interval",
        "accuracy_interval",
        "bootstrap_mean",
        "paired_difference",
        "wilson_interval",
    ),
}

__all__ = [
    "EvalError",
    "EvalPlan",
    "EvalRow",
    "Interval",
    "ReportError",
    "accuracy_interval",
    "bootstrap_mean",
    "compare",
    "evaluate",
    "evaluate_models",
    "grade_completion",
    "paired_difference",
    "summarize",
    "wilson_interval",
    "write_report",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use; the bare package imports nothing heavy."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
