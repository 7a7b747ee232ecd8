"""Errors that a user can cause and correct. Each has a `.remedy`, printed after the message."""

from __future__ import annotations


class DataError(ValueError):
    """An invalid value: an unknown source or option, a row that breaks the schema, or an impossible set."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class DataFileError(OSError):
    """A file or folder that is missing, already exists, is damaged, or cannot be written."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
