"""The command as a person types it: help, exit codes, one line an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from covt.error_lines import UsageError, describe


def covt(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from covt.main import main; main()", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_none_of_the_heavy_libraries(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['covt', '--help']\n"
        "from covt.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'vllm', 'deepspeed', 'datasets', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("data", "sft", "rl", "serve", "export", "eval", "report", "doctor", "quickstart"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sft", "optim.cilp=1"), 2, ("optim.cilp", "did you mean 'clip'")),
        (("sft", "nosuch"), 2, ("unknown sft recipe 'nosuch'", "tiny")),
        (("rl", "--rewards", "acuracy", "model.path=."), 2, ("covt data prepare",)),
        (("data", "prepare", "trase"), 2, ("trase", "trace")),
        (("quickstart", "--task", "trase"), 2, ("unknown task 'trase'", "did you mean 'trace'")),
        (("quickstart", "--vsp-maps", "x"), 2, ("--vsp-maps", "--task vsp")),
        (("report", "nowhere"), 2, ("nowhere",)),
        (("export", "nowhere"), 2, ("nowhere",)),
    ],
)
def test_a_users_error_is_one_line_with_a_remedy(arguments, code, words, tmp_path: Path):
    done = covt(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert " → " in line
    assert all(word in line for word in words), line


def test_debug_shows_the_traceback(tmp_path: Path):
    done = covt("sft", "nosuch", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_data_goes_to_stdout_and_the_rest_to_stderr(tmp_path: Path):
    done = covt("data", "prepare", "trace", "n_train=3", "n_prompts=2", "n_test=2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["train"]["rows"] == 3
    assert "prepare trace" in done.stderr


def test_a_full_disk_and_a_missing_permission_are_explained():
    assert describe(OSError(28, "No space left on device", "/x"))[0].startswith("the disk is full at /x → ")
    assert "no permission for /y" in describe(PermissionError(13, "Permission denied", "/y"))[0]


def test_codes_follow_the_kind_of_error():
    assert describe(UsageError("a", "b")) == ("a → b", 2)
    assert describe(KeyboardInterrupt())[1] == 130
    assert describe(RuntimeError("a defect")) is None


def test_ctrl_c_is_one_line_and_130(tmp_path: Path):
    code = (
        "from covt import main as app\n"
        "def stop(): raise KeyboardInterrupt\n"
        "app.app.command('stop')(stop)\n"
        "import sys; sys.argv = ['covt', 'stop']\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip().startswith("error: interrupted")
    assert "Traceback" not in done.stderr
