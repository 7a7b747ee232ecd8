"""Errors that a user can act on: what went wrong and, in `remedy`, what to do about it."""

from __future__ import annotations


class RuntimeUserError(ValueError):
    """Base of this package's user errors. `remedy` says in one sentence what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class LaunchError(RuntimeUserError):
    """A worker process couldn't be started, or crashed."""


class WorkerUserError(RuntimeUserError):
    """A user error of a worker process, raised again in the process that started it.

    `kind` is the class name of the original error.
    """

    def __init__(self, message: str, remedy: str, kind: str = "") -> None:
        super().__init__(message, remedy)
        self.kind = kind


class CheckpointError(RuntimeUserError):
    """A checkpoint is missing or damaged, or is of another model."""


class RunFolderError(RuntimeUserError):
    """A run folder or an artifact in it is missing, or exists already."""


class ConfigError(RuntimeUserError):
    """A setting that can't be used on this machine or with this model."""
