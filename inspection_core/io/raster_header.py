"""What a PNG, JPEG, WebP or BMP file says of itself, read before a single pixel is decoded; and the limits on it.

The decoders are asked only after the size is known to be acceptable, so a few bytes cannot make them ask for terabytes,
and after the file is known to be whole: some decoders fill the missing half of a truncated file with grey and say
nothing. (TIFF has a full parser of its own in tifffile.)

Sources: PNG, W3C 2003 and 2025 (``eXIf``, ``acTL``); JPEG, ITU-T T.81 annex B; WebP, RFC 9649; BMP, Windows GDI;
EXIF, CIPA DC-008.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
MAGIC: Final[dict[str, tuple[bytes, ...]]] = {
    "PNG": (PNG_MAGIC,),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # the last two are BigTIFF
    "BMP": (b"BM",),
    "WebP": (b"RIFF",),
}
BMP_HEADER_SIZES: Final = (12, 40, 52, 56, 64, 108, 124)
HEAD_SIZE: Final = 32
"""Bytes that `kind_of` wants."""

MAX_SIDE: Final = 20_000
"""Longest side that is read, in pixels."""
MAX_PIXELS: Final = 400_000_000
"""Most pixels that are read."""
MAX_BYTES: Final = 6_400_000_000
"""Largest decoded array, and largest file: `MAX_PIXELS` of four 32-bit values."""


_MOST: ContextVar[int] = ContextVar("most", default=MAX_PIXELS)


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Refuse images of more pixels than this inside the block, for a server that reads what strangers send."""
    before = _MOST.set(min(pixels, MAX_PIXELS))
    try:
        yield
    finally:
        _MOST.reset(before)


class RefusedError(Exception):
    """A file is not read, for a reason that continues the sentence "FILE "."""


class DamagedError(Exception):
    """A file's parts do not fit together; the text continues "FILE is damaged: "."""


class TruncatedError(DamagedError):
    """A file ends before its content does; the text continues "FILE is truncated: "."""


@dataclass(frozen=True)
class Header:
    """Facts of one file.

    Parameters
    ----------
    width, height
        Pixels as stored, before the orientation is applied; may be 0 or absurd, since nothing is checked here.
    samples, bits
        Values a pixel and bits a value, 8 or 16, as decoded: a palette gives 3 values of 8 bits.
    orientation
        EXIF orientation, 1 to 8; 1 is upright.
    frames
        Frames of an animation; 1 otherwise.
    grey_palette
        Whether there is a palette and all its entries are grey.
    """

    width: int
    height: int
    samples: int = 1
    bits: int = 8
    orientation: int = 1
    frames: int = 1
    grey_palette: bool = False


class Picture(NamedTuple):
    """Decoded pixels ``(y, x, C)``: grey or RGB, each with or without alpha; upright once `orientation` is applied."""

    pixels: NDArray[Any]
    orientation: int
    notes: list[str]


def check_size(width: int, height: int, bytes_per_pixel: int = 1) -> None:
    """Refuse a size that is empty or too large; called before anything is decoded.

    Raises
    ------
    RefusedError
        If a side is 0 or above `MAX_SIDE`, or the pixels or bytes are too many.
    """
    most = _MOST.get()
    if width < 1 or height < 1:
        raise RefusedError(f"has zero size: {width} x {height} pixels. Expected at least 1 x 1; write it again.")
    if max(width, height) > MAX_SIDE or width * height > most:
        raise RefusedError(
            f"claims {width} x {height} pixels. At most {MAX_SIDE} a side and {most} in all are read; "
            "cut it into tiles, or delete it if you do not know where it comes from."
        )
    if (size := width * height * bytes_per_pixel) > MAX_BYTES:
        raise RefusedError(
            f"claims {size} bytes of pixels. At most {MAX_BYTES} are read; cut it into tiles, or save it with fewer "
            "channels or bits."
        )


def kind_of(head: bytes) -> str | None:
    """Return the format that the first bytes of a file belong to, a key of `MAGIC`, or None."""
    for kind, magics in MAGIC.items():
        if head.startswith(magics):
            if kind == "WebP" and head[8:12] != b"WEBP":
                return None
            if kind == "BMP" and (len(head) < 18 or _u32(head, 14) not in BMP_HEADER_SIZES):
                return None  # two letters are no proof: a text may begin with BM
            return kind
    return None


