"""Raster files in and out: every format, type, orientation and error."""

import contextlib
import gc
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.io import raster, raster_header
from inspection_core.io.raster import (
    MAX_BYTES,
    MAX_SIDE,
    RASTER_SUFFIXES,
    list_images,
    read_raster,
    write_mask_png,
    write_score_tiff,
)

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (13, 17), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (13, 17), dtype=np.uint16)
COLOUR16 = RNG.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
FLOAT = RNG.normal(0, 1e4, (13, 17)).astype(np.float32)
HALF_CLEAR = np.where(np.arange(17) < 8, 255, 100).astype(np.uint8) * np.ones((13, 1), np.uint8)


def pillow(array, kind, mode=None, **options) -> bytes:
    """Encode by Pillow."""
    picture = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    with io.BytesIO() as file:
        (picture.convert(mode) if mode else picture).save(file, kind, **options)
        return file.getvalue()


def tiff(array, **options) -> bytes:
    """Encode by tifffile, as one page without its own metadata."""
    with io.BytesIO() as file:
        tifffile.imwrite(file, array, **{"metadata": None, "photometric": "minisblack", **options})
        return file.getvalue()


def tiff_tags(array, tags, data=None) -> bytes:
    """Encode a little-endian, one-strip TIFF whose tags are given as {code: (type letter, values)}."""
    body = array.tobytes() if data is None else data
    tags = {
        256: ("I", [array.shape[1]]),
        257: ("I", [array.shape[0]]),
        258: ("H", [array.dtype.itemsize * 8]),
        259: ("H", [1]),
        262: ("H", [1]),
        273: ("I", [8]),
        277: ("H", [1]),
        278: ("I", [array.shape[0]]),
        279: ("I", [len(body)]),
        **tags,
    }
    tags = {code: tag for code, tag in sorted(tags.items()) if tag is not None}
    extra_at = 8 + len(body) + 2 + 12 * len(tags) + 4
    directory, extra = struct.pack("<H", len(tags)), b""
    for code, (letter, values) in tags.items():
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack("<I", extra_at + len(extra))
        directory += struct.pack("<HHI", code, {"H": 3, "I": 4, "s": 2}[letter], len(values)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + bytes(4) + extra


def chunk(kind, body=b"") -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth=8, colour=0, rows=b"", *others) -> bytes:
    """A PNG file by hand, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [raster_header.PNG_MAGIC, chunk(b"IHDR", header), *others, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")]
    )


def bmp(width, height, bits=24, body=b"", compression=0, masks=b"") -> bytes:
    """A BMP file by hand, whatever its header says."""
    size = 40 + len(masks)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + size + len(body), 0, 0, 14 + size) + header + body


def patched(data, offset, replacement) -> bytes:
    """`data` with some bytes replaced."""
    return data[:offset] + replacement + data[offset + len(replacement) :]


def jpeg_sized(height, width) -> bytes:
    """A JPEG file whose frame header claims another size."""
    data = pillow(GREY, "JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def webp_sized(width, height) -> bytes:
    """A lossy WebP file whose frame header claims another size."""
    return patched(pillow(COLOUR, "WEBP"), 26, struct.pack("<HH", width, height))


def read(tmp_path, data, name="image"):
    """Write `data` to a file and read it as an image."""
    path = tmp_path / name
    path.write_bytes(data)
    return read_raster(path)


def channels_first(array):
    """(y, x) or (y, x, C) as (C, y, x)."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


CMYK = PIL.Image.fromarray(COLOUR).convert("CMYK")
BITS = (GREY > 127).astype(np.uint8)
PALETTED = PIL.Image.fromarray(COLOUR).quantize(5)
INDEX = RNG.integers(0, 4, GREY.shape, dtype=np.uint8)
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [10, 200, 30], [255, 255, 255]], np.uint8)
GREYS = np.array([[0] * 3, [90] * 3, [20] * 3, [255] * 3], np.uint8)


def paletted(colours):
    """Indices and palette as Pillow holds them."""
    picture = PIL.Image.frombytes("P", INDEX.shape[::-1], INDEX.tobytes())
    picture.putpalette(np.pad(colours, ((0, 252), (0, 0))).tobytes())
    return picture


def colormap(colours, scale=257):
    """A TIFF palette, 256 entries by channel."""
    return (np.pad(colours, ((0, 252), (0, 0))).astype(np.uint16) * scale).T


RGBA = np.dstack([COLOUR, HALF_CLEAR])
OPAQUE = np.dstack([COLOUR, np.full_like(GREY, 255)])

