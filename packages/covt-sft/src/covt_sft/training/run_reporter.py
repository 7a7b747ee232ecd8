"""What a training tells the outside: metrics in the run's folder, progress and notes to the process that started it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from covt_runtime.launch.distributed import Worker
from covt_runtime.metrics.metric_log import MetricsLog
from covt_runtime.metrics.progress import advance_event, note_event, phase_event
from covt_runtime.recipe_schema import LogSection
from covt_runtime.run_folder import RunFolder
from covt_sft.batches.sample_source import SampleSource


class RunReporter:
    """Context manager around the reports of rank 0. On other ranks every method does nothing."""

    def __init__(self, folder: RunFolder, section: LogSection, worker: Worker) -> None:
        self._worker = worker
        self._metrics = MetricsLog(folder, section.wandb, section.project)
        self._named_rows: set[int] = set()
        self._accuracy: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._metrics.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Show a line of text."""
        self._worker.emit(note_event(text))

    def begin_phase(self, name: str, steps: int | None = None) -> None:
        """Show that a phase begins; the phase before it ends. `steps` is None where its length is unknown."""
        self._worker.emit(phase_event(name, steps))

    def report_progress(self, done: int, loss: float) -> None:
        """Show how many steps of the phase are done, with the loss and the newest accuracy."""
        self._worker.emit(advance_event(done, {"loss": loss} | self._accuracy))

    def log_metrics(self, step: int, phase: str, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics."""
        self._metrics.log(step, phase, metrics)
        if "eval/accuracy" in metrics:
            self._accuracy = {"accuracy": metrics["eval/accuracy"]}

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps after the checkpoint that a resumed run continues from."""
        self._metrics.forget_after(step)

    def name_skipped_rows(self, source: SampleSource, indices: list[int]) -> None:
        """Name each row that is left out, once, with the reason."""
        if not self._worker.is_main:
            return
        for index in indices:
            if index not in self._named_rows:
                self._named_rows.add(index)
                self.note(f"row {source.rows[index].id} is left out: {source.problem(index)}")
