"""Errors for users: a wrong name, setting, row or gold answer. Never raised for what a model wrote."""

from __future__ import annotations


class RewardError(ValueError):
    """A mistake that the caller can correct.

    Args:
        message: what is wrong, where, and with which value.
        remedy: what to do about it, in one sentence.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class GoldError(RewardError):
    """A gold answer that its grader cannot read. The data is at fault, so it is raised and not scored as zero."""
