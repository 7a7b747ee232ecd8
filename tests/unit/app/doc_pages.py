"""The documentation's pages, and the fenced blocks in them that tests execute.

Blocks marked `sh`, `console` and `python` are executed; others are output, synopses and files. A comment just above a
block says what is different about it:

    <!-- needs: hub -->            data come from a stand-in in the published layout
    <!-- needs: gpu -->            `covt sft` and `covt rl` get --dry-run; so they do under `cluster`
    <!-- needs: lm_eval -->        executed where that command is installed
    <!-- tested by: tests/… -->    that test does what the block says
    <!-- not run: REASON -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/*/README.md")]
)
BLOCK = re.compile(r"(?:^<!-- ([a-z ]+): (.*?) -->\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXECUTED = ("sh", "console", "python")
NEEDS = {"hub", "gpu", "cluster", "lm_eval"}
INLINE = re.compile(r"`(?:uv run )?(covt [^`\n]+)`")
# What marks a synopsis or an output line instead of a command: brackets, alternatives, dots that stand for anything.
SYNOPSIS = re.compile(r"[\[\]|…<>]|\.\.\.|→")
FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Snippet:
    """A fenced block. needs: of NEEDS. elsewhere: the test that covers it, or why it isn't run; empty when it is."""

    page: Path
    line: int
    language: str
    body: str
    needs: frozenset[str] = frozenset()
    elsewhere: str = ""
    tests: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The name in a first line like `# jobs.py`: such a block is a file, which later blocks use."""
        match = FILE.match(self.body)
        return match[1] if match else ""

    @property
    def commands(self) -> list[str]:
        """The command lines of a `sh` or `console` block, continued lines joined, comments left out."""
        text = self.body
        if self.language == "console":
            text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
        return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        key, value, language, body = match.groups()
        line = text.count("\n", 0, match.start(4))
        needs = frozenset(value.split(", ")) if key == "needs" else frozenset()
        tests = tuple(re.findall(r"tests/\S+?\.py", value)) if key == "tested by" else ()
        elsewhere = value if key in ("tested by", "not run") else ""
        assert key in (None, "needs", "tested by", "not run"), f"{page.name}:{line}: unknown marker {key!r}"
        assert needs <= NEEDS, f"{page.name}:{line}: unknown need in {value!r}"
        yield Snippet(page, line, language, body, needs, elsewhere, tests)


def inline_commands(page: Path) -> list[str]:
    """The `covt` commands in the running text; synopses are left out, names such as `covt eval MODEL DATA` stay."""
    return [
        line for line in INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))) if not SYNOPSIS.search(line)
    ]
