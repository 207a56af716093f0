"""The files of a bundle, from a folder or straight from a zip archive.

Nothing is unpacked: members are read into memory, by name, up to a limit. So an archive cannot write anywhere, and one
that claims too much, or names places outside of itself, is refused before any of it is used.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from inspection_core.errors import ModelError

TEXT_LIMIT = 16 << 20
"""Bytes of a configuration, licence or metadata file."""

WEIGHTS_LIMIT = 8 << 30
"""Bytes of a file of weights."""

MAX_MEMBERS = 10_000
MAX_RATIO = 1_000
"""Times that a member may be larger than what is stored of it; weights hardly shrink, and zeros do by about 1,000."""

META = "configs/metadata.json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Files:
    """The files of one bundle.

    Parameters
    ----------
    path
        The folder, or the zip archive.
    names
        Files inside, relative to the bundle's root, with forward slashes.
    prefix
        Of an archive: what stands before these names.
    """

    path: Path
    names: frozenset[str]
    prefix: str = ""

    @property
    def zipped(self) -> bool:
        """Whether it is an archive."""
        return self.path.is_file()

    @property
    def name(self) -> str:
        """Name of the folder or of the archive without its suffix."""
        return self.path.stem if self.zipped else self.path.name

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading.

        Raises
        ------
        ModelError
            If it is not there, or cannot be read.
        """
        if name not in self.names:
            raise ModelError(f"The bundle {self.path} has no {name}. Get the whole bundle again.")
        try:
            if self.zipped:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.prefix + name) as file:
                    yield cast("BinaryIO", file)
            else:
                with (self.path / name).open("rb") as file:
                    yield file
        except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
            raise ModelError(f"{name} of the bundle {self.path} cannot be read: {error}. Get it again.") from error

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        data = bytearray()
        with self.open(name) as file:
            while chunk := file.read(_CHUNK):
                data += chunk
                if len(data) > limit:
                    raise ModelError(
                        f"{name} of the bundle {self.path} is larger than the {limit >> 20} MiB that it may have."
                    )
        return bytes(data)

    def text(self, name: str) -> str:
        """Return the content of a text file."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ModelError(f"{name} of the bundle {self.path} is no UTF-8 text: {error.reason}.") from error

    def sha256(self, name: str) -> str:
        """Return the hash of a file's content, in hexadecimal."""
        digest, size = hashlib.sha256(), 0
        with self.open(name) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if size > WEIGHTS_LIMIT:
                    raise ModelError(f"{name} of the bundle {self.path} is larger than {WEIGHTS_LIMIT >> 30} GiB.")
        return digest.hexdigest()


def open_files(path: Path) -> Files:
    """List the files of a bundle.

    Raises
    ------
    ModelError
        If it is no bundle, or holds what cannot be trusted: links out of it, names outside of it, claims of size.
    """
    path = Path(path).resolve()
    if path.is_dir():
        files = Files(path, frozenset(_listed(path)))
    elif path.is_file():
        files = _archive(path)
    else:
        raise ModelError(f"A bundle is a folder or a zip archive. There is none at {path}.")
    if META not in files.names:
        raise ModelError(
            f"A MONAI bundle holds {META} and configs/inference.json or .yaml. Found no {META} in {path}; "
            "give the bundle's own folder or zip archive."
        )
    return files


def _listed(folder: Path) -> Iterator[str]:
    for count, path in enumerate(sorted(folder.rglob("*"))):
        if count > MAX_MEMBERS:
            raise ModelError(f"{folder} holds more than {MAX_MEMBERS} files, which no bundle does.")
        if not path.resolve().is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            raise ModelError(
                f"The bundle {folder} has a link that leads out of it: {name}. Remove it, or copy the file."
            )
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _archive(path: Path) -> Files:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{path} is no zip archive that can be read: {error}. Get it again.") from error
    if len(members) > MAX_MEMBERS:
        raise ModelError(f"{path} claims {len(members)} files; a bundle has at most {MAX_MEMBERS}.")
    names: set[str] = set()
    for member in members:
        pure = PurePosixPath(member.filename)
        if pure.is_absolute() or ".." in pure.parts or "\\" in member.filename or ":" in "".join(pure.parts[:1]):
            raise ModelError(f"{path} names a place outside of itself: {member.filename!r}. It cannot be trusted.")
        if member.flag_bits & 1:
            raise ModelError(f"{path} is encrypted, and is not read. Unpack it to a folder.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ModelError(f"{path} holds a link, {member.filename!r}. It cannot be trusted; unpack it and look.")
        if member.file_size > WEIGHTS_LIMIT or member.file_size > max(1, member.compress_size) * MAX_RATIO + _CHUNK:
            raise ModelError(
                f"{path} claims {member.file_size} bytes for {member.filename!r} out of {member.compress_size}. "
                "It cannot be trusted."
            )
        if member.filename in names:
            raise ModelError(f"{path} holds {member.filename!r} twice. It cannot be trusted.")
        if not member.is_dir():
            names.add(member.filename)
    roots = sorted((n.removesuffix(META) for n in names if n == META or n.endswith("/" + META)), key=len)
    prefix = roots[0] if roots else ""
    return Files(path, frozenset(n.removeprefix(prefix) for n in names if n.startswith(prefix)), prefix)
