"""The documentation: every `covt` command is one that the program takes, links lead somewhere, the API page is made."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from covt.main import app

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/*/README.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:uv run )?covt [^`\n]+)`")
# What marks a synopsis or an output line instead of a command: brackets, alternatives, dots that stand for anything.
SYNOPSIS = re.compile(r"[\[\]|…<>]|\.\.\.|→")


def commands(page: Path) -> list[str]:
    """The command lines of `covt` on a page, in blocks and in the running text."""
    text = page.read_text()
    found = [body for kind, body in BLOCK.findall(text) if kind in ("", "sh", "bash")]
    blocks = [line.strip() for body in found for line in body.splitlines()]
    lines = [line for line in blocks if re.match(r"(uv run |\S*/)?covt \S", line)]
    lines += INLINE.findall(BLOCK.sub("", text))
    stripped = (re.sub(r"^(uv run |\S*/(?=covt ))", "", line).partition("  #")[0].strip(" &\\") for line in lines)
    return [line for line in stripped if not SYNOPSIS.search(line)]


ALL = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page.name}: {line}" for page, line in ALL])
def test_every_documented_command_is_understood(page: Path, line: str):
    """Parsed by the program's own parser, down to the options; `MODEL` and the like stand for any value."""
    command = typer.main.get_command(app)
    arguments = [part.strip("()") for part in shlex.split(line)[1:]]
    context = command.make_context("covt", arguments, resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return  # `covt data` alone: the group is meant
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, f"{page.name}: there is no `{line}`"
        if not rest and any(parameter.required for parameter in command.params):
            return  # `covt eval` in the running text names the command
        context = command.make_context(name, rest, parent=context)


def test_there_are_documented_commands_on_every_page_about_one():
    documented = {line.split()[1] for _, line in ALL}
    assert documented >= {"data", "sft", "rl", "serve", "export", "eval", "report", "doctor", "quickstart"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", BLOCK.sub("", page.read_text())):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_the_documentation_is_python(page: Path):
    for kind, body in BLOCK.findall(page.read_text()):
        if kind == "python":
            compile(body, str(page), "exec")
        if kind == "json":
            json.loads(body)


def test_the_api_reference_has_every_package_and_its_signatures():
    text = runpy.run_path(str(ROOT / "docs" / "make_api.py"))["reference"]()
    assert "- `generate(model: Qwen2_5_VLForConditionalGeneration, prompts: Sequence[EncodedPrompt]," in text
    for package in ("covt_data", "covt_model", "covt_rewards", "covt_rl", "covt_runtime", "covt_sft"):
        assert f"## {package}\n" in text
    assert "Complete B prompts together." in text
    assert (ROOT / "docs" / "api.md").is_file()
