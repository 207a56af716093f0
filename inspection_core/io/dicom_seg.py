"""DICOM SEG out and in, through highdicom.

A segment is a finding, or a class. Frames lie on the slices that were taken, also where the image was resampled, and
refer to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inspection_core import __version__
from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom.values import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.dicom_regions import (
    CATEGORY,
    MAKER,
    SITES,
    By,
    Region,
    algorithm,
    check_source,
    regions_of,
    save,
    series_number,
    source_headers,
    type_of,
    unique,
)
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

Kind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
SAME_PLACE_MM = 0.01


def write_seg(
    path: Path,
    source: DicomImage,
    prediction: Prediction,
    *,
    mask: NDArray[np.uint8] | None = None,
    by: By = "finding",
    kind: Kind = "BINARY",
    edited: bool = False,
    classes: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
    site: str = "",
    grid: Literal["slices", "image"] = "slices",
) -> tuple[Region, ...]:
    """Write a prediction as DICOM SEG that refers to its source series.

    Parameters
    ----------
    path
        File to write.
    source
        The DICOM image that was predicted on.
    prediction
        On the grid of ``source.image``.
    mask, by, classes, findings
        See `inspection_core.io.dicom_regions.regions_of`.
    kind
        ``"BINARY"``; ``"FRACTIONAL"``, which holds the score where it is a probability and else each finding's
        confidence; or ``"LABELMAP"``.
    edited
        Whether a person changed the mask: the algorithm type becomes SEMIAUTOMATIC.
    site
        Anatomical site where known, such as ``"brain"``; if not given, it is not coded.
    grid
        ``"slices"`` puts the frames on the slices that were taken and leaves out empty ones, as viewers like it;
        ``"image"`` writes every slice of the image's straight stack, for tools that take every SEG for one.

    Returns
    -------
    tuple of Region
        What was written, for a report that refers to it.

    Raises
    ------
    UsageError
        If there is no finding to write, or the source is a mosaic or has no place in the patient.
    GeometryError
        If the prediction is not on the source's grid.
    """
    check_source(source, prediction, "a SEG")
    labels, regions = regions_of(source, prediction, mask, by, classes, findings)
    if not regions:
        raise UsageError("There is no finding, and a SEG without segments is not allowed; write NIfTI or a report.")
    straight = grid == "image" and source.resampled
    planes = labels if straight else source.to_slices(labels)
    pixels: NDArray[Any] = planes.astype(np.uint8) if len(regions) < 256 else planes
    datasets = source_headers(source)
    with quiet():
        # The frames of one file may make several volumes, in any order.
        places = _places(source, straight)
        extra = places if straight or source.volume.file.frames > 1 else {}
        _agree(datasets, places)
        seg = hd.seg.Segmentation(
            source_images=datasets,
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=[_describe(r, prediction, edited, site) for r in regions],
            series_instance_uid=hd.UID(),
            series_number=series_number(source, 900),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=prediction.model_id[:64],
            software_versions=f"{__version__}"[:64],
            device_serial_number=(prediction.model_sha256 or "0")[:64],
            content_label="FINDINGS",
            content_description=RESEARCH_USE[:64],
            series_description=f"{prediction.model_id[:24]}: {RESEARCH_USE}"[:64],
            omit_empty_frames=grid == "slices",
            **extra,
        )
        if kind == "FRACTIONAL":
            score = prediction.score.astype(np.float32)
            _weigh(seg, score if straight else source.to_slices(score), places["plane_positions"], regions)
        save(seg, path)
    return regions


def read_seg(path: Path, source: DicomImage | None = None) -> Image:
    """Read a DICOM SEG of any tool, one channel a segment.

    Parameters
    ----------
    path
        The file.
    source
        The image to bring it onto. Without it the grid is that of the SEG's own frames, which must make a straight
        stack.

    Returns
    -------
    Image
        uint8 0 and 1, or float32 in [0, 1] for FRACTIONAL; channels named by segment label.

    Raises
    ------
    ReadError
        If it is no SEG, or damaged.
    GeometryError
        If its frames make no stack, or do not lie on the slices of `source`.
    """
    path = Path(path)
    with quiet():
        try:
            seg = hd.seg.segread(path)
        except DAMAGE as error:
            raise ReadError(f"{path.name} is no DICOM SEG, or is damaged ({type(error).__name__}).") from None
        fractional = seg.segmentation_type == hd.seg.SegmentationTypeValues.FRACTIONAL
        numbers = [n for n in seg.segment_numbers if n > 0]
        names = tuple(str(seg.get_segment_description(n).segment_label) for n in numbers)
        dtype = np.float32 if fractional else np.uint8
        try:
            if source is None:
                volume = seg.get_volume(
                    segment_numbers=numbers, combine_segments=False, allow_missing_positions=True, dtype=dtype
                )
                array = np.moveaxis(volume.array, -1, 0)
                geometry = Geometry(array.shape[1:], volume.affine, "mm")
            else:
                array, geometry = _onto(seg, numbers, source, dtype), source.image.geometry
        except GeometryError:
            raise
        except DAMAGE as error:
            raise GeometryError(
                f"{path.name}: its frames make no straight stack ({type(error).__name__}); give the series that it was "
                "drawn on."
            ) from None
    return Image(np.ascontiguousarray(array), geometry, unique(names), path, ())


def _places(source: DicomImage, straight: bool) -> dict[str, Any]:
    first, positions = source.volume.first, source.volume.positions
    step = float(np.median(np.diff(positions))) if len(positions) > 1 else first.step or first.thickness or 1.0
    corners = source.volume.corners()
    if straight:
        geometry = source.image.geometry
        step = geometry.spacing[0]
        corners = geometry.index_to_world([[k, 0, 0] for k in range(geometry.shape[0])])
    direction = [*(first.along_row or ()), *(first.along_column or ())]
    patient = hd.CoordinateSystemNames.PATIENT
    return {
        "plane_positions": [hd.PlanePositionSequence(patient, image_position=p.tolist()) for p in corners],
        "plane_orientation": hd.PlaneOrientationSequence(patient, direction),
        "pixel_measures": hd.PixelMeasuresSequence(list(first.spacing or ()), first.thickness or step, step),
    }


def _agree(headers: Sequence[Dataset], places: dict[str, Any]) -> None:
    """Make headers say where highdicom looks what the reader found elsewhere, or found equal but for rounding."""
    measures, direction = places["pixel_measures"], places["plane_orientation"]
    for header in headers:
        if "SharedFunctionalGroupsSequence" in header:
            shared = header.SharedFunctionalGroupsSequence[0]
            shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = measures, direction
            continue
        header.ImageOrientationPatient = direction[0].ImageOrientationPatient
        if not header.get("SliceThickness"):
            header.SliceThickness = measures[0].SliceThickness


def _describe(region: Region, prediction: Prediction, edited: bool, site: str) -> hd.seg.SegmentDescription:
    place = SITES.get(site.lower())
    return hd.seg.SegmentDescription(
        segment_number=region.number,
        segment_label=region.name,
        segmented_property_category=CATEGORY,
        segmented_property_type=type_of(region.label),
        algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC",
        algorithm_identification=algorithm(prediction),
        tracking_uid=region.tracking_uid,
        tracking_id=f"{region.label} {region.number}"[:64],
        anatomic_regions=[place] if place is not None else None,
    )


def _weigh(
    seg: hd.seg.Segmentation, score: NDArray[np.float32], positions: Sequence[Any], regions: Sequence[Region]
) -> None:
    """Put fractions in place of the full marks of a FRACTIONAL segmentation, frame by frame.

    highdicom takes fractions only as one whole float volume a segment, which 20 findings on a CT do not leave room for.
    """
    probable = float(score.min()) >= 0 and float(score.max()) <= 1
    corners = np.array([p[0].ImagePositionPatient for p in positions], np.float64)
    pixels = np.frombuffer(seg.PixelData, np.uint8).copy()
    frames = pixels[: seg.NumberOfFrames * seg.Rows * seg.Columns].reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]  # holds what is the same for all frames
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        place = groups if "PlanePositionSequence" in groups else shared
        segment = groups if "SegmentIdentificationSequence" in groups else shared
        at = np.array(place.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        z = int(np.linalg.norm(corners - at, axis=1).argmin())
        finding = regions[segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1].finding
        worth = score[z] if probable else np.float32(finding.confidence if finding is not None else 1.0)
        frame[:] = np.where(frame > 0, np.rint(worth * seg.MaximumFractionalValue), 0)
    seg.PixelData = pixels.tobytes()


def _onto(seg: Any, numbers: Sequence[int], source: DicomImage, dtype: Any) -> NDArray[Any]:
    """Bring a SEG's frames onto the slices of a source by their positions, then onto the image's grid."""
    frames = source.volume.frames[0]
    first = frames[0]
    if (seg.Rows, seg.Columns) != (first.rows, first.columns):
        raise GeometryError(
            f"The SEG has {seg.Columns} x {seg.Rows} pixels where the series has {first.columns} x {first.rows}."
        )
    places = np.array([f.position for f in frames])
    out = np.zeros((len(numbers), len(frames), first.rows, first.columns), dtype)
    shared = seg.SharedFunctionalGroupsSequence[0]
    pixels = seg.get_stored_frames().reshape(-1, seg.Rows, seg.Columns)
    scale = float(seg.MaximumFractionalValue) if np.dtype(dtype).kind == "f" else 1.0
    for pixel, groups in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        holder = groups if "PlanePositionSequence" in groups else shared
        at = np.array(holder.PlanePositionSequence[0].ImagePositionPatient, float)
        apart = np.linalg.norm(places - at, axis=1)
        z = int(apart.argmin())
        if apart[z] > SAME_PLACE_MM + 1e-4 * float(np.abs(at).max()):
            raise GeometryError(f"A frame of the SEG lies {apart[z]:.2g} mm from the nearest slice of the series.")
        if "SegmentIdentificationSequence" in groups or "SegmentIdentificationSequence" in shared:
            ids = groups if "SegmentIdentificationSequence" in groups else shared
            number = int(ids.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            if number in numbers:
                out[numbers.index(number), z] = pixel / scale if scale != 1 else pixel
        else:  # LABELMAP
            for k, number in enumerate(numbers):
                out[k, z] = pixel == number
    if not source.resampled and source.image.ndim == 3:
        return out
    return np.stack([source.from_slices(channel) for channel in out])
