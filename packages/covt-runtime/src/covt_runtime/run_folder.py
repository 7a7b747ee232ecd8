"""Run folders, and the newest artifact of an earlier stage.

runs/<name>/config.json      the resolved configuration
            metrics.jsonl    one JSON object per line
            checkpoints/     see covt_runtime.checkpoints.checkpoint
            hf/              the exported model
            eval/ logs/
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from covt_runtime import files
from covt_runtime.process_environment import launched_from_outside
from covt_runtime.runtime_errors import RunFolderError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
Kind = Literal["run", "checkpoint", "hf", "data"]

# Globs that find an artifact below a root, by kind.
PATTERNS: dict[Kind, tuple[str, ...]] = {
    "run": (f"*/{METRICS}", METRICS),
    "checkpoint": ("*/checkpoints/step_*/manifest.json", "checkpoints/step_*/manifest.json"),
    "hf": ("*/hf/config.json", "hf/config.json"),
    "data": ("*/manifest.json", "manifest.json"),
}
MAKERS: dict[Kind, tuple[str, str]] = {
    "run": ("training run", "covt sft"),
    "checkpoint": ("checkpoint", "covt sft"),
    "hf": ("exported model", "covt sft"),
    "data": ("prepared data set", "covt data prepare"),
}


class RunFolder:
    """The folder of one run. Making the object leaves the disk alone; `create` makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls, root: Path, name: str, config: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> RunFolder:
        """Make `root/name` and write its config.json.

        Args:
            root: folder of all runs.
            name: name of this run.
            config: the resolved recipe.
            resume: continue an existing run, which needs a checkpoint.
            overwrite: delete an existing run first.

        Raises:
            RunFolderError: the run exists and is neither resumed nor overwritten, or there is nothing to resume.
        """
        run = cls(Path(root) / name)
        exists = (run.path / CONFIG).exists()
        if resume and not exists:
            raise RunFolderError(f"there is no run {run.path} to resume", "check run.name, or start without --resume")
        if resume and not any(run.path.glob("*/step_*")):
            raise RunFolderError(f"{run.path} has no checkpoint to resume from", "start it again without --resume")
        if exists and not (resume or overwrite):
            raise RunFolderError(
                f"the run {run.path} exists already", "continue it with --resume, or choose another run.name"
            )
        if run.path.exists() and not run.path.is_dir():
            raise RunFolderError(f"{run.path} is a file", "choose another run.name or run.out")
        with files.disk_errors(run.path):
            if exists and overwrite:
                shutil.rmtree(run.path)
            run.path.mkdir(parents=True, exist_ok=True)
            files.write_json(run.path / CONFIG, config)
        return run

    @property
    def config(self) -> dict[str, Any]:
        path = self.path / CONFIG
        if not path.is_file():
            raise RunFolderError(f"{self.path} is not a run: it has no {CONFIG}", "give a folder like runs/NAME")
        return json.loads(path.read_text())

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def hf(self) -> Path:
        return self.path / "hf"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


def run_name(given: str, job: str) -> str:
    """`given`, or `<job>-<date>-<time>`.

    Raises:
        RunFolderError: no name is given and another launcher started the ranks, whose times would differ.
    """
    if not given and launched_from_outside():
        raise RunFolderError("ranks that another launcher started can't agree on a run name", "set run.name")
    return given or f"{job}-{time.strftime('%Y%m%d-%H%M%S')}"


def find_newest(root: Path, kind: Kind, section: str | None = None) -> Path:
    """The newest artifact in `root` or in one of its folders.

    Args:
        root: folder to search.
        kind: `run`, `checkpoint`, `hf` (an exported model) or `data` (a prepared set).
        section: consider only runs whose config.json has this section (`stage1`: made by `covt sft`; `algorithm`: made
            by `covt rl`).

    Raises:
        RunFolderError: there is none.
    """
    root = Path(root)
    marks = {mark for pattern in PATTERNS[kind] for mark in root.glob(pattern) if not _hidden(mark, root)}
    if section is not None:
        marks = {mark for mark in marks if section in _config_above(mark, root)}
    if not marks:
        what, maker = MAKERS[kind]
        if section == "algorithm":
            maker = "covt rl"
        raise RunFolderError(f"there is no {what} in {root}", f"make one with `{maker}`, or give its path")
    return max(marks, key=lambda mark: mark.stat().st_mtime_ns).parent


def _hidden(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder that is being written, whose name begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _config_above(mark: Path, root: Path) -> dict[str, Any]:
    """The config.json of the run that `mark` belongs to; {} where it belongs to none."""
    folder = mark.parent
    while folder != root.parent:
        if folder.name != "hf" and (folder / CONFIG).is_file():
            return json.loads((folder / CONFIG).read_text())
        folder = folder.parent
    return {}
