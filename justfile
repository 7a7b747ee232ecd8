# Tasks of a developer; `just` lists them.

default:
    @just --list

# Install everything into .venv.
setup:
    uv sync

# Run the default tests.
test:
    uv run pytest

# Run the quick tests.
unit:
    uv run pytest -m unit

# Lint, format check, types, import contracts and dead code.
lint:
    uv run ruff check
    uv run ruff format --check
    uv run pyright
    uv run lint-imports
    uv run vulture

# Build the documentation into site/.
docs:
    uv run mkdocs build --strict

# Run a benchmark: `just bench NAME [ARGUMENTS]`.
bench name *arguments:
    uv run python benchmarks/{{name}}.py {{arguments}}
