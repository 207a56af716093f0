"""From what a user points at to the files inside: a file, a nested folder, a DICOMDIR, a zip archive, or several.

Nothing is unpacked to disk, links to folders are not followed, and no name found inside a file is ever used as a path:
a DICOMDIR stands for the folder that it lies in.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from inspection_core.errors import ReadError, printable

MAX_FILES = 500_000
MAX_MEMBER_BYTES = 4 << 30
DEFLATE_MAX_RATIO = 1032
"""Deflate cannot pack tighter than this; a member that claims more is a bomb."""
_TEXT_VR = frozenset(b"AE AS CS DA DT IS LO LT OB PN SH ST TM UI UL US".split())


UNOPENABLE = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, NotImplementedError, ValueError)
"""What opening a file, or a damaged or encrypted member of an archive, can raise."""


class UnreadableError(ReadError):
    """A file that may be an image of a series cannot be opened, or is too damaged to tell: something may be lacking."""


@dataclass(frozen=True)
class Blob:
    """One file, on disk or in an archive.

    Parameters
    ----------
    path
        The file; for a member, the archive.
    member
        Name inside the archive, or empty.
    """

    path: Path
    member: str = ""
    archive: zipfile.ZipFile | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Short name for messages."""
        return printable(PurePosixPath(self.member).name if self.member else self.path.name)

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return self.archive.getinfo(self.member).file_size if self.archive else self.path.stat().st_size

    def open(self) -> BinaryIO:
        """Open for reading, from the start, with seeking.

        Raises
        ------
        ReadError
            If the file cannot be opened, or the archive's member is damaged.
        """
        try:
            if self.archive is None:
                return self.path.open("rb")
            return io.BytesIO(self.archive.read(self.member))
        except UNOPENABLE as error:
            raise self._unreadable(error) from None

    def head(self) -> bytes:
        """Return the first 132 bytes."""
        try:
            if self.archive is None:
                with self.path.open("rb") as file:
                    return file.read(132)
            with self.archive.open(self.member) as member:
                return member.read(132)
        except UNOPENABLE as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: BaseException) -> UnreadableError:
        advice = "check its permissions" if isinstance(error, PermissionError) else "copy it again"
        return UnreadableError(f"{self.name} cannot be opened ({type(error).__name__}); {advice}.")


def find_files(paths: Path | str | Sequence[Path | str]) -> list[Blob]:
    """Return every file under one path or several, in a stable order, each once.

    Raises
    ------
    ReadError
        If a path does not exist, or an archive is damaged, encrypted, or has a member that reaches outside it.
    """
    given: Iterable[Path | str] = [paths] if isinstance(paths, (str, Path)) else paths
    found: dict[tuple[str, str], Blob] = {}
    for item in given:
        for blob in _expand(Path(item)):
            # Unlike Path.resolve(), this takes a link that leads to itself.
            found.setdefault((os.path.realpath(blob.path), blob.member), blob)
            if len(found) > MAX_FILES:
                raise ReadError(f"More than {MAX_FILES:,} files lie under {item}; point at one study at a time.")
    return list(found.values())


def looks_like_dicom(head: bytes) -> bool:
    """Tell by the first 132 bytes whether a file may be DICOM: its mark, or a first element that makes sense.

    Old files lack the 128 bytes of preamble and the mark, and begin with an element of group 2 or 8.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 12:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", head[:4])
        if group in (0x0002, 0x0008) and element <= 0x1000:
            if head[4:6] in _TEXT_VR:
                return True
            (length,) = struct.unpack(f"{order}I", head[4:8])
            if order == "<" and length <= 256 and length % 2 == 0:
                return True
    return False


def _expand(path: Path) -> Iterator[Blob]:
    if path.is_dir():
        yield from _folder(path)
    elif not path.exists():
        raise ReadError(f"A file or folder is expected at {path}. Found nothing there; check the path.")
    elif path.name.upper() == "DICOMDIR":
        yield from _folder(path.parent)
    elif path.is_file() and path.stat().st_size > 21 and zipfile.is_zipfile(path) and not _is_dicom_file(path):
        yield from _archive(path)
    elif path.is_file():
        yield Blob(path)
    else:  # opening a pipe would wait for ever
        raise ReadError(f"{path.name} is neither a file nor a folder; save what it gives as a file.")


def _is_dicom_file(path: Path) -> bool:
    return Blob(path).head()[128:132] == b"DICM"


def _folder(folder: Path) -> Iterator[Blob]:
    closed: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root) / name
            if name.startswith(".") or name.upper() == "DICOMDIR":
                continue
            if not path.is_file() and not path.is_symlink():  # pipes and the like; a dangling link is a file that lacks
                continue
            if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
                yield from _archive(path)
            else:
                yield Blob(path)
    for error in closed:  # a folder that cannot be entered is told like a file that cannot be opened
        yield Blob(Path(error.filename))


def _archive(path: Path) -> Iterator[Blob]:
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise ReadError(f"{path.name} is a damaged zip archive ({type(error).__name__}); copy it again.") from None
    if len(members) > MAX_FILES:
        raise ReadError(
            f"{path.name} holds more than {MAX_FILES:,} members; unpack it and point at one study at a time."
        )
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
            raise ReadError(
                f"{path.name} has a member whose name reaches outside the archive, which no honest tool writes. "
                "Nothing of it was read; ask for a new copy."
            )
        if member.flag_bits & 0x1:
            raise ReadError(f"{path.name} is encrypted; unpack it with its password and point at the folder.")
        if member.is_dir() or name.name.startswith(".") or name.name.upper() == "DICOMDIR" or "__MACOSX" in name.parts:
            continue
        if member.file_size > min(MAX_MEMBER_BYTES, DEFLATE_MAX_RATIO * member.compress_size + 1024):
            raise ReadError(f"{path.name} has a member that claims {member.file_size:,} bytes, more than can be in it.")
        yield Blob(path, member.filename, archive)
