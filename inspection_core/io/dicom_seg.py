"""DICOM SEG out and in, through highdicom.

A segment is a finding, or a class. Codes are SNOMED CT: a morphologically abnormal structure, of a type that the label
names, or plain "lesion" where it names none; an uncoded tumour never becomes an organ. Frames lie on the slices that
were taken, also where the image was resampled, and refer to them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from scipy import ndimage

from inspection_core import __version__
from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path
from inspection_core.io.dicom.frames import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

Kind = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
By = Literal["finding", "class"]

MAKER = "inspection-suite"
CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = Code("52988006", "SCT", "Lesion")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
TYPES = {
    "tumour": NEOPLASM,
    "tumor": NEOPLASM,
    "neoplasm": NEOPLASM,
    "whole tumour": NEOPLASM,
    "enhancing tumour": NEOPLASM,
    "glioma": NEOPLASM,
    "metastasis": Code("14799000", "SCT", "Neoplasm, Secondary"),
    "oedema": Code("79654002", "SCT", "Edema"),
    "edema": Code("79654002", "SCT", "Edema"),
    "necrosis": Code("6574001", "SCT", "Necrosis"),
    "cyst": Code("441457006", "SCT", "Cyst"),
    "haemorrhage": Code("50960005", "SCT", "Hemorrhage"),
}
SITES = {
    "brain": Code("12738006", "SCT", "Brain"),
    "head": Code("69536005", "SCT", "Head"),
    "breast": Code("76752008", "SCT", "Breast"),
    "prostate": Code("41216001", "SCT", "Prostate"),
    "lung": Code("39607008", "SCT", "Lung"),
    "liver": Code("10200004", "SCT", "Liver"),
}
SAME_PLACE_MM = 0.01
_NEEDED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
           "AccessionNumber", "ReferringPhysicianName")  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One segment to write.

    Parameters
    ----------
    number
        Its value in the label array, from 1.
    label
        Class name.
    finding
        The finding that it shows, or None for a class or a region that a person painted.
    tracking_uid
        Stays the same for the same finding of the same model on the same series.
    """

    number: int
    label: str
    finding: Finding | None
    tracking_uid: str


