"""The additions of docs/extending.md are made as the page shows them, and work.

What is a change of a file of ours is made in a copy of the packages, which a child process imports.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from doc_pages import ROOT, snippets
from server_tools import RunningServer

from covt_rollout import endpoints
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient

PAGE = ROOT / "docs" / "extending.md"
BLOCKS = {
    first.removeprefix("# ") if first.startswith("# ") else first: body
    for body in (snippet.body for snippet in snippets(PAGE))
    for first in [body.splitlines()[0]]
}


def block(start: str) -> str:
    """The page's block whose first line begins so, without that line where it is a comment."""
    (found,) = [body for first, body in BLOCKS.items() if first.startswith(start)]
    return found.partition("\n")[2] if found.startswith("# ") else found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages' sources and the app's."""
    for source in [*ROOT.glob("packages/*/src"), ROOT / "apps" / "covt" / "src"]:
        shutil.copytree(source, tmp_path / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def run(code: str, folder: Path, sources: Path | None = None) -> str:
    """The output of a child that runs `code` in `folder`."""
    env = os.environ | ({"PYTHONPATH": str(sources)} if sources else {})
    line = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def insert(path: Path, before: str, text: str) -> None:
    """Insert `text` before the only line that begins with `before`, as far indented as that line."""
    lines = path.read_text().splitlines(keepends=True)
    (at,) = [number for number, line in enumerate(lines) if line.startswith(before)]
    indent = " " * (len(before) - len(before.lstrip()))
    path.write_text("".join([*lines[:at], textwrap.indent(text, indent), *lines[at:]]))


def test_a_reward(tmp_path: Path) -> None:
    (tmp_path / "brevity.py").write_text(block("brevity.py"))
    code = """
from covt_rewards import Group, Rollout, parse_rewards, score_groups
group = Group("1", (Rollout("abc"), Rollout("a")))
print(score_groups([group], parse_rewards("./brevity.py:brevity=2")).groups[0].totals)
"""
    assert run(code, tmp_path) == "(0.5, 1.0)\n"


def test_a_data_source(copy: Path, tmp_path: Path) -> None:
    (copy / "covt_data" / "sources" / "counting.py").write_text(block("covt_data/sources/counting.py"))
    insert(copy / "covt_data/sources/__init__.py", '    "jsonl"', '"counting": "covt_data.sources.counting",\n')
    code = """
import sys
from covt.main import main
sys.argv = ["covt", "data", "prepare", "counting", "n_train=4", "--json"]
main()
"""
    assert '"train"' in run(code, tmp_path, copy)
    assert (tmp_path / "data" / "counting" / "manifest.json").is_file()


def test_an_advantage(tmp_path: Path) -> None:
    (tmp_path / "centered.py").write_text(block("centered.py"))
    code = """
import torch
from covt_rl.algorithms.advantage_registry import load_advantage
from covt_rl.rl_recipe import AlgorithmSection
name = AlgorithmSection(advantage="./centered.py:centered").advantage
print(load_advantage(name)(torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), torch.tensor([5, 5])).tolist())
"""
    assert run(code, tmp_path) == "[-1.0, 1.0]\n"


def test_a_policy_loss(tmp_path: Path) -> None:
    code = """
