"""What every DICOM object made from a prediction shares: its regions, their codes, and the headers of its source.

Codes are SNOMED CT: a morphologically abnormal structure, of a type that the label names, or plain "lesion" where it
names none; an uncoded tumour never becomes an organ.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import pydicom
import skimage.measure
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM
from scipy import ndimage

from inspection_core.errors import GeometryError, UsageError
from inspection_core.io.atomic import atomic_path
from inspection_core.io.dicom.frames import Frame
from inspection_core.io.dicom.values import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction
from inspection_core.review import Review

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
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of regions, by number: told apart with every kind of colour vision (Okabe and Ito 2008)."""
SEXES = ("M", "F", "O", "")
_NEEDED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
           "AccessionNumber", "ReferringPhysicianName")  # fmt: skip


@dataclass(frozen=True)
class Region:
    """One region to write: a segment, a contoured ROI, an outline.

    Parameters
    ----------
    number
        Its value in the label array, from 1.
    value
        Its class in the mask, from 1.
    label
        Class name.
    finding
        The finding that it shows, with figures that hold for it; None for a class, and for a region that a person
        painted or changed and nobody measured again.
    tracking_uid
        Stays the same for the same finding of the same model on the same series, also after a person changed its
        outline.
    """

    number: int
    value: int
    label: str
    finding: Finding | None
    tracking_uid: str

    @property
    def name(self) -> str:
        """What people see, such as ``"tumour 2"``; at most 64 characters."""
        return (f"{self.label[:56]} {self.finding.id}" if self.finding else self.label)[:64]


def regions_of(
    source: DicomImage, prediction: Prediction, mask: NDArray[np.uint8] | None = None, by: By = "finding",
    classes: Sequence[str] = (), findings: Sequence[Finding] | None = None,
) -> tuple[NDArray[np.uint16], tuple[Region, ...]]:  # fmt: skip
    """Split a mask into the regions to write.

    Parameters
    ----------
    source
        The image that was predicted on.
    prediction
        Its findings; its mask where `mask` is not given.
    mask
        The mask after review.
    by
        ``"finding"``: one a connected region; ``"class"``: one a label.
    classes
        Class names, label 1 first; where not given they come from the findings.
    findings
        Of `mask`, where a person changed it: `inspection_core.findings.find_labelled` measures it again.

    Returns
    -------
    labels
        ``(z, y, x)``, 0 for background, else a region's number.
    regions
        In the order of their numbers.

    Raises
    ------
    GeometryError
        If the mask is not on the source's grid.
    UsageError
        If there are more than 65535.
    """
    mask = prediction.mask if mask is None else mask
    if mask.shape != prediction.geometry.shape:
        raise GeometryError(f"The mask lies on the source's grid of {prediction.geometry.shape}. Got {mask.shape}.")
    names = _class_names(prediction, mask, classes)
    labels = np.zeros(mask.shape, np.uint16)
    regions: list[Region] = []
    if by == "class":
        for value in sorted(int(v) for v in np.unique(mask) if v):
            name = names.get(value, f"label {value}")
            regions.append(Region(len(regions) + 1, value, name, None, _uid(source, prediction, f"class {value}")))
            labels[mask == value] = len(regions)
        return labels, tuple(regions)
    before, old = _parts(prediction.mask, names, prediction.findings)
    after, new = before, old
    if findings is not None or not np.array_equal(mask, prediction.mask):
        after, new = _parts(mask, names, findings or ())
    if len(new) > np.iinfo(np.uint16).max:
        raise UsageError(f"At most 65535 regions can be written. Got {len(new)}; write one a class.")
    origins = {p.number: p for p in old if p.finding is not None}
    for part in new:
        inside = after[part.box] == part.number
        shared = np.bincount(before[part.box][inside], minlength=1)
        likely = [int(n) for n in np.argsort(-shared, kind="stable") if shared[n] and int(n) in origins]
        # A region cut in two: the larger overlap comes out of the first that asks; the other is a new one.
        origin = origins.pop(likely[0]) if likely else None
        finding = part.finding
        if origin is not None and findings is None and shared[origin.number] == part.size == origin.size:
            finding = origin.finding
        key = f"region {part.value} {part.number}"
        if origin is not None and origin.finding is not None:
            key = f"finding {origin.finding.id}"
        number = len(regions) + 1
        label = finding.label if finding is not None else part.label
        regions.append(Region(number, part.value, label, finding, _uid(source, prediction, key)))
        labels[part.box][inside] = number
    return labels, tuple(regions)


def corrected(review: Review) -> tuple[NDArray[np.uint8], bool]:
    """Return a review's mask and whether a person changed it: what the writers take as `mask` and `edited`."""
    mask = review.mask
    return mask, not np.array_equal(mask, review.prediction.mask)


