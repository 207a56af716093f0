"""Writes that are whole or absent: temporary file, fsync, rename."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there once the block ends without an error.

    The temporary name keeps the suffix, because writers choose their format by it. A killed process leaves at most a
    file whose name begins with a dot; `path` itself holds either its old content or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut short, because a name may take 255 bytes and a letter up to four of them.
    suffix = "".join(s for s in path.suffixes[-2:] if len(s) <= 10)
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp{suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what it may write
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # numpy tells a full disk so, by the number of bytes that it could write
            raise OSError(errno.EIO, " ".join(str(error).split()) or "no reason given", str(path)) from error
        if error.filename in (None, str(temporary), temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        with suppress(OSError):  # a disk that is read-only refuses this too, and the first error is the one to tell
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # folders cannot be opened for syncing elsewhere
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
