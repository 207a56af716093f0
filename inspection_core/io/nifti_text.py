"""NIfTI without its texts: description, names of files and intents, and every extension; voxels to the byte.

A NIfTI header has no field for a patient's name, but tools write it into the texts that there are, and some put a whole
DICOM header into an extension.
"""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np

from inspection_core.errors import ReadError
from inspection_core.io.atomic import atomic_path
from inspection_core.io.dicom.discover import UNOPENABLE, Blob
from inspection_core.io.quiet import quiet

TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
MAX_OFFSET = 64 << 20
_CHUNK = 1 << 20


def clean_nifti(blob: Blob, target: Path) -> Counter[tuple[str, str]]:
    """Write a NIfTI file without texts and extensions, whole or not at all.

    Parameters
    ----------
    blob
        ``.nii`` or ``.nii.gz``.
    target
        Compressed where its name ends in ``.gz``.

    Returns
    -------
    Counter
        ``{(field, "emptied" | "removed"): 1}``.

    Raises
    ------
    ReadError
        If it is no NIfTI, or truncated.
    """
    counts: Counter[tuple[str, str]] = Counter()
    with blob.open() as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source: IO[bytes] = gzip.open(raw) if packed else raw  # type: ignore[assignment]  # noqa: SIM115
        header, offset, wanted = _header(blob, source, counts)
        with atomic_path(target) as temporary, temporary.open("wb") as plain:
            if target.name.endswith(".gz"):  # without the name and the time that gzip would keep
                with gzip.GzipFile("", "wb", fileobj=plain, mtime=0, compresslevel=6) as out:
                    out.write(header.ljust(offset, b"\0"))
                    _copy(blob, source, out, wanted)
            else:
                plain.write(header.ljust(offset, b"\0"))
                _copy(blob, source, plain, wanted)
    return counts


def _header(blob: Blob, source: IO[bytes], counts: Counter[tuple[str, str]]) -> tuple[bytes, int, int]:
    start = _read(blob, source, 4)
    sizes = [struct.unpack(order + "i", start)[0] for order in "<>"] if len(start) == 4 else []
    kind: Any = nib.Nifti1Header if 348 in sizes else nib.Nifti2Header if 540 in sizes else None
    if kind is None:
        raise ReadError(f"{blob.name} is not NIfTI.")
    block = start + _read(blob, source, kind.sizeof_hdr - 4)
    with quiet():
        header = kind(block, check=False)
        if bytes(header["magic"].tobytes())[:3] not in (b"n+1", b"n+2"):
            raise ReadError(f"{blob.name} is not NIfTI in one file; convert it to .nii or .nii.gz first.")
        for name in TEXTS:
            if name in header.keys() and header[name].tobytes().strip(b"\0 "):  # noqa: SIM118
                header[name] = b""
                counts[name, "emptied"] += 1
        for name in ("extents", "session_error", "regular", "unused_str"):  # unused by NIfTI, so anything may be there
            if name in header.keys():  # noqa: SIM118
                header[name] = np.zeros_like(header[name])
        offset = float(header["vox_offset"])
        shape = [int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))]]
        bits = int(header["bitpix"])
    if not kind.sizeof_hdr + 4 <= offset <= MAX_OFFSET or not shape or min(shape) < 1 or bits < 1:
        raise ReadError(f"{blob.name} has a header that makes no sense; copy it again.")
    gap = _read(blob, source, int(offset) - kind.sizeof_hdr)
    if len(gap) >= 4 and gap[0]:
        counts["extensions", "removed"] += 1
    return header.binaryblock, int(offset), (int(np.prod(shape, dtype=object)) * bits + 7) // 8


def _copy(blob: Blob, source: IO[bytes], out: Any, wanted: int) -> None:
    while wanted > 0:
        data = _read(blob, source, min(_CHUNK, wanted))
        out.write(data)
        wanted -= len(data)


def _read(blob: Blob, source: IO[bytes], count: int) -> bytes:
    try:
        data = source.read(count)
    except UNOPENABLE as error:
        raise ReadError(f"{blob.name} is truncated or damaged NIfTI ({type(error).__name__}).") from None
    if len(data) < count:
        raise ReadError(f"{blob.name} is truncated: its header promises more than is there.")
    return data