def regions_of(
    source: DicomImage, prediction: Prediction, mask: NDArray[np.uint8] | None = None, by: By = "finding",
    classes: Sequence[str] = (),
) -> tuple[NDArray[np.uint16], tuple[Region, ...]]:  # fmt: skip
    """Split a mask into the segments to write.

    Parameters
    ----------
    source
        The image that was predicted on.
    prediction
        Its findings; its mask where `mask` is not given.
    mask
        The mask after review.
    by
        ``"finding"``: one segment a connected region; ``"class"``: one a label.
    classes
        Class names, label 1 first; where not given they come from the findings.

    Returns
    -------
    labels
        ``(z, y, x)``, 0 for background, else a region's number.
    regions
        In the order of their numbers.
    """
    mask = prediction.mask if mask is None else mask
    if mask.shape != prediction.geometry.shape:
        raise GeometryError(f"The mask lies on the source's grid of {prediction.geometry.shape}. Got {mask.shape}.")
    labels = np.zeros(mask.shape, np.uint16)
    regions: list[Region] = []
    by_value = _class_names(prediction, mask, classes)
    for value in sorted(int(v) for v in np.unique(mask) if v):
        name = by_value.get(value, f"label {value}")
        if by == "class":
            regions.append(Region(len(regions) + 1, name, None, _tracking(source, prediction, f"class {value}")))
            labels[mask == value] = len(regions)
            continue
        parts, count = ndimage.label(mask == value, np.ones((3,) * mask.ndim))
        boxes = ndimage.find_objects(parts)
        found = {(f.start, f.stop): f for f in prediction.findings}
        for k in range(1, count + 1):
            box = boxes[k - 1]
            finding = found.get((tuple(s.start for s in box), tuple(s.stop for s in box)))
            key = f"finding {finding.id}" if finding is not None else f"region {value} {k}"
            number = len(regions) + 1
            label = finding.label if finding is not None else name
            regions.append(Region(number, label, finding, _tracking(source, prediction, key)))
            labels[box][parts[box] == k] = number
    if len(regions) > np.iinfo(np.uint16).max:
        raise UsageError(f"A SEG holds at most 65535 segments. Got {len(regions)}; write one a class.")
    return labels, tuple(regions)


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
    mask, by, classes
        See `regions_of`.
    kind
        ``"BINARY"``; ``"FRACTIONAL"``, which holds the score where it is a probability and else each finding's
        confidence; or ``"LABELMAP"``.
    edited
        Whether a person changed the mask: the algorithm type becomes SEMIAUTOMATIC.
    site
        Anatomical site where known, such as ``"brain"``; if not given, it is not coded.
    grid
        Of a tilted series: ``"slices"`` puts the frames on the slices that were taken, for viewers; ``"image"`` on the
        straight stack, for tools that take every SEG for one.

    Returns
    -------
    tuple of Region
        What was written, for a report that refers to it.

    Raises
    ------
    UsageError
        If there is no finding to write, or the source is a mosaic.
    GeometryError
        If the prediction is not on the source's grid.
    """
    if not prediction.geometry.is_close(source.image.geometry, 1e-4):
        raise GeometryError("The prediction lies on another grid than the DICOM image; predict on that image itself.")
    if (
        any(f.corner != (0, 0) for f in source.volume.frames[0])
        or source.volume.first.file.rows != source.volume.first.rows
    ):
        raise UsageError("A mosaic has no frame that a SEG could refer to; write NIfTI.")
    labels, regions = regions_of(source, prediction, mask, by, classes)
    if not regions:
        raise UsageError("There is no finding, and a SEG without segments is not allowed; write NIfTI or a report.")
    straight = grid == "image" and source.resampled
    planes = labels if straight else source.to_slices(labels)
    pixels: NDArray[Any] = planes.astype(np.uint8) if len(regions) < 256 else planes
    if kind == "FRACTIONAL":
        score = prediction.score.astype(np.float32)
        pixels = _fractions(score if straight else source.to_slices(score), planes, regions)
    datasets = source_headers(source)
    with quiet():
        # The frames of one file may make several volumes, in any order.
        extra = _places(source, straight) if straight or source.volume.file.frames > 1 else {}
        seg = hd.seg.Segmentation(
            source_images=datasets,
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=[_describe(r, prediction, edited, site) for r in regions],
            series_instance_uid=hd.UID(),
            series_number=(source.volume.file.number or 0) % 10000 + 900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=prediction.model_id[:64],
            software_versions=f"{__version__}"[:64],
            device_serial_number=(prediction.model_sha256 or "0")[:64],
            content_label="FINDINGS",
            content_description=RESEARCH_USE[:64],
            series_description=f"{prediction.model_id[:24]}: {RESEARCH_USE}"[:64],
            **extra,
        )
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
    return Image(np.ascontiguousarray(array), geometry, _unique(names), path, ())


def source_headers(source: DicomImage) -> list[Dataset]:
    """Return the headers of the slices in order, with empty entries where required ones are absent."""
    out: dict[Any, Dataset] = {}
    with quiet():
        for frame in source.volume.frames[0]:
            if frame.file.blob in out:
                continue
            with frame.file.blob.open() as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            for name in _NEEDED:
                if name not in header:
                    setattr(header, name, "")
            if "FrameOfReferenceUID" in header and "PositionReferenceIndicator" not in header:
                header.PositionReferenceIndicator = ""
            out[frame.file.blob] = header
    return list(out.values())


def save(dataset: Dataset, path: Path) -> None:
    """Write a DICOM object, whole or not at all."""
    with atomic_path(Path(path)) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def algorithm(prediction: Prediction) -> hd.AlgorithmIdentificationSequence:
    """Return what made the segments: model, version, hash of its weights."""
    return hd.AlgorithmIdentificationSequence(
        name=prediction.model_id[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=prediction.model_version[:64],
        source=MAKER,
        parameters={"weights_sha256": prediction.model_sha256, "intended_use": RESEARCH_USE},
    )


def type_of(label: str) -> Code:
    """Return the SNOMED type of a label; "lesion" where it names none."""
    return TYPES.get(label.lower().replace("_", " ").replace("-", " "), LESION)


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


def _describe(region: Region, prediction: Prediction, edited: bool, site: str) -> hd.seg.SegmentDescription:
    place = SITES.get(site.lower())
    return hd.seg.SegmentDescription(
        segment_number=region.number,
        segment_label=(f"{region.label} {region.finding.id}" if region.finding else region.label)[:64],
        segmented_property_category=CATEGORY,
        segmented_property_type=type_of(region.label),
        algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC",
        algorithm_identification=algorithm(prediction),
        tracking_uid=region.tracking_uid,
        tracking_id=f"{region.label} {region.number}"[:64],
        anatomic_regions=[place] if place is not None else None,
    )


def _class_names(prediction: Prediction, mask: NDArray[np.uint8], classes: Sequence[str]) -> dict[int, str]:
    if classes:
        return dict(enumerate(classes, start=1))
    names: dict[int, str] = {}
    for finding in prediction.findings:
        box = tuple(slice(a, b) for a, b in zip(finding.start, finding.stop, strict=True))
        inside = prediction.mask[box]
        values = np.unique(inside[inside > 0])
        if len(values) == 1:
            names[int(values[0])] = finding.label
    if not names and prediction.findings:
        names[1] = prediction.findings[0].label
    return names


def _tracking(source: DicomImage, prediction: Prediction, key: str) -> str:
    seed = "/".join((source.volume.file.series_uid, prediction.model_id, prediction.model_sha256, key))
    return str(hd.UID.from_uuid(str(uuid.uuid5(uuid.NAMESPACE_OID, seed))))


def _fractions(
    score: NDArray[np.float32], planes: NDArray[np.uint16], regions: Sequence[Region]
) -> NDArray[np.float32]:
    probable = float(score.min()) >= 0 and float(score.max()) <= 1
    out = np.zeros((*planes.shape, len(regions)), np.float32)
    for k, region in enumerate(regions):
        worth = score if probable else np.float32(region.finding.confidence if region.finding else 1.0)
        out[..., k] = np.where(planes == region.number, worth, 0)
    return out


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
    pixels = seg.get_frames() if hasattr(seg, "get_frames") else seg.pixel_array
    pixels = pixels.reshape(-1, seg.Rows, seg.Columns)
    scale = float(seg.MaximumFractionalValue) if np.dtype(dtype).kind == "f" and pixels.dtype.kind in "ui" else 1.0
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
    return np.stack([source.from_slices(channel) for channel in out])


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(out)
