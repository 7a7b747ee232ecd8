"""A preparation killed at any moment goes on to the same bytes; two processes give the same as one."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
from layouts import picture, read_rejections, write_files, write_virl

from covt_data.data_errors import DataFileError
from covt_data.ingest.prepare import prepare
from covt_data.ingest.work_folder import WorkFolder
from covt_data.store import shards
from covt_data.store.prepared_set import PreparedSet

SCRIPT = """
import sys
from covt_data.store import shards
from covt_data.ingest.prepare import prepare
shards.SHARD_ROWS = 20
if __name__ == "__main__":
    prepare("virl39k", sys.argv[1], options={"path": sys.argv[2]}, processes=int(sys.argv[3]))
"""


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = write_virl(tmp_path_factory.mktemp("source") / "virl", 280)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_ROWS", 20)
        prepare("virl39k", out, options={"path": str(source)})
    return out


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_still_gives_the_same_bytes(source, whole, tmp_path, processes):
    script, out = tmp_path / "run.py", tmp_path / "set"
    script.write_text(SCRIPT)
    state, kills, seen = WorkFolder(out).path / "state.json", 0, []
    while not out.exists():
        before = state.read_bytes() if state.is_file() else b""
        command = [sys.executable, str(script), str(out), str(source), str(processes)]
        process = subprocess.Popen(command, start_new_session=True)
        until = time.monotonic() + 60
        # Killed soon after a further shard is complete, so every run gets on, and in the middle of the next one.
        while process.poll() is None and kills < 3 and time.monotonic() < until:
            if state.is_file() and state.read_bytes() != before:
                time.sleep(0.013 * kills)
                process.kill()
                kills += process.wait() == -signal.SIGKILL
        assert process.wait() in (0, -signal.SIGKILL)
        if state.is_file():
            seen.append(json.loads(state.read_bytes())["next_record"])
    assert kills == 3 and seen == sorted(seen) and seen[-1] > 0
    assert tree(out) == tree(whole)
    assert not WorkFolder(out).path.exists()


IDLE = """
import sys, time
from pathlib import Path
from covt_data.ingest.convert import Converter, convert_all
from covt_data.ingest.record_files import Record
from covt_data.sources import load_source
from covt_data.sources.source_types import RecordLocation
if __name__ == "__main__":
    source = load_source("jsonl")
    place = RecordLocation("train", Path("a"), 1)
    records = [(n, Record("a", n, {"question": f"{n}", "answer": "1"}), place) for n in range(100)]
    outcomes = convert_all(Converter(source, source.options(), "train", None), records, 2)
    print(next(outcomes).number, flush=True)
    time.sleep(600)
"""


def test_idle_worker_processes_end_with_their_parent(tmp_path):
    script = tmp_path / "idle.py"
    script.write_text(IDLE)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "0\n"
        time.sleep(0.5)  # the tasks under way are done
        assert len(_session(process.pid)) >= 4, "this, the fork server, two workers"
        process.kill()
    until = time.monotonic() + 20
    while (left := _session(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def _session(leader: int) -> list[int]:
    """Living processes of a session (column 6 of /proc/PID/stat; the command before may hold spaces)."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found


def test_the_set_doesnt_depend_on_the_number_of_processes(source, whole, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, str(script), str(tmp_path / "set"), str(source), "2"], check=True)
    assert tree(tmp_path / "set") == tree(whole)


def interrupted(monkeypatch, out, options, after: int):
    """Run until `after` shards are complete, then fail as if killed while the next one is written."""
    close, calls = shards.ShardWriter.close, []

    def failing(self):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return close(self)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "close", failing)
        with pytest.raises(KeyboardInterrupt):
            prepare("virl39k", out, options=options)


def test_what_was_done_is_not_done_again(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    out, options = tmp_path / "set", {"path": str(source)}
    interrupted(monkeypatch, out, options, 10)
    work = WorkFolder(out)
    stamps = {path: path.stat().st_mtime_ns for path in work.set.rglob("*.parquet")}
    unpacked = {path: path.stat().st_mtime_ns for path in work.images.rglob("*.jpg")}
    assert len(unpacked) == 280
    seen = []
    prepare("virl39k", out, options=options, progress=lambda *call: seen.append(call))
    assert seen[0][1] >= 200, "the records of the complete shards are passed over"
    kept = {out / path.relative_to(work.set): stamp for path, stamp in sorted(stamps.items())[:10]}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tree(out) == tree(whole)


def test_a_converter_that_dies_is_an_error_from_which_it_goes_on(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    out, options = tmp_path / "set", {"path": str(source)}

    def kill_one(*_):
        os.kill(active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(DataFileError, match="a process that converts records died") as caught:
        prepare("virl39k", out, options=options, processes=2, progress=kill_one)
    assert "--processes 1" in caught.value.remedy and not active_children()
    prepare("virl39k", out, options=options, processes=2)
    assert tree(out) == tree(whole)


def test_other_options_or_changed_input_start_over(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    source = write_virl(tmp_path / "virl", 200)
    out = tmp_path / "set"
    interrupted(monkeypatch, out, {"path": str(source)}, 2)
    manifest = prepare("virl39k", out, options={"path": str(source), "categories": "Spatial Reasoning"})
    fresh = prepare("virl39k", tmp_path / "fresh", options={"path": str(source), "categories": "Spatial Reasoning"})
    assert manifest == fresh and tree(out) == tree(tmp_path / "fresh")


def test_the_log_of_rejections_is_cut_to_what_counts(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    out, options = tmp_path / "set", {"path": str(source)}
    interrupted(monkeypatch, out, options, 14)  # all rows are written, the last records are being rejected
    log = WorkFolder(out).log
    log.write_bytes(log.read_bytes() + b'{"half a line')
    prepare("virl39k", out, options=options)
    assert read_rejections(out / "rejected.jsonl") == read_rejections(whole / "rejected.jsonl")
    assert len(read_rejections(out / "rejected.jsonl")) > 5


def test_similar_rows_are_remembered_over_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    folder = tmp_path / "mine"
    write_files(folder, {f"{n}.png": picture((n, n, n)) for n in range(8)})  # plain pictures all look alike
    lines = [{"question": f"<image>{n // 2}", "answer": "1", "images": [f"{n}.png"]} for n in range(8)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"path": str(folder), "duplicates": "similar"}
    close, calls = shards.ShardWriter.close, []

    def failing(self):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return close(self)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "close", failing)
        with pytest.raises(KeyboardInterrupt):
            prepare("jsonl", tmp_path / "set", options=options)
    manifest = prepare("jsonl", tmp_path / "set", options=options)
    assert manifest.filtered == {"duplicates": 4} and manifest.counts["train"].rows == 4


def test_two_processes_dont_write_the_same_set(tmp_path):
    source = write_virl(tmp_path / "virl", 20)
    with WorkFolder(tmp_path / "set").locked(), pytest.raises(DataFileError, match="in use by another process"):
        prepare("virl39k", tmp_path / "set", options={"path": str(source), "max_rejected": 0.5})


def test_what_a_process_left_after_its_set_was_complete_goes(tmp_path):
    source = write_virl(tmp_path / "virl", 20)
    options = {"path": str(source), "max_rejected": 0.5}
    first = prepare("virl39k", tmp_path / "set", options=options)
    (tmp_path / ".set.work").mkdir()
    assert prepare("virl39k", tmp_path / "set", options=options) == first
    assert not (tmp_path / ".set.work").exists()
    assert PreparedSet(tmp_path / "set").manifest == first
