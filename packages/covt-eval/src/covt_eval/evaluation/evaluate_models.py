"""Evaluating checkpoints through a server: what `covt eval` does.

Answers are written in chunks of rows. The same command with the same `--out` continues after the last whole chunk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.mode_names import check_mode_names

if TYPE_CHECKING:
    from covt_data.schema import Row
    from covt_eval.evaluation.eval_rows import EvalRow
    from covt_rollout.client.blocking_client import BlockingClient
    from covt_runtime.metrics.progress import Progress

CHUNK_ROWS = 256
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """What to evaluate.

    Attributes:
        models, data: folders by name.
        modes: latent modes.
        split: which split of the sets.
        rows: the most rows of a split; None is all.
        min_pixels, max_pixels: limits of the training's recipe; the checkpoint's own limits and prompt apply as well.
        samples: answers per row.
        temperature: 0 is greedy.
        max_tokens: longest answer in tokens.
        concurrency: requests in flight.
        seed: of sampling, noise and shuffling.
        force_start: every answer begins with the start marker.
    """

    models: dict[str, Path]
    data: dict[str, Path]
    modes: tuple[str, ...] = ("keep",)
    split: str = "test"
    rows: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 64
    concurrency: int = 64
    seed: int = 0
    force_start: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that two runs must share for one to continue the other."""
        values = asdict(self)
        values["models"] = {name: str(path.resolve()) for name, path in self.models.items()}
        values["data"] = {name: str(path.resolve()) for name, path in self.data.items()}
        del values["concurrency"]
        return json.loads(json.dumps(values))