def png_header(data: bytes) -> Header:
    """Read a PNG file's chunks.

    Raises
    ------
    DamagedError
        If the first chunk is no ``IHDR``; `TruncatedError` if there is no ``IEND``.
    """
    position, frames, exif, palette, alpha = len(PNG_MAGIC), 1, b"", b"", 0
    width = height = depth = colour = -1
    while True:
        if position + 12 > len(data):
            raise TruncatedError("the end mark of a PNG file is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        body = position + 8
        if body + length + 4 > len(data):
            raise TruncatedError(f"a block of {length} bytes is announced, and {len(data) - body} follow")
        if width < 0:
            if kind != b"IHDR" or length != 13:
                raise DamagedError("a PNG file begins with a header block of 13 bytes")
            width, height, depth, colour = struct.unpack_from(">IIBB", data, body)
        elif kind == b"PLTE":
            palette = data[body : body + length]
        elif kind == b"tRNS":
            alpha = 1  # decoded into a channel
        elif kind == b"eXIf":
            exif = data[body : body + length]
        elif kind == b"acTL" and length == 8:
            frames = max(1, struct.unpack_from(">I", data, body)[0])
        elif kind == b"IEND":
            break
        position = body + length + 4
    samples = {0: 1 + alpha, 2: 3 + alpha, 3: 3 + alpha, 4: 2, 6: 4}.get(colour)
    if samples is None or depth not in (1, 2, 4, 8, 16):
        raise DamagedError(f"a PNG file has no colour type {colour} with {depth} bits")
    grey = colour == 3 and palette[0::3] == palette[1::3] == palette[2::3]
    return Header(width, height, samples, max(8, depth), exif_orientation(exif), frames, grey)


def jpeg_header(data: bytes) -> Header:
    """Read a JPEG file's segments up to the first scan.

    Raises
    ------
    DamagedError
        If there is no frame before the first scan; `TruncatedError` if the scans cannot be whole.
    RefusedError
        If its size is out of bounds.
    """
    position, exif, frame = 2, b"", b""
    marker = 0
    while True:
        position = data.find(b"\xff", position)  # bytes between segments are skipped, as decoders do
        while 0 <= position < len(data) and data[position] == 0xFF:
            position += 1
        if position < 0 or position + 3 > len(data):
            raise TruncatedError("it ends before the first scan of a JPEG file")
        code = data[position]
        position += 1
        if code in (0x00, 0x01) or 0xD0 <= code <= 0xD8:  # stuffing and marks without a length
            continue
        if code == 0xD9:
            raise DamagedError("a JPEG file has a scan before its end mark")
        length = struct.unpack_from(">H", data, position)[0]
        body = data[position + 2 : position + length]
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            marker, frame = code, body
        elif code == 0xE1 and body.startswith(b"Exif\0") and not exif:
            exif = body
        position += length
        if code == 0xDA:
            break
    if len(frame) < 6:
        raise DamagedError("a JPEG file has a frame header before its first scan")
    height, width, samples = struct.unpack_from(">xHHB", frame)
    check_size(width, height)  # here already, because a bomb shall not be called truncated
    # The two bytes of the end mark cannot occur inside a scan.
    if data.rfind(b"\xff\xd9", position) < 0:
        raise TruncatedError("the end mark of a JPEG file is missing")
    # With Huffman codes each block of 8 x 8 takes at least one bit: a header that claims more than that is a bomb.
    if marker in (0xC0, 0xC1, 0xC2) and (len(data) - position) * 8 < (width // 8) * (height // 8):
        raise TruncatedError(f"{len(data)} bytes cannot hold {width} x {height} pixels of JPEG")
    return Header(width, height, samples, orientation=exif_orientation(exif))


def webp_header(data: bytes) -> Header:
    """Read a WebP file's chunks.

    Raises
    ------
    DamagedError
        If there is no image; `TruncatedError` if the file is shorter than it says.
    """
    end = 8 + _u32(data, 4)
    if end > len(data):
        raise TruncatedError(f"{end} bytes are announced, and {len(data)} are there")
    position, frames, exif = 12, 0, b""
    size: tuple[int, int] | None = None
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if body + length > len(data):
            raise TruncatedError(f"a block of {length} bytes is announced, and {len(data) - body} follow")
        if kind == b"VP8X" and length >= 10:
            size = (1 + _u32(data, body + 4) % 2**24, 1 + _u32(data, body + 6) // 2**8)
        elif kind == b"VP8 " and length >= 10 and size is None:
            size = (_u16(data, body + 6) % 2**14, _u16(data, body + 8) % 2**14)
        elif kind == b"VP8L" and length >= 5 and size is None:
            bits = _u32(data, body + 1)
            size = (1 + bits % 2**14, 1 + (bits >> 14) % 2**14)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            exif = data[body : body + length]
        position = body + length + length % 2
    if size is None:
        raise DamagedError("a WebP file holds a VP8 or VP8L image")
    return Header(*size, samples=3, orientation=exif_orientation(exif), frames=max(1, frames))


def bmp_header(data: bytes) -> Header:
    """Read the size in a BMP file's header; a negative height means that rows run downwards."""
    small = _u32(data, 14) == 12
    if len(data) < 26:
        raise TruncatedError("the header of a BMP file is missing")
    width, height = struct.unpack_from("<HH" if small else "<ii", data, 18)
    return Header(width, abs(height), samples=3)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in a block of EXIF data; 1 where there is none or it cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, offset + 2 + 12 * i)
            if tag == 0x0112 and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # a damaged note beside the picture is no reason to refuse the picture
        return 1
    return 1


def rgb_of_inks(paper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn inverted CMYK ``(y, x, 4+)``, where 255 is no ink, into RGB ``(y, x, 3)``, without a colour profile."""
    if paper.dtype != np.uint8:
        raise RefusedError(f"is CMYK of {paper.dtype}. Expected 8 bits a channel; save it as RGB.")
    rgb = np.empty((*paper.shape[:2], 3), np.uint8)
    for row, inks in zip(rgb, paper, strict=True):  # by rows, because the products take twice the memory
        row[:] = (inks[:, :3].astype(np.uint16) * inks[:, 3:4] + 127) // 255
    return rgb


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
