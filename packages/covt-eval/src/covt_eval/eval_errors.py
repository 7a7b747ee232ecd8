"""Errors of this package that a user can act on; `remedy` says what to do."""


class EvalError(ValueError):
    """An evaluation, a comparison or a setting of one that makes no sense."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ReportError(EvalError):
    """A folder is not a run folder, or holds nothing that a report could show."""