def name_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by a short name for tables and files; `NAME=FOLDER` gives the name.

    Raises:
        EvalError: two folders would have the same name.
    """
    found: dict[str, Path] = {}
    for given in folders:
        name, _, path = str(given).partition("=")
        folder = Path(path or name)
        if not path:
            own = folder.resolve()
            generic = own.name in ("hf", "export", "exported", "model")
            name = f"{own.parent.name}-{own.name}" if generic else own.name
        if name in found:
            raise EvalError(f"{found[name]} and {folder} are both called {name!r}", "name one: NAME=FOLDER")
        found[name] = folder
    return found


def evaluate_models(plan: EvalPlan, out: Path, *, progress: Progress, base_url: str = "") -> dict[str, Any]:
    """Evaluate every model on every set and write `out/<model>.<data>.<mode>.jsonl` and `out/summary.json`.

    Starts a server for each model, unless `base_url` names one that serves the only model. What an interrupted run
    with the same settings has left is used. Returns the summary.

    Raises:
        EvalError: a folder is missing, several models with one server, or `out` holds another evaluation.
        DataError: pixel limits that cannot be met.
    """
    from covt_data.images.pixel_limits import TOKEN_SIDE, limits_of
    from covt_data.store.prepared_set import PreparedSet
    from covt_model.families import read_image_settings

    _check(plan, base_url)
    limited = plan.min_pixels is not None or plan.max_pixels is not None
    sides = [read_image_settings(folder).cell for folder in plan.models.values() if limited]
    limits = limits_of(plan.min_pixels, plan.max_pixels, max(sides, default=TOKEN_SIDE))
    sets = {
        name: list(PreparedSet(folder).rows(plan.split, plan.rows, limits=limits)) for name, folder in plan.data.items()
    }
    check_folder(plan, out)
    answers: dict[tuple[str, str, str], list[EvalRow]] = {}
    for model, folder in plan.models.items():
        found = {name: _Answers(plan, out, model, name, rows) for name, rows in sets.items()}
        if any(one.missing() for one in found.values()):
            with _connected(folder, base_url, progress) as client:
                for one in found.values():
                    one.complete(client, folder, progress)
        for name, one in found.items():
            answers |= {(model, name, mode): one.answers(mode) for mode in plan.modes}
    summary = {"schema_version": 1, "settings": plan.settings(), **summarize_all(plan, answers)}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def summarize_all(plan: EvalPlan, answers: dict[tuple[str, str, str], list[EvalRow]]) -> dict[str, Any]:
    """Results by model, set and mode, each ablation's difference to `keep`, each model's to the first."""
    from covt_eval.evaluation.eval_metrics import compare, summarize

    results: list[dict[str, Any]] = []
    first = next(iter(plan.models))
    for (model, data, mode), rows in answers.items():
        entry: dict[str, Any] = {"model": model, "data": data, "mode": mode, **summarize(rows)}
        if mode != "keep" and (kept := answers.get((model, data, "keep"))):
            entry["minus_keep"] = compare(rows, kept)
        if model != first:
            entry["minus_first"] = compare(rows, answers[first, data, mode])
        results.append(entry)
    return {"results": results}


@contextmanager
def _connected(model: Path, base_url: str, progress: Progress) -> Generator[BlockingClient, None, None]:
    from covt_rollout.client.blocking_client import BlockingClient
    from covt_rollout.client.rollout_client import RolloutClient
    from covt_rollout.server.server_process import LatentServer

    with ExitStack() as stack:
        if not base_url:
            with progress.phase("start vLLM", unit="s") as phase:
                server = LatentServer.start(
                    model, on_progress=lambda stage, seconds: phase.update(round(seconds), stage=stage)
                )
            base_url = stack.enter_context(server).url
        client = RolloutClient.for_checkpoint(
            base_url, model, api_key=os.environ.get("COVT_API_KEY"), on_note=progress.note
        )
        yield stack.enter_context(BlockingClient(client))


class _Answers:
    """The answers of one model on one set in every mode, on disk: one file per mode, chunk by chunk."""

    def __init__(self, plan: EvalPlan, out: Path, model: str, data: str, rows: Sequence[Row]) -> None:
        self.plan, self.out, self.rows, self.title = plan, out, rows, f"{model} on {data}"
        self.files = {mode: out / f"{model}.{data}.{mode}.jsonl" for mode in plan.modes}
        self.done = min(self._whole_chunks(file) for file in self.files.values())
        for file in self.files.values():
            self._cut(file)

    def _lines_of(self, chunk: int) -> int:
        return min(chunk * CHUNK_ROWS, len(self.rows)) * self.plan.samples

    def _chunks(self) -> int:
        return -(-len(self.rows) // CHUNK_ROWS)

    def _whole_chunks(self, file: Path) -> int:
        """How many chunks of rows the file holds whole."""
        lines = file.read_bytes().count(b"\n") if file.is_file() else 0
        return max(chunk for chunk in range(self._chunks() + 1) if self._lines_of(chunk) <= lines)

    def _cut(self, file: Path) -> None:
        """Drop what was written after the last chunk that every mode has."""
        if file.is_file():
            lines = file.read_bytes().splitlines(keepends=True)[: self._lines_of(self.done)]
            file.write_bytes(b"".join(lines))

    def missing(self) -> bool:
        return self.done < self._chunks()

    def complete(self, client: BlockingClient, model: Path, progress: Progress) -> None:
        """Answer the missing chunks."""
        from covt_eval.evaluation.eval_rows import to_line
        from covt_eval.evaluation.evaluate import evaluate
        from covt_model.encoding.encode import Encoder

        if not self.missing():
            return
        plan, encoder = self.plan, Encoder(model)
        total = len(self.rows) * plan.samples * len(plan.modes)
        with progress.phase(f"evaluate {self.title}", total=total, unit="answer") as phase:
            for number in range(self.done, self._chunks()):
                before = self._lines_of(number) * len(plan.modes)
                counted = dict.fromkeys(plan.modes, 0)

                def show(mode: str, answered: int, _all: int, before: int = before, counted: Any = counted) -> None:
                    if mode in counted:
                        counted[mode] = answered
                    phase.update(before + sum(counted.values()))

                judged = client.run(
                    evaluate(
                        client.client,
                        encoder,
                        self.rows[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS],
                        plan.modes,  # type: ignore[arg-type]
                        max_tokens=plan.max_tokens,
                        samples=plan.samples,
                        temperature=plan.temperature,
                        concurrency=plan.concurrency,
                        seed=plan.seed + number * CHUNK_ROWS * plan.samples,
                        force_start=plan.force_start,
                        on_progress=show,
                    )
                )
                write_settings(plan, self.out)
                for mode, file in self.files.items():
                    with file.open("a") as opened:
                        opened.writelines(to_line(row) for row in judged[mode])  # type: ignore[index]
                self.done = number + 1

    def answers(self, mode: str) -> list[EvalRow]:
        from covt_eval.evaluation.eval_rows import EvalRow

        return [EvalRow(**json.loads(line)) for line in self.files[mode].read_text().splitlines()]


def _check(plan: EvalPlan, base_url: str) -> None:
    from covt_model.encoding.data_cells import check_cells
    from covt_model.families import read_image_settings

    for folder in plan.models.values():
        if not (folder / "config.json").is_file():
            raise EvalError(f"{folder} is not a model: it has no config.json", "name an exported model, as RUN/hf")
    if base_url and len(plan.models) > 1:
        raise EvalError(f"--base-url serves one model, not {len(plan.models)}", "leave it out, or name one model")
    check_mode_names(plan.modes)
    for folder in plan.models.values():
        check_cells(plan.data.values(), partial(read_image_settings, folder), folder)
    if len(plan.modes) != len(set(plan.modes)):
        raise EvalError(f"--modes names one twice: {','.join(plan.modes)}", "name each once")
    if plan.samples > 1 and plan.temperature == 0:
        raise EvalError(f"{plan.samples} greedy samples are all the same", "set --temperature, for example 0.7")


def check_folder(plan: EvalPlan, out: Path) -> None:
    """Check that `out` is free or holds answers of the same evaluation. Settings without an answer don't count.

    Raises:
        EvalError: for a file, or for answers of another evaluation.
    """
    if out.exists() and not out.is_dir():
        raise EvalError(f"{out} is a file", "choose another --out")
    path = out / SETTINGS
    answered = any(file.stat().st_size for file in out.glob("*.jsonl")) if path.is_file() else False
    if not answered:
        return
    earlier, now = json.loads(path.read_text()), plan.settings()
    changed = sorted(key for key in now if earlier.get(key, False) != now[key])
    if changed:
        raise EvalError(
            f"{out} holds an evaluation with another {', '.join(changed)}", "choose another --out, or remove it"
        )


def write_settings(plan: EvalPlan, out: Path) -> None:
    """Record the settings of the answers in `out`; called when there are answers to write."""
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS).write_text(json.dumps(plan.settings(), indent=1) + "\n")
