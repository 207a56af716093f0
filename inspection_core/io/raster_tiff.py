"""TIFF, decoded by tifffile, with what tifffile leaves to its caller: limits, colours, several pages, lost strips.

Source: TIFF revision 6.0 and its supplements; BigTIFF.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from inspection_core.io.raster_header import (
    MAX_SIDE,
    DamagedError,
    Picture,
    RefusedError,
    TruncatedError,
    check_size,
    rgb_of_inks,
)

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6
COLOUR_SAMPLES: Final = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3}
"""Samples a pixel for each photometric interpretation that is read, without alpha."""
JPEG_COMPRESSIONS: Final = (6, 7)
COMPRESSIONS: Final = {
    1: "none",
    2: "CCITT",
    3: "fax 3",
    4: "fax 4",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    34926: "zstd",
    50000: "zstd",
    50001: "WebP",
}
"""Compressions that are read. The rest are rare, or let a few bytes unpack without bound."""


def decode_tiff(path: Path) -> Picture:
    """Decode the one image of a TIFF file.

    Smaller pages after the first, such as thumbnails and pyramid levels, are left out with a note.

    Raises
    ------
    RefusedError, DamagedError
        Where the file cannot be read as one image of grey or RGB values. tifffile raises many others.
    """
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        photometric = _check(page, path.stat().st_size)
        notes = _other_pages(file, page)
        # (separate samples, depth, y, x, interleaved samples), whatever the file looks like
        pixels = page.asarray(squeeze=False)[:, 0]
        pixels = np.moveaxis(pixels[..., 0], 0, -1) if page.planarconfig == 2 else pixels[0]
        orientation = page.tags.valueof(274)
        pixels = _colours(page, photometric, pixels, notes)
    return Picture(pixels, orientation if orientation in range(1, 9) else 1, notes)


def _check(page: tifffile.TiffPage, file_size: int) -> int:
    """Refuse what cannot be read, before anything is decoded; return the photometric interpretation."""
    width, height, samples = page.imagewidth, page.imagelength, page.samplesperpixel
    numbers = (width, height, samples, page.tilewidth, page.tilelength, page.imagedepth, page.rowsperstrip)
    if not all(isinstance(n, int) for n in numbers):
        raise DamagedError(f"the sizes in its header are {numbers}")
    itemsize = page.dtype.itemsize if page.dtype is not None else 1
    check_size(width, height, samples * itemsize)
    if max(page.tilewidth, page.tilelength) > MAX_SIDE:
        raise RefusedError(f"claims tiles of {page.tilewidth} x {page.tilelength}. At most {MAX_SIDE} a side are read.")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise RefusedError(
            f"has values of {page.bitspersample} bits in sample format {int(page.sampleformat)}. "
            "Expected integers or floats; save it as uint8, uint16 or float32."
        )
    if page.imagedepth != 1:
        raise RefusedError(f"is a volume of {page.imagedepth} slices. Expected one image; save its slices one by one.")
    if page.compression not in COMPRESSIONS:
        names = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise RefusedError(
            f"is compressed by method {int(page.compression)}. Expected {names}; save it with LZW or deflate."
        )
    # Without the tag tifffile says "min is white", which would turn the image into its negative.
    photometric = int(page.photometric) if 262 in page.tags or page.compression == 6 else _guessed(samples)
    plain_ycbcr = photometric == YCBCR and page.compression not in JPEG_COMPRESSIONS
    colours = COLOUR_SAMPLES.get(photometric)
    if colours is None or plain_ycbcr or (photometric == INKS and page.dtype != np.uint8):
        name = getattr(page.photometric, "name", photometric)
        raise RefusedError(f"has the colour model {name} of {page.dtype}. Expected grey or RGB; save it as RGB.")
    if samples - colours not in ((0, 1) if photometric != PALETTE else (0,)):
        raise RefusedError(f"has {samples} channels. Expected grey or RGB, with or without alpha; save it as RGB.")
    _check_segments(page, file_size)
    return photometric


def _guessed(samples: int) -> int:
    return RGB if samples in (3, 4) else MIN_IS_BLACK


def _check_segments(page: tifffile.TiffPage, file_size: int) -> None:
    """Refuse strips and tiles that are not there: tifffile would fill their place with zeros."""
    expected = math.prod(page.chunked)
    if not len(page.dataoffsets) == len(page.databytecounts) == expected:
        raise TruncatedError(f"{expected} strips or tiles are needed, and {len(page.dataoffsets)} are listed")
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset < 1 or size < 1 or offset + size > file_size:
            raise TruncatedError(f"a strip of {size} bytes at {offset} is not inside its {file_size} bytes")


def _other_pages(file: tifffile.TiffFile, first: tifffile.TiffPage) -> list[str]:
    """Refuse a stack, where one page would stand for many; note what is smaller than the first page."""
    planes = int(file.imagej_metadata.get("images", 1)) if file.imagej_metadata else 1  # ImageJ puts many in one page
    count = max(planes, len(file.pages))
    area = first.imagewidth * first.imagelength
    others = (file.pages[i].aspage() for i in range(1, len(file.pages)))
    if planes > 1 or not all(page.is_mask or page.imagewidth * page.imagelength < area for page in others):
        raise RefusedError(f"holds {count} images. Expected one; save its pages one by one.")
    return [f"{count - 1} smaller page{'s' if count > 2 else ''} left out"] if count > 1 else []


def _colours(page: tifffile.TiffPage, photometric: int, pixels: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Return ``(y, x, C)`` of grey or RGB, with alpha if there is any, from stored samples ``(y, x, S)``."""
    if photometric == PALETTE:
        return _unpaletted(page.colormap, pixels[..., 0])
    if photometric == INKS:
        rgb = rgb_of_inks(255 - pixels)
        return np.concatenate([rgb, pixels[..., 4:]], axis=-1) if pixels.shape[2] > 4 else rgb
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if photometric == MIN_IS_WHITE:
        if pixels.dtype.kind == "u":
            pixels = pixels.copy()
            pixels[..., 0] = 2**bits - 1 - pixels[..., 0]
        else:
            notes.append(f"MinIsWhite left as it is: {pixels.dtype} has no white")
    if bits < 8:
        pixels = ((pixels.astype(np.uint16) * 255) // (2**bits - 1)).astype(np.uint8)
    return pixels


def _unpaletted(colormap: NDArray[np.uint16] | None, index: NDArray[Any]) -> NDArray[np.uint8]:
    """Look up colours; a palette of greys gives one channel."""
    if colormap is None or colormap.ndim != 2 or len(colormap) != 3:
        raise DamagedError("it has no palette of three colours")
    scale = 256 if colormap.max() > 255 else 1  # 16 bits by the standard; some write 8
    table = (colormap.T // scale).astype(np.uint8)
    if (table == table[:, :1]).all():
        table = table[:, :1]
    colours = np.empty((*index.shape, table.shape[1]), np.uint8)
    for row, indices in zip(colours, index, strict=True):  # by rows, because numpy makes 64-bit numbers of the indices
        row[:] = table[indices.astype(np.intp)]
    return colours
