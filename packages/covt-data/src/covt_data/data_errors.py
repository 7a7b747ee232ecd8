"""Errors a user can cause and mend. Each carries `.remedy`; the app prints message and remedy in one line."""

from __future__ import annotations


class DataError(ValueError):
    """A wrong value: an unknown source or option, a row that breaks the schema, a set that cannot be generated."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class DataFileError(OSError):
    """A file or folder that is missing, exists already, is damaged, or could not be written."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
