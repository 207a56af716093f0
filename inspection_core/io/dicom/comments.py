"""Comments inside compressed pixels: JPEG's COM and APPn segments (ITU-T T.81 B.2.4) and JPEG 2000's COM (T.800 A.9).

Cameras, scanners and converters write names, dates and software there, where no header shows them.
"""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames

from inspection_core.io.dicom.frames import is_packed
from inspection_core.io.dicom.values import DAMAGE, whole

_KEPT_APPS = frozenset([0xE0, 0xE8, 0xEE])
"""JFIF, SPIFF and Adobe: they tell how colours are to be read."""


def without_comments(dataset: Dataset) -> int:
    """Take the comments out of each compressed frame in place; return how many there were.

    Pixels are not decoded, so they stay as they are to the bit. What cannot be followed is left alone.
    """
    meta = getattr(dataset, "file_meta", None)
    if "PixelData" not in dataset or meta is None or not is_packed(str(meta.get("TransferSyntaxUID", ""))):
        return 0
    try:
        count = whole(dataset, "NumberOfFrames") or 1
        extended = None
        if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
            extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        frames = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=extended))
        if len(frames) != count:
            return 0
        cleaned = [_strip(frame) for frame in frames]
        found = sum(n for _, n in cleaned)
        if not found:
            return 0
        streams = [data for data, _ in cleaned]
        if extended is not None:
            out = encapsulate_extended(streams)
            dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = out
        else:
            dataset.PixelData = encapsulate(streams)
        dataset["PixelData"].is_undefined_length = True
    except DAMAGE:
        return 0
    return found


def _strip(data: bytes) -> tuple[bytes, int]:
    if data[:2] == b"\xff\xd8":
        return _strip_segments(data, end=0xDA, drop=lambda m: m == 0xFE or (0xE0 <= m <= 0xEF and m not in _KEPT_APPS))
    if data[:4] == b"\xff\x4f\xff\x51":
        return _strip_segments(data, end=0x90, drop=lambda m: m == 0x64)
    return data, 0


def _strip_segments(data: bytes, end: int, drop: Callable[[int], bool]) -> tuple[bytes, int]:
    """Leave out segments before the one that begins the pixels; anything unexpected gives the data back unchanged."""
    out, at, found = [data[:2]], 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == end:
            return b"".join([*out, data[at:]]), found
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 4:
            break
        if drop(marker):
            found += 1
        else:
            out.append(data[at : at + length])
        at += length
    return data, 0
