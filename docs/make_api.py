"""Writes docs/api.md: every public class and function of the packages, from the sources alone.

`python docs/make_api.py [FILE]`; nothing is imported, so that it takes a second and needs no environment.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("covt_data", "covt_model", "covt_rewards", "covt_rl", "covt_runtime", "covt_sft")
HEAD = """# API reference

Made by `python docs/make_api.py` from the docstrings. Shapes, units and errors stand in the docstrings themselves.
"""


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of the public modules of a package."""
    source = ROOT / "packages" / package.replace("_", "-") / "src"
    for path in sorted((source / package).rglob("*.py")):
        parts = list(path.relative_to(source).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts), path


def first_line(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node) or ""
    return " ".join(text.split("\n\n")[0].split())


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    result = f" → {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def entries(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """(signature, first paragraph of the docstring, depth) of what a module offers."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield signature(node), first_line(node), 0
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"class {node.name}({bases})" if bases else f"class {node.name}", first_line(node), 0
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and not part.name.startswith("_"):
                    yield signature(part), first_line(part), 1


def reference() -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for package in PACKAGES:
        lines.append(f"## {package}\n")
        for name, path in modules(package):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found = list(entries(tree))
            if not found:
                continue
            lines.append(f"### `{name}`\n\n{first_line(tree)}\n")
            lines += [
                f"{'  ' * depth}- `{shown}`" + (f"  \n{'  ' * depth}  {text}" if text else "")
                for shown, text, depth in found
            ]
            lines.append("")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "api.md"
    target.write_text(reference(), encoding="utf-8")
