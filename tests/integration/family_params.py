"""Tests for every model family: `every_family` on a test, or on a module whose tests all use the tiny checkpoint.

What runs for other families than the default one is slow: each has a server of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from covt_model.families import DEFAULT_FAMILY, checkpoint_family, known_families

every_family = pytest.mark.parametrize(
    "tiny_checkpoint",
    [name if name == DEFAULT_FAMILY else pytest.param(name, marks=pytest.mark.slow) for name in known_families()],
    indirect=True,
    scope="session",
)


def stored_name(checkpoint: Path, name: str) -> str:
    """The name in the checkpoint's files of a tensor that the package calls `name`."""
    return checkpoint_family(checkpoint).stored_name(name)
