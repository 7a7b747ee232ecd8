"""`covt report`: runs and evaluations as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Folders of runs, quickstarts or evaluations; default: the newest run."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file; default report.html in the first folder.")] = None,
    latents: Annotated[
        Path | None,
        typer.Option(help="A model: draw what its latents say, or which patches they resemble. Needs --data."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The prepared set whose test rows are shown, for --latents.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw runs and evaluations as one HTML page.

    Curves, comparisons and samples; several folders are put side by side. The page needs no network and can be read on
    a phone.
    """
    from covt.error_lines import UsageError
    from covt_eval.report import write_report
    from covt_runtime.run_folder import find_newest

    folders = runs or [find_newest(Path("runs"), "run")]
    if (latents is None) != (data is None):
        raise UsageError("--latents and --data go together", "name a model's folder and a prepared set")
    if latents is not None and data is not None:
        from covt_eval.interpretation.latent_meaning import write_latents

        write_latents(folders[0], latents, data)
    page = write_report(folders, out or folders[0] / "report.html")
    emit({"runs": [str(folder) for folder in folders], "report": str(page)}, as_json=as_json, text=f"report: {page}")