import torch
from covt_rl.algorithms.losses import Clip
from covt_rl.rl_recipe import AlgorithmSection
section = AlgorithmSection(loss="reinforce")
one = torch.tensor([[2.0]])
print(section.averaging, LOSSES[section.loss].surrogate(one, one, 3 * one, one, Clip(0.2, 0.2)).item())
"""
    assert run(block("from covt_rl.algorithms.losses") + code, tmp_path) == "token_mean -12.0\n"


def test_a_head_of_the_feedback_rule(tmp_path: Path, tiny_checkpoint: Path) -> None:
    code = f"""
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from covt_model.latent_config import LatentConfig
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.latents.feedback import feedback
folder = Path(copytree({str(tiny_checkpoint)!r}, "model"))
latent = LatentConfig(**asdict(LatentConfig.read(folder)) | {{"head": "scale"}})
latent.write(folder)
hidden = load_model({str(tiny_checkpoint)!r}).config.text_config.hidden_size
heads.save_head(folder, {{"scale": torch.full((hidden,), 3.0)}})
rule, state = heads.feedback_rule(load_model(folder), latent), torch.randn(2, hidden)
print(bool(torch.allclose(rule(state), 3 * feedback(state, latent.normalize))))
"""
    assert run(block("import torch") + code, tmp_path) == "True\n"


def test_a_model_family(copy: Path, tmp_path: Path) -> None:
    """A second folder, here a copy under another name, whose tiny model loads through the registry."""
    families = copy / "covt_model" / "families"
    known = sorted(path.parent for path in families.glob("*/record.py"))
    original = known[0]
    shutil.copytree(original, families / "other_vl")
    for path in (families / "other_vl").glob("*.py"):
        path.write_text(path.read_text().replace(f"families.{original.name}", "families.other_vl"))
    record = families / "other_vl" / "record.py"
    record.write_text(record.read_text().replace(f'model_type="{original.name}"', 'model_type="other_vl"'))
    code = """
from covt_model.families import find_family, known_families
print(known_families(), find_family({"model_type": "other_vl"}).model_type)
"""
    assert run(code, tmp_path, copy) == f"{sorted([*(folder.name for folder in known), 'other_vl'])} other_vl\n"


def test_a_latent_mode(copy: Path, tmp_path: Path) -> None:
    insert(copy / "covt_model/latents/latent_modes.py", "    NONE = (", block("a member of LatentMode"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    code = """
from typer.testing import CliRunner
from covt.main import app
from covt_model.latents.latent_modes import CONTINUATION_MODES, LatentMode
from covt_rl.rl_recipe import RewardsSection
mode = RewardsSection(ablation="drop_marked").ablation
print(mode.label, mode in CONTINUATION_MODES, mode.wire_mode, mode.edits_ids, mode.dropped_markers)
for modes in ("keep,drop_marked", "keep,no_mode"):
    error = CliRunner().invoke(app, ["eval", "model", "data", "--modes", modes]).exception
    print("no evaluation mode" in str(error), "drop_marked" in getattr(error, "remedy", ""))
"""
    # A known mode is accepted, so the missing data is what is wrong; an unknown one is refused with all known ones.
    assert run(code, tmp_path, copy) == "Span dropped True keep True 2\nFalse False\nTrue True\n"


def test_a_metric(copy: Path, tmp_path: Path) -> None:
    entry = block("an entry of METRICS").strip() + ",\n"
    insert(copy / "covt_runtime/metrics/metric_table.py", '    Metric("clip_ratio*"', entry)
    code = """
from covt_runtime.metrics.metric_table import unit_of
from covt_rl.training.live_view import live_values
print(unit_of("latent/norm"), live_values({"latent/norm": 2.0}, []))
"""
    assert run(code, tmp_path, copy) == "L2 norm {'norm': 2.0}\n"


def test_a_command_line_flag(copy: Path, tmp_path: Path) -> None:
    command = copy / "covt" / "commands" / "doctor.py"
    flag = block("a parameter of doctor").strip()
    command.write_text(command.read_text().replace("def doctor(", f"def doctor({flag}, "))
    code = """
from typer.testing import CliRunner
from covt.main import app
print(CliRunner().invoke(app, ["doctor", "--help"]).output)
"""
    assert "--quiet" in run(code, tmp_path, copy)


def test_a_server_endpoint(latent_server: RunningServer) -> None:
    namespace = dict(vars(endpoints))
    exec(block("a function of endpoints"), namespace)
    with BlockingClient(RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint)) as blocking:
        (version,) = blocking.run(namespace["server_versions"](blocking.client.transport))
    assert version.startswith("0.32")


def test_every_block_of_the_page_is_used() -> None:
    source = Path(__file__).read_text()
    assert len(BLOCKS) == 9
    assert all(any(f'block("{first[:length]}")' in source for length in range(4, len(first) + 1)) for first in BLOCKS)
