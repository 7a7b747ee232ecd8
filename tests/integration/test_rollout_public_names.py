"""The package's public names: all of them can be imported, and the bare package loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import covt_rollout


@pytest.mark.parametrize("name", covt_rollout.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(covt_rollout, name).__name__ == name
    assert name in dir(covt_rollout)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        covt_rollout.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import covt_rollout", {"torch", "vllm", "aiohttp", "numpy", "transformers"}),
        ("from covt_rollout import RolloutClient, continue_from", {"torch", "vllm", "transformers"}),
        ("from covt_rollout import LatentServer", {"torch", "vllm", "transformers", "aiohttp"}),
    ],
)
def test_imports_stay_light(statement: str, heavy: set[str]) -> None:
    code = f"import sys; {statement}; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
