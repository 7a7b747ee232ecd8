"""The public names of the training packages resolve, and importing a package alone imports nothing heavy."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["covt_runtime", "covt_sft"])
def test_every_public_name_resolves(package: str):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = module.absent


@pytest.mark.parametrize("package", ["covt_runtime", "covt_sft"])
def test_importing_a_package_imports_nothing_heavy(package: str):
    code = f"import sys, {package}; print([m for m in ('torch', 'deepspeed', 'pydantic', 'numpy') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
