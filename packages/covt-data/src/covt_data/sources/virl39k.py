"""Source `virl39k`: TIGER-Lab/ViRL39K, verifiable questions for RL: Parquet (or JSONL) and an archive of images.

Columns: `question`, `answer` (`\\boxed{…}`), `PassRate_32BTrained`, `PassRate_7BBase` (missing, NaN or −1 for about
half), `category`, `source`, `qid`, `image` (a list of relative paths, empty for some, one for most).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from covt_data.records.field_values import Fields, get_id, get_label, get_pass_rate, get_text
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.image_tags import place_image_tags
from covt_data.records.parsed_record import ParsedRecord
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

PASS_RATES = {"32b": "PassRate_32BTrained", "7b": "PassRate_7BBase"}


class VirlOptions(FileOptions):
    """`rated_by` chooses the pass rate that is filtered by; both go into the metadata."""

    rated_by: Literal["32b", "7b"] = "32b"


def find(path: Path, options: VirlOptions) -> DatasetFiles:
    files = find_record_files(path, (".parquet", ".jsonl"), "the Parquet file and images/ or its archive")
    folder = path if path.is_dir() else path.parent
    archives = () if (folder / "images").is_dir() else find_archives(folder)
    return DatasetFiles(group_by_split(files), None if archives else folder, archives, ("", "images"))


def parse(data: Fields, place: RecordLocation, options: VirlOptions) -> ParsedRecord:
    text = get_text(data, "question", Reason.EMPTY_QUESTION)
    question, images = place_image_tags(text, get_image_refs(data.get("image"), "image"))
    written = find_options(question)
    rates = {key: get_pass_rate(data, key) for key in PASS_RATES.values()}
    return ParsedRecord(
        id=get_id(data, "qid", f"virl39k-{place.split}-{place.line:06d}"),
        category=get_label(data, "category"),
        question=question,
        images=images,
        written_options=written,
        answer=get_answer(data, "answer", question, written),
        metadata={"origin": get_label(data, "source"), "pass_rate": rates[PASS_RATES[options.rated_by]], **rates},
    )


SOURCE = RecordSource(
    name="virl39k",
    version="2",
    options=VirlOptions,
    find=find,
    parse=parse,
    hub_id="TIGER-Lab/ViRL39K",
    patterns=("*.parquet", "**/*.parquet", "*.zip", "*.tar", "*.tar.gz"),
)
