"""What a quickstart has finished, so that the same command continues after an interruption."""

import json
from pathlib import Path
from typing import Any

from covt.error_lines import UsageError

STATE = "quickstart.json"


class State:
    """`OUT/quickstart.json`: the settings it was started with, and each finished phase's result and seconds."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        """Open or begin a quickstart.

        Raises:
            UsageError: the folder holds a quickstart with other settings, or something else.
        """
        self.path = out / STATE
        self.done: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["settings"] != settings:
                differing = sorted(key for key in settings if stored["settings"].get(key) != settings[key])
                raise UsageError(
                    f"{out} holds a quickstart with another {', '.join(differing)}",
                    "choose another folder with --out, or delete this one",
                )
            self.done = stored["done"]
        elif out.is_dir() and any(out.iterdir()):
            raise UsageError(f"{out} is not empty and holds no quickstart", "choose another folder with --out")
        self.settings = settings
        out.mkdir(parents=True, exist_ok=True)
        self._write()

    def finish(self, phase: str, result: dict[str, Any], seconds: float) -> None:
        """Record a phase; what it wrote must be complete."""
        self.done[phase] = {"result": result, "seconds": round(seconds, 2)}
        self._write()

    def result(self, phase: str) -> dict[str, Any]:
        """What a finished phase returned."""
        return self.done[phase]["result"]

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"settings": self.settings, "done": self.done}, indent=2), encoding="utf-8")
        partial.replace(self.path)
