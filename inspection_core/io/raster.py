"""PNG, JPEG, TIFF, BMP and WebP files, in and out.

Values come as they are stored, in their own type and range: 16-bit and float images are scaled later, by the window on
the model's card, never here and never by the image's own brightest pixel. A file is known by its content; a suffix that
says otherwise is an error, because the next program in line would believe the suffix.

Every failure is one `ReadError` of one line. No state is kept between files, so threads may read at once.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path, write_bytes
from inspection_core.io.raster_header import (
    HEAD_SIZE,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    DamagedError,
    Header,
    Picture,
    RefusedError,
    TruncatedError,
    bmp_header,
    check_size,
    jpeg_header,
    kind_of,
    png_header,
    rgb_of_inks,
    webp_header,
)
from inspection_core.io.raster_tiff import decode_tiff
from inspection_core.prediction import RESEARCH_USE

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "RASTER_SUFFIXES",
    "list_images",
    "read_raster",
    "write_mask_png",
    "write_score_tiff",
]

SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "WebP": (".webp",),
}
"""Suffixes of each format, the usual one first."""
RASTER_SUFFIXES: Final = frozenset(s for suffixes in SUFFIXES.values() for s in suffixes)
"""All suffixes that are read, in lower case."""

CHANNELS: Final[dict[int, tuple[str, ...]]] = {1: ("grey",), 3: ("red", "green", "blue")}
PNG_HEADER: Final = 33
"""Bytes of a PNG's signature and its first chunk."""
_EXPECTED: Final = "a PNG, JPEG, TIFF, BMP or WebP image"
_AGAIN: Final = "copy it again from where it came from"

# Both log what they stumble on; without a handler Python would print that beside our one line.
for _library in ("imagecodecs", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())


