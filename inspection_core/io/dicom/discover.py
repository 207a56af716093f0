"""From what a user points at to the files inside: a file, a nested folder, a DICOMDIR, a zip archive, or several.

Nothing is unpacked to disk, links to folders are not followed, and no name found inside a file is ever used as a path:
a DICOMDIR stands for the folder that it lies in. What cannot be opened in a folder is kept with the reason, so that one
bad archive, dead link or locked file does not stand in the way of the rest.
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


class UnopenedError(UnreadableError):
    """A file that could not even be opened, so that nobody knows whether it belongs to what was asked for."""


@dataclass(frozen=True)
class Blob:
    """One file, on disk or in an archive.

    Parameters
    ----------
    path
        The file; for a member, the archive.
    member
        Name inside the archive, or empty.
    fault
        Why it is not to be opened, as a sentence; empty where nothing is wrong so far.
    """

    path: Path
    member: str = ""
    archive: zipfile.ZipFile | None = field(default=None, compare=False, repr=False)
    fault: str = field(default="", compare=False)

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
        if self.fault:
            raise UnopenedError(self.fault)
        try:
            if self.archive is None:
                return self.path.open("rb")
            return io.BytesIO(self.archive.read(self.member))
        except UNOPENABLE as error:
            raise UnopenedError(_unopened(self.name, error)) from None

    def head(self) -> bytes:
        """Return the first 132 bytes; raises as `open` does."""
        if self.fault:
            raise UnopenedError(self.fault)
        try:
            if self.archive is None:
                with self.path.open("rb") as file:
                    return file.read(132)
            with self.archive.open(self.member) as member:
                return member.read(132)
        except UNOPENABLE as error:
            raise UnopenedError(_unopened(self.name, error)) from None


def find_files(paths: Path | str | Sequence[Path | str], *, forgiving: bool = False) -> list[Blob]:
    """Return every file under one path or several, in a stable order, each once.

    In a folder, an archive that cannot be trusted, a link that leads nowhere and a folder that may not be listed become
    one blob each that holds the reason.

    Parameters
    ----------
    paths
        File, folder, DICOMDIR or zip archive, or several.
    forgiving
        Treat the paths themselves as if they had been found in a folder.

    Raises
    ------
    ReadError
        If a path does not exist or may not be listed, or is an archive that is damaged, encrypted, or has a member that
        reaches outside it.
    """
    given: Iterable[Path | str] = [paths] if isinstance(paths, (str, Path)) else paths
    found: dict[tuple[str, str], Blob] = {}
    for item in given:
        for blob in _expand(Path(item), forgiving):
            # realpath, because Path.resolve raises on links that lead round in a circle.
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


def _unopened(name: str, error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return f"{name} may not be read by this user; check who may."
    return f"{name} cannot be opened ({type(error).__name__}); copy it again."


def _expand(path: Path, forgiving: bool) -> Iterator[Blob]:
    if path.is_dir():
        yield from _folder(path)
    elif forgiving:
        yield from _found(path)
    elif not path.exists():
        raise ReadError(f"A file or folder is expected at {path}. Found nothing there; check the path.")
    elif path.name.upper() == "DICOMDIR":
        yield from _folder(path.parent)
    elif _is_archive(path, path.suffix.lower() != ".zip"):
        yield from _archive(path)
    elif path.is_file():
        yield Blob(path)
    else:  # opening a pipe would wait for ever
        raise ReadError(f"{path.name} is neither a file nor a folder; save what it gives as a file.")


def _is_archive(path: Path, by_content: bool) -> bool:
    """Tell whether a file is to be read as an archive; one that is named so is, unless it is DICOM after all."""
    if by_content:
        named = path.is_file() and path.stat().st_size > 21 and zipfile.is_zipfile(path)
    else:
        named = path.suffix.lower() == ".zip" and os.access(path, os.R_OK)
    return named and Blob(path).head()[128:132] != b"DICM"


def _folder(folder: Path) -> Iterator[Blob]:
    locked: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=locked.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield from _found(Path(root) / name)
    for error in locked:
        path = Path(error.filename)
        if path == folder:
            raise ReadError(f"{folder} cannot be listed ({type(error).__name__}); check who may read it.")
        yield Blob(path, fault=f"{path.name} is a folder that cannot be listed; check who may read it.")


def _found(path: Path) -> Iterator[Blob]:
    """Give what a file in a folder stands for; an archive as a whole, or not at all."""
    try:
        is_file, is_link = path.is_file(), path.is_symlink()
    except OSError as error:  # its folder may be listed but not entered
        yield Blob(path, fault=_unopened(path.name, error))
        return
    if not is_file:
        if is_link and not path.is_dir():
            yield Blob(path, fault=f"{path.name} is a link that leads nowhere.")
    elif _is_archive(path, by_content=False):
        try:
            yield from list(_archive(path))
        except ReadError as error:
            yield Blob(path, fault=str(error))
    else:
        yield Blob(path)


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
