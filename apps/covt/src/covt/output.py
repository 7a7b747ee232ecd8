"""Data on stdout, everything else on stderr."""

import json
import sys
from typing import Any


def emit(data: Any, *, as_json: bool, text: str) -> None:
    """Print a command's result: JSON when asked for, otherwise the text for people."""
    if as_json:
        json.dump(data, sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    else:
        print(text)


def note(text: str) -> None:
    """A line for the person watching."""
    print(text, file=sys.stderr, flush=True)
