"""Errors a user of the report can act on."""


class ReportError(ValueError):
    """The report can't be made; `remedy` says what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
