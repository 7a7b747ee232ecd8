"""`covt quickstart`: the whole job in small."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def quickstart(
    task: Annotated[str, typer.Option(help="trace (follow arrows) or vsp (FrozenLake path planning).")] = "trace",
    family: Annotated[str, typer.Option(help="Model family of the tiny models; by default the first.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for everything; default covt-quickstart/TASK-SEED.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of data, weights and sampling.")] = 0,
    vsp_maps: Annotated[Path | None, typer.Option(help="Folder of the published VSP maps, to test on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """The whole job in small, on a CPU, in minutes.

    Trains tiny models with and without latents, improves one with GRPO on rollouts from a vLLM server, exports it,
    evaluates all of them and writes a report. After an interruption, the same command continues after the last
    finished phase.
    """
    from covt.quickstart.tasks import find_task

    chosen = find_task(task, vsp_maps, family)
    folder = out or Path("covt-quickstart") / "-".join([task, *([family] if family else []), str(seed)])

    from covt.quickstart.run import Quickstart
    from covt.quickstart.state import State
    from covt.quickstart.summary import table
    from covt_runtime.metrics.progress import Progress

    settings = {"task": task, "seed": seed, "data": chosen.data_options, "recipes": [chosen.sft, chosen.rl]}
    if family:
        settings["family"] = family
    state = State(folder, settings)
    with Progress() as progress:
        progress.note(f"quickstart {task}, seed {seed} → {folder}: about {chosen.minutes:.0f} minutes on two CPU cores")
        summary = Quickstart(chosen, folder, seed, state, progress).run()
    text = (
        f"{table(summary)}\n"
        f"report: {folder / 'report.html'}\nmodel:  {folder / 'exported'}\n"
        f"serve:  covt serve {folder / 'exported'}"
    )
    emit(summary, as_json=as_json, text=text)
