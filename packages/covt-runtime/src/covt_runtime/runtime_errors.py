"""Errors a user can act on: what went wrong and, in `remedy`, what to do about it."""

from __future__ import annotations


class RuntimeUserError(ValueError):
    """Base of this package's user errors; `remedy` is one sentence that says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class LaunchError(RuntimeUserError):
    """The worker processes couldn't be started, or one of them crashed."""


class WorkerUserError(RuntimeUserError):
    """A user error raised inside a worker process, raised again in the process that started it.

    `kind` is the class name of the original error.
    """

    def __init__(self, message: str, remedy: str, kind: str = "") -> None:
        super().__init__(message, remedy)
        self.kind = kind


class CheckpointError(RuntimeUserError):
    """A checkpoint is missing, damaged, or doesn't fit the model."""


class RunFolderError(RuntimeUserError):
    """A run folder or an artifact in it is missing or in the way."""


class ConfigError(RuntimeUserError):
    """A setting that can't be used on this machine or with this model."""
