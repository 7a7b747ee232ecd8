"""Recipes, overrides and their errors."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from covt.error_lines import UsageError
from covt.main import app
from covt.recipe_files import apply_overrides, load, parse_override, parse_steps, read_recipe, recipe_names
from covt_rl.rl_recipe import RlConfig
from covt_sft.sft_recipe import SftConfig


@pytest.mark.parametrize("name", recipe_names("sft"))
def test_every_sft_recipe_is_valid(name):
    load(SftConfig, "sft", [name])


@pytest.mark.parametrize("name", recipe_names("rl"))
def test_every_rl_recipe_is_valid(name):
    load(RlConfig, "rl", [name])


def test_command_line_wins_over_recipe_and_recipe_over_default():
    recipe = load(SftConfig, "sft", [])
    assert recipe.optim.betas == (0.9, 0.98) != SftConfig().optim.betas
    assert load(SftConfig, "sft", ["optim.betas=[0.8, 0.9]"]).optim.betas == (0.8, 0.9)


def test_a_recipe_may_be_a_path(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[stage1]\nsteps = 7\n")
    assert load(SftConfig, "sft", [str(recipe)]).stage1.steps == 7


@pytest.mark.parametrize(
    ("text", "value"), [("a.b=1", 1), ("a.b=1e-3", 1e-3), ("a.b=true", True), ("a.b=x,y", "x,y"), ("a.b='1'", "1")]
)
def test_override_values_are_toml_or_text(text, value):
    assert parse_override(text) == (["a", "b"], value)


def test_overrides_leave_the_recipe_alone():
    tables = {"a": {"b": 1}}
    assert apply_overrides(tables, ["a.b=2", "c.d=3"]) == {"a": {"b": 2}, "c": {"d": 3}}
    assert tables == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["optim.cilp=0.5"], r"unknown key 'optim.cilp' \(did you mean 'clip'\?\)", "known here: lr"),
        (["optim.clip=-1"], "optim.clip = -1", "correct optim.clip"),
        (["tinny"], r"unknown sft recipe 'tinny' \(did you mean 'tiny'\?\)", "a path to a .toml file"),
        (["missing.toml"], "recipe file 'missing.toml' does not exist", "check the path"),
        (["tiny", "nonsense"], "'nonsense' is not an override", "section.key=value"),
        (["stage1.steps=3", "stage1.epochs=1"], "stage1", "correct stage1"),
    ],
)
def test_a_fault_names_key_value_and_remedy(arguments, message, remedy):
    with pytest.raises(UsageError, match=message) as caught:
        load(SftConfig, "sft", arguments)
    assert remedy in caught.value.remedy


def test_broken_toml_names_the_file_and_line(tmp_path: Path):
    recipe = tmp_path / "broken.toml"
    recipe.write_text("[stage1\n")
    with pytest.raises(UsageError, match=r"broken\.toml is not valid TOML.*line 1"):
        read_recipe("sft", str(recipe))


ALL_RECIPES = [f"{job}-{name}" for job in ("sft", "rl") for name in recipe_names(job)]


def test_recipe_list_names_every_shipped_recipe():
    assert CliRunner().invoke(app, ["recipe", "list"]).stdout.split() == ALL_RECIPES


@pytest.mark.parametrize("name", ALL_RECIPES)
def test_recipe_show_explains_every_key(name):
    result = CliRunner().invoke(app, ["recipe", "show", name])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    keys = [number for number, line in enumerate(lines) if not line.startswith("#")]
    assert keys
    assert [lines[number] for number in keys if not lines[number - 1].startswith("# ")] == []


def test_recipe_show_refuses_an_unknown_name():
    result = CliRunner().invoke(app, ["recipe", "show", "sft-tinny"])
    assert isinstance(result.exception, UsageError)
    assert "did you mean 'sft-tiny'?" in str(result.exception)


def test_profiled_steps_are_numbers_from_one():
    assert parse_steps("2,5") == (2, 5)
    with pytest.raises(UsageError, match="'0' is not a list of steps"):
        parse_steps("0")
