"""Findings drawn on the slices as a Secondary Capture series, for viewers that show neither SEG nor RT structures.

One file a slice, in true colour, at the place of the slice that it shows: so any viewer lists it beside the source,
scrolls it with it, and draws its reference lines. Each region is outlined just outside its edge, which stays visible.
Below the picture, where it hides nothing, a band says what this is. Small pictures are enlarged by a whole factor, with
their spacing and position kept true, so that the words in it can be read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from scipy import ndimage

from inspection_core import __version__
from inspection_core.io.dicom.frames import Frame
from inspection_core.io.dicom.volume import DicomImage, load_volume
from inspection_core.io.dicom_regions import (
    COLOURS,
    MAKER,
    By,
    Region,
    check_source,
    reference,
    regions_of,
    save,
    series_number,
    source_headers,
)
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

LEAST_WIDTH = 256
"""In pixels: narrower pictures are enlarged, so that the band can be read."""
LINES = 3
CARRIED = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "SliceThickness",
           "SpacingBetweenSlices", "PatientPosition")  # fmt: skip
NO_TEXT = frozenset({"CT", "MR", "PT"})
"""Where the pictures of scanners hold no text, unless their header says so."""


def write_secondary_capture(
    folder: Path,
    source: DicomImage,
    prediction: Prediction,
    *,
    mask: NDArray[np.uint8] | None = None,
    by: By = "finding",
    edited: bool = False,
    classes: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
    window: tuple[float, float] | None = None,
    compress: bool = False,
) -> tuple[Region, ...]:
    """Write every slice with the outlines of a prediction as one new series, ``sc_0001.dcm`` and on.

    Parameters
    ----------
    folder
        Where to write; what an earlier call wrote there is replaced.
    source
        The DICOM image that was predicted on; of a series over time, its first point is shown.
    prediction
        On the grid of ``source.image``.
    mask, by, classes, findings
        See `inspection_core.io.dicom_regions.regions_of`. Without any region the band says that nothing was found.
    edited
        Whether a person changed the mask; the band and the derivation say so.
    window
        Lowest and highest intensity shown. If not given: the header's window for CT, else what 1 and 99.5 per cent of
        the pixels stay below.
    compress
        Write RLE Lossless instead of uncompressed pixels.

    Returns
    -------
    tuple of Region
        What was outlined.

    Raises
    ------
    UsageError
        If the source is a mosaic.
    GeometryError
        If the prediction is not on the source's grid.
    """
    check_source(source, prediction, "a picture", placed=False)
    labels, regions = regions_of(source, prediction, mask, by, classes, findings)
    planes = source.to_slices(labels)
    pixels = _stored(source)
    low, high = _window(source, pixels, window)
    headers = {h.SOPInstanceUID: h for h in source_headers(source)}
    frames = source.volume.frames[0]
    series, number = hd.UID(), series_number(source, 903)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sc") as temporary, quiet():
        for z, frame in enumerate(frames):
            grey = np.clip((pixels[:, z].astype(np.float32) - low) / (high - low), 0, 1)
            colours = np.broadcast_to(np.rint(np.nan_to_num(grey) * 255), (3, *grey.shape[1:]))
            drawn, zoom = draw(np.moveaxis(colours, 0, -1).astype(np.uint8), planes[z], regions, prediction, edited)
            image = _capture(drawn, frame, headers[frame.file.sop_uid], prediction, edited, series, number, compress)
            image.InstanceNumber = z + 1
            _place(image, frame, zoom)
            save(image, Path(temporary) / f"sc_{z + 1:04d}.dcm")
        for earlier in folder.glob("sc_*.dcm"):
            earlier.unlink()
        for file in sorted(Path(temporary).iterdir()):
            file.replace(folder / file.name)
    return regions


def draw(
    picture: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    regions: Sequence[Region],
    prediction: Prediction,
    edited: bool,
) -> tuple[NDArray[np.uint8], int]:
    """Outline the regions of one slice, and put the band below it.

    Parameters
    ----------
    picture
        ``(rows, columns, 3)``.
    labels
        ``(rows, columns)``, a region's number or 0.
    regions, prediction, edited
        For the colours, and for the band.

    Returns
    -------
    picture
        ``(rows * zoom + band, columns * zoom, 3)``.
    zoom
        By how much it was enlarged.
    """
    zoom = max(1, -(-LEAST_WIDTH // picture.shape[1]))
    out = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    large = labels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    width = max(2, round(out.shape[1] / 256))
    here = [r for r in regions if (labels == r.number).any()]
    for region in here:
        inside = large == region.number
        line = ndimage.binary_dilation(inside, np.ones((3, 3)), iterations=width) & (large == 0)
        rim = ndimage.binary_dilation(line | inside, np.ones((3, 3))) & ~line & (large == 0)
        out[rim] = 0
        out[line] = COLOURS[(region.number - 1) % len(COLOURS)]
    return np.concatenate([out, _band(out.shape[1], here, len(regions), prediction, edited)]), zoom


def _band(width: int, here: Sequence[Region], count: int, prediction: Prediction, edited: bool) -> NDArray[np.uint8]:
    size = max(13, round(width / 36))
    font = PIL.ImageFont.load_default(size=size)
    line = round(size * 1.3)
    band = PIL.Image.new("RGB", (width, LINES * line + size // 2))
    pen = PIL.ImageDraw.Draw(band)
    edge = size // 3
    pen.text((edge, edge), RESEARCH_USE, fill=(255, 255, 255), font=font)
    who = f"{prediction.model_id} {prediction.model_version}{', edited by a person' if edited else ''}"
    pen.text((edge, edge + line), who, fill=(200, 200, 200), font=font)
    x = float(edge)
    if not count:
        pen.text((x, edge + 2 * line), "no finding", fill=(200, 200, 200), font=font)
    for k, region in enumerate(here):
        text = region.name
        more = f"+ {len(here) - k}"
        room = width - x - (pen.textlength(more, font=font) + size if k < len(here) - 1 else 0)
        if pen.textlength(text, font=font) > room:
            pen.text((x, edge + 2 * line), more, fill=(200, 200, 200), font=font)
            break
        pen.text((x, edge + 2 * line), text, fill=COLOURS[(region.number - 1) % len(COLOURS)], font=font)
        x += pen.textlength(text, font=font) + size
    return np.asarray(band, dtype=np.uint8)


def _stored(source: DicomImage) -> NDArray[Any]:
    """Return ``(1 or 3, slice, row, column)`` as taken: of a straightened series the slices are decoded again."""
    array = source.image.array
    if source.resampled:
        plain = replace(
            source.volume,
            frames=source.volume.frames[:1],
            channels=source.volume.channels[:1],
            tilt_degrees=0.0,
            problems=(),
        )
        array = load_volume(plain).image.array
    samples = 3 if source.image.channels[:3] == ("red", "green", "blue") else 1
    return array[:samples] if array.ndim == 4 else array[:samples, None]


def _window(source: DicomImage, pixels: NDArray[Any], window: tuple[float, float] | None) -> tuple[float, float]:
    if window is not None:
        return window
    if len(pixels) == 3:
        return 0.0, float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "ui" else float(pixels.max())
    if source.windows and source.units == "HU":
        centre, width = source.windows[0]
        if width > 0:
            return centre - width / 2, centre + width / 2
    low, high = np.nanpercentile(pixels, (1, 99.5))
    return float(low), float(high) if high > low else float(low) + 1


def _capture(
    drawn: NDArray[np.uint8], frame: Frame, header: Dataset, prediction: Prediction, edited: bool, series: hd.UID,
    number: int, compress: bool,
) -> hd.sc.SCImage:  # fmt: skip
    image = hd.sc.SCImage.from_ref_dataset(
        header,
        pixel_array=np.ascontiguousarray(drawn),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=(_letter(frame.along_row), _letter(frame.along_column)),
        series_instance_uid=series,
        series_number=number,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        transfer_syntax_uid=RLELossless if compress else ExplicitVRLittleEndian,
        manufacturer_model_name=prediction.model_id[:64],
        software_versions=__version__[:64],
        device_serial_number=(prediction.model_sha256 or "0")[:64],
        series_description=f"{prediction.model_id[:24]}: {RESEARCH_USE}"[:64],
    )
    if frame.along_row is None:
        image.PatientOrientation = header.get("PatientOrientation", "")
    image.DerivationDescription = (
        f"Outlines of {prediction.model_id} {prediction.model_version}{', edited by a person,' if edited else ''} "
        f"drawn on the source image. {RESEARCH_USE}"
    )[:1024]
    origin = reference(frame)
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    origin.PurposeOfReferenceCodeSequence = [
        hd.sr.CodedConcept(purpose.value, purpose.scheme_designator, purpose.meaning)
    ]
    image.SourceImageSequence = [origin]
    for name in CARRIED:
        if header.get(name):
            image[name] = header[name]
    side = header.get("Laterality") or header.get("ImageLaterality")
    image.Laterality = side if side in ("L", "R") else ""  # as no body part is named, it must be there, even empty
    # The standard asks whether the text names patient and date. The band does not; the source's own pixels may.
    burned = header.get("BurnedInAnnotation") or ("NO" if frame.file.modality in NO_TEXT else "")
    if burned:
        image.BurnedInAnnotation = burned
    return image


def _place(image: Dataset, frame: Frame, zoom: int) -> None:
    """Give an enlarged picture the place of its slice: the outer edges of the first pixel stay where they are."""
    if frame.spacing is None:
        return
    image.PixelSpacing = [_decimal(s / zoom) for s in frame.spacing]
    if frame.position is None or frame.along_row is None or frame.along_column is None:
        return
    back = (zoom - 1) / (2 * zoom)
    corner = np.array(frame.position)
    corner = corner - back * frame.spacing[0] * np.array(frame.along_column)
    corner = corner - back * frame.spacing[1] * np.array(frame.along_row)
    image.ImagePositionPatient = [_decimal(v) for v in corner]
    image.ImageOrientationPatient = [_decimal(v) for v in (*frame.along_row, *frame.along_column)]
    if frame.file.frame_of_reference:
        image.FrameOfReferenceUID = frame.file.frame_of_reference
        image.PositionReferenceIndicator = ""


def _decimal(value: float) -> str:
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.8g}"


def _letter(direction: Any) -> str:
    """Return where a direction points mostly, as DICOM's letter."""
    if direction is None:
        return "L"
    axis = int(np.argmax(np.abs(direction)))
    return ("LR", "PA", "HF")[axis][int(direction[axis] < 0)]
