"""Recipes: find a TOML file by name or path, apply `a.b=c` overrides, and validate.

Order of precedence: defaults of the configuration class < recipe file < command line.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

from covt.error_lines import UsageError

if TYPE_CHECKING:  # `covt --help` needs no pydantic
    from pydantic import BaseModel

Config = TypeVar("Config", bound="BaseModel")


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def recipe_names(job: str) -> list[str]:
    """Names of the package's recipes for a job (`sft`, `rl`), without prefix and suffix."""
    folder = resources.files("covt") / "recipes"
    names = (Path(entry.name).stem for entry in folder.iterdir() if entry.name.startswith(f"{job}-"))
    return sorted(name.removeprefix(f"{job}-") for name in names)


def recipe_help(job: str) -> str:
    """What `covt JOB --help` says about its arguments."""
    return (
        f"A recipe ({', '.join(recipe_names(job))}; default tiny) or a TOML file, then keys to change: optim.lr=1e-4."
    )


def read_recipe(job: str, recipe: str) -> tuple[dict[str, Any], str]:
    """The recipe's tables and where they came from. `recipe` is a package recipe's name or a path to a TOML file.

    Raises:
        UsageError: no such recipe, or it isn't valid TOML.
    """
    if recipe.endswith(".toml") or "/" in recipe:
        path = Path(recipe)
        if not path.is_file():
            raise UsageError(f"recipe file {recipe!r} does not exist", "check the path, or give the name of a recipe")
        text, origin = path.read_text(encoding="utf-8"), str(path)
    else:
        names = recipe_names(job)
        if recipe not in names:
            raise UsageError(
                f"unknown {job} recipe {recipe!r}{nearest(recipe, names)}",
                f"use one of {', '.join(names)}, or a path to a .toml file",
            )
        text = (resources.files("covt") / "recipes" / f"{job}-{recipe}.toml").read_text(encoding="utf-8")
        origin = f"recipe {recipe}"
    try:
        return tomllib.loads(text), origin
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin} is not valid TOML: {error}", "correct that line") from error


def parse_override(text: str) -> tuple[list[str], Any]:
    """`optim.clip=0.5` → (["optim", "clip"], 0.5). Values are TOML; anything else is taken as a string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"{text!r} is not an override", "write section.key=value, as in optim.clip=0.5")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return key.strip().split("."), parsed


def apply_overrides(tables: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `tables` with each `a.b=c` set."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in tables.items()}
    for text in overrides:
        path, value = parse_override(text)
        table = merged
        for part in path[:-1]:
            inner = table.get(part, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{'.'.join(path)}: {part!r} is a value, not a section", "leave out what follows it")
            table[part] = dict(inner)
            table = table[part]
        table[path[-1]] = value
    return merged


def _model_in(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
    return None


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names of the section that `location` (a pydantic error location) points into."""
    current: type[BaseModel] | None = model
    for part in location[:-1]:
        field = current.model_fields.get(str(part)) if current else None
        current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def validate(model: type[Config], tables: dict[str, Any], origin: str) -> Config:
    """Tables → configuration; the first fault becomes a `UsageError` naming the key, its value and the remedy."""
    from pydantic import ValidationError

    try:
        return model.model_validate(tables)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, fault["loc"])
            last = str(fault["loc"][-1])
            raise UsageError(
                f"{origin}: unknown key {key!r}{nearest(last, known)}", f"known here: {', '.join(known)}"
            ) from error
        raise UsageError(f"{origin}: {key} = {fault['input']!r}: {fault['msg']}", f"correct {key}") from error


def split_arguments(arguments: Sequence[str], default: str) -> tuple[str, list[str]]:
    """`[RECIPE] [a.b=c …]` → (recipe, overrides)."""
    rest = list(arguments)
    recipe = rest.pop(0) if rest and "=" not in rest[0] else default
    return recipe, rest


def load(model: type[Config], job: str, arguments: Sequence[str], *, default: str = "tiny") -> Config:
    """Configuration of a job from its command-line arguments `[RECIPE] [a.b=c …]`."""
    recipe, overrides = split_arguments(arguments, default)
    tables, origin = read_recipe(job, recipe)
    return validate(model, apply_overrides(tables, overrides), origin)


def parse_steps(text: str) -> tuple[int, ...]:
    """`2,3` → (2, 3): numbers of optimizer steps, counted from 1."""
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1:
        raise UsageError(f"--profile-steps {text!r} is not a list of steps", "write step numbers from 1, as in 2,3")
    return steps


def explained_recipe(model: type[BaseModel], tables: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key = value`, each below its field's description.

    Args:
        model: the configuration class, whose fields carry the descriptions.
        tables: the recipe's tables, as read from TOML.
        prefix: dotted name of the section that `tables` is.
    """
    lines: list[str] = []
    for key, value in tables.items():
        field = model.model_fields.get(key)
        inner = _model_in(field.annotation) if field else None
        if isinstance(value, dict) and inner is not None:
            lines += explained_recipe(inner, value, f"{prefix}{key}.")
            continue
        description = " ".join((field.description or "").split()) if field else ""
        lines += [*([f"# {description}"] if description else []), f"{prefix}{key} = {json.dumps(value)}"]
    return lines
