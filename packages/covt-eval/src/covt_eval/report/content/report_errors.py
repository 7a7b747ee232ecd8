"""Errors of the report that a user can act on."""

from covt_runtime.runtime_errors import RuntimeUserError


class ReportError(RuntimeUserError):
    """A folder is no run folder, or holds nothing a report could show."""
