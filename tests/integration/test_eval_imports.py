"""What covt_eval and the commands that need no training import, and what the package exports."""

import subprocess
import sys

import pytest

import covt_eval

TRAINING = ("deepspeed", "covt_rl", "covt_sft")
IMPORT_ALL = """
import importlib, pkgutil, sys, covt_eval
for module in pkgutil.walk_packages(covt_eval.__path__, "covt_eval."):
    importlib.import_module(module.name)
"""
IMPORT_COMMANDS = "import sys, covt.commands.evaluate, covt.commands.serve, covt.commands.report"


def modules_after(code: str) -> set[str]:
    """Top-level packages that are loaded once `code` has run in a fresh interpreter."""
    listing = "\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + listing], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_evaluation_and_report_import_no_training_code_and_no_app() -> None:
    assert modules_after(IMPORT_ALL).isdisjoint({*TRAINING, "covt"})


def test_the_commands_import_no_training_code() -> None:
    assert modules_after(IMPORT_COMMANDS).isdisjoint(TRAINING)


def test_the_bare_package_is_cheap() -> None:
    assert modules_after("import sys, covt_eval").isdisjoint({"torch", "numpy", "transformers", "covt_rollout"})


@pytest.mark.parametrize("name", covt_eval.__all__)
def test_public_names_are_importable(name: str) -> None:
    assert getattr(covt_eval, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = covt_eval.evaluat  # pyright: ignore[reportAttributeAccessIssue]
