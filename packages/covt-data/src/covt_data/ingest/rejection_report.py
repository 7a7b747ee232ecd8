"""Decides whether rejections stop a preparation, and reports them all at once: how many, why, and the first ten."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from covt_data.data_errors import DataError
from covt_data.ingest.work_folder import Progress
from covt_data.rejects import Reason
from covt_data.sources.source_types import FileOptions

EXAMPLES = 10
MAX_DETAIL = 240  # characters of one example


@dataclass
class RejectionSummary:
    """The rejections of some files: numbers by reason, and the first ten bad golds and other rejections in words."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    golds: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])

    def add(self, entry: dict[str, object]) -> None:
        """Count one line of `rejected.jsonl`."""
        self.reasons[str(entry["reason"])] += 1
        examples = self.golds if entry["reason"] == Reason.BAD_GOLD else self.others
        if len(examples) < EXAMPLES:
            examples.append(_describe(entry))

    @property
    def lines(self) -> list[str]:
        """The examples, each kind followed by the number of those left out."""
        found: list[str] = []
        golds = self.reasons[Reason.BAD_GOLD]
        for examples, total in ((self.golds, golds), (self.others, self.reasons.total() - golds)):
            more = total - len(examples)
            found += [*examples, *([f"and {more} more"] if more else [])]
        return found

    @property
    def listing(self) -> str:
        """The examples in one line."""
        return "; ".join(self.lines)


def summarize_rejections(
    log: Path, files: Collection[str] | None = None, reason: Reason | None = None
) -> RejectionSummary:
    """Read `rejected.jsonl`.

    Args:
        log: the file.
        files: names of the record files that count; None counts all.
        reason: the only reason that counts; None counts all.
    """
    found = RejectionSummary()
    with log.open(encoding="ascii") as lines:
        for line in lines:
            entry = cast("dict[str, object]", json.loads(line))
            if (files is None or entry["file"] in files) and (reason is None or entry["reason"] == reason):
                found.add(entry)
    return found


def _describe(entry: dict[str, object]) -> str:
    """Return file, line, id, reason and detail of one rejection in one line."""
    named = f" (id {entry['id']!r})" if entry.get("id") is not None else ""
    detail = " ".join(str(entry["detail"]).split())
    if len(detail) > MAX_DETAIL:
        detail = f"{detail[:MAX_DETAIL]}…"
    return f"{entry['file']}:{entry['line']}{named} {entry['reason']}: {detail}"


def check_rejections(
    source: str, progress: Progress, options: FileOptions, files: dict[str, list[str]], log: Path
) -> None:
    """Check a preparation whose records are all converted.

    Args:
        source: the name of the source, for remedies.
        progress: the counts.
        options: with `on_bad_gold` and `max_rejected`.
        files: names of the record files of each split.
        log: `rejected.jsonl`.

    Raises:
        DataError: when gold answers cannot be read and `on_bad_gold` is `error`, when a split has too many rejected
            records, or when a split has no rows.
    """
    if options.on_bad_gold == "error" and progress.rejected.get(Reason.BAD_GOLD):
        bad = summarize_rejections(log, reason=Reason.BAD_GOLD)
        count = bad.reasons.total()
        raise DataError(
            f"{count} gold answer{'' if count == 1 else 's'} cannot be read; all are in {log}. {bad.listing}",
            "correct them, name their grader, or leave these rows out with on_bad_gold=reject",
        )
    for split, names in files.items():
        records = progress.records.get(split, 0)
        refused = progress.rejected_of.get(split, 0)
        rows = progress.counts[split].rows if split in progress.counts else 0
        if not records:
            raise DataError(
                f"{', '.join(names)} of {split} {'has' if len(names) == 1 else 'have'} no records",
                "check the file: it is empty",
            )
        if refused <= options.max_rejected * records and rows:
            continue
        found = summarize_rejections(log, names)
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.most_common(3))
        if refused > options.max_rejected * records:
            raise DataError(
                f"{refused} of {records} records of {split} were rejected ({reasons}); all are in {log}. "
                f"{found.listing}",
                _remedy(source, found, records)
                or f"correct the source, or allow more than {options.max_rejected:.0%} with max_rejected",
            )
        left_out = ", ".join(
            f"{name} {count}" for name, count in (found.reasons + Counter(progress.filtered)).most_common(3)
        )
        raise DataError(
            f"no record of {split} is left of {records}"
            + (f" ({left_out})" if left_out else "")
            + (f". {found.listing}" if found.lines else ""),
            _remedy(source, found, records) or "correct the records, loosen the filters, or check the path",
        )


def _remedy(source: str, found: RejectionSummary, records: int) -> str:
    """Return what to do when no record has the fields of a published dataset; empty in other cases."""
    if source == "jsonl" or found.reasons[Reason.MISSING_FIELD] + found.reasons[Reason.EMPTY_QUESTION] < records:
        return ""
    return f"check that these are records of {source}; `covt data prepare jsonl` reads records with other fields"