# name: (file, array expected as (y, x) or (y, x, 3))
SAME_VALUES = {
    "png grey": (pillow(GREY, "PNG"), GREY),
    "png rgb": (pillow(COLOUR, "PNG"), COLOUR),
    "png rgb of three equal channels stays rgb": (pillow(GREY, "PNG", "RGB"), np.dstack([GREY] * 3)),
    "png 1 bit": (pillow(BITS * 255, "PNG", "1"), BITS * 255),
    "png 2 bits": (png(4, 1, depth=2, rows=b"\0\x1b"), np.array([[0, 85, 170, 255]], np.uint8)),
    "png 4 bits": (png(2, 1, depth=4, rows=b"\0\x1f"), np.array([[17, 255]], np.uint8)),
    "png 16-bit grey": (imagecodecs.png_encode(GREY16), GREY16),
    "png 16-bit rgb": (imagecodecs.png_encode(COLOUR16), COLOUR16),
    "png palette": (pillow(PALETTED, "PNG"), np.asarray(PALETTED.convert("RGB"))),
    "png palette of greys": (pillow(paletted(GREYS), "PNG"), GREYS[INDEX][..., 0]),
    "png opaque alpha": (pillow(OPAQUE, "PNG"), COLOUR),
    "png with rubbish at its end": (pillow(GREY, "PNG") + b"rubbish", GREY),
    "jpeg grey": (d := pillow(GREY, "JPEG"), np.asarray(PIL.Image.open(io.BytesIO(d)))),
    "jpeg ycbcr": (d := pillow(COLOUR, "JPEG"), np.asarray(PIL.Image.open(io.BytesIO(d)))),
    "jpeg progressive": (
        d := pillow(COLOUR, "JPEG", progressive=True),
        np.asarray(PIL.Image.open(io.BytesIO(d))),
    ),
    "jpeg stored as rgb": (
        d := pillow(COLOUR, "JPEG", keep_rgb=True),
        np.asarray(PIL.Image.open(io.BytesIO(d))),
    ),
    "jpeg cmyk": (d := pillow(CMYK, "JPEG"), np.asarray(PIL.Image.open(io.BytesIO(d)).convert("RGB"))),
    "jpeg with rubbish at its end": (
        d := pillow(GREY, "JPEG") + b"rubbish",
        np.asarray(PIL.Image.open(io.BytesIO(d))),
    ),
    "jpeg lossless 16 bits": (imagecodecs.jpeg8_encode(GREY16, bitspersample=16, lossless=True), GREY16),
    "bmp rgb": (pillow(COLOUR, "BMP"), COLOUR),
    "bmp of 32 bits without alpha": (pillow(RGBA, "BMP"), COLOUR),
    "bmp grey": (pillow(GREY, "BMP"), GREY),
    "bmp 1 bit": (pillow(BITS * 255, "BMP", "1"), BITS * 255),
    "bmp palette": (pillow(paletted(COLOURS), "BMP"), COLOURS[INDEX]),
    "bmp palette of greys": (pillow(paletted(GREYS), "BMP"), GREYS[INDEX][..., 0]),
    "bmp with rows downwards": (
        bmp(2, -2, body=bytes([1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0])),
        np.array([[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]], np.uint8),
    ),
    "webp lossless": (pillow(COLOUR, "WEBP", lossless=True), COLOUR),
    "webp lossy": (d := pillow(COLOUR, "WEBP"), np.asarray(PIL.Image.open(io.BytesIO(d)))),
    "webp opaque alpha": (pillow(OPAQUE, "WEBP", lossless=True), COLOUR),
    "tiff grey": (tiff(GREY), GREY),
    "tiff rgb": (tiff(COLOUR, photometric="rgb"), COLOUR),
    "tiff rgb in planes": (
        tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"),
        COLOUR,
    ),
    "tiff rgb in compressed planes": (
        tiff(np.moveaxis(COLOUR16, -1, 0), photometric="rgb", planarconfig="separate", compression="lzw"),
        COLOUR16,
    ),
    "tiff rgb, no colour model": (
        tiff_tags(GREY[:2, :2], {262: None, 277: ("H", [3]), 258: ("H", [8] * 3)}, COLOUR[:2, :2].tobytes()),
        COLOUR[:2, :2],
    ),
    "tiff grey, no colour model": (tiff_tags(GREY, {262: None}), GREY),
    "tiff 1 bit": (tiff(BITS.astype(bool)), BITS * 255),
    "tiff 4 bits": (
        tiff_tags(np.zeros((1, 2), np.uint8), {258: ("H", [4])}, b"\x1f"),
        np.array([[17, 255]], np.uint8),
    ),
    "tiff 12 bits keep their range": (
        tiff_tags(np.zeros((1, 2), np.uint16), {258: ("H", [12])}, b"\xff\xf0\x01"),
        np.array([[4095, 1]], np.uint16),
    ),
    "tiff 12 bits, min is white": (
        tiff_tags(np.zeros((1, 2), np.uint16), {258: ("H", [12]), 262: ("H", [0])}, b"\xff\xf0\x01"),
        np.array([[0, 4094]], np.uint16),
    ),
    "tiff min is white": (tiff(255 - GREY, photometric="miniswhite"), GREY),
    "tiff 1 bit, min is white": (tiff(BITS == 0, photometric="miniswhite"), BITS * 255),
    "tiff 16 bits": (tiff(GREY16), GREY16),
    "tiff 16 bits, big-endian": (tiff(GREY16, byteorder=">"), GREY16),
    "tiff 16 bits, deflate and predictor": (tiff(GREY16, compression="zlib", predictor=True), GREY16),
    "tiff 16 bits, lzw": (tiff(GREY16, compression="lzw"), GREY16),
    "tiff 16 bits, packbits": (tiff(GREY16, compression="packbits"), GREY16),
    "tiff 16 bits, zstd": (tiff(GREY16, compression="zstd"), GREY16),
    "tiff 16 bits, tiles": (tiff(GREY16, tile=(16, 16)), GREY16),
    "tiff 16-bit rgb, compressed tiles": (
        tiff(COLOUR16, photometric="rgb", tile=(16, 16), compression="zlib"),
        COLOUR16,
    ),
    "tiff strips": (tiff(GREY16, rowsperstrip=3, compression="zlib"), GREY16),
    "tiff bigtiff": (tiff(GREY16, bigtiff=True), GREY16),
    "tiff float32": (tiff(FLOAT), FLOAT),
    "tiff float32, deflate and predictor": (tiff(FLOAT, compression="zlib", predictor=True), FLOAT),
    "tiff float16": (tiff((FLOAT / 1e4).astype(np.float16)), (FLOAT / 1e4).astype(np.float16).astype(np.float32)),
    "tiff float64": (tiff(FLOAT.astype(np.float64)), FLOAT),
    "tiff int16": (tiff(GREY16.view(np.int16)), GREY16.view(np.int16)),
    "tiff int32": (tiff(GREY16.astype(np.int32) - 9), GREY16.astype(np.int32) - 9),
    "tiff uint32": (tiff(GREY16.astype(np.uint32) * 9), GREY16.astype(np.uint32) * 9),
    "tiff palette": (tiff(INDEX, photometric="palette", colormap=colormap(COLOURS)), COLOURS[INDEX]),
    "tiff palette of 8-bit entries": (
        tiff(INDEX, photometric="palette", colormap=colormap(COLOURS, 1)),
        COLOURS[INDEX],
    ),
    "tiff palette of greys": (tiff(INDEX, photometric="palette", colormap=colormap(GREYS)), GREYS[INDEX][..., 0]),
    "tiff opaque alpha": (tiff(OPAQUE, photometric="rgb", extrasamples=["unassalpha"]), COLOUR),
    "tiff cmyk": (
        tiff(np.asarray(CMYK), photometric="separated"),
        np.asarray(CMYK.convert("RGB")),
    ),
    "tiff jpeg": (
        d := tiff(COLOUR, photometric="ycbcr", compression="jpeg", subsampling=(1, 1)),
        np.asarray(PIL.Image.open(io.BytesIO(d))),
    ),
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_values_and_type_are_those_of_the_file(tmp_path, name):
    data, expected = SAME_VALUES[name]
    image = read(tmp_path, data)
    assert image.array.dtype == expected.dtype
    np.testing.assert_array_equal(image.array, channels_first(expected))
    assert image.channels == (("grey",) if expected.ndim == 2 else ("red", "green", "blue"))
    assert image.geometry == Geometry.pixels(expected.shape[:2])
    assert image.source == tmp_path / "image"
    assert image.notes == ()
    assert image.array.dtype.isnative


FRAMES = {"save_all": True, "append_images": [PIL.Image.fromarray(255 - COLOUR)]}


def two_pages(*pages, **options) -> bytes:
    """A TIFF of several pages."""
    with io.BytesIO() as file:
        with tifffile.TiffWriter(file) as writer:
            for page in pages:
                writer.write(page, metadata=None, photometric="minisblack", **options)
        return file.getvalue()


# name: (file, array expected, note)
NOTED = {
    "png grey and alpha": (pillow(np.dstack([GREY, HALF_CLEAR]), "PNG"), GREY, "alpha channel dropped"),
    "png rgba": (pillow(RGBA, "PNG"), COLOUR, "alpha channel dropped"),
    "png 16-bit rgba": (
        imagecodecs.png_encode(np.dstack([COLOUR16, GREY16])),
        COLOUR16,
        "alpha channel dropped",
    ),
    "png with one colour transparent": (
        pillow(paletted(COLOURS), "PNG", transparency=0),
        COLOURS[INDEX],
        "alpha channel dropped",
    ),
    "png palette of greys, one transparent": (
        pillow(paletted(GREYS), "PNG", transparency=0),
        GREYS[INDEX][..., 0],
        "alpha channel dropped",
    ),
    "png grey, one level transparent": (
        pillow(GREY, "PNG", transparency=int(GREY[0, 0])),
        GREY,
        "alpha channel dropped",
    ),
    "png rgb, one colour transparent": (
        pillow(COLOUR, "PNG", transparency=tuple(COLOUR[0, 0].tolist())),
        COLOUR,
        "alpha channel dropped",
    ),
    "webp rgba": (pillow(RGBA, "WEBP", lossless=True, exact=True), COLOUR, "alpha channel dropped"),
    "bmp rgba": (
        bmp(2, -1, 32, bytes([1, 2, 3, 4, 5, 6, 7, 8]), 3, struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        np.array([[[3, 2, 1], [7, 6, 5]]], np.uint8),
        "alpha channel dropped",
    ),
    "tiff rgba": (
        tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]),
        COLOUR,
        "alpha channel dropped",
    ),
    "tiff grey and alpha": (
        tiff(np.dstack([GREY16, GREY16]), planarconfig="contig", extrasamples=["unassalpha"]),
        GREY16,
        "alpha channel dropped",
    ),
    "tiff cmyk and alpha": (
        tiff(np.dstack([np.asarray(CMYK), HALF_CLEAR]), photometric="separated", extrasamples=["unassalpha"]),
        np.asarray(CMYK.convert("RGB")),
        "alpha channel dropped",
    ),
    "tiff of floats, min is white": (
        tiff(FLOAT, photometric="miniswhite"),
        FLOAT,
        "MinIsWhite left as it is: float32 has no white",
    ),
    "tiff with a thumbnail": (two_pages(GREY, GREY[::4, ::4]), GREY, "1 smaller page left out"),
    "tiff pyramid": (two_pages(GREY, GREY[::2, ::2], GREY[::4, ::4]), GREY, "2 smaller pages left out"),
    "webp animation": (
        pillow(COLOUR, "WEBP", lossless=True, **FRAMES),
        COLOUR,
        "the first of 2 frames taken",
    ),
    "png animation": (pillow(COLOUR, "PNG", **FRAMES), COLOUR, "the first of 2 frames taken"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_left_out_is_noted(tmp_path, name):
    data, expected, note = NOTED[name]
    image = read(tmp_path, data)
    np.testing.assert_array_equal(image.array, channels_first(expected))
    assert image.array.dtype == expected.dtype
    assert image.notes == (note,)


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize(
    "data",
    [imagecodecs.png_encode(RAMP), tiff(RAMP), tiff(RAMP, compression="lzw"), tiff(RAMP, byteorder=">")],
    ids=["png", "tiff", "tiff lzw", "tiff big-endian"],
)
def test_a_16_bit_ramp_is_a_ramp(tmp_path, data):
    """Readers that cut or scale by the image show this one as white."""
    image = read(tmp_path, data)
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array[0], RAMP)


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    """Its own range is not stretched: two exposures of one part would look alike."""
    dark = (RAMP // 256).astype(np.uint16)
    assert read(tmp_path, imagecodecs.png_encode(dark)).array.max() == 255


def exif(orientation) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


ORIENTED = {
    "png": lambda o: pillow(COLOUR, "PNG", exif=exif(o)),
    "jpeg": lambda o: pillow(COLOUR, "JPEG", exif=exif(o)),
    "webp": lambda o: pillow(COLOUR, "WEBP", lossless=True, exif=exif(o)),
    "tiff": lambda o: tiff(COLOUR, photometric="rgb", extratags=[(274, 3, 1, o, True)]),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_is_applied(tmp_path, kind, orientation):
    data = ORIENTED[kind](orientation)
    image = read(tmp_path, data)
    with PIL.Image.open(io.BytesIO(data)) as picture:
        upright = np.asarray(PIL.ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(image.array, channels_first(upright))
    assert image.geometry.shape == upright.shape[:2]
    assert image.notes == (() if orientation == 1 else (f"turned upright (EXIF orientation {orientation})",))
    assert all(stride > 0 for stride in image.array.strides)  # torch takes no others


def little_exif(*entries, order="<", mark=b"II") -> bytes:
    body = b"".join(struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries)
    return mark + struct.pack(f"{order}HIH", 42, 8, len(entries)) + body + bytes(4)


EXIF_BLOCKS = {
    "little-endian": (little_exif((0x0112, 3, 6)), 6),
    "big-endian, second entry": (little_exif((0x0100, 3, 9), (0x0112, 3, 8), order=">", mark=b"MM"), 8),
    "with the mark of a JPEG segment": (b"Exif\0\0" + little_exif((0x0112, 3, 3)), 3),
    "out of range": (little_exif((0x0112, 3, 9)), 1),
    "of the wrong type": (little_exif((0x0112, 2, 6)), 1),
    "without orientation": (little_exif((0x0100, 3, 6)), 1),
    "nothing": (b"", 1),
    "not exif": (b"hello", 1),
    "cut off": (little_exif((0x0112, 3, 6))[:14], 1),
    "pointing outside": (b"II*\0\xff\xff\xff\x7f", 1),
}


@pytest.mark.parametrize("name", EXIF_BLOCKS)
def test_exif_orientation(name):
    block, expected = EXIF_BLOCKS[name]
    assert raster_header.exif_orientation(block) == expected


SUFFIX_DATA = {
    ".png": pillow(GREY, "PNG"),
    ".jpg": pillow(GREY, "JPEG"),
    ".jpeg": pillow(GREY, "JPEG"),
    ".jfif": pillow(GREY, "JPEG"),
    ".tif": tiff(GREY),
    ".tiff": tiff(GREY),
    ".bmp": pillow(GREY, "BMP"),
    ".webp": pillow(COLOUR, "WEBP"),
}


def test_suffixes_are_the_documented_ones():
    assert frozenset(SUFFIX_DATA) == RASTER_SUFFIXES


@pytest.mark.parametrize("suffix", [*SUFFIX_DATA, *(s.upper() for s in SUFFIX_DATA)])
def test_every_suffix_is_read(tmp_path, suffix):
    assert read(tmp_path, SUFFIX_DATA[suffix.lower()], f"image{suffix}").geometry.shape == GREY.shape


CUT = "; copy it again from where it came from."
VP8L = pillow(COLOUR, "WEBP", lossless=True)
JPEG = pillow(COLOUR, "JPEG")
NAN = np.where(FLOAT > 1e4, np.nan, FLOAT)
AT_FRAME = JPEG.index(b"\xff\xc0")
AT_SCAN = JPEG.index(b"\xff\xda")

# name: (file name, content, the message after the path)
ERRORS = {
    "empty": ("a.png", b"", " is empty (0 bytes). Expected a PNG, JPEG, TIFF, BMP or WebP image" + CUT),
    "text": (
        "a.png",
        b"hello, world",
        " is not a PNG, JPEG, TIFF, BMP or WebP image: it begins with b'hello, w'. Save it as one of these.",
    ),
    "text that begins like a bmp": ("a.bmp", b"BMW makes cars and motorbikes", " is not a PNG, JPEG, TIFF, BMP or"),
    "another riff": ("a.webp", b"RIFF\x10\0\0\0WAVEfmt ", " is not a PNG, JPEG, TIFF, BMP or WebP image"),
    "a bit of magic": ("a.png", b"\x89PN", " is not a PNG, JPEG, TIFF, BMP or WebP image"),
    "png called jpg": (
        "a.jpg",
        pillow(GREY, "PNG"),
        " is a PNG file by its content, not what its suffix says; rename it to .png.",
    ),
    "jpeg called png": ("a.png", JPEG, " is a JPEG file by its content, not what its suffix says; rename it to .jpg."),
    "tiff called bmp": ("a.bmp", tiff(GREY), " is a TIFF file by its content, not what its suffix says; rename"),
    "png called txt": ("a.txt", pillow(GREY, "PNG"), " is a PNG file by its content, not what its suffix says; rename"),
    "png of zero width": (
        "a.png",
        png(0, 5),
        " has zero size: 0 x 5 pixels. Expected at least 1 x 1; write it again.",
    ),
    "jpeg of zero height": ("a.jpg", jpeg_sized(0, 9), " has zero size: 9 x 0 pixels. Expected at least 1 x 1"),
    "bmp of zero height": ("a.bmp", bmp(3, 0), " has zero size: 3 x 0 pixels. Expected at least 1 x 1"),
    "webp of zero width": ("a.webp", webp_sized(0, 9), " has zero size: 0 x 9 pixels. Expected at least 1 x 1"),
    "tiff of zero width": ("a.tif", tiff_tags(GREY, {256: ("I", [0])}), " has zero size: 0 x 13 pixels."),
    "png bomb": (
        "a.png",
        png(50000, 50000),
        (
            " claims 50000 x 50000 pixels. At most 20000 a side and 400000000 in all are read; cut it into tiles, or "
            "delete it if you do not know where it comes from."
        ),
    ),
    "jpeg bomb": ("a.jpg", jpeg_sized(20001, 1), " claims 1 x 20001 pixels. At most 20000 a side"),
    "bmp bomb": ("a.bmp", bmp(2**31 - 1, -(2**31) + 1), " claims 2147483647 x 2147483647 pixels."),
    "bmp of negative width": ("a.bmp", bmp(-4, 4), " has zero size: -4 x 4 pixels."),
    "webp bomb": (
        "a.webp",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff" * 2,
        " claims 16777216 x 16777216 pixels.",
    ),
    "tiff bomb": ("a.tif", tiff_tags(GREY, {256: ("I", [2**31]), 257: ("I", [2**31])}), " claims 2147483648 x 21474"),
    "tiff of too many bytes": (
        "a.tif",
        tiff_tags(GREY, {256: ("I", [20000]), 257: ("I", [20000]), 258: ("H", [64] * 3), 277: ("H", [3])}),
        (
            " claims 9600000000 bytes of pixels. At most 6400000000 are read; cut it into tiles, or save it with fewer "
            "channels or bits."
        ),
    ),
    "tiff with huge tiles": (
        "a.tif",
        tiff_tags(GREY, {322: ("I", [10**6]), 323: ("I", [16]), 324: ("I", [8]), 325: ("I", [9])}),
        " claims tiles of 1000000 x 16. At most 20000 a side are read.",
    ),
    "png without end": (
        "a.png",
        pillow(GREY, "PNG")[:-12],
        " is truncated: the end mark of a PNG file is missing" + CUT,
    ),
    "png cut in half": (
        "a.png",
        pillow(COLOUR, "PNG")[:300],
        " is truncated: a block of 687 bytes is announced, and 259 follow" + CUT,
    ),
    "png with too little data": ("a.png", png(9, 9), " is damaged: the PNG decoder says Not enough image data" + CUT),
    "png that begins wrongly": (
        "a.png",
        raster_header.PNG_MAGIC + chunk(b"IDAT"),
        " is damaged: a PNG file begins with a header block of 13 bytes" + CUT,
    ),
    "png of a strange colour type": ("a.png", png(9, 9, colour=5), " is damaged: a PNG file has no colour type 5 with"),
    "jpeg without end": (
        "a.jpg",
        JPEG[:-2],
        " is truncated: the end mark of a JPEG file is missing" + CUT,
    ),
    "jpeg cut in its header": (
        "a.jpg",
        JPEG[:AT_SCAN],
        " is truncated: it ends before the first scan of a JPEG file" + CUT,
    ),
    "jpeg of end mark only": (
        "a.jpg",
        b"\xff\xd8\xff\xd9" + bytes(99),
        " is damaged: a JPEG file has a scan before its end mark" + CUT,
    ),
    "jpeg without frame": (
        "a.jpg",
        b"\xff\xd8" + JPEG[AT_SCAN:],
        " is damaged: a JPEG file has a frame header before its first scan" + CUT,
    ),
    "jpeg too small for its size": (
        "a.jpg",
        jpeg_sized(20000, 20000),
        f" is truncated: {len(pillow(GREY, 'JPEG'))} bytes cannot hold 20000 x 20000 pixels of JPEG" + CUT,
    ),
    "jpeg of two channels": (
        "a.jpg",
        patched(JPEG, AT_FRAME + 9, b"\x02"),
        " is damaged: the JPEG decoder says ",
    ),
    "webp cut in half": (
        "a.webp",
        VP8L[: len(VP8L) // 2],
        f" is truncated: {len(VP8L)} bytes are announced, and {len(VP8L) // 2} are there" + CUT,
    ),
    "webp with a chunk too long": (
        "a.webp",
        patched(VP8L, 16, b"\xff\xff\0\0"),
        f" is truncated: a block of 65535 bytes is announced, and {len(VP8L) - 20} follow" + CUT,
    ),
    "webp without an image": (
        "a.webp",
        b"RIFF\x04\0\0\0WEBP",
        " is damaged: a WebP file holds a VP8 or VP8L image" + CUT,
    ),
    "webp whose canvas is not its image": (
        "a.webp",
        b"RIFF"
        + struct.pack("<I", len(VP8L) + 10)
        + b"WEBPVP8X\x0a\0\0\0"
        + bytes(4)
        + b"\x08\0\0\x08\0\0"
        + VP8L[12:],
        " is damaged: ",
    ),
    "bmp cut in half": (
        "a.bmp",
        pillow(COLOUR, "BMP")[:300],
        " is damaged: the BMP decoder says image file is truncated",
    ),
    "bmp of a header only": (
        "a.bmp",
        bmp(3, 3)[:24],
        " is truncated: the header of a BMP file is missing" + CUT,
    ),
    "bmp of strange depth": ("a.bmp", bmp(3, 3, bits=7), " is damaged: the BMP decoder says Unsupported BMP pixel de"),
    "tiff of a header only": ("a.tif", b"II*\0\x08\0\0\0", " is damaged: the TIFF decoder says "),
    "tiff cut in half": (
        "a.tif",
        tiff_tags(GREY, {273: ("I", [8]), 279: ("I", [999])}),
        " is truncated: a strip of 999 bytes at 8 is not inside its 343 bytes" + CUT,
    ),
    "tiff with an absent strip": ("a.tif", tiff_tags(GREY, {279: ("I", [0])}), " is truncated: a strip of 0 bytes at"),
    "tiff with too few tiles": (
        "a.tif",
        tiff_tags(GREY, {322: ("I", [16]), 323: ("I", [16]), 324: ("I", [8]), 325: ("I", [9])}),
        " is truncated: 2 strips or tiles are needed, and 1 are listed" + CUT,
    ),
    "tiff with a short strip": (
        "a.tif",
        tiff_tags(GREY, {}, zlib.compress(GREY.tobytes()[:100])).replace(
            b"\x03\x01\x03\0\x01\0\0\0\x01", b"\x03\x01\x03\0\x01\0\0\0\x08"
        ),
        " is damaged: the TIFF decoder says ",
    ),
    "tiff with a size in words": (
        "a.tif",
        tiff_tags(GREY, {256: ("I", [17, 17])}),
        " is damaged: the sizes in its header are ((17, 17), 13,",
    ),
    "tiff of complex numbers": (
        "a.tif",
        tiff(GREY.astype(np.complex64)),
        " has values of 64 bits in sample format 6. Expected integers or floats; save it as uint8, uint16 or float32.",
    ),
    "tiff of unknown values": (
        "a.tif",
        tiff_tags(GREY, {258: ("H", [5]), 339: ("H", [3])}),
        " has values of 5 bits in sample format 3. Expected integers or floats",
    ),
    "tiff stack": (
        "a.tif",
        two_pages(GREY, GREY, GREY),
        " holds 3 images. Expected one; save its pages one by one.",
    ),
    "tiff of imagej with many planes": (
        "a.tif",
        tiff(np.stack([GREY] * 4), imagej=True, metadata={"axes": "ZYX"}),
        " holds 4 images. Expected one; save its pages one by one.",
    ),
    "tiff volume": (
        "a.tif",
        tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)),
        " is a volume of 16 slices. Expected one image; save its slices one by one.",
    ),
    "tiff of an unread compression": (
        "a.tif",
        tiff_tags(GREY, {259: ("H", [33003])}),
        (
            " is compressed by method 33003. Expected none, CCITT, fax 3, fax 4, LZW, old JPEG, JPEG, deflate, "
            "PackBits, LZMA, zstd, WebP; save it with LZW or deflate."
        ),
    ),
    "tiff of an unread colour model": (
        "a.tif",
        tiff_tags(GREY, {262: ("H", [8])}),
        " has the colour model CIELAB of uint8. Expected grey or RGB; save it as RGB.",
    ),
    "tiff of cmyk in 16 bits": (
        "a.tif",
        tiff(np.dstack([COLOUR16, GREY16]), photometric="separated"),
        " has the colour model SEPARATED of uint16. Expected grey or RGB; save it as RGB.",
    ),
    "tiff of ycbcr, uncompressed": (
        "a.tif",
        tiff(COLOUR, photometric="ycbcr"),
        " has the colour model YCBCR of uint8. Expected grey or RGB; save it as RGB.",
    ),
    "tiff of five channels": (
        "a.tif",
        tiff(np.dstack([COLOUR, GREY, GREY]), planarconfig="contig"),
        " has 5 channels. Expected grey or RGB, with or without alpha; save it as RGB.",
    ),
    "tiff of a lost palette": (
        "a.tif",
        tiff_tags(GREY, {262: ("H", [3])}),
        " is damaged: it has no palette of three colours" + CUT,
    ),
    "tiff of nan": (
        "a.tif",
        tiff(NAN),
        " holds NaN or infinity, which no score can come from. Replace these values first.",
    ),
    "tiff of infinity": ("a.tif", tiff(np.full((3, 3), -np.inf, np.float32)), " holds NaN or infinity"),
    "tiff of values beyond float32": ("a.tif", tiff(np.full((3, 3), 1e300)), " holds NaN or infinity"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(tmp_path, name):
    file_name, data, message = ERRORS[name]
    with pytest.raises(ReadError) as caught:
        read(tmp_path, data, file_name)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / file_name}{message}")
    assert "\n" not in text
    assert text.endswith(".")


def test_libraries_say_nothing_beside_the_error(tmp_path):
    """Their logs go to the terminal unless the application, or pytest here, takes them."""
    damaged = patched(ORIENTED["png"](6), 41, b"!")  # a wrong checksum in the EXIF block
    (tmp_path / "a.png").write_bytes(damaged)
    (tmp_path / "a.tif").write_bytes(tiff_tags(GREY, {279: None}))
    code = "import sys; from inspection_core.io.raster import read_raster; [read_raster(p) for p in sys.argv[1:]]"
    command = [sys.executable, "-c", code, tmp_path / "a.png", tmp_path / "a.tif"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(raster.__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_many_damaged_files_cost_python_no_reference(tmp_path):
    """A hundred thousand images are screened in one process, and some folders are damaged throughout."""

    def references():
        gc.collect()
        return sys.getrefcount(None)

    for data in (png(9, 9), patched(pillow(COLOUR, "PNG"), 60, b"!"), jpeg_sized(13, 9)[:-40] + b"\xff\xd9", VP8L[:-9]):
        with contextlib.suppress(ReadError):
            read(tmp_path, data)
        before = references()
        for _ in range(50):
            with contextlib.suppress(ReadError):
                read(tmp_path, data)
        assert abs(references() - before) < 25


def test_missing_file(tmp_path):
    with pytest.raises(ReadError, match=r"none\.png does not exist\. Expected a PNG, .*; check the name\.$"):
        read_raster(tmp_path / "none.png")


def test_folder_instead_of_file(tmp_path):
    with pytest.raises(ReadError, match=r" is a folder\. Expected a PNG, .*; give a file in it\.$"):
        read_raster(tmp_path)


def test_pipe_instead_of_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ReadError, match=r" is not a plain file\. Expected a PNG, .*; save it to a disk first\.$"):
        read_raster(tmp_path / "pipe.png")


def test_permission_denied(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(pillow(GREY, "PNG"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 would not stop root
    with pytest.raises(ReadError, match=r"a\.png cannot be opened: Permission denied\. Check the name and who may"):
        read_raster(tmp_path / "a.png")


def test_circular_link(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ReadError, match=r"a\.png cannot be opened: Too many levels of symbolic links\. Check"):
        read_raster(tmp_path / "a.png")


def test_zero_byte_in_the_name():
    with pytest.raises(ReadError, match=r" cannot be opened: embedded null byte\. Check"):
        read_raster(Path("a\0.png"))


def test_file_of_absurd_length(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.write(pillow(GREY, "PNG"))
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ReadError, match=rf"a\.png has {MAX_BYTES + 1} bytes\. At most {MAX_BYTES} are read; cut it"):
        read_raster(tmp_path / "a.png")


def test_out_of_memory(tmp_path, monkeypatch):
    def fail(_):
        raise MemoryError

    monkeypatch.setitem(raster._DECODERS, "PNG", fail)
    with pytest.raises(ReadError, match=r" does not fit in memory\. Close other programs, or cut it into tiles\.$"):
        read(tmp_path, pillow(GREY, "PNG"))


def test_a_decoder_of_many_words_is_cut_short(tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("one\ntwo " * 100)

    monkeypatch.setitem(raster._DECODERS, "PNG", fail)
    with pytest.raises(ReadError) as caught:
        read(tmp_path, pillow(GREY, "PNG"))
    assert "one two one" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 280


def test_a_decoder_that_disagrees_with_the_header(tmp_path, monkeypatch):
    decode = raster._decoder(raster_header.png_header, lambda *_: np.zeros((2, 2)))
    monkeypatch.setitem(raster._DECODERS, "PNG", decode)
    with pytest.raises(ReadError, match=r" is damaged: its header says 17 x 13 pixels, its data differ; copy it"):
        read(tmp_path, pillow(GREY, "PNG"))


def test_16_bit_cmyk_jpeg(monkeypatch, tmp_path):
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda _: np.zeros((13, 17, 4), np.uint16))
    with pytest.raises(ReadError, match=r" is CMYK of uint16\. Expected 8 bits a channel; save it as RGB\.$"):
        read(tmp_path, JPEG)


def test_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded")

    for name in ("png_decode", "jpeg8_decode", "webp_decode"):
        monkeypatch.setattr(imagecodecs, name, fail)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    for data in (png(50000, 50000), jpeg_sized(65535, 65535), tiff_tags(GREY, {256: ("I", [10**6])})):
        with pytest.raises(ReadError, match="claims"):
            read(tmp_path, data)


def test_more_pixels_than_pillow_takes_and_no_global_changed(tmp_path):
    """Pillow warns from 89 million pixels on; the limit is 400 million."""
    before = (PIL.Image.MAX_IMAGE_PIXELS, warnings.filters[:], logging.getLogger("tifffile").level)
    side, height = MAX_SIDE, 5000
    rows = zlib.compressobj(1)
    packed = b"".join([*(rows.compress(bytes(1 + side)) for _ in range(height)), rows.flush()])
    data = png(side, height)
    empty = chunk(b"IDAT", zlib.compress(b""))
    image = read(tmp_path, data.replace(empty, chunk(b"IDAT", packed)))
    assert image.geometry.shape == (height, side)
    assert image.array[0, -1, -1] == 0
    assert (PIL.Image.MAX_IMAGE_PIXELS, warnings.filters[:], logging.getLogger("tifffile").level) == before


def test_the_limit_itself_is_accepted():
    raster_header.check_size(MAX_SIDE, MAX_SIDE, 16)


def test_threads_read_at_once(tmp_path):
    paths = []
    for name in ("png rgb", "jpeg ycbcr", "tiff 16 bits, lzw", "bmp rgb", "webp lossless"):
        paths.append(tmp_path / name.replace(" ", "-"))
        paths[-1].write_bytes(SAME_VALUES[name][0])
    alone = [read_raster(path).array for path in paths]
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return [read_raster(path).array for path in paths * 5]

    with ThreadPoolExecutor(4) as pool:
        for arrays in pool.map(work, range(4)):
            for got, expected in zip(arrays, alone * 5, strict=True):
                np.testing.assert_array_equal(got, expected)


TRUNCATED = {
    "png": pillow(COLOUR, "PNG"),
    "png 16 bits": imagecodecs.png_encode(COLOUR16),
    "jpeg": JPEG,
    "jpeg progressive": pillow(COLOUR, "JPEG", progressive=True),
    "bmp": pillow(COLOUR, "BMP"),
    "webp lossy": pillow(COLOUR, "WEBP"),
    "webp lossless": VP8L,
    "tiff, deflate": tiff(COLOUR16, photometric="rgb", compression="zlib"),
    "tiff": tiff(COLOUR16, photometric="rgb"),
    "tiff tiles": tiff(GREY16, tile=(16, 16), compression="lzw"),
    "tiff jpeg": tiff(COLOUR, photometric="ycbcr", compression="jpeg"),
}


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_an_error_and_never_half_an_image(tmp_path, name, share):
    data = TRUNCATED[name]
    with pytest.raises(ReadError):
        read(tmp_path, data[: int(len(data) * share)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(TRUNCATED)),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
)
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path, monkeypatch, name, cut, changes):
    monkeypatch.setattr(raster_header, "MAX_PIXELS", 10**6)  # damage may ask for much; the test machine is small
    data = bytearray(TRUNCATED[name])
    for position, value in changes:
        data[position % len(data)] = value
    if cut < 0.5:
        del data[int(len(data) * cut * 2) :]
    with contextlib.suppress(ReadError):
        assert len(read(tmp_path, bytes(data)).array) in (1, 3)


def test_images_are_listed_in_natural_order(tmp_path):
    names = ["img2.png", "img10.PNG", "Img1.jpg", "b/2/x.tif", "b/10/x.tif", "a.webp", "07.bmp", "7.bmp", "b/c.jpeg"]
    others = [".hidden.png", ".folder/a.png", "notes.txt", "mask.nii.gz", "b/.x/y.png"]
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    expected = ["07.bmp", "7.bmp", "a.webp", "b/2/x.tif", "b/10/x.tif", "b/c.jpeg", "Img1.jpg", "img2.png", "img10.PNG"]
    assert found == expected


def test_links_are_followed_once(tmp_path):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.png").touch()
    (tmp_path / "data" / "deep" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.png").touch()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "data" / "gone.png").symlink_to(
        tmp_path / "nowhere.png"
    )  # listed, so that reading it says what is wrong
    found = [path.relative_to(tmp_path / "data").as_posix() for path in list_images(tmp_path / "data")]
    assert found == ["deep/a.png", "gone.png", "linked/b.png"]


def test_a_hidden_folder_may_be_asked_for(tmp_path):
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.png").touch()
    assert list_images(tmp_path / ".data") == [tmp_path / ".data" / "a.png"]


def test_listing_nothing(tmp_path):
    assert list_images(tmp_path) == []


def test_listing_a_missing_folder(tmp_path):
    with pytest.raises(ReadError, match=r"none does not exist\. Expected a folder of images; check the name\.$"):
        list_images(tmp_path / "none")


def test_listing_a_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ReadError, match=r"a\.png is a file\. Expected a folder of images; give the folder it lies in"):
        list_images(tmp_path / "a.png")


def test_listing_a_locked_folder(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ReadError, match=r" cannot be listed: Permission denied\. Check who may read it\.$"):
        list_images(tmp_path)


@given(st.lists(st.text("aB10_", min_size=1, max_size=6), min_size=2, max_size=6, unique=True))
def test_natural_order_is_total(names):
    keys = [raster._natural(Path(name)) for name in names]
    assert len(set(keys)) == len(keys)
    assert [Path(str(i)) for i in range(1, 12)] == sorted((Path(str(i)) for i in range(1, 12)), key=raster._natural)
    sorted(keys)  # any two can be compared


def test_mask_round_trip(tmp_path):
    mask = RNG.integers(0, 4, (9, 11)).astype(np.uint8)
    mask.flags.writeable = False
    for array in (mask, mask[::2, ::-1]):
        write_mask_png(tmp_path / "new" / "mask.png", array)
        np.testing.assert_array_equal(read_raster(tmp_path / "new" / "mask.png").array, array[None])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.png"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_score_round_trip(tmp_path, dtype):
    score = RNG.normal(size=(9, 11)).astype(dtype)
    for array in (score, score.T, score[::-1]):
        write_score_tiff(tmp_path / "score.tiff", array)
        image = read_raster(tmp_path / "score.tiff")
        assert image.array.dtype == np.float32
        np.testing.assert_array_equal(image.array[0], array.astype(np.float32))
    with PIL.Image.open(tmp_path / "score.tiff") as picture:  # others read it too
        np.testing.assert_array_equal(np.asarray(picture), array.astype(np.float32))


def test_equal_scores_make_equal_files(tmp_path):
    for name in ("a.tiff", "b.tiff"):
        write_score_tiff(tmp_path / name, FLOAT)
    assert (tmp_path / "a.tiff").read_bytes() == (tmp_path / "b.tiff").read_bytes()


WRITE_ERRORS = {
    "mask of floats": (
        lambda p: write_mask_png(p, np.zeros((3, 4))),
        "A mask for PNG is (y, x) of uint8. Got shape (3, 4) of float64.",
    ),
    "mask in 3-D": (
        lambda p: write_mask_png(p, np.zeros((2, 3, 4), np.uint8)),
        "A mask for PNG is (y, x) of uint8. Got shape (2, 3, 4) of uint8.",
    ),
    "score of integers": (
        lambda p: write_score_tiff(p, np.zeros((3, 4), np.uint8)),
        "A score map for TIFF is (y, x) of floats. Got shape (3, 4) of uint8.",
    ),
    "score in 1-D": (
        lambda p: write_score_tiff(p, np.zeros(3)),
        "A score map for TIFF is (y, x) of floats. Got shape (3,) of float64.",
    ),
}


@pytest.mark.parametrize("name", WRITE_ERRORS)
def test_write_errors(tmp_path, name):
    write, message = WRITE_ERRORS[name]
    with pytest.raises(GeometryError) as caught:
        write(tmp_path / "out")
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_real_images_are_read(shared_data):
    folders = ["pv_el/pv_cell_mono/test/crack", "ball_screw/ball_screw/test/pitting", "large_format/pv_module"]
    for folder in folders:
        paths = list_images(shared_data / "industrial" / folder)
        assert paths
        for path in paths[:3]:
            image = read_raster(path)
            with PIL.Image.open(path) as picture:
                assert image.geometry.shape == picture.size[::-1]
                if picture.mode in ("L", "RGB"):
                    np.testing.assert_array_equal(image.array, channels_first(np.asarray(picture)))
