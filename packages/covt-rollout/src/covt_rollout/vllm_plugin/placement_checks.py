"""What a worker can see of the trainer's machine: asked before a training starts, answered without side effects."""

from __future__ import annotations

import socket
from pathlib import Path

SECONDS = 10.0
"""How long a worker waits for a connection."""


def sees_file(path: Path, text: str) -> bool:
    """Whether a file exists here with exactly this text."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(len(text) + 1) == text
    except (OSError, UnicodeDecodeError):
        return False


def reaches(address: str, port: int) -> bool:
    """Whether a connection to the address can be opened from here."""
    try:
        socket.create_connection((address, port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
