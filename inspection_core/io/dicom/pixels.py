"""Stored pixels of one file: decoding through pydicom and its pylibjpeg plugins, with the sizes checked beforehand."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from inspection_core.errors import ReadError
from inspection_core.io.dicom.discover import DEFLATE_MAX_RATIO
from inspection_core.io.dicom.frames import FileFacts, is_deflated, is_packed, parse
from inspection_core.io.dicom.values import DAMAGE
from inspection_core.io.quiet import quiet

NATIVE_MAX_BYTES = 8 << 30
PACKED_FREE_BYTES = 128 << 20
PACKED_MAX_RATIO = 4096
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_GREY = ("MONOCHROME1", "MONOCHROME2")
"""A compressed file may unpack to this many times its size beyond `PACKED_FREE_BYTES`; more is a damaged header."""


def open_pixels(file: FileFacts) -> Dataset:
    """Return a file's whole dataset, once its claims have been held against its bytes.

    Raises
    ------
    ReadError
        If the pixels are missing, cut off, in an encoding that is not read, or claim more than can be there.
    """
    if file.fault:
        raise ReadError(f"{file.blob.name} cannot be read: {file.fault}.")
    _check_claim(file)
    try:
        with file.blob.open() as stream:
            dataset = parse(stream, pixels=True)
    except DAMAGE as error:
        raise ReadError(f"{file.blob.name} is damaged DICOM ({type(error).__name__}); copy it again.") from None
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ReadError(f"{file.blob.name} has no pixel data; copy it again from its source.")
    name_syntax(dataset)
    return dataset


def _check_claim(file: FileFacts) -> None:
    """Hold what the header claims against the bytes that are there, before anything is allocated."""
    plane = file.rows * file.columns * file.samples * max(file.allocated, 8) // 8
    packed = is_packed(file.transfer_syntax)
    free = PACKED_FREE_BYTES if packed else 1 << 20
    ratio = PACKED_MAX_RATIO if packed else DEFLATE_MAX_RATIO if is_deflated(file.transfer_syntax) else 1
    if plane * file.frames > min(file.blob.size * ratio + free, max(NATIVE_MAX_BYTES, file.blob.size * 8 + free)):
        raise ReadError(
            f"{file.blob.name} claims {plane * file.frames:,} bytes of pixels in a file of {file.blob.size:,}; "
            "its header is damaged. Copy it again."
        )


def plain_frames(file: FileFacts, numbers: Sequence[int]) -> Iterator[NDArray[Any]] | None:
    """Read frames that lie uncompressed in the file, from where the header ended; None where that is not the case.

    Most CT and MR is stored so. Parsing the header a second time would take longer than reading such pixels.

    Parameters
    ----------
    file
        From `frames_of`.
    numbers
        Frames wanted, from 0, rising; they come one by one.

    Raises
    ------
    ReadError
        If the file cannot be opened, or ends too early.
    """
    explicit = {ImplicitVRLittleEndian: False, ExplicitVRLittleEndian: True}.get(UID(file.transfer_syntax))
    plain = file.samples == 1 and file.allocated in (8, 16, 32) and file.photometric in _GREY and not file.has_lut
    if explicit is None or not plain or file.pixels_at < 0 or file.fault:
        return None
    stream = file.blob.open()
    stream.seek(file.pixels_at)
    head = stream.read(12)
    begin = 12 if explicit else 8
    length = int.from_bytes(head[begin - 4 : begin], "little")
    size = file.rows * file.columns * file.allocated // 8 * file.frames
    if head[:4] != _PIXEL_DATA or (explicit and head[4:6] not in (b"OW", b"OB")) or not size <= length < 0xFFFFFFFF:
        stream.close()
        return None
    return _plain_frames(file, stream, file.pixels_at + begin, numbers)


def _plain_frames(file: FileFacts, stream: BinaryIO, begin: int, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    with stream:
        for number in numbers:
            array = np.empty((file.rows, file.columns), f"<{'i' if file.signed else 'u'}{file.allocated // 8}")
            stream.seek(begin + number * array.nbytes)
            if stream.readinto(array.data.cast("B")) != array.nbytes:  # type: ignore[attr-defined]
                raise ReadError(f"{file.blob.name} is truncated: it ends inside frame {number + 1}. Copy it again.")
            yield _only_stored_bits(array, file)


def packed_frame(file: FileFacts) -> NDArray[Any] | None:
    """Decode the one compressed grey frame of a file, from where the header ended; None where that is not the case.

    pydicom's decoder gets the bytes and what the header said; the file is not parsed a second time.

    Raises
    ------
    ReadError
        If it cannot be decoded; the text names the encoding.
    """
    grey = file.samples == 1 and file.photometric in _GREY and file.frames == 1 and file.allocated in (8, 16)
    if not grey or file.has_lut or file.fault or file.pixels_at < 0 or not is_packed(file.transfer_syntax):
        return None
    _check_claim(file)
    with file.blob.open() as stream:
        stream.seek(file.pixels_at)
        head = stream.read(12)
        if head[:4] != _PIXEL_DATA or head[4:6] not in (b"OB", b"OW") or head[8:12] != b"\xff\xff\xff\xff":
            return None
        data = stream.read()
    syntax = UID(file.transfer_syntax)
    said: dict[str, Any] = {
        "pixel_keyword": "PixelData",
        "rows": file.rows,
        "columns": file.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": file.photometric,
        "bits_allocated": file.allocated,
        "bits_stored": file.bits,
        "pixel_representation": int(file.signed),
    }
    try:
        _check_codestream(file, data)
        array, _ = get_decoder(syntax).as_array(data, index=0, raw=True, **said)
    except ReadError:
        raise
    except DAMAGE as error:
        raise _undecodable(file, syntax.name, error) from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # what a Rust decoder raises is no Exception
            raise _undecodable(file, syntax.name, error) from None
        raise
    return _of_its_size(file, array)


def decode(file: FileFacts, dataset: Dataset, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Decode frames one by one, as stored: ``(rows, columns)``, or ``(rows, columns, samples)`` in RGB.

    Parameters
    ----------
    file, dataset
        From `frames_of` and `open_pixels`.
    numbers
        Frames wanted, from 0, rising.

    Raises
    ------
    ReadError
        If they cannot be decoded; the text names the encoding.
    """
    packed = is_packed(str(dataset.file_meta.TransferSyntaxUID))
    try:
        if packed:
            _check_codestream(file, dataset.PixelData)
        for array in iter_pixels(dataset, indices=list(numbers)):
            array = _of_its_size(file, array)
            if file.photometric == "PALETTE COLOR":
                array = _in_bytes(apply_color_lut(array, dataset))
            elif not packed and array.dtype.kind in "ui":
                array = _only_stored_bits(array, file)
            yield array
    except ReadError:
        raise
    except DAMAGE as error:
        raise _undecodable(file, _name(dataset), error) from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # what a Rust decoder raises is no Exception
            raise _undecodable(file, _name(dataset), error) from None
        raise


