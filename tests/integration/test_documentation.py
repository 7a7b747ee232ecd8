"""The documentation's commands and snippets do what they say, in small; `doc_pages` has the rules."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest
from doc_pages import EXECUTED, PAGES, ROOT, Snippet, inline_commands, snippets
from doc_runner import DocRunner, make_downloads

from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet
from covt_rollout.server.server_process import free_port

EXECUTABLE = {
    page: [s for s in snippets(page) if (s.language in EXECUTED or s.file) and not s.elsewhere] for page in PAGES
}
WITH_SNIPPETS = [page for page, found in EXECUTABLE.items() if found]
SIZES = {"n_train": 64, "n_prompts": 32, "n_test": 16}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages take for granted: downloads, `data/trace` and `data/comt`."""
    folder = tmp_path_factory.mktemp("documented")
    make_downloads(folder)
    with contextlib.chdir(folder):
        prepare("comt", Path("data/comt"), options={"path": "downloads/comt"})
        prepare("trace", Path("data/trace"), options=SIZES)  # the newest, which bare commands take
    return folder


def test_every_quick_command_and_snippet_works(
    downloaded: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In this process: data commands, `--dry-run`, snippets without a model."""
    ran = 0
    for page in WITH_SNIPPETS:
        folder = tmp_path / page.parent.name / page.stem
        shutil.copytree(downloaded, folder)
        run = folder / "runs" / "sft-1"
        shutil.copytree(tiny_checkpoint, run / "hf")
        (run / "config.json").write_text('{"stage1": {}}')
        monkeypatch.chdir(folder)
        runner = DocRunner(folder, quick=True)
        for snippet in EXECUTABLE[page]:
            runner.run(snippet)
        ran += runner.ran
    assert ran > 25


def trainings() -> list[tuple[Path, str]]:
    """The trainings in the running text, those of a placeholder such as NAME left out."""
    pattern = re.compile(r"covt (sft|rl)\b(?!.*\b[A-Z]{4,})")
    found = {(page, line) for page in PAGES for line in inline_commands(page) if pattern.match(line)}
    return sorted(found)


def test_every_training_in_the_running_text_has_a_plan(
    downloaded: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With --dry-run, where the data sets of the recipes lie."""
    folder = tmp_path / "work"
    shutil.copytree(downloaded, folder)
    shutil.copytree(tiny_checkpoint, folder / "runs" / "sft-1" / "hf")
    shutil.copytree(tiny_checkpoint, folder / "models" / "smollm2")
    (folder / "runs" / "sft-1" / "config.json").write_text('{"stage1": {}}')
    monkeypatch.chdir(folder)
    for source, location in {"virl39k": "downloads/ViRL39K", "vsp": None}.items():
        options = {"path": location} if location else {"n_train": 64, "n_prompts": 32, "n_test": 8}
        prepare(source, Path("data") / source, options=options)
    found = trainings()
    assert len(found) > 5
    runner = DocRunner(folder, quick=True)
    for page, line in found:
        runner.command(line, Snippet(page, 0, "sh", "", needs=frozenset({"gpu"})))
    assert runner.ran == len(found)


@pytest.fixture(scope="module")
def trained(downloaded: Path) -> Path:
    """That folder after the bare commands: a supervised run, an RL run, its export, and a quickstart's files."""
    runner = DocRunner(downloaded, quick=False)
    page = Snippet(ROOT / "README.md", 0, "sh", "")
    for line in ("covt sft run.name=sft-1", "covt rl run.name=rl-1", "covt export runs/rl-1"):
        runner.command(line, page)
    quickstart = downloaded / "covt-quickstart" / "trace-0"
    shutil.copytree(downloaded / "runs" / "rl-1" / "export", quickstart / "exported")
    (quickstart / "samples").mkdir()
    (row,) = PreparedSet(downloaded / "data" / "trace").rows("test", 1)
    (quickstart / "samples" / "00.png").write_bytes(row.images[0].bytes)
    return downloaded


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=name)
def test_every_command_and_snippet_of_a_page_works_in_order(page: Path, trained: Path, tmp_path: Path):
    folder = tmp_path / "work"
    shutil.copytree(trained, folder)
    runner = DocRunner(folder, quick=False, port=free_port("127.0.0.1"))
    try:
        for snippet in EXECUTABLE[page]:
            if "lm_eval" in snippet.needs and not shutil.which("lm_eval"):
                continue
            runner.run(snippet)
    finally:
        runner.close()
    assert runner.ran
