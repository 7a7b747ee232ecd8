"""The documentation: every `covt` command is one that the program takes and links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from doc_pages import BLOCK, EXECUTED, PAGES, ROOT, SYNOPSIS, inline_commands, snippets

from covt.main import app

COVT = re.compile(r"(uv run |\S*/)?covt \S")
# Short templates such as "{name} is {value}" would match anything.
LEAST_LITERAL = 10


def commands(page: Path) -> list[str]:
    """The command lines of `covt` on a page, in blocks and in the running text."""
    lines = [line for snippet in snippets(page) if snippet.language in ("sh", "console") for line in snippet.commands]
    blocks = [re.sub(r"^(uv run |\S*/(?=covt ))", "", line) for line in lines if COVT.match(line)]
    return [line for line in blocks if not SYNOPSIS.search(line)] + inline_commands(page)


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


def synopses() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for snippet in snippets(page):
            if snippet.language not in EXECUTED:
                yield from ((page, line) for line in snippet.body.splitlines() if COVT.match(line))


@pytest.mark.parametrize(("page", "line"), list(synopses()))
def test_a_block_that_is_not_executed_holds_a_synopsis_with_real_options(page: Path, line: str):
    assert SYNOPSIS.search(line), f"{page.name}: mark the block of `{line}` as sh"
    words = line.split()
    command = typer.main.get_command(app)
    for word in words[1:]:
        if (inner := getattr(command, "commands", {}).get(word)) is not None:
            command = inner
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[a-z-]+", line)) <= known


def test_every_block_names_a_language_that_is_known_and_tests_that_exist():
    for page in PAGES:
        for snippet in snippets(page):
            assert snippet.language in {"", "text", "json", "yaml", "toml", *EXECUTED}, snippet.place
            assert all((ROOT / test).is_file() for test in snippet.tests), snippet.place
            assert snippet.tests or not snippet.elsewhere.startswith("tests/"), snippet.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", BLOCK.sub("", page.read_text())):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_in_the_documentation_is_well_formed(page: Path):
    for snippet in snippets(page):
        if snippet.language == "python":
            compile(snippet.body, snippet.place, "exec")
        if snippet.language == "json":
            json.loads(snippet.body)
        if snippet.language == "toml":
            tomllib.loads(snippet.body)


def test_the_server_started_by_hand_has_the_flags_of_covt_serve(tiny_settings: Path):
    from covt_rollout.vllm_plugin import environment, flags

    (snippet,) = [one for one in snippets(ROOT / "docs" / "rollout.md") if "vllm.entrypoints" in one.body]
    export, server = snippet.commands
    assert dict(word.split("=") for word in export.split()[1:]) == environment()
    words = shlex.split(server)
    assert words[words.index("--worker-cls") :] == flags(tiny_settings)


@pytest.fixture
def tiny_settings(tmp_path: Path) -> Path:
    """A folder with latent settings only."""
    from covt_model.latent_config import LatentConfig

    (tmp_path / "config.json").write_text("{}")
    LatentConfig(start_id=1, pad_id=2, end_id=3).write(tmp_path)
    return tmp_path


@cache
def messages() -> tuple[re.Pattern[str], ...]:
    """Every text of the sources as a pattern; what an f-string fills in is anything."""
    found: list[re.Pattern[str]] = []
    for path in [*(ROOT / "packages").rglob("src/**/*.py"), *(ROOT / "apps").rglob("src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            literal = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            texts = [text for text in literal if isinstance(text, str)]
            if sum(map(len, texts)) >= LEAST_LITERAL:
                found.append(re.compile("".join(re.escape(t) if isinstance(t, str) else ".+?" for t in literal)))
    return tuple(found)


FAQ = re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", FAQ)
def test_the_errors_of_the_faq_are_those_of_the_program(text: str):
    assert any(pattern.fullmatch(text) for pattern in messages()), f"no message of the sources reads `{text}`"
