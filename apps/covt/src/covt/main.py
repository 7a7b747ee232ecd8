"""The `covt` command. Each sub-command parses, loads its configuration and calls one function of a package."""

import sys
from typing import Annotated

import typer

from covt.commands import data, doctor, evaluate, export, quickstart, report, rl, serve, sft
from covt.errors import EXIT_INTERRUPTED, exit_with

app = typer.Typer(
    name="covt",
    help="Train, serve and judge latent visual reasoning models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.command("sft")(sft.sft)
app.command("rl")(rl.rl)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("eval")(evaluate.evaluate)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("quickstart")(quickstart.quickstart)

DEBUG_FLAG = "--debug"


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(DEBUG_FLAG, help="Show the traceback of every error.")] = False,
) -> None:
    """Train, serve and judge latent visual reasoning models."""


def main() -> None:
    """Entry point: one clear line and an exit code for errors a user can act on."""
    arguments = sys.argv[1:]
    debug = DEBUG_FLAG in arguments
    if debug:  # accepted anywhere on the line
        arguments = [DEBUG_FLAG, *(argument for argument in arguments if argument != DEBUG_FLAG)]
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Abort:
        code = EXIT_INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # usage errors of the parser itself
        if show is not None:
            show()
            sys.exit(getattr(error, "exit_code", 2))
        exit_with(error, debug=debug)
    if code == EXIT_INTERRUPTED:
        exit_with(KeyboardInterrupt(), debug=False)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