def read_raster(path: Path) -> Image:
    """Read one image file.

    Parameters
    ----------
    path
        PNG, JPEG, TIFF, BMP or WebP, up to 20,000 x 20,000 pixels. A name without a suffix is fine.

    Returns
    -------
    Image
        Array ``(C, y, x)``, often a view of memory that lies as ``(y, x, C)``; strides are above 0. Integers keep
        their type and range, but for 1 to 7 bits, which are spread over uint8; floats come as finite float32.
        Channels are ``("grey",)`` or ``("red", "green", "blue")``: palettes and CMYK become RGB, a palette of greys
        becomes grey, alpha is dropped, and the EXIF orientation is applied. `Image.notes` says what was left out or
        turned. The geometry is in pixels: a resolution in DPI is about paper, not about the part.

    Raises
    ------
    ReadError
        If there is no such file, or it is empty, truncated, damaged, too large, of another format than its suffix
        says, holds several images, or holds NaN.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        array, notes = _finished(_DECODERS[kind](path))
    except RefusedError as error:
        raise ReadError(f"{path} {error}") from error
    except TruncatedError as error:
        raise ReadError(f"{path} is truncated: {error}; {_AGAIN}.") from error
    except DamagedError as error:
        raise ReadError(f"{path} is damaged: {error}; {_AGAIN}.") from error
    except MemoryError as error:
        raise ReadError(f"{path} does not fit in memory. Close other programs, or cut it into tiles.") from error
    except Exception as error:  # decoders raise whatever their C libraries come upon
        raise ReadError(f"{path} is damaged: the {kind} decoder says {_short(error)}; {_AGAIN}.") from error
    return Image(array, Geometry.pixels(array.shape[1:]), CHANNELS[len(array)], path, tuple(notes))


def list_images(folder: Path, unlisted: list[Path] | None = None) -> list[Path]:
    """List the image files under `folder`, in natural order: ``img2.png`` before ``img10.png``.

    Files are known by `RASTER_SUFFIXES` in either case. Hidden files and folders, whose names begin with a dot, are
    left out. Links to folders are followed, and a folder that is reached twice is listed once.

    Parameters
    ----------
    folder
        Where to look.
    unlisted
        Takes the folders inside that may not be listed; without it the first is an error.

    Raises
    ------
    ReadError
        If `folder`, or a folder in it, is missing, is no folder, or may not be listed.
    """
    folder = Path(folder)
    return sorted(_walk(folder, set(), unlisted), key=lambda path: _natural(path.relative_to(folder)))


def write_mask_png(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a label mask ``(y, x)``, uint8, as a grey PNG of the same values; whole or not at all.

    Raises
    ------
    GeometryError
        If the mask is not 2-D or not uint8.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise GeometryError(f"A mask for PNG is (y, x) of uint8. Got shape {mask.shape} of {mask.dtype}.")
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(mask)))
    write_bytes(path, data[:PNG_HEADER] + _png_text("Comment", RESEARCH_USE) + data[PNG_HEADER:])


def write_score_tiff(path: Path, score: NDArray[np.floating[Any]]) -> None:
    """Write a score map ``(y, x)`` as an uncompressed float32 TIFF, which any viewer opens; whole or not at all.

    Raises
    ------
    GeometryError
        If the score map is not 2-D or not of floats.
    """
    if score.ndim != 2 or score.dtype.kind != "f":
        raise GeometryError(f"A score map for TIFF is (y, x) of floats. Got shape {score.shape} of {score.dtype}.")
    values = np.ascontiguousarray(score, dtype=np.float32)
    with atomic_path(path) as temporary:
        # Neither software nor date: equal scores make equal files.
        tifffile.imwrite(
            temporary, values, photometric="minisblack", metadata=None, software=False, description=RESEARCH_USE
        )


def _png_text(key: str, text: str) -> bytes:
    """Return a tEXt chunk, as the PNG specification (ISO/IEC 15948) lays it out."""
    body = b"tEXt" + key.encode("latin-1") + b"\0" + text.encode("latin-1")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _kind(path: Path) -> str:
    """Return the format of an existing, plain, non-empty file, a key of `SUFFIXES`."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ReadError(f"{path} is a folder. Expected {_EXPECTED}; give a file in it.")
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise ReadError(f"{path} is not a plain file. Expected {_EXPECTED}; save it to a disk first.")
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        raise ReadError(f"{path} does not exist. Expected {_EXPECTED}; check the name.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise ReadError(f"{path} cannot be opened: {_short(error)}. Check the name and who may read it.") from error
    if not head:
        raise ReadError(f"{path} is empty (0 bytes). Expected {_EXPECTED}; {_AGAIN}.")
    kind = kind_of(head)
    if kind is None:
        raise ReadError(f"{path} is not {_EXPECTED}: it begins with {head[:8]!r}. Save it as one of these.")
    if path.suffix and path.suffix.lower() not in SUFFIXES[kind]:
        right = SUFFIXES[kind][0]
        raise ReadError(f"{path} is a {kind} file by its content, not what its suffix says; rename it to {right}.")
    if status.st_size > MAX_BYTES:
        raise ReadError(f"{path} has {status.st_size} bytes. At most {MAX_BYTES} are read; cut it into tiles.")
    return kind


def _decoder(
    parse: Callable[[bytes], Header], decode: Callable[[bytes, Header], NDArray[Any]]
) -> Callable[[Path], Picture]:
    """Return a reader that asks `decode` for pixels only once `parse` has found the file whole and its size sane."""

    def read(path: Path) -> Picture:
        data = path.read_bytes()
        header = parse(data)
        check_size(header.width, header.height)
        pixels = decode(data, header)
        if pixels.shape[:2] != (header.height, header.width):
            raise DamagedError(f"its header says {header.width} x {header.height} pixels, its data differ")
        pixels = pixels.reshape(header.height, header.width, -1)
        if header.grey_palette:  # the decoder made RGB of it, perhaps with alpha
            pixels = pixels[..., 0::3] if pixels.shape[2] == 4 else pixels[..., :1]
        notes = [f"the first of {header.frames} frames taken"] if header.frames > 1 else []
        return Picture(pixels, header.orientation, notes)

    return read


def _png_pixels(data: bytes, header: Header) -> NDArray[Any]:
    # imagecodecs keeps 16-bit RGB, which Pillow cuts to 8 bits, and is twice as fast. The array is made here: where
    # imagecodecs makes it and libpng then fails, it is never freed, and None loses a reference; after some thousand
    # damaged files Python before 3.12 aborts.
    shape = (header.height, header.width, header.samples)
    out = np.empty(shape[:2] if header.samples == 1 else shape, np.uint16 if header.bits == 16 else np.uint8)
    pixels: NDArray[Any] = imagecodecs.png_decode(data, out=out)
    return pixels


def _jpeg_pixels(data: bytes, _: Header) -> NDArray[Any]:
    pixels: NDArray[Any] = imagecodecs.jpeg8_decode(data)
    # Four channels are CMYK, inverted by Adobe's custom, which the field follows.
    return rgb_of_inks(pixels) if pixels.shape[2:] == (4,) else pixels


def _webp_pixels(data: bytes, _: Header) -> NDArray[Any]:
    pixels: NDArray[Any] = imagecodecs.webp_decode(data)
    return pixels


def _bmp_pixels(data: bytes, _: Header) -> NDArray[Any]:
    # The plugin's class itself: Image.open would warn at 89 million pixels and refuse twice that.
    with BmpImageFile(io.BytesIO(data)) as file:
        if file.mode != "P":
            return np.asarray(file.convert("L") if file.mode == "1" else file)
        rgb = np.asarray(file.convert("RGB"))
        palette = np.array(file.getpalette("RGB")).reshape(-1, 3)
        return rgb[..., :1] if (palette == palette[:, :1]).all() else rgb


_DECODERS: Final[dict[str, Callable[[Path], Picture]]] = {
    "PNG": _decoder(png_header, _png_pixels),
    "JPEG": _decoder(jpeg_header, _jpeg_pixels),
    "TIFF": decode_tiff,
    "BMP": _decoder(bmp_header, _bmp_pixels),
    "WebP": _decoder(webp_header, _webp_pixels),
}


def _finished(picture: Picture) -> tuple[NDArray[Any], list[str]]:
    """Return ``(C, y, x)`` without alpha, upright, of a type that `Image` promises; and the notes."""
    pixels, orientation, notes = picture
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1]
        opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
        if alpha.min() < opaque:
            notes = [*notes, "alpha channel dropped"]
        pixels = pixels[..., :-1]
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused next
            pixels = pixels.astype(np.float32, copy=False)
        if not (np.isfinite(pixels.min()) and np.isfinite(pixels.max())):  # NaN goes through min and max
            raise RefusedError("holds NaN or infinity, which no score can come from. Replace these values first.")
    if orientation != 1:
        notes = [*notes, f"turned upright (EXIF orientation {orientation})"]
        pixels = np.ascontiguousarray(_UPRIGHT[orientation](pixels))
    return np.moveaxis(pixels, -1, 0), notes


