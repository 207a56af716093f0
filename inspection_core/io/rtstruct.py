"""DICOM RT Structure Sets out and in: findings as contours, for planning systems.

Contours are closed and planar, on the slices that were taken, in the patient's millimetres; see `contours` for where
they run. There is one contour an island; a hole is cut in through a keyhole, as CLOSED_PLANAR asks (PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from inspection_core import __version__
from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.contours import Points, contours_of, mask_of
from inspection_core.io.dicom.frames import Frame
from inspection_core.io.dicom.values import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.dicom_regions import (
    COLOURS,
    MAKER,
    By,
    Region,
    algorithm,
    check_source,
    reference,
    regions_of,
    save,
    series_number,
    source_headers,
    type_of,
    unique,
)
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
FILLED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_PLANE = 0.1
"""How far the points of a contour may lie off its plane, as a share of the step between slices."""


def write_rtstruct(
    path: Path,
    source: DicomImage,
    prediction: Prediction,
    *,
    mask: NDArray[np.uint8] | None = None,
    by: By = "finding",
    edited: bool = False,
    classes: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
    interpreted_type: str = "",
) -> tuple[Region, ...]:
    """Write a prediction as an RT Structure Set that refers to its source series.

    Parameters
    ----------
    path
        File to write.
    source
        The DICOM image that was predicted on.
    prediction
        On the grid of ``source.image``.
    mask, by, classes, findings
        See `inspection_core.io.dicom_regions.regions_of`; a region is a ROI.
    edited
        Whether a person changed the mask: the generation algorithm becomes SEMIAUTOMATIC.
    interpreted_type
        RT ROI Interpreted Type of every ROI, such as ``"GTV"``. Empty unless given: whether a finding is a target is
        for a person to say.

    Returns
    -------
    tuple of Region
        What was written.

    Raises
    ------
    UsageError
        If there is no finding to write, or the source is a mosaic or has no place in the patient.
    GeometryError
        If the prediction is not on the source's grid.
    """
    check_source(source, prediction, "a structure set")
    labels, regions = regions_of(source, prediction, mask, by, classes, findings)
    if not regions:
        raise UsageError("There is no finding, and a structure set without contours is no use; write NIfTI.")
    planes = source.to_slices(labels)
    counts = np.bincount(labels.ravel(), minlength=len(regions) + 1)
    header = source_headers(source)[0]
    frames = source.volume.frames[0]
    with quiet():
        out = _new(source, header, prediction)
        out.StructureSetROISequence = []
        out.ROIContourSequence = []
        out.RTROIObservationsSequence = []
        for region in regions:
            roi = _roi(region, prediction, edited, header.FrameOfReferenceUID)
            roi.ROIVolume = f"{counts[region.number] * prediction.geometry.voxel_size / 1000:.8g}"
            out.StructureSetROISequence.append(roi)
            drawn = Dataset()
            drawn.ROIDisplayColor = list(COLOURS[(region.number - 1) % len(COLOURS)])
            drawn.ContourSequence = []
            for z in np.flatnonzero((planes == region.number).any(axis=(1, 2))):
                for points in contours_of(planes[z] == region.number):
                    drawn.ContourSequence.append(_contour(points, frames[z], len(drawn.ContourSequence) + 1))
            drawn.ReferencedROINumber = region.number
            out.ROIContourSequence.append(drawn)
            out.RTROIObservationsSequence.append(_observation(region, interpreted_type))
        save(out, path)
    return regions


def read_rtstruct(path: Path, source: DicomImage) -> Image:
    """Read an RT Structure Set of any tool onto the series that it was drawn on, one channel a ROI.

    A voxel belongs to a ROI where its centre lies inside its contours, or on one; a contour inside another is a hole.
    A contour goes to the slice nearest to its plane, and nothing is made up between contours.

    Parameters
    ----------
    path
        The file.
    source
        The series; its grid is the result's.

    Returns
    -------
    Image
        uint8 0 and 1; channels named by ROI. Notes tell what holds no area and was left out.

    Raises
    ------
    ReadError
        If it is no RT Structure Set, damaged, or has no closed contour.
    GeometryError
        If it was drawn in another frame of reference, or not on these slices.
    """
    path = Path(path)
    with quiet():
        try:
            dataset = pydicom.dcmread(path)
            if dataset.get("Modality") != "RTSTRUCT":
                raise ReadError(f"{path.name} is no RT Structure Set: its modality is another.")
            rois = [(str(r.get("ROIName", "")) or f"ROI {r.ROINumber}", r) for r in dataset.StructureSetROISequence]
            drawn = {int(c.ReferencedROINumber): c for c in dataset.get("ROIContourSequence") or []}
            names, channels, notes = [], [], []
            for name, roi in rois:
                _check_frame_of_reference(path, roi, source)
                contours = (
                    list(drawn[int(roi.ROINumber)].get("ContourSequence") or []) if roi.ROINumber in drawn else []
                )
                points = [_points(path, c) for c in contours if c.ContourGeometricType in FILLED]
                closed = [p for p in points if len(p) > 2]
                if len(closed) < len(contours) or not contours:
                    notes.append(f"{len(contours) - len(closed)} of {len(contours)} contours of a ROI enclose no area")
                if closed:
                    names.append(name)
                    channels.append(source.from_slices(_filled(path, closed, source)))
        except (ReadError, GeometryError):
            raise
        except DAMAGE as error:
            raise ReadError(f"{path.name} is no RT Structure Set, or is damaged ({type(error).__name__}).") from None
    if not channels:
        raise ReadError(f"{path.name} holds no closed contour, so there is no region to read.")
    return Image(np.stack(channels), source.image.geometry, unique(names), path, tuple(notes))


def _new(source: DicomImage, header: Dataset, prediction: Prediction) -> hd.SOPClass:
    """Return the structure set without its ROIs; implicit VR, because an explicit one limits contours to 64 KiB."""
    out = hd.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=hd.UID(),
        series_number=series_number(source, 902),
        sop_instance_uid=hd.UID(),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MAKER,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        manufacturer_model_name=prediction.model_id[:64],
        software_versions=__version__[:64],
        device_serial_number=(prediction.model_sha256 or "0")[:64],
        series_description=f"{prediction.model_id[:24]}: {RESEARCH_USE}"[:64],
    )
    out.copy_patient_and_study_information(header)
    out.copy_specimen_information(header)
    out.SpecificCharacterSet = header.SpecificCharacterSet
    out.OperatorsName = ""
    out.FrameOfReferenceUID = header.FrameOfReferenceUID
    out.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    out.StructureSetLabel = "Research use"
    out.StructureSetName = RESEARCH_USE
    out.StructureSetDescription = f"Findings of {prediction.model_id} {prediction.model_version}. {RESEARCH_USE}"[:1024]
    out.StructureSetDate, out.StructureSetTime = out.InstanceCreationDate, out.InstanceCreationTime
    out.ApprovalStatus = "UNAPPROVED"
    series = Dataset()
    series.SeriesInstanceUID = header.SeriesInstanceUID
    series.ContourImageSequence = [reference(f) for f in source.volume.frames[0]]
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY
    study.ReferencedSOPInstanceUID = header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    place = Dataset()
    place.FrameOfReferenceUID = header.FrameOfReferenceUID
    place.RTReferencedStudySequence = [study]
    out.ReferencedFrameOfReferenceSequence = [place]
    return out


def _roi(region: Region, prediction: Prediction, edited: bool, frame_of_reference: str) -> Dataset:
    roi = Dataset()
    roi.ROINumber = region.number
    roi.ReferencedFrameOfReferenceUID = frame_of_reference
    roi.ROIName = region.name
    roi.ROIDescription = f"{RESEARCH_USE} Tracking UID {region.tracking_uid}"
    roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if edited else "AUTOMATIC"
    roi.ROIGenerationDescription = f"{prediction.model_id} {prediction.model_version}"[:64]
    roi.ROIDerivationAlgorithmIdentificationSequence = algorithm(prediction)
    return roi


def _observation(region: Region, interpreted_type: str) -> Dataset:
    code = type_of(region.label)
    seen = Dataset()
    seen.ObservationNumber = region.number
    seen.ReferencedROINumber = region.number
    seen.RTROIInterpretedType = interpreted_type
    seen.ROIInterpreter = ""
    seen.RTROIIdentificationCodeSequence = [hd.sr.CodedConcept(code.value, code.scheme_designator, code.meaning)]
    return seen


def _contour(points: Points, frame: Frame, number: int) -> Dataset:
    row, column, corner = (np.array(p) for p in (frame.along_row, frame.along_column, frame.position))
    steps = np.stack([column * (frame.spacing or (1, 1))[0], row * (frame.spacing or (1, 1))[1]])
    world = corner + points @ steps
    contour = Dataset()
    contour.ContourImageSequence = [reference(frame)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(world)
    contour.ContourNumber = number
    contour.ContourData = [_decimal(v) for v in world.ravel()]
    return contour


def _decimal(value: float) -> str:
    """Return a coordinate to a tenth of a micrometre; DICOM gives it sixteen characters."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _check_frame_of_reference(path: Path, roi: Dataset, source: DicomImage) -> None:
    said, there = str(roi.get("ReferencedFrameOfReferenceUID", "")), source.volume.file.frame_of_reference
    if said and there and said != there:
        raise GeometryError(
            f"{path.name} was drawn in another frame of reference than this series has; give the series that it refers "
            "to."
        )


