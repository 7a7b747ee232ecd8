"""Extraction of untrusted image archives (tar, tar.gz, zip).

Only regular files with an image suffix are written, always below the target and within the limits. Links, devices,
names that lead out of the target and oversized members are rejected, each with its reason.
"""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from covt_data.data_errors import DataFileError
from covt_data.images.image_checks import SUFFIXES
from covt_data.rejects import Reason, Rejected, Rejection, shorten

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
BLOCK = 1 << 20
IGNORED = ("__MACOSX", ".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class ArchiveLimits:
    """Upper limits: bytes per member, total bytes, and number of members."""

    max_member: int = 64 << 20
    max_total: int = 256 << 30
    max_members: int = 5_000_000


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def extract(archive: Path, target: Path, limits: ArchiveLimits) -> list[Rejection]:
    """Unpack the images of `archive` into `target`.

    Returns:
        The rejected members, in archive order.

    Raises:
        DataFileError: when the archive is damaged or exceeds the limits.
    """
    opened = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    rejections: list[Rejection] = []
    total = 0
    try:
        for number, member in enumerate(opened(archive, target), 1):
            if number > limits.max_members or total > limits.max_total:
                raise DataFileError(
                    f"{archive} unpacks to more than {limits.max_total} bytes or {limits.max_members} members",
                    "check where the archive comes from",
                )
            try:
                total += member.write(target, limits)
            except Rejected as error:
                rejections.append(Rejection(archive.name, number, error.reason, error.detail))
    except DataFileError:
        raise
    except Exception as error:
        # The readers raise nearly anything on damaged archives; a full disk is not the archive's fault.
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataFileError(
            f"{archive} cannot be unpacked: {type(error).__name__} {error}", "fetch the archive again"
        ) from error
    return rejections


@dataclass(frozen=True)
class Member:
    """One archive member. `refused` is the reason to reject it, read from its header, if any."""

    name: str
    size: int
    refused: Rejected | None
    open: IO[bytes] | None
    ignored: bool = False

    def write(self, target: Path, limits: ArchiveLimits) -> int:
        """Write the member below `target` and return the number of bytes written.

        Raises:
            Rejected: when the member is unsafe, too large, a duplicate or unreadable.
        """
        if self.ignored:
            return 0
        if self.refused:
            raise self.refused
        path = _place(self.name, target)
        if self.size > limits.max_member:
            raise Rejected(Reason.ARCHIVE_BOMB, f"{shorten(self.name)} has {self.size} bytes")
        assert self.open is not None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                return _copy(self.open, out, self.name)
        except Rejected:
            path.unlink()
            raise
        except FileExistsError:
            raise Rejected(Reason.ARCHIVE_DUPLICATE, f"{shorten(self.name)} is there already") from None
        except (NotADirectoryError, IsADirectoryError):
            raise Rejected(Reason.ARCHIVE_DUPLICATE, f"{shorten(self.name)} goes through a file") from None


def _place(name: str, target: Path) -> Path:
    """Return the path of a member below `target`. Both kinds of slash separate parts on every system."""
    parts = name.replace("\\", "/").split("/")
    if name[:1] in ("/", "\\") or ".." in parts or ":" in parts[0]:
        raise Rejected(Reason.ARCHIVE_OUTSIDE, f"{shorten(name)} leads out of the target folder")
    try:
        encoded = [part.encode("utf-8") for part in parts]
    except UnicodeEncodeError:
        raise Rejected(Reason.ARCHIVE_BAD_NAME, f"{shorten(name)} is not UTF-8") from None
    if "\0" in name or max(map(len, encoded)) > 255 or len(name.encode()) > 1024:
        raise Rejected(Reason.ARCHIVE_BAD_NAME, f"{shorten(name)} is not a file name")
    if Path(parts[-1]).suffix.lower() not in SUFFIXES:
        raise Rejected(Reason.ARCHIVE_NOT_AN_IMAGE, f"{shorten(name)} is no image by its suffix")
    return target.joinpath(*(part for part in parts if part not in ("", ".")))


def _copy(source: IO[bytes], out: IO[bytes], name: str) -> int:
    """Copy a member and return its size. The readers enforce the header's size and, for zip files, its checksum."""
    written = 0
    try:
        while block := source.read(BLOCK):
            written += out.write(block)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:  # zipfile's for unknown methods
        raise Rejected(Reason.ARCHIVE_UNREADABLE, f"{shorten(name)}: {error}") from None
    return written


def _ignored(name: str) -> bool:
    """Whether a member is a leftover of a file manager."""
    parts = name.split("/")
    return any(part in IGNORED or part.startswith("._") for part in parts)


def _tar_members(archive: Path, target: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:*", errorlevel=2) as opened:
        for info in opened:
            if info.isdir():
                yield Member(info.name, 0, None, None, ignored=True)
                continue
            refused = _tar_refusal(info, target)
            content = None if refused else opened.extractfile(info)
            yield Member(info.name, info.size, refused, content, _ignored(info.name) and info.isreg())
            if content:
                content.close()
            opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read


def _tar_refusal(info: tarfile.TarInfo, target: Path) -> Rejected | None:
    if info.issym() or info.islnk():
        return Rejected(Reason.ARCHIVE_LINK, f"{shorten(info.name)} is a link to {shorten(info.linkname)}")
    if not info.isreg() or info.issparse():
        return Rejected(Reason.ARCHIVE_DEVICE, f"{shorten(info.name)} is not a regular file")
    if info.name.startswith("/"):  # the filter would only strip the slash
        return Rejected(Reason.ARCHIVE_OUTSIDE, f"{shorten(info.name)} leads out of the target folder")
    try:
        tarfile.data_filter(info, os.fspath(target))
    except (tarfile.FilterError, ValueError, OSError) as error:
        return Rejected(Reason.ARCHIVE_OUTSIDE, f"{shorten(info.name)}: {error}")
    return None


def _zip_members(archive: Path, target: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = (info.external_attr >> 16) & 0o170000  # the Unix file type, 0 where none was stored
            refused: Rejected | None = None
            if info.is_dir():
                yield Member(info.filename, 0, None, None, ignored=True)
                continue
            if kind == 0o120000:
                refused = Rejected(Reason.ARCHIVE_LINK, f"{shorten(info.filename)} is a link")
            elif kind not in (0, 0o100000):
                refused = Rejected(Reason.ARCHIVE_DEVICE, f"{shorten(info.filename)} is not a regular file")
            try:
                content = None if refused else opened.open(info)
            except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:  # encrypted, unknown method
                content, refused = None, Rejected(Reason.ARCHIVE_UNREADABLE, f"{shorten(info.filename)}: {error}")
            yield Member(info.filename, info.file_size, refused, content, _ignored(info.filename))
            if content:
                content.close()


def extract_all(archives: list[Path], target: Path, limits: ArchiveLimits) -> list[Rejection]:
    """Unpack all archives into an empty `target`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return [rejection for archive in archives for rejection in extract(archive, target, limits)]
