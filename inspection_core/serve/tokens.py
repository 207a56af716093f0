"""Who may ask: tokens, a name for each, kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from inspection_core.errors import UsageError
from inspection_core.remote import TOKEN_VARIABLE

LEAST = 20
"""Characters of a token."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ADVICE = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Tokens:
    """The tokens of a server.

    Parameters
    ----------
    by_name
        Name of a client and its token.

    Raises
    ------
    UsageError
        If there is none, or one is too short or no single word of ASCII.
    """

    def __init__(self, by_name: Mapping[str, str]) -> None:
        if not by_name:
            raise UsageError(
                f"A server needs a token, or anyone could use it. Set {TOKEN_VARIABLE}, or name a file with "
                f"--token-file. {ADVICE}"
            )
        for name, token in by_name.items():
            if not NAME.fullmatch(name):
                raise UsageError("The name of a token is up to 64 letters, digits, dots, dashes. Got another.")
            if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
                raise UsageError(
                    f"A token is one word of at least {LEAST} ASCII characters. That of {name} is not. {ADVICE}"
                )
        self.names = tuple(by_name)
        self._digests = tuple((name, _digest(token)) for name, token in by_name.items())

    def client(self, token: str) -> str | None:
        """Return the name of the client whose token this is, or None; every token is compared, in constant time."""
        given, found = _digest(token), None
        for name, digest in self._digests:
            if hmac.compare_digest(digest, given):
                found = name
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def read_tokens(file: Path | None, environment: Mapping[str, str]) -> Tokens:
    """Return the tokens of a file, or else that of the variable INSPECTION_TOKEN.

    A line of the file is a token, or a name and a token; lines that begin with # are left out.

    Raises
    ------
    UsageError
        If there is no token, or a line makes no sense.
    """
    if file is None:
        token = environment.get(TOKEN_VARIABLE, "").strip()
        return Tokens({"default": token} if token else {})
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"The token file {file} cannot be read: {why}.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name = words[0] if len(words) == 2 else "default" if not found else f"client{number}"
        if len(words) > 2 or name in found:
            raise UsageError(f"{file}, line {number}: a line is a token, or a name of its own and a token.")
        found[name] = words[-1]
    return Tokens(found)
