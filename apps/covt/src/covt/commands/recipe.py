"""`covt recipe`: lists the shipped recipes, and prints one with each field explained."""

from typing import Annotated

import typer

from covt.error_lines import UsageError
from covt.output import emit
from covt.recipe_files import explained_recipe, nearest, read_recipe, recipe_names, validate

app = typer.Typer(help="List recipes, and show one with each field explained.", no_args_is_help=True)

JOBS = ("sft", "rl")


@app.command("list")
def list_recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print the names as JSON.")] = False,
) -> None:
    """Names of the shipped recipes."""
    names = [f"{job}-{name}" for job in JOBS for name in recipe_names(job)]
    emit({"recipes": names}, as_json=as_json, text="\n".join(names))


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name, as in sft-tiny or rl-vsp.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON.")] = False,
) -> None:
    """One recipe, each key below its explanation."""
    job, _, recipe = name.partition("-")
    if job not in JOBS or recipe not in recipe_names(job):
        known = [f"{job}-{name}" for job in JOBS for name in recipe_names(job)]
        raise UsageError(f"unknown recipe {name!r}{nearest(name, known)}", "covt recipe list prints the names")
    if job == "sft":
        from covt_sft.sft_recipe import SftConfig as Config
    else:
        from covt_rl.rl_recipe import RlConfig as Config
    tables, origin = read_recipe(job, recipe)
    validate(Config, tables, origin)
    emit(tables, as_json=as_json, text="\n".join(explained_recipe(Config, tables)))
