"""The Python examples of the README and of docs/rewards.md run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("file", ["packages/covt-rewards/README.md", "docs/rewards.md"])
def test_the_examples_run(file: str) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, file, "exec"), {"__name__": "example"})
