"""Text that is burned into pixels: telling where it is likely, and blanking regions.

No text is looked for in the pixels: what is likely is told by the header, and where it stands is told by the user,
or by the regions that an ultrasound scanner itself calls images (PS3.3 C.8.5.5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from inspection_core.errors import ReadError, UsageError
from inspection_core.io.dicom.discover import Blob
from inspection_core.io.dicom.frames import frames_of, is_packed
from inspection_core.io.dicom.pixels import decode, open_pixels
from inspection_core.io.dicom.values import items, text, whole, words

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
RISKY = frozenset(["US", "IVUS", "ES", "XC", "SC", "OT", "GM", "DMS", "OSS", "SM", "VIDD"])
"""Modalities whose pictures carry text, faces or labels as a rule."""
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary capture, and below it the multi-frame ones."""
_LOOKUPS = re.compile(r"(Segmented)?(Red|Green|Blue|Alpha)PaletteColorLookupTable(Data|Descriptor)")


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels of the image as stored.

    Parameters
    ----------
    x, y
        First column and row, from 0 at the top left.
    width, height
        In pixels.
    modality
        Only for images of this modality; empty for all.
    """

    x: int
    y: int
    width: int
    height: int
    modality: str = ""

    def slices(self) -> tuple[slice, slice]:
        """Return rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def parse_region(given: str) -> Region:
    """Read ``x,y,width,height`` or ``MODALITY:x,y,width,height``.

    Raises
    ------
    UsageError
        If it is none.
    """
    match = re.fullmatch(r"(?:([A-Za-z]{2,8}):)?(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})", given.replace(" ", ""))
    if not match or not int(match[4]) or not int(match[5]):
        raise UsageError(f"--blank takes x,y,width,height in pixels, or US:x,y,width,height. Got {given!r}.")
    x, y, width, height = (int(n) for n in match.groups()[1:])
    return Region(x, y, width, height, (match[1] or "").upper())


def risk(dataset: Dataset) -> str:
    """Say why an image may have text burned in, or return an empty text."""
    modality, sop = text(dataset, "Modality").upper(), text(dataset, "SOPClassUID")
    kinds = {w.upper() for w in words(dataset, "ImageType")}
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "its header says that text is burned in"
    if sop == _CAPTURES or sop.startswith(_CAPTURES + ".") or text(dataset, "ConversionType"):
        return "it is a secondary capture (a screenshot, scan or film)"
    if modality in RISKY:
        return f"pictures of modality {modality} often have text burned in"
    if "SCREEN SAVE" in kinds or (modality in ("XA", "RF") and "SECONDARY" in kinds):
        return "it is a saved screen"
    return ""


def has_ultrasound_regions(dataset: Dataset) -> bool:
    """Tell whether an ultrasound image says by itself where its image is."""
    return bool(_boxes(dataset))


def blank(blob: Blob, regions: Sequence[Region], ultrasound: bool = False) -> tuple[Dataset, list[str]]:
    """Read an image with regions of every frame set to black; compressed pixels come out as explicit little endian.

    Parameters
    ----------
    blob
        The file.
    regions
        What to blank; parts outside the image are no mistake.
    ultrasound
        Blank everything outside the regions that an ultrasound header names, too.

    Returns
    -------
    tuple
        The dataset, and each region that was blanked in words; none where all lie outside the image.

    Raises
    ------
    ReadError
        If the pixels cannot be decoded.
    """
    facts = frames_of(blob)[0].file
    dataset = open_pixels(facts)
    mask = np.zeros((facts.rows, facts.columns), dtype=bool)
    said = []
    if ultrasound and (boxes := _boxes(dataset)):
        mask[:] = True
        for left, top, right, bottom in boxes:
            mask[top : bottom + 1, left : right + 1] = False
        said.append("outside of the ultrasound regions")
    for region in regions:
        if region.x < facts.columns and region.y < facts.rows:
            mask[region.slices()] = True
            said.append(f"{region.x},{region.y},{region.width},{region.height}")
    if not said:
        return dataset, []
    if facts.allocated == 1:
        raise ReadError(f"{blob.name} has pixels of one bit, which are not blanked here.")
    stack: NDArray[Any] | None = None
    for number, plane in enumerate(decode(facts, dataset, range(facts.frames))):
        if stack is None:
            stack = np.empty((facts.frames, *plane.shape), plane.dtype)
        stack[number] = plane
        stack[number][mask] = _black(dataset, plane)
    if stack is None:
        raise ReadError(f"{blob.name} has no frames.")
    _store(dataset, stack)
    return dataset, said


