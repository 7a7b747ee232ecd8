"""One self-contained HTML page about a run, made from the files the run left."""

from covt_eval.eval_errors import ReportError
from covt_eval.report.page import write_report

__all__ = ["ReportError", "write_report"]
