"""What an input is: its place, and its content. A changed file is another input; a moved one is the same."""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

BLOCK = 1 << 20
UNREADABLE = "unreadable"


def fingerprint(*paths: Path) -> str:
    """Return size and time of files: quick to get, and another one where a file was written again."""
    marks = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return UNREADABLE
        marks.append(f"{status.st_size}-{status.st_mtime_ns}")
    return marks[0] if len(marks) == 1 else hashlib.sha256("\n".join(marks).encode()).hexdigest()[:32]


def content(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the bytes of one file, or of several in order.

    Raises
    ------
    OSError
        If one cannot be read, or is no plain file: to open a pipe would wait for ever.
    """
    digests = []
    for path in paths:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