def clear_unused_bits(dataset: Dataset) -> bool:
    """Clear what older overlays hide in the bits of a pixel beside its value; return whether there was any.

    Where a header tells of such an overlay and its pixels are not compressed, every bit outside the stored ones is set
    as the sign asks for, so that values stay what they are.
    """
    embedded = any(
        0x6000 <= tag.group <= 0x60FF and tag.element == 0x0102 and (whole(dataset, (tag.group, 0x0102)) or 0) > 0
        for tag in list(dataset.keys())
    )
    allocated, stored = whole(dataset, "BitsAllocated") or 0, whole(dataset, "BitsStored") or 0
    high = whole(dataset, "HighBit")
    if not embedded or "PixelData" not in dataset or allocated not in (8, 16, 32) or not 0 < stored < allocated:
        return False
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if is_packed(syntax) or not isinstance(dataset.PixelData, bytes):
        return False
    above = allocated - 1 - (stored - 1 if high is None else high)
    below = allocated - above - stored
    if above < 0 or below < 0:
        return False
    signed = whole(dataset, "PixelRepresentation") == 1
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    kind = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    data = dataset.PixelData
    whole_length = len(data) // kind.itemsize * kind.itemsize
    values = np.frombuffer(data[:whole_length], kind).astype(kind.newbyteorder("="))
    values = ((values << above) >> (above + below)) << below
    dataset.PixelData = values.astype(kind).tobytes() + data[whole_length:]
    return True


def _boxes(dataset: Dataset) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom, both ends included, of each region; nothing where one makes no sense."""
    out = []
    for entry in items(dataset, "SequenceOfUltrasoundRegions"):
        box = [whole(entry, f"RegionLocation{n}") for n in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        left, top, right, bottom = (-1 if v is None else v for v in box)
        if not (0 <= left < right and 0 <= top < bottom):
            return []
        out.append((left, top, right, bottom))
    return out


def _black(dataset: Dataset, plane: NDArray[Any]) -> Any:
    if plane.ndim == 3 or plane.dtype.kind == "f":
        return 0
    bits = whole(dataset, "BitsStored") or plane.dtype.itemsize * 8
    signed = plane.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return high if text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1" else low


def _store(dataset: Dataset, stack: NDArray[Any]) -> None:
    name = next(n for n in PIXELS if n in dataset)
    packed = is_packed(str(dataset.file_meta.TransferSyntaxUID))
    if packed:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    order: Literal["<", ">"] = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    bits = stack.dtype.itemsize * 8
    data = stack.astype(stack.dtype.newbyteorder(order), copy=False).tobytes()
    del dataset[name]
    setattr(dataset, name, data + b"\0" * (len(data) % 2))
    dataset[name].VR = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(name, "OW" if bits > 8 else "OB")
    if stack.ndim == 4:
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
        for element in list(dataset):
            if _LOOKUPS.fullmatch(element.keyword):
                del dataset[element.tag]
        dataset.PixelRepresentation = 0
    if name == "PixelData" and (stack.ndim == 4 or dataset.BitsAllocated != bits):
        dataset.BitsAllocated = bits
        if stack.ndim == 4:
            dataset.BitsStored, dataset.HighBit = bits, bits - 1
    if name == "PixelData" and dataset.HighBit != dataset.BitsStored - 1:
        dataset.HighBit = dataset.BitsStored - 1  # values are brought down to the lowest bits when decoded
