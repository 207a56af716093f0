"""Get MONAI bundles from the model zoo: whole and with the hash that the zoo publishes, or not at all.

A download that breaks off goes on where it stopped, by itself and when the same command is given again. The archive
stays as it is, and is run from there: ``bundle:DIR/NAME.zip``.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from inspection_core.errors import ModelError, UsageError
from inspection_core.models.bundle.files import WEIGHTS_LIMIT, open_files

INDEX = "https://raw.githubusercontent.com/Project-MONAI/model-zoo/dev/models/model_info.json"
"""The zoo's own list: name and version, address, SHA-1."""
INDEX_LIMIT = 16 << 20
TRIES = 5
PAUSE = 1.0
"""Seconds before a second try; each further one waits twice as long."""
TIMEOUT = 30.0
_CHUNK = 1 << 18
_VERSIONED = re.compile(r"(?P<name>.+)_v(?P<version>\d+(?:\.\d+)*)$")
_HOME = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Entry:
    """One version of a bundle in the zoo.

    Parameters
    ----------
    name, version
        As the zoo names them.
    source
        Address of the archive.
    sha1
        Its hash as the zoo publishes it, in hexadecimal.
    """

    name: str
    version: str
    source: str
    sha1: str


def get(
    name: str,
    out: Path,
    *,
    version: str = "",
    index: str = INDEX,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Entry]:
    """Download a bundle.

    Parameters
    ----------
    name
        Such as ``spleen_ct_segmentation``.
    out
        Folder for the archive ``NAME.zip``.
    version
        Such as ``0.5.3``; the newest if empty.
    index
        Address of the zoo's list.
    progress
        Called with bytes done and bytes in all.

    Returns
    -------
    path, entry
        The archive, and what the zoo says of it.

    Raises
    ------
    ModelError
        If the zoo cannot be reached, knows no such bundle, or sends something else than it publishes.
    UsageError
        If there is another file at the place already.
    """
    entry = choose(_list(index), name, version)
    target = out / f"{entry.name}.zip"
    if target.exists():
        if _sha1(target) == entry.sha1:
            return target, entry
        raise UsageError(f"{target} is another version of {entry.name}. Move it away, or give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{entry.name}_v{entry.version}.part"
    _download(entry.source, part, progress or (lambda done, total: None))
    if (found := _sha1(part)) != entry.sha1:
        part.unlink()
        raise ModelError(
            f"{entry.source} is not what the zoo publishes: expected SHA-1 {entry.sha1[:12]}..., got {found[:12]}... "
            "It was removed; try again later, or ask the zoo."
        )
    try:
        open_files(part)
    except ModelError:
        part.unlink()
        raise
    part.replace(target)
    return target, entry


def choose(index: Mapping[str, Any], name: str, version: str = "") -> Entry:
    """Return the entry of a bundle: that of `version`, or of the newest.

    Raises
    ------
    ModelError
        If the list does not hold it.
    """
    if (asked := _VERSIONED.fullmatch(name)) and not version:
        name, version = asked["name"], asked["version"]
    found: dict[tuple[int, ...], tuple[str, Any]] = {}
    names = set()
    for key, value in index.items():
        if not (match := _VERSIONED.fullmatch(key)):
            continue
        names.add(match["name"])
        if match["name"] == name:
            found[tuple(map(int, match["version"].split(".")))] = (match["version"], value)
    if not found:
        near = sorted(n for n in names if any(w in n for w in name.lower().split("_") if len(w) > 2))
        shown = ", ".join((near or sorted(names))[:8])
        raise ModelError(f"The zoo has no bundle {name!r}. It has {len(names)}, such as {shown or 'none'}.")
    wanted = tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else None
    if version and wanted not in found:
        have = ", ".join(v for _, (v, _) in sorted(found.items()))
        raise ModelError(f"The zoo has no version {version!r} of {name}. It has {have}.")
    said, value = found[wanted if version and wanted is not None else max(found)]
    source, sha1 = (value.get(k) if isinstance(value, dict) else None for k in ("source", "checksum"))
    if not isinstance(source, str) or not isinstance(sha1, str) or not re.fullmatch(r"[0-9a-f]{40}", sha1.lower()):
        raise ModelError(f"The zoo's list gives no address and SHA-1 for {name} {said}; get the bundle by hand.")
    return Entry(name, said, source, sha1.lower())


def _list(index: str) -> Mapping[str, Any]:
    try:
        with _open(index) as answer:
            text = answer.read(INDEX_LIMIT)
        data = json.loads(text)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ModelError(
            f"The model zoo cannot be reached at {index}: {_line(error)}. Without the internet, copy a bundle here and "
            "use bundle:PATH."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{index} is no list of bundles: {_line(error)}.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{index} is no list of bundles. Got {type(data).__name__}.")
    return data


def _download(source: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Download to `part`, going on with what is there; a connection that drops is tried again."""
    last: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        before = part.stat().st_size if part.exists() else 0
        try:
            if _fetch(source, part, progress):
                return
            last = ConnectionError("the connection broke off")
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # nothing is left to send: the file is whole, or not this one
                return
            if error.code < 500:
                raise ModelError(f"{source} cannot be downloaded: {error.code} {error.reason}.") from error
            last = error
        except (OSError, http.client.HTTPException) as error:
            last = error
    done = part.stat().st_size if part.exists() else 0
    raise ModelError(
        f"{source} cannot be downloaded: {_line(last)}. {done} bytes are kept; the same command goes on from there."
    ) from last


def _fetch(source: str, part: Path, progress: Callable[[int, int], None]) -> bool:
    """Ask once; return whether all has come."""
    start = part.stat().st_size if part.exists() else 0
    with _open(source, {"Range": f"bytes={start}-"} if start else {}) as answer:
        if answer.status != 206:
            start = 0  # the server sends all of it again
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else 0
        if total > WEIGHTS_LIMIT:
            raise ModelError(f"{source} has {total} bytes, more than a bundle may have.")
        if total - start > shutil.disk_usage(part.parent).free:
            raise ModelError(f"{part.parent} has no room for {total} bytes. Make room, or give another --out.")
        with part.open("ab" if start else "wb") as file:
            done = start
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
                if done > WEIGHTS_LIMIT:
                    raise ModelError(f"{source} sends more bytes than a bundle may have.")
    return not total or done == total


def _open(url: str, headers: Mapping[str, str] | None = None) -> Any:
    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            try:
                _safe(newurl)
            except ModelError:
                fp.close()
                raise
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    agent = {"User-Agent": "inspection-suite", **(headers or {})}
    request = urllib.request.Request(_safe(url), headers=agent)  # noqa: S310 - checked
    return urllib.request.build_opener(Redirects).open(request, timeout=TIMEOUT)


def _safe(url: str) -> str:
    """Return an address that is asked over https, or on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HOME):
        return url
    raise ModelError(f"Bundles are downloaded over https. Got {url!r}.")


def _sha1(path: Path) -> str:
    """Return the hash that the zoo publishes; SHA-1 finds damage, and is no proof against forgers."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _line(error: BaseException | None) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()).rstrip(".") or type(error).__name__
