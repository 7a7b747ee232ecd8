"""The fields of both recipes are described, and every recipe key that an error names exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from covt_rl.rl_recipe import RlConfig
from covt_sft.sft_recipe import SftConfig

ROOT = Path(__file__).parents[3]
SOURCES = [
    *(ROOT / "packages/covt-sft/src").rglob("*.py"),
    *(ROOT / "packages/covt-rl/src").rglob("*.py"),
    *(ROOT / "packages/covt-runtime/src").rglob("*.py"),
    *(ROOT / "apps/covt/src").rglob("*.py"),
]
RECIPES = (SftConfig, RlConfig)
SECTIONS = {name for recipe in RECIPES for name in recipe.model_fields}
KEY = re.compile(rf"(?<![\w./`])({'|'.join(sorted(SECTIONS))})\.([a-z]\w*)(?:=([^\s,;)`]+))?")


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a field's type, such as those of `tuple[MixSection, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections_of(part)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for section in sections_of(field.annotation):
            yield from fields(section, f"{prefix}{name}.")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        pytest.param(name, field, id=f"{job}-{name}")
        for job, recipe in (("sft", SftConfig), ("rl", RlConfig))
        for name, field in fields(recipe)
    ],
)
def test_every_setting_is_described_in_a_whole_sentence(name: str, field: Any) -> None:
    text = (field.description or "").strip()
    assert text.endswith((".", ")")), name
    # `Of the entropy bonus.` would need the setting's name to be understood.
    assert not text.startswith("Of "), name


def texts_of_errors() -> Iterator[tuple[str, str]]:
    """Where it stands, and each text given to an error, a help option or a part of the memory estimate."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called.endswith("Error") or called in ("MemoryPart", "problem", "TrainingSettings"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.relative_to(ROOT)}:{part.lineno}", part.value


def recipe_keys() -> list[tuple[str, str, str, str | None]]:
    return [
        (where, section, key, value or None)
        for where, text in texts_of_errors()
        for section, key, value in KEY.findall(text)
        if not text.startswith((".", "/"))
    ]


def test_errors_do_name_recipe_keys():
    assert len(recipe_keys()) > 30


@pytest.mark.parametrize(
    ("section", "key", "value"), [pytest.param(*found, id=where) for where, *found in recipe_keys()]
)
def test_a_recipe_key_in_an_error_exists_and_takes_the_value_that_is_advised(section: str, key: str, value: str | None):
    known = [
        model.model_fields[key]
        for recipe in RECIPES
        if section in recipe.model_fields
        for model in sections_of(recipe.model_fields[section].annotation)
        if key in model.model_fields
    ]
    assert known, f"no recipe has {section}.{key}"
    if value is not None and value.isidentifier() | value.replace(".", "").isdigit() and not value.isupper():
        TypeAdapter(known[0].annotation).validate_python(value)
