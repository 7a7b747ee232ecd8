"""Tables of rows are what pyarrow itself makes of them, and pandas stays out."""

import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covt_data.data_errors import DataError
from covt_data.store import arrow_rows as arrow
from covt_data.store.arrow_rows import ARROW_SCHEMA, build_table

IMAGES = st.lists(st.fixed_dictionaries({"bytes": st.binary(max_size=9), "path": st.text(max_size=4)}), max_size=3)
STEPS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "latent"]), "text": st.none() | st.text(max_size=9), "images": st.none() | IMAGES}
)
COLUMNS = {field.name: st.text(max_size=9) for field in ARROW_SCHEMA} | {
    "category": st.none() | st.text(max_size=5),
    "images": IMAGES,
    "options": st.lists(st.text(max_size=3), max_size=3),
    "steps": st.lists(STEPS, max_size=4),
}


@settings(max_examples=25)
@given(st.lists(st.fixed_dictionaries(COLUMNS), max_size=9))
def test_tables_are_those_of_pyarrow(rows):
    table = build_table(rows)
    table.validate(full=True)
    assert table.equals(pa.Table.from_pylist(rows, schema=ARROW_SCHEMA), check_metadata=True)


def test_a_column_too_large_for_arrow_is_refused():
    class Huge(list):
        def __len__(self):
            return 1 << 31

    with pytest.raises(DataError, match="1 rows have 2147483648 bytes in one column"):
        arrow._offsets([Huge()])


def test_writing_a_set_does_not_import_pandas(tmp_path):
    script = (
        "import sys; from pathlib import Path; from covt_data.ingest.prepare import prepare\n"
        "prepare('trace', Path(sys.argv[1]), options={'n_train': 2, 'n_prompts': 1, 'n_test': 1})\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "set")], check=True)
