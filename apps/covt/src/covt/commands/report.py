"""`covt report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def report(
    run: Annotated[Path | None, typer.Argument(help="A run folder; default: the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file; default RUN/report.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw a run's curves, comparisons and samples as one self-contained page."""
    from covt_runtime.report import write_report
    from covt_runtime.run import newest

    folder = run or newest(Path("runs"), "run")
    page = write_report(folder, out or folder / "report.html")
    emit({"run": str(folder), "report": str(page)}, as_json=as_json, text=f"report: {page}")
