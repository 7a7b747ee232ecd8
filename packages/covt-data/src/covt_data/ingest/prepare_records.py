"""Preparation from files: unpack, convert, drop duplicates, write shards, save the progress."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from covt_data.images.archives import ArchiveLimits, extract_all
from covt_data.images.image_folder import ImageFolder
from covt_data.images.similarity import difference_hash, look_alike, normalized
from covt_data.ingest.convert import Converter, Outcome, convert_all
from covt_data.ingest.filters import CountTokens
from covt_data.ingest.record_files import Record, read_records
from covt_data.ingest.rejection_report import check_rejections
from covt_data.ingest.work_folder import KEY_BYTES, Progress, RejectionLog, WorkFolder
from covt_data.rejects import Reason, Rejection
from covt_data.schema import Row
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource
from covt_data.store.manifest import Manifest, SplitCount
from covt_data.store.prepared_set import read_shard, sha256_of
from covt_data.store.shards import ShardWriter

Report = Callable[[str, int, int], None]
"""Called with (split, records read, records in all or 0)."""

RECORDS_PER_REPORT = 100  # records
CHANGEABLE_OPTIONS = ("max_rejected", "on_bad_gold")  # may differ between an interrupted run and the next


def file_hashes(published: DatasetFiles, root: Path) -> dict[str, str]:
    """Return the SHA-256 of record files and archives by name. A folder of images is hashed by names and sizes."""
    folder = root if root.is_dir() else root.parent
    files = [file for group in published.splits.values() for file in group]
    hashes = {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted({*files, *published.archives})}
    if published.images is not None:
        hashes["pictures"] = _listing_hash(published.images, set(files))
    return hashes


def _listing_hash(folder: Path, without: set[Path]) -> str:
    """Hash of the relative paths and sizes of the regular files, in order. Links and record files are skipped."""
    digest, skipped = hashlib.sha256(), {os.fsencode(path) for path in without}
    root = os.fsencode(folder)
    waiting = [root]
    while waiting:
        parent = waiting.pop()
        with os.scandir(parent) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_file(follow_symlinks=False) and entry.path not in skipped:
                digest.update(b"%b\0%d\0" % (entry.path[len(root) :], entry.stat().st_size))
        waiting += [entry.path for entry in reversed(found) if entry.is_dir(follow_symlinks=False)]
    return digest.hexdigest()


class _Seen:
    """Known ids and contents, as 16-byte keys in memory. The same keys are in the key file."""

    def __init__(self, stored: bytes, duplicates: str) -> None:
        self.duplicates = duplicates
        self.keys = {stored[at : at + KEY_BYTES] for at in range(0, len(stored), KEY_BYTES)}
        self.looks: dict[str, list[tuple[int, ...]]] = {}

    def id_key(self, row: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{row['split']}\0{row['id']}".encode()).digest()[:KEY_BYTES]

    def has_content(self, outcome: Outcome, row: dict[str, Any]) -> bool:
        if self.duplicates == "keep":
            return False
        if outcome.digest in self.keys:
            return True
        return self.duplicates == "similar" and bool(outcome.looks) and self._looks_known(row, outcome.looks)

    def _looks_known(self, row: dict[str, Any], looks: tuple[int, ...]) -> bool:
        """Whether a row with the same words has images that look the same."""
        others = self.looks.setdefault(_words(row["question"], row["answer"]), [])
        if any(len(looks) == len(other) and all(map(look_alike, looks, other)) for other in others):
            return True
        others.append(looks)
        return False

    def remember_looks(self, rows: Iterable[Row]) -> None:
        for row in rows:
            looks = tuple(difference_hash(image.bytes) for image in row.images)
            self.looks.setdefault(_words(row.question, row.answer), []).append(looks)

    def add(self, *keys: bytes) -> bytes:
        self.keys.update(keys)
        return b"".join(keys)


def _words(question: str, answer: str) -> str:
    return f"{normalized(question)}\0{answer}"


class Preparation:
    """One run over the files of a dataset, into a work folder."""

    def __init__(
        self,
        source: RecordSource,
        options: FileOptions,
        published: DatasetFiles,
        work: WorkFolder,
        *,
        count_tokens: CountTokens | None,
        report: Report | None,
        processes: int,
    ) -> None:
        self.source = source
        self.options = options
        self.published = published
        self.work = work
        self.count_tokens = count_tokens
        self.report = report
        self.processes = processes
        parents = [path.parent for files in published.splits.values() for path in files]
        self.root = Path(os.path.commonpath(parents))

    def run(self, manifest: Manifest) -> Manifest:
        """Write the set into the work folder and return its manifest.

        Raises:
            DataError: when too many records are rejected, or none is left, once all are converted.
        """
        progress = self.work.resume(fingerprint(manifest))
        with ExitStack() as stack:
            log = RejectionLog(stack.enter_context(self.work.log.open("ab")))
            keys = stack.enter_context(self.work.keys.open("ab"))
            if self.published.archives and not progress.unpacked:
                progress = self._unpack(progress, log)
            for split in self.published.splits:
                if split not in progress.done_splits:
                    progress = _Split(self, split, progress, log, keys).run()
        check_rejections(self.source.name, progress, self.options, self._file_names(), self.work.log)
        done = {
            "counts": progress.counts,
            "files": progress.files,
            "rejected": dict(sorted(progress.rejected.items())),
            "filtered": dict(sorted(progress.filtered.items())),
            "converted": dict(sorted(progress.converted.items())),
        }
        return manifest.model_copy(update=done)

    def _file_names(self) -> dict[str, list[str]]:
        """Return the names of each split's record files, as rejections have them."""
        splits = self.published.splits.items()
        return {split: [path.relative_to(self.root).as_posix() for path in paths] for split, paths in splits}

    def _unpack(self, progress: Progress, log: RejectionLog) -> Progress:
        limits = ArchiveLimits(max_member=self.options.max_image_bytes)
        rejections = extract_all(list(self.published.archives), self.work.images, limits)
        for rejection in rejections:
            log.add(rejection)
        rejected = dict(Counter(rejection.reason.value for rejection in rejections))
        progress = progress.model_copy(update={"unpacked": True, "rejected": rejected, "log_bytes": log.end()})
        self.work.save(progress)
        return progress

    def images(self) -> ImageFolder | None:
        """Return the folder of the images, or None when they are inside the records."""
        published = self.published
        if published.archives:  # absolute names are those of the folder that the archive lies in
            base = published.archives[0].parent
            return ImageFolder(self.work.images, published.prefixes, published.suffixes, base)
        return ImageFolder(published.images, published.prefixes, published.suffixes) if published.images else None

    def records(self, split: str, start: int) -> Iterator[tuple[int, Record, RecordLocation]]:
        """Numbered records of a split's files from number `start`, at most `limit`."""
        number = 0
        for path in self.published.splits[split]:
            skipped = 0
            if path.suffix == ".parquet":  # rows are counted without reading them
                skipped = min(start - number, pq.read_metadata(path).num_rows) if number < start else 0
            number += skipped
            for record in read_records(path, path.relative_to(self.root).as_posix(), skipped):
                if self.options.limit is not None and number >= self.options.limit:
                    return
                if number >= start:
                    yield number, record, RecordLocation(split, path, record.line)
                number += 1


