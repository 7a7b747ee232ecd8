"""The shape of the repository: names of files, sizes of folders, what a folder says about itself."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

from doc_pages import ROOT

SOURCES = sorted([*(ROOT / "packages").glob("*/src/*"), *(ROOT / "apps").glob("*/src/*")])
MODULES = [
    (package.name, path) for package in SOURCES for path in sorted(package.rglob("*.py")) if path.name != "__init__.py"
]
FAMILIES = Path("packages/covt-model/src/covt_model/families")
MOST_FILES_IN_A_FOLDER = 12
# Each family's folder has the same files.
NAMED_ALONE = [(name, path) for name, path in MODULES if path.parent.parent != ROOT / FAMILIES]


def test_no_two_modules_of_one_package_share_a_name():
    counts = Counter((package, path.name) for package, path in NAMED_ALONE)
    assert [key for key, count in counts.items() if count > 1] == []


def test_no_three_modules_of_the_repository_share_a_name():
    places: defaultdict[str, list[str]] = defaultdict(list)
    for _, path in NAMED_ALONE:
        places[path.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 2} == {}


def test_no_folder_is_crowded():
    counts = Counter(str(path.parent.relative_to(ROOT)) for _, path in MODULES)
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES_IN_A_FOLDER} == {}


def test_only_the_folder_of_families_names_a_model_family():
    named = [
        str(path.relative_to(ROOT))
        for _, path in MODULES
        if not path.is_relative_to(ROOT / FAMILIES)
        and re.search("qwen", path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert named == []


def test_every_folder_of_modules_says_what_it_is_for():
    silent = []
    for folder in sorted({path.parent for _, path in MODULES}):
        init = folder / "__init__.py"
        if not init.is_file() or not ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))):
            silent.append(str(folder.relative_to(ROOT)))
    assert silent == []


def test_no_two_test_files_have_the_same_name():
    """pytest imports them by their base names."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name: count for name, count in names.items() if count > 1} == {}