_UPRIGHT: Final[dict[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def _walk(folder: Path, seen: set[tuple[int, int]], unlisted: list[Path] | None) -> Iterator[Path]:
    """Give the image files under `folder`; `seen` holds the folders visited, so that circular links end."""
    inside = bool(seen)
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            # Path.is_dir, because DirEntry.is_dir raises on a link to itself.
            listed = sorted((e.name, Path(e.path).is_dir()) for e in entries if not e.name.startswith("."))
    except FileNotFoundError:
        raise ReadError(f"{folder} does not exist. Expected a folder of images; check the name.") from None
    except NotADirectoryError:
        raise ReadError(f"{folder} is a file. Expected a folder of images; give the folder it lies in.") from None
    except OSError as error:
        if unlisted is not None and inside:
            unlisted.append(folder)
            return
        raise ReadError(f"{folder} cannot be listed: {_short(error)}. Check who may read it.") from error
    for name, is_folder in listed:
        if is_folder:
            yield from _walk(folder / name, seen, unlisted)
        elif Path(name).suffix.lower() in RASTER_SUFFIXES:
            yield folder / name


def _natural(path: Path) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    """Return a sorting key: runs of digits count as numbers, and letters without regard to case."""
    # Splitting by digits alternates text and number, so that only like is compared with like.
    return tuple(
        (tuple(int(s) if s.isdigit() else s for s in re.split(r"([0-9]+)", part.casefold())), part)
        for part in path.parts
    )


def _short(error: BaseException) -> str:
    """Return an error's text as one short line."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return text if len(text) <= 160 else text[:157] + "..."