def _of_its_size(file: FileFacts, array: NDArray[Any]) -> NDArray[Any]:
    if array.shape[:2] != (file.rows, file.columns):
        raise ReadError(
            f"{file.blob.name} decodes to {array.shape[1]} x {array.shape[0]} pixels where its header says "
            f"{file.columns} x {file.rows}; copy it again."
        )
    return array


def _undecodable(file: FileFacts, syntax: str, error: BaseException) -> ReadError:
    return ReadError(
        f"{file.blob.name} cannot be decoded as {syntax} ({type(error).__name__}): the pixels are damaged, "
        "or this kind is not read here. Copy it again, or export it uncompressed."
    )


def modality_lut(array: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Apply a Modality LUT Sequence (PS3.3 C.11.1.1)."""
    try:
        return apply_modality_lut(array, dataset)
    except DAMAGE:
        raise ReadError("A Modality LUT is damaged; ask for the series to be exported again.") from None


def pixel_digest(file: FileFacts) -> str:
    """Return a hash of a file's pixel data as stored, for telling copies.

    Raises
    ------
    ReadError
        If it has none.
    """
    with quiet():
        dataset = open_pixels(file)
        for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if name in dataset and isinstance(dataset[name].value, bytes):
                return hashlib.sha256(dataset[name].value).hexdigest()
    raise ReadError(f"{file.blob.name} has no pixel data.")


def name_syntax(dataset: Dataset) -> None:
    """Give a file without a meta header the encoding that pydicom parsed it with."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        dataset.file_meta = meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" in meta and meta.TransferSyntaxUID:
        return
    implicit, little = dataset.original_encoding
    if implicit:
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        meta.TransferSyntaxUID = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian


def _in_bytes(colours: NDArray[Any]) -> NDArray[Any]:
    """Return 16-bit colours that hold 8-bit ones in their upper byte as 8-bit ones."""
    if colours.dtype == np.uint16 and not (colours & 0xFF).any():
        return (colours >> 8).astype(np.uint8)
    return colours


def _only_stored_bits(array: NDArray[Any], file: FileFacts) -> NDArray[Any]:
    """Cut off what lies outside the stored bits (old overlays), and bring the sign where it belongs."""
    size = array.dtype.itemsize * 8
    high = file.high_bit
    above, below = size - 1 - high, high + 1 - file.bits
    if not 0 < file.bits <= size or above < 0 or below < 0 or (above == 0 and below == 0):
        return array
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return (native << above) >> (above + below)  # arithmetic for signed types, logical for unsigned ones


def _name(dataset: Dataset) -> str:
    try:
        uid = UID(dataset.file_meta.TransferSyntaxUID)
        return str(uid.name) if uid.is_transfer_syntax and not uid.is_private else "an unknown encoding"
    except DAMAGE:
        return "an unknown encoding"


def _check_codestream(file: FileFacts, data: bytes) -> None:
    """Hold the size inside the first compressed frame against the header: decoders allocate by the former."""
    first = next(iter(generate_frames(data, number_of_frames=file.frames)))
    size = _codestream_size(first)
    if size is not None and size != (file.rows, file.columns):
        raise ReadError(
            f"{file.blob.name} holds a compressed image of {size[1]} x {size[0]} pixels where its header says "
            f"{file.columns} x {file.rows}; copy it again."
        )


def _codestream_size(data: bytes) -> tuple[int, int] | None:
    """Return ``(rows, columns)`` that a JPEG, JPEG-LS or JPEG 2000 stream names, or None where it names none."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: SOC, SIZ
    if start >= 0 and len(data) >= start + 24:
        right, bottom, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
        return bottom - top, right - left
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack(">HH", data[at + 5 : at + 9])
            return rows, columns
        at += 2 + length
    return None
