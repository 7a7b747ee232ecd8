"""The `covt` command. Each sub-command parses, loads its configuration and calls one function of a package."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from covt.commands import data, doctor, evaluate, export, model, quickstart, recipe, report, rl, serve, sft
from covt.error_lines import EXIT_INTERRUPTED, exit_with

ORDER = ("quickstart", "data", "model", "recipe", "sft", "rl", "serve", "export", "eval", "report", "doctor")


class InOrder(TyperGroup):
    """Lists the commands in the order of the work, groups among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="covt",
    cls=InOrder,
    help="Train, serve and judge latent visual reasoning models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(recipe.app, name="recipe")
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
