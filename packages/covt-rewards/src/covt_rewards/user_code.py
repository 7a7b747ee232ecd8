"""Load a function or class that a user names as `path/to/file.py:function`, with errors that say what to change."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

from covt_rewards.reward_errors import RewardError


def is_file_reference(name: str) -> bool:
    """Whether a name refers to a file (`./mine.py:function`) and not to a registered name."""
    return ".py:" in name or name.endswith(".py")


def load_from_file(reference: str) -> Callable[..., Any]:
    """Run the file and return what it defines under the name after the colon.

    Args:
        reference: `path/to/file.py:function`; a relative path starts at the working directory.

    Raises:
        RewardError: when the file is missing, cannot be imported, or does not define a callable of that name.
    """
    file, colon, attribute = reference.rpartition(":")
    if not colon or not attribute:
        raise RewardError(f"{reference!r} names no function", "give ./file.py:function")
    path = Path(file)
    if not path.is_file():
        raise RewardError(f"there is no file {file}", "give ./file.py:function with an existing file")
    module = _run_file(path, file)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, [name for name in vars(module) if name[0] != "_"], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RewardError(f"{file} has no {attribute!r}", f"{hint}name a function or class that the file defines")
    return check_callable(getattr(module, attribute), reference)


def _run_file(path: Path, shown: str) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    spec = util.spec_from_file_location(f"covt_rewards_user_{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = util.module_from_spec(spec)
    # Dataclasses and pickle look a class's module up by name.
    sys.modules[module.__name__] = module
    try:
        with report_import_errors(shown, "correct the file"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


@contextmanager
def report_import_errors(what: str, remedy: str) -> Generator[None]:
    """Turn whatever foreign code raises at import into a `RewardError` about `what`."""
    try:
        yield
    except Exception as error:
        raise RewardError(f"{what} cannot be imported: {type(error).__name__}: {error}", remedy) from error


def check_callable(found: object, name: str) -> Callable[..., Any]:
    """Return `found`, or raise `RewardError` when it cannot be called."""
    if not callable(found):
        raise RewardError(f"{name!r} is {type(found).__name__}, which cannot be called", "name a function or a class")
    return found
