"""The package's public names: all of them can be imported, and the bare package loads nothing heavy."""

import subprocess
import sys

import pytest

import covt_rl


@pytest.mark.parametrize("name", covt_rl.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(covt_rl, name).__name__ == name
    assert name in dir(covt_rl)


def test_the_names_of_a_recipe_and_of_a_run_are_public():
    assert {"RlConfig", "RlError", "plan", "train"} <= set(covt_rl.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        covt_rl.nothing  # noqa: B018


@pytest.mark.parametrize("statement", ["import covt_rl", "from covt_rl import RlError"])
def test_importing_the_package_loads_nothing_heavy(statement: str):
    heavy = {"torch", "vllm", "aiohttp", "numpy", "transformers", "pydantic"}
    code = f"import sys; {statement}; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