def fingerprint(manifest: Manifest) -> str:
    """Return a hash that is equal for commands that can resume each other's work."""
    options = {key: value for key, value in manifest.options.items() if key not in CHANGEABLE_OPTIONS}
    parts = [manifest.schema_version, manifest.source, manifest.version, options, manifest.inputs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Split:
    """Converts one split and writes its shards."""

    def __init__(self, job: Preparation, name: str, progress: Progress, log: RejectionLog, keys: IO[bytes]) -> None:
        self.job, self.name, self.log, self.keys = job, name, log, keys
        self.progress = progress
        self.rejected = Counter(progress.rejected)
        self.filtered = Counter(progress.filtered)
        self.converted = Counter(progress.converted)
        self.files = dict(progress.files)
        count = progress.counts.get(name)
        self.categories = Counter(count.categories if count else {})
        self.rows = count.rows if count else 0
        self.refused = progress.rejected_of.get(name, 0)
        self.start = progress.next_record if progress.split == name else 0
        self.seen = _Seen(job.work.keys.read_bytes(), job.options.duplicates)
        if job.options.duplicates == "similar":
            for file in progress.files:
                self.seen.remember_looks(read_shard(job.work.set / file))
        self.writer = ShardWriter(job.work.set / name, sum(file.startswith(f"{name}/") for file in progress.files))

    def run(self) -> Progress:
        job, done = self.job, self.start
        converter = Converter(job.source, job.options, self.name, job.images(), job.count_tokens)
        for outcome in convert_all(converter, job.records(self.name, self.start), job.processes):
            done = outcome.number + 1
            if self._add_outcome(outcome):
                self._save(done)
            if job.report and done % RECORDS_PER_REPORT == 0:
                job.report(self.name, done, 0)
        if job.report:
            job.report(self.name, done, done)
        return self._save(done, finished=True)

    def _add_outcome(self, outcome: Outcome) -> bool:
        """Write the row, or count its rejection or filter. Returns whether the shard is full."""
        row = outcome.row
        if outcome.rejection:
            self._reject(outcome.rejection)
        elif row is None:
            self.filtered[outcome.filtered or ""] += 1
        elif (id_key := self.seen.id_key(row)) in self.seen.keys:
            self._reject(Rejection(outcome.file, outcome.line, Reason.DUPLICATE_ID, "the id occurs before", row["id"]))
        elif self.seen.has_content(outcome, row):
            self.filtered["duplicates"] += 1
        else:
            self.keys.write(self.seen.add(id_key, outcome.digest))
            self.converted.update(outcome.conversions)
            self.categories[row["category"] or ""] += 1
            self.rows += 1
            return self.writer.add(row)
        return False

    def _reject(self, rejection: Rejection) -> None:
        self.log.add(rejection)
        self.rejected[rejection.reason.value] += 1
        self.refused += 1

    def _save(self, done: int, finished: bool = False) -> Progress:
        """Close the shard and save the progress."""
        closed = self.writer.close()
        if closed:
            self.files[f"{self.name}/{closed[0]}"] = closed[1]
        self.keys.flush()
        count = SplitCount(rows=self.rows, categories=dict(sorted(self.categories.items())))
        self.progress = self.progress.model_copy(
            update={
                "split": self.name,
                "next_record": done,
                "done_splits": [*self.progress.done_splits, *([self.name] if finished else [])],
                "counts": self.progress.counts | {self.name: count},
                "files": dict(self.files),
                "records": self.progress.records | {self.name: done},
                "rejected": dict(self.rejected),
                "rejected_of": self.progress.rejected_of | {self.name: self.refused},
                "filtered": dict(self.filtered),
                "converted": dict(self.converted),
                "log_bytes": self.log.end(),
                "key_bytes": self.keys.tell(),
            }
        )
        self.job.work.save(self.progress)
        return self.progress
