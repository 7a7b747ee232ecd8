"""Shared fixtures: where third-party data lies, and the `unit` mark for everything under tests/unit."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# On a busy machine two threads a process are up to ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Wall-clock deadlines would fail on a loaded machine, and a fixed seed keeps CI repeatable.
settings.register_profile("covt", deadline=None, derandomize=True)
settings.load_profile("covt")

TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """`-m unit` runs in two processes; the other tests start processes of their own. A worker starts no workers."""
    is_worker = hasattr(config, "workerinput")
    if config.option.markexpr == "unit" and config.option.numprocesses is None and not is_worker:
        config.option.numprocesses = min(2, os.cpu_count() or 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m unit` doesn't import the other tests."""
    is_other = TESTS / "unit" not in (collection_path, *collection_path.parents) and collection_path != TESTS
    return True if config.option.markexpr == "unit" and is_other else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (TESTS / "unit") in item.path.parents:
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data; tests that use it also carry `@pytest.mark.shared_data`."""
    folder = Path(os.environ.get("COVT_SHARED_DATA", TESTS.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"third-party data is not at {folder}; set COVT_SHARED_DATA")
    return folder