def check_source(source: DicomImage, prediction: Prediction, what: str, *, placed: bool = True) -> None:
    """Refuse what a DICOM object could not refer to.

    Parameters
    ----------
    source, prediction
        As given to a writer.
    what
        What is to be written, such as ``"a SEG"``, for the message.
    placed
        Whether it needs a place in the patient.

    Raises
    ------
    GeometryError
        If the prediction is not on the source's grid.
    UsageError
        If the source is a mosaic, or has no place in the patient.
    """
    if not prediction.geometry.is_close(source.image.geometry, 1e-4):
        raise GeometryError("The prediction lies on another grid than the DICOM image; predict on that image itself.")
    first = source.volume.first
    if any(f.corner != (0, 0) for f in source.volume.frames[0]) or first.file.rows != first.rows:
        raise UsageError(f"A mosaic has no frame that {what} could refer to; write NIfTI.")
    if placed and (source.volume.layout != "volume" or not first.file.frame_of_reference):
        raise UsageError(
            f"{what[0].upper()}{what[1:]} needs images with a place in the patient (position and frame of reference), "
            "and these have none; write NIfTI or PNG."
        )


def source_headers(source: DicomImage) -> list[Dataset]:
    """Return the headers of the slices in order, with empty entries where required ones are absent."""
    out: dict[Any, Dataset] = {}
    with quiet():
        for frame in source.volume.frames[0]:
            if frame.file.blob in out:
                continue
            with frame.file.blob.open() as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            _complete(header)
            if "FrameOfReferenceUID" in header and "PositionReferenceIndicator" not in header:
                header.PositionReferenceIndicator = ""
            out[frame.file.blob] = header
    return list(out.values())


def series_number(source: DicomImage, offset: int) -> int:
    """Return a number for a new series that does not clash with its source's, and stays near it in lists."""
    return (source.volume.file.number or 0) % 10000 + offset


def reference(frame: Frame) -> Dataset:
    """Return the reference to a source image, and to the frame of it where it has several."""
    out = Dataset()
    out.ReferencedSOPClassUID = frame.file.sop_class
    out.ReferencedSOPInstanceUID = frame.file.sop_uid
    if frame.file.frames > 1:
        out.ReferencedFrameNumber = frame.number + 1
    return out


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with a number behind each that occurred before."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(out)


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


def _uid(source: DicomImage, prediction: Prediction, key: str) -> str:
    seed = "/".join((source.volume.file.series_uid, prediction.model_id, prediction.model_sha256, key))
    return str(hd.UID.from_uuid(str(uuid.uuid5(uuid.NAMESPACE_OID, seed))))


def _complete(header: Dataset) -> None:
    """Empty what is absent or invalid among the entries that a new object of the same study must copy.

    An invalid one cannot be copied, and a message that refuses it would print it. Text becomes UTF-8, because a label
    may be in another alphabet than the patient's name.
    """
    with contextlib.suppress(*DAMAGE):
        header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    if "DeidentificationMethod" in header and not header.DeidentificationMethod:
        header.DeidentificationMethod = "not stated by the source"
    for name in _NEEDED:
        if name not in header:
            setattr(header, name, "")
    if header.PatientSex not in SEXES:
        header.PatientSex = ""
    for name in ("PatientBirthDate", "StudyDate", "StudyTime"):
        try:
            (TM if name.endswith("Time") else DA)(header.get(name) or None)
        except DAMAGE:
            setattr(header, name, "")


@dataclass(frozen=True)
class _Part:
    """One connected region of a mask."""

    number: int
    value: int
    label: str
    box: tuple[slice, ...]
    size: int
    finding: Finding | None


def _parts(
    mask: NDArray[np.uint8], names: dict[int, str], findings: Sequence[Finding]
) -> tuple[NDArray[np.integer[Any]], list[_Part]]:
    """Return the connected sets of equal values, numbered from 1, and what each is, by value."""
    label: Any = skimage.measure.label
    array: NDArray[np.integer[Any]] = label(mask, background=0, connectivity=mask.ndim)
    measured: dict[Any, list[Finding]] = defaultdict(list)
    for finding in findings:
        measured[finding.start, finding.stop].append(finding)
    parts = []
    for number, box in enumerate(ndimage.find_objects(array), start=1):
        inside = array[box] == number
        value = int(mask[box][inside][0])
        label = names.get(value, f"label {value}")
        here = measured[tuple(s.start for s in box), tuple(s.stop for s in box)]
        if len(here) > 1:
            here = [f for f in here if f.label == label]
        parts.append(_Part(number, value, label, box, int(inside.sum()), here[0] if here else None))
    return array, sorted(parts, key=lambda p: p.value)
