"""Reads the images that a dataset names from one folder, and never from outside it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from covt_data.rejects import Reason, Rejected, shorten

WEB_ADDRESS = re.compile(r"(?:https?|s3|gs|hf)://", re.IGNORECASE)
KNOWN_FOLDERS = 1024  # upper limit of the cache


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images.

    Attributes:
        root: the folder.
        prefixes: folders tried in order before a name, as some releases omit the top folder.
        suffixes: endings tried in order behind a name, as some releases omit the format.
        base: the folder that absolute names must be inside of; they are read relative to it. By default `root`.
    """

    root: Path
    prefixes: tuple[str, ...] = ("",)
    suffixes: tuple[str, ...] = ("",)
    base: Path | None = None
    _known: dict[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            Rejected: when the name leaves the folder, or is no regular file of at most `max_bytes`.
        """
        inside = _relative_name(self._inside(name) if name.startswith(("/", "file:///")) else name)
        root = self._real(os.fspath(self.root))
        for prefix, suffix in product(self.prefixes, self.suffixes):
            folder, _, last = f"{root}/{prefix}/{inside}{suffix}".rpartition("/")
            path = f"{self._real(folder)}/{last}"
            if os.path.islink(path):  # noqa: PTH114 - Path costs as much as reading a small image
                path = os.path.realpath(path)
            if not path.startswith(f"{root}/"):
                raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(name)} leads out of the folder of the images")
            try:
                return _read_file(path, name, max_bytes)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise Rejected(Reason.IMAGE_UNREADABLE, f"{shorten(name)}: {error.strerror}") from None
        raise Rejected(Reason.IMAGE_MISSING, f"no image {shorten(name)}")

    def _inside(self, name: str) -> str:
        """Return an absolute name relative to the folder of the dataset."""
        path = name.removeprefix("file://")
        base = os.path.abspath(self.base or self.root)  # noqa: PTH100 - links are resolved by `read`
        folder, _, last = path.rpartition("/")
        for spelled in (path, f"{self._real(folder)}/{last}"):
            for outer in (base, self._real(base)):
                if spelled.startswith(f"{outer}/"):
                    return spelled[len(outer) + 1 :]
        raise Rejected(
            Reason.IMAGE_OUTSIDE, f"{shorten(name)} is an absolute path outside of {base}: give paths relative to it"
        )

    def _real(self, folder: str) -> str:
        """Resolve the links of a folder. Cached, because resolving costs as much as reading a small image."""
        if folder not in self._known:
            if len(self._known) >= KNOWN_FOLDERS:
                self._known.clear()
            self._known[folder] = os.path.realpath(folder)
        return self._known[folder]


def _relative_name(name: str) -> str:
    if WEB_ADDRESS.match(name):
        raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(name)} is a web address: fetch the images and give their paths")
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name:
        raise Rejected(Reason.IMAGE_MISSING, f"{shorten(name)} is not a file name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise Rejected(Reason.IMAGE_MISSING, f"{shorten(name)} is not UTF-8") from None
    if name[0] in "/\\" or ".." in parts or ":" in parts[0]:
        raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(name)} leads out of the folder of the images")
    return "/".join(part for part in parts if part not in ("", "."))


def _read_file(path: str, name: str, max_bytes: int) -> bytes:
    # O_NONBLOCK: opening a named pipe must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Rejected(Reason.IMAGE_NOT_A_FILE, f"{shorten(name)} is not a regular file")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        about = os.fstat(descriptor)
        if about.st_size > max_bytes:
            raise Rejected(Reason.IMAGE_TOO_LARGE, f"{shorten(name)} has {about.st_size} bytes, more than {max_bytes}")
        return file.read()
