"""Metrics of a run: always as JSON lines in its folder, and in Weights & Biases unless it is disabled."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from io import BytesIO
from types import TracebackType
from typing import IO, Any, Literal

from covt_runtime import files
from covt_runtime.run_folder import RunFolder
from covt_runtime.runtime_errors import RuntimeUserError

WandbMode = Literal["auto", "offline", "online", "disabled"]


class MetricsError(RuntimeUserError):
    """Weights & Biases can't be reached, or a metric is not a number."""


class MetricsLog:
    """Context manager that writes metrics on rank 0; on other ranks (RANK > 0) it does nothing.

    Args:
        run: the run's folder.
        wandb: mode of Weights & Biases; `auto` is online when WANDB_API_KEY is set and offline otherwise.
        project: Weights & Biases project.
    """

    def __init__(self, run: RunFolder, wandb: WandbMode | str = "auto", project: str = "covt") -> None:
        self._run_folder = run
        self._active = os.environ.get("RANK", "0") == "0"
        self._mode = ("online" if os.environ.get("WANDB_API_KEY") else "offline") if wandb == "auto" else wandb
        self._project = project
        self._file: IO[str] | None = None
        self._wandb: Any = None

    def __enter__(self) -> MetricsLog:
        if not self._active:
            return self
        with files.disk_errors(self._run_folder.metrics_path):
            self._run_folder.path.mkdir(parents=True, exist_ok=True)
            self._file = self._run_folder.metrics_path.open("a", encoding="utf-8")
        if self._mode != "disabled":
            self._wandb = self._start_wandb()
        return self

    def _start_wandb(self) -> Any:
        import wandb

        try:
            return wandb.init(
                project=self._project,
                name=self._run_folder.path.name,
                dir=str(self._run_folder.path),
                config=self._run_folder.config,
                mode="online" if self._mode == "online" else "offline",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise MetricsError(
                f"Weights & Biases can't be started: {error}", "check WANDB_API_KEY, or set log.wandb=offline"
            ) from error

    def log(self, step: int, phase: str, metrics: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Write one line: {"step", "time" (seconds since 1970), "phase", and the metrics}.

        Args:
            step: optimizer step, counted from 1.
            phase: name of the stage or phase.
            metrics: numbers or one-element tensors by name. NaN and infinity become null, because JSON has neither.
            more: further metrics.

        Raises:
            MetricsError: a metric is not a number.
        """
        if self._file is None:
            return
        values = {name: _number(name, value) for name, value in {**(metrics or {}), **more}.items()}
        line = {"step": step, "time": round(time.time(), 3), "phase": phase}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        with files.disk_errors(self._run_folder.metrics_path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._wandb is not None:
            self._wandb.log({f"{phase}/{name}": value for name, value in values.items()}, step=step)

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, the checkpoint that a run resumes from."""
        if self._file is None:
            return
        path = self._run_folder.metrics_path
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        self._file.close()
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Show rows as a table in Weights & Biases, with PNG or JPEG bytes as images; without it, do nothing."""
        if self._wandb is None or not rows:
            return
        import wandb

        columns: list[Any] = list(rows[0])
        data: list[Any] = [[_picture(row[column]) for column in columns] for row in rows]
        self._wandb.log({name: wandb.Table(columns=columns, data=data)})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)
            self._wandb = None


def _number(name: str, value: Any) -> float:
    try:
        return value.item() if hasattr(value, "item") else value + 0
    except (TypeError, RuntimeError, ValueError) as error:
        raise MetricsError(f"metric {name} is not a number: {value!r}", "log one number per name") from error


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that was cut short by a kill."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _picture(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    import wandb
    from PIL import Image

    return wandb.Image(Image.open(BytesIO(value)))
