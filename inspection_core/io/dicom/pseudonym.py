"""What stands in place of a patient's name, numbers, UIDs and dates: all of it follows from one secret key.

The same key gives the same stand-ins, in every file and every run; without the key nothing leads back. HMAC-SHA256
(RFC 2104) is used throughout, and new UIDs are made from UUIDs as in DICOM PS3.5 B.2.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import uuid
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from pydicom._uid_dict import UID_dictionary

from inspection_core.errors import ReadError, UsageError

KEY_BYTES = 32
NEAREST_DAYS, FURTHEST_DAYS = 366, 3653
"""Dates move into the past by more than one year and up to ten."""
_DATE = re.compile(r"(\d{4})([.]?)(\d{2})\2(\d{2})")
_MOMENT = re.compile(r"(\d{4})(\d{2})?(\d{2})?(.*)")


@dataclass(frozen=True)
class Pseudonyms:
    """Stand-ins that follow from a key.

    Parameters
    ----------
    key
        At least 16 secret bytes; never written anywhere but to the user's own key file.
    """

    key: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)

    def uid(self, old: str) -> str:
        """Return the new UID of an old one; UIDs that the standard itself defines stay as they are."""
        old = old.strip("\0 ")
        if not old or old in UID_dictionary:
            return old
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', old)[:16], version=4).int}"

    def word(self, kind: str, old: str, length: int = 8) -> str:
        """Return capital letters and figures that stand for a value."""
        return base64.b32encode(self._digest(kind, old)).decode("ascii")[:length]

    def patient(self, identity: str) -> str:
        """Return what stands for a patient, as number and as name."""
        return f"ANON-{self.word('patient', identity, 10)}"

    def days(self, identity: str) -> int:
        """Return by how many days a patient's dates move into the past."""
        number = int.from_bytes(self._digest("days", identity)[:8], "big")
        return NEAREST_DAYS + number % (FURTHEST_DAYS - NEAREST_DAYS + 1)

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def new_key(path: Path) -> Pseudonyms:
    """Make a key file that only its owner can read.

    Raises
    ------
    UsageError
        If something is there already: a key is never overwritten, because the pseudonyms hang on it.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} is there already, and a key is never overwritten. Use it with --key.") from None
    made = Pseudonyms()
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(made.key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return made


def read_key(path: Path) -> tuple[Pseudonyms, str]:
    """Return the key in a file, and a warning where others on this machine could read it, or an empty text.

    Raises
    ------
    UsageError
        If there is no file.
    ReadError
        If it holds no key.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"A key file is expected at {path}. Found none; make one with --new-key {path}.")
    try:
        key = bytes.fromhex(path.read_bytes()[:4096].decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) < 16:
        raise ReadError(f"{path.name} holds no key (at least 32 hexadecimal figures); make one with --new-key.")
    loose = os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return Pseudonyms(key), f"{path} can be read by others; run: chmod 600 {path}" if loose else ""


def shift_date(text: str, days: int) -> str | None:
    """Return a DICOM date (DA) moved into the past, an empty one as it is, or None where it is no date."""
    text = text.strip("\0 ")
    if not text:
        return ""
    match = _DATE.fullmatch(text)
    moved = _moved(match[1], match[3], match[4], days) if match else None
    return f"{moved.year:04}{moved:%m%d}" if moved else None


def shift_moment(text: str, days: int) -> str | None:
    """Return a DICOM date and time (DT) moved into the past by whole days, with its own precision and time of day."""
    text = text.strip("\0 ")
    if not text:
        return ""
    match = _MOMENT.fullmatch(text)
    if not match or not re.fullmatch(r"[\d.]*([+-]\d{4})?", match[4]):
        return None
    moved = _moved(match[1], match[2] or "01", match[3] or "01", days)
    if moved is None:
        return None
    out = f"{moved.year:04}" + (f"{moved:%m}" if match[2] else "") + (f"{moved:%d}" if match[3] else "")
    # A zone would tell where the scanner stands; without it the time stays that of the same clock.
    return out + re.sub(r"[+-]\d{4}$", "", match[4])


def _moved(year: str, month: str, day: str, days: int) -> date | None:
    try:
        return date(int(year), int(month), int(day)) - timedelta(days=days)
    except (ValueError, OverflowError):
        return None
