"""One self-contained HTML page about a run, made from the files the run left."""

from covt_runtime.report.errors import ReportError
from covt_runtime.report.page import write_report

__all__ = ["ReportError", "write_report"]
