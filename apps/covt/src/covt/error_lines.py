"""Usage and configuration errors of the command line, and how any error becomes one line and an exit code."""

import errno
import sys
from typing import NoReturn

EXIT_RUNTIME = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class UsageError(ValueError):
    """A command, key or value that can't be used; `remedy` says what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def describe(error: BaseException) -> tuple[str, int] | None:
    """One line and an exit code for an error a user can act on; None for a defect, which deserves its traceback."""
    if isinstance(error, KeyboardInterrupt):
        again = "`covt quickstart` and `covt data prepare` go on with the same command, a training with --resume"
        return f"interrupted → {again}", EXIT_INTERRUPTED
    remedy = getattr(error, "remedy", None)
    if remedy is not None:
        code = EXIT_USAGE if isinstance(error, ValueError) else EXIT_RUNTIME
        return f"{error} → {remedy}", code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where} → free some space, or choose another folder with --out", EXIT_RUNTIME
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename} → choose another folder, or change its owner", EXIT_RUNTIME
    return None


def exit_with(error: BaseException, *, debug: bool) -> NoReturn:
    """Print what the user can act on and leave; re-raise defects, and everything under `--debug`."""
    described = describe(error)
    if debug or described is None:
        raise error
    line, code = described
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)
