"""Each package builds a wheel with its data files; covt-rewards installs and runs alone."""

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DATA_FILES = {
    "covt": "covt/recipes/sft-tiny.toml",
    "covt_data": "covt_data/resources/",
    "covt_model": "covt_model/py.typed",
    "covt_rewards": "covt_rewards/py.typed",
    "covt_rl": "covt_rl/py.typed",
    "covt_eval": "covt_eval/report/templates/report.html",
    "covt_rollout": "covt_rollout/py.typed",
    "covt_runtime": "covt_runtime/py.typed",
    "covt_sft": "covt_sft/py.typed",
}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("wheels")
    run("uv", "build", "--all-packages", "--wheel", "--out-dir", out)
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def test_every_package_carries_its_data_files(wheels: dict[str, Path]):
    assert set(wheels) == set(DATA_FILES)
    for name, wanted in DATA_FILES.items():
        assert any(entry.startswith(wanted) for entry in zipfile.ZipFile(wheels[name]).namelist()), name


def interpreter(version: str) -> str:
    """The path of that Python; skips the test where it is not installed."""
    command = ["uv", "python", "find", "--no-python-downloads", "--no-project", version]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    # uv stumbles over the shims of pyenv versions that are installed and not chosen
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    if not installed:
        pytest.skip(f"Python {version} is not installed")
    return str(installed[-1])


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_rewards_run_in_an_environment_of_their_own(wheels: dict[str, Path], tmp_path: Path, version: str):
    run("uv", "venv", "--python", interpreter(version), tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run("uv", "pip", "install", "--python", python, wheels["covt_rewards"])
    listed = run(tmp_path / "env" / "bin" / "covt-rewards", "list")
    assert "necessity" in listed
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": 1, "answer": "x+1", "completions": [r"\boxed{1+x}", r"\boxed{x}"]}) + "\n")
    scored = run(tmp_path / "env" / "bin" / "covt-rewards", "score", rows, "--rewards", "format,accuracy", "--json")
    assert json.loads(scored)["rewards"] == {"format": [1.0, 1.0], "accuracy": [1.0, 0.0]}
    installed = run("uv", "pip", "list", "--python", python)
    names = {line.split()[0] for line in installed.splitlines()[2:]}
    assert names == {
        "covt-rewards",
        "math-verify",
        "latex2sympy2-extended",
        "antlr4-python3-runtime",
        "sympy",
        "mpmath",
    }


def test_the_rewards_wheel_is_typed_and_needs_only_math_verify(wheels: dict[str, Path]):
    with zipfile.ZipFile(wheels["covt_rewards"]) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        lines = wheel.read(metadata).decode().splitlines()
    assert "covt_rewards/py.typed" in names
    assert not [name for name in names if "example" in name or "test" in name]
    required = [line for line in lines if line.startswith("Requires-Dist: ")]
    assert [re.split("[<>=,]", line.partition(": ")[2])[0] for line in required] == ["math-verify"]
    assert "Requires-Python: >=3.11" in lines