def _points(path: Path, contour: Dataset) -> Points:
    """Return the ``(n, 3)`` points of a contour in the patient's millimetres."""
    values = contour.get("ContourData")
    points = np.array([] if values is None else values, np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ReadError(f"{path.name} is damaged: a contour has points that are no numbers. Copy it again.")
    return points


def _filled(path: Path, contours: Sequence[Points], source: DicomImage) -> NDArray[np.uint8]:
    """Return ``(slice, row, column)`` of contours in the patient's millimetres."""
    frames = source.volume.frames[0]
    first = frames[0]
    if first.spacing is None or first.along_row is None or first.along_column is None or not source.volume.positions:
        raise GeometryError("Contours lie on slices with a position; this series has none.")
    places = np.array(source.volume.positions)
    step = float(np.median(np.diff(places))) if len(places) > 1 else first.thickness or 1.0
    axes = np.stack([np.array(first.along_column) / first.spacing[0], np.array(first.along_row) / first.spacing[1]])
    by_plane: dict[tuple[int, float], list[Points]] = defaultdict(list)
    for world in contours:
        along = world @ first.normal
        if np.ptp(along) > OFF_PLANE * step:
            raise GeometryError(f"{path.name} has contours across the slices of this series, not on them.")
        at = float(along.mean())
        z = int(np.abs(places - at).argmin())
        if abs(places[z] - at) > step * 0.5001:
            raise GeometryError(
                f"{path.name} has a contour {abs(places[z] - at):.3g} mm from the nearest slice; give the series that "
                "it was drawn on."
            )
        points = (world - np.array(frames[z].position)) @ axes.T
        by_plane[z, round(abs(places[z] - at), 3)].append(points)
    out = np.zeros((len(frames), first.rows, first.columns), np.uint8)
    for z, apart in sorted(by_plane, reverse=True):  # where several planes share a slice, the nearest has the last word
        out[z] = mask_of(by_plane[z, apart], (first.rows, first.columns))
    return out
