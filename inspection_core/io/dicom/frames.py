"""From headers to planes: every kind of DICOM image as a flat list of frames with their place in space.

Single-frame files, enhanced multi-frame, RT dose grids and the mosaics of Siemens and UIH all end as `Frame`. Values
are taken with care: a header may hold anything, and what cannot be used counts as absent. Nothing that names a patient
is kept.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID

from inspection_core.errors import ReadError
from inspection_core.io.dicom.calibration import ultrasound_spacing
from inspection_core.io.dicom.discover import Blob, UnreadableError, looks_like_dicom
from inspection_core.io.dicom.values import DAMAGE, get, item, items, number, numbers, text, whole, words

Point = tuple[float, float, float]
MAX_FRAMES = 100_000
MAX_ELEMENTS = 100_000
"""At the top level of one file; the longest headers have a few thousand."""
MAX_ZEROS, MAX_READS = 1000, 5_000_000
_PIXEL_TAGS = frozenset([0x7FE00008, 0x7FE00009, 0x7FE00010])
FLAT_MODALITIES = frozenset(
    ["CR", "DX", "MG", "US", "XA", "RF", "SC", "OT", "NM", "ES", "XC", "IO", "PX", "OP", "GM", "SM"]
)
"""Read as pictures: their planes do not make a volume."""
ULTRASOUND = frozenset(["US", "IVUS"])
BRIGHT_IS_LOW = frozenset(["CR", "DX", "MG", "XA", "RF", "IO", "PX", "OT", "SC"])
"""Where MONOCHROME1 is a matter of display, so that values are turned round; elsewhere they are physical."""
MODALITIES = frozenset(
    [
        "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS", "DOC", "DX",
        "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO",
        "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS",
        "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT",
        "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "SRF", "STAIN",
        "TEXTUREMAP", "TG", "US", "VA", "VIDD", "XA", "XAPROTOCOL", "XC", "AS", "CD", "CF", "CP", "CS", "DD", "DF",
        "DM", "DS", "EC", "FA", "FS", "LP", "MA", "MS", "OPR", "ST", "VF",
    ]
)  # fmt: skip
"""PS3.3 C.7.3.1.1.1, retired ones too. Anything else may be a text of any kind, so it is not shown."""
NOT_IMAGES = frozenset({"SR", "RTSTRUCT", "RTPLAN", "RTRECORD", "PR", "KO", "REG", "DOC", "ECG", "AU", "SEG", "PLAN"})
_KINDS = frozenset(
    [
        "M",
        "P",
        "R",
        "I",
        "MAGNITUDE",
        "PHASE",
        "REAL",
        "IMAGINARY",
        "B0",
        "FIELD_MAP",
        "ADC",
        "FA",
        "TRACEW",
        "WATER",
        "FAT",
        "W",
        "F",
        "IP",
        "OP",
        "IN_PHASE",
        "OUT_PHASE",
        "M_FFE",
        "P_FFE",
        "R_FFE",
        "I_FFE",
        "M_SE",
        "P_SE",
        "R_SE",
        "I_SE",
        "VELOCITY",
    ]
)


@dataclass(frozen=True)
class FileFacts:
    """What one file says for all its frames.

    Parameters
    ----------
    blob
        Where it is.
    sop_uid, sop_class, series_uid, study_uid, frame_of_reference
        Identifiers; never shown, because they lead to a patient.
    modality, maker, description
        For people; `description` has names of the patient taken out.
    transfer_syntax
        UID; empty where the file does not say.
    rows, columns, samples, frames
        Size of the pixel data.
    bits, signed, photometric
        Bits stored, sign and photometric interpretation.
    padding
        PixelPaddingValue as stored, or None.
    has_lut
        Whether a Modality LUT Sequence stands in place of slope and intercept.
    fault
        Why its pixels cannot be read, in words; empty where nothing is wrong so far.
    units
        Unit of the rescaled values, such as ``"HU"`` or ``"BQML"``.
    number
        SeriesNumber, or None.
    high_bit
        Number of the highest stored bit.
    pixels_at
        Byte at which the element with the pixels begins, so that plain pixels need no second look at the header; -1
        where that is not known.
    """

    blob: Blob
    sop_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    frame_of_reference: str
    modality: str
    maker: str
    description: str
    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits: int
    allocated: int
    signed: bool
    photometric: str
    padding: int | None
    has_lut: bool
    fault: str
    units: str
    number: int | None
    high_bit: int = -1
    pixels_at: int = -1


@dataclass(frozen=True)
class Frame:
    """One plane of pixels.

    Parameters
    ----------
    file, number
        File, and frame inside it from 0.
    rows, columns
        Size of the plane.
    corner
        ``(row, column)`` of its first pixel in the stored frame; not (0, 0) only in a mosaic.
    position
        World (LPS) centre of the first pixel in mm, or None.
    along_row, along_column
        Unit vectors: the way that columns count up, and the way that rows count up; None where not given.
    spacing
        Between rows and between columns in mm, or None.
    thickness, step
        SliceThickness and SpacingBetweenSlices, or None.
    instance
        InstanceNumber.
    kind
        What makes it another picture of the same place: magnitude or phase, echo time.
    dims
        What may set volumes of one kind apart in time or diffusion, in order of trust: ``((name, value), ...)``.
    slope, intercept
        Modality rescale.
    precise
        Philips' private scale slope, or None.
    windows
        VOI windows, ``((centre, width), ...)``.
    detector
        Of projection images: distance between rows and between columns at the detector in mm, or None.
    notes
        Where the spacing comes from, if not from PixelSpacing, or why there is none.
    """

    file: FileFacts
    number: int
    rows: int
    columns: int
    position: Point | None = None
    along_row: Point | None = None
    along_column: Point | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    step: float | None = None
    instance: int | None = None
    kind: tuple[str, ...] = ()
    dims: tuple[tuple[str, Any], ...] = ()
    slope: float = 1.0
    intercept: float = 0.0
    precise: float | None = None
    windows: tuple[tuple[float, float], ...] = ()
    corner: tuple[int, int] = (0, 0)
    detector: tuple[float, float] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def normal(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Unit vector along which slices are sorted: row direction x column direction."""
        return np.cross(np.array(self.along_row), np.array(self.along_column))


def read_header(blob: Blob) -> Dataset:
    """Read a file's header, without its pixels.

    Raises
    ------
    ReadError
        If it is no DICOM file, or cannot be parsed.
    """
    head = blob.head()
    if not looks_like_dicom(head):
        raise ReadError(f"{blob.name} is not DICOM")
    try:
        with blob.open() as file:
            dataset = parse(file, pixels=False, force=head[128:132] != b"DICM")
            dataset.inspection_pixels_at = file.tell()
    except DAMAGE as error:
        raise UnreadableError(
            f"{blob.name} is damaged DICOM: its header cannot be parsed ({type(error).__name__})"
        ) from None
    if len(dataset) == 0:
        raise UnreadableError(f"{blob.name} holds no DICOM data")
    return dataset


def parse(file: BinaryIO, *, pixels: bool, force: bool = True) -> Dataset:
    """Parse a file with pydicom; one without end, such as a run of zeros, is given up soon.

    Raises
    ------
    ValueError
        If it has more elements than any header, or one that no header has; and all of `DAMAGE`.
    """
    seen = 0

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal seen
        seen += 1
        if seen > MAX_ELEMENTS or tag == 0:
            raise ValueError("no end of elements")
        return not pixels and tag in _PIXEL_TAGS

    return read_partial(_Bounded(file), stop, force=force)  # type: ignore[arg-type]


class _Bounded:
    """A file for a parser that would take a run of zeros for elements without end, one by one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._zeros, self._reads = file, 0, 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._reads += 1
        self._zeros = self._zeros + 1 if data == b"\0\0\0\0\0\0\0\0" else 0
        if self._zeros > MAX_ZEROS or self._reads > MAX_READS:
            raise ValueError("no end of elements")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def frames_of(blob: Blob) -> list[Frame]:
    """Return every plane in a file; call inside `quiet`.

    Raises
    ------
    ReadError
        If the file is no DICOM image; the text says what it is.
    """
    dataset = read_header(blob)
    try:
        facts = _facts(blob, dataset)
        return _frames(facts, dataset)
    except DAMAGE as error:
        raise UnreadableError(f"{blob.name} has a header that makes no sense ({type(error).__name__})") from None


def fault_of(blob: Blob, header: Dataset) -> str:
    """Say why an image's pixels cannot be read, as far as header and size tell; empty where nothing is wrong."""
    try:
        return _facts(blob, header).fault
    except ReadError:
        return ""
    except DAMAGE as error:
        return f"its header makes no sense ({type(error).__name__})"


def is_packed(syntax: str) -> bool:
    """Tell whether a transfer syntax compresses pixels."""
    uid = UID(syntax)
    return uid.is_transfer_syntax and uid.is_compressed and not uid.is_deflated


def is_deflated(syntax: str) -> bool:
    """Tell whether a transfer syntax compresses the whole file."""
    uid = UID(syntax)
    return uid.is_transfer_syntax and uid.is_deflated


# Free text -----------------------------------------------------------------------------------------------------------


_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName",
          "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord")  # fmt: skip
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate", "InstitutionName")


def without_names(free_text: str, dataset: Dataset) -> str:
    """Take names and numbers of people, and dates, out of a free text."""
    tokens = {token for name in _NAMES for token in re.split(r"[\s^=,;_\\]+", "\\".join(words(dataset, name)))}
    tokens |= {part.strip("\0 ") for name in _NUMBERS for part in words(dataset, name)}
    for token in sorted((t for t in tokens if len(t) > 1), key=len, reverse=True):
        # Names of two letters are common in places; inside a longer word two letters say nothing.
        pattern = re.escape(token) if len(token) > 2 else rf"(?<!\w){re.escape(token)}(?!\w)"
        free_text = re.sub(pattern, "***", free_text, flags=re.IGNORECASE)
    free_text = re.sub(r"(?<!\d)(19|20)\d\d[-./]?\d\d[-./]?\d\d(?!\d)", "***", free_text)
    return "".join(c if c.isprintable() else " " for c in free_text)[:80]


# One file -----------------------------------------------------------------------------------------------------------


def _facts(blob: Blob, dataset: Dataset) -> FileFacts:
    modality = text(dataset, "Modality").upper()
    modality = modality if modality in MODALITIES or not modality else "UNLISTED"
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if modality in NOT_IMAGES or rows is None or columns is None:
        if get(dataset, "DirectoryRecordSequence") is not None:
            raise ReadError(f"{blob.name} is a DICOMDIR, a table of contents")
        if modality not in NOT_IMAGES and UID(text(dataset, "SOPClassUID")).name.endswith("Image Storage"):
            raise UnreadableError(f"{blob.name} is damaged: an image without Rows and Columns")
        if modality or get(dataset, "SOPClassUID") is not None:
            raise ReadError(f"{blob.name} is {_name_of(modality, dataset)}, not an image")
        raise ReadError(f"{blob.name} holds no image")
    samples = whole(dataset, "SamplesPerPixel") or 1
    frames = whole(dataset, "NumberOfFrames") if get(dataset, "NumberOfFrames") is not None else 1
    allocated = whole(dataset, "BitsAllocated") or 0
    syntax = text(getattr(dataset, "file_meta", None), "TransferSyntaxUID")
    fault = ""
    if rows < 1 or columns < 1 or samples not in (1, 3, 4) or frames is None or not 1 <= frames <= MAX_FRAMES:
        fault = f"its size makes no sense ({rows} x {columns} pixels, {samples} samples, {frames} frames)"
    elif (whole(dataset, "BitsStored") or 0) > allocated > 0:
        fault = f"it stores {whole(dataset, 'BitsStored')} bits a pixel where it allocates {allocated}"
    elif allocated not in (1, 8, 16, 32, 64):
        fault = f"it allocates {allocated} bits a pixel, which no decoder here reads"
    else:
        fault = _missing_pixels(blob, dataset, syntax, rows * columns * samples * frames * allocated // 8)
    return FileFacts(
        blob=blob,
        sop_uid=text(dataset, "SOPInstanceUID"),
        sop_class=text(dataset, "SOPClassUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        modality=modality or "OT",
        maker=without_names(text(dataset, "Manufacturer"), dataset),
        description=without_names(text(dataset, "SeriesDescription"), dataset),
        transfer_syntax=syntax,
        rows=max(rows, 0),
        columns=max(columns, 0),
        samples=samples,
        frames=max(frames or 0, 0),
        bits=whole(dataset, "BitsStored") or allocated,
        allocated=allocated,
        signed=whole(dataset, "PixelRepresentation") == 1,
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        padding=whole(dataset, "PixelPaddingValue"),
        has_lut=item(dataset, "ModalityLUTSequence") is not None,
        fault=fault,
        units=_units(modality, dataset),
        number=whole(dataset, "SeriesNumber"),
        high_bit=_whole_or(whole(dataset, "HighBit"), (whole(dataset, "BitsStored") or allocated) - 1),
        pixels_at=-1 if is_deflated(syntax) else int(getattr(dataset, "inspection_pixels_at", -1)),
    )


def _name_of(modality: str, dataset: Dataset) -> str:
    names = {
        "SR": "a structured report",
        "RTSTRUCT": "an RT structure set",
        "RTPLAN": "an RT plan",
        "SEG": "a segmentation",
    }
    sop = UID(text(dataset, "SOPClassUID"))
    known = sop.name if sop and sop.name != str(sop) else ""
    return names.get(modality) or (f"{modality} ({known})" if known else modality or known or "a DICOM object")


def _units(modality: str, dataset: Dataset) -> str:
    if modality == "PT":
        return text(dataset, "Units")
    if modality == "RTDOSE":
        return text(dataset, "DoseUnits")
    return "HU" if modality == "CT" else text(dataset, "RescaleType")


def _missing_pixels(blob: Blob, dataset: Dataset, syntax: str, wanted: int) -> str:
    """Say at once where the pixels are missing or cut off, without decoding anything."""
    if is_deflated(syntax):
        return ""
    left = blob.size - int(getattr(dataset, "inspection_pixels_at", 0))
    if left < 12:
        return "it has no pixel data"
    if is_packed(syntax):
        return ""
    if text(dataset, "PhotometricInterpretation").upper() == "YBR_FULL_422":
        wanted = wanted * 2 // 3
    if wanted > left:
        return f"it is truncated: it promises {wanted:,} bytes of pixels and {left:,} are there"
    return ""


# Planes -------------------------------------------------------------------------------------------------------------


def _frames(facts: FileFacts, dataset: Dataset) -> list[Frame]:
    if facts.fault:  # however many frames it claims, none can be read
        return [Frame(facts, 0, facts.rows, facts.columns)]
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = item(dataset, "SharedFunctionalGroupsSequence")
    if per_frame or shared is not None:
        return _enhanced(facts, dataset, shared, per_frame)
    if facts.modality == "RTDOSE":
        return _dose(facts, dataset)
    if facts.frames > 1:
        first = _plain(facts, dataset)
        return [
            Frame(facts, k, facts.rows, facts.columns, spacing=first.spacing, slope=first.slope,
                  intercept=first.intercept, windows=first.windows, instance=k + 1, detector=first.detector,
                  notes=first.notes)
            for k in range(facts.frames)
        ]  # fmt: skip
    if "MOSAIC" in words(dataset, "ImageType") or get(dataset, (0x0065, 0x1050)) is not None:
        tiles = _mosaic(facts, dataset)
        if tiles:
            return tiles
    return [_plain(facts, dataset)]


def _plain(facts: FileFacts, dataset: Dataset) -> Frame:
    along_row, along_column = _directions(numbers(dataset, "ImageOrientationPatient"))
    echo = number(dataset, "EchoTime") if facts.modality == "MR" else None
    spacing, notes = _pair(numbers(dataset, "PixelSpacing")), tuple[str, ...]()
    if spacing is None and facts.modality in ULTRASOUND:
        spacing, notes = ultrasound_spacing(dataset)
    return Frame(
        facts,
        0,
        facts.rows,
        facts.columns,
        position=_point(numbers(dataset, "ImagePositionPatient")),
        along_row=along_row,
        along_column=along_column,
        spacing=spacing,
        notes=notes,
        thickness=number(dataset, "SliceThickness"),
        step=number(dataset, "SpacingBetweenSlices"),
        instance=whole(dataset, "InstanceNumber"),
        kind=_kind(facts, words(dataset, "ImageType"), echo),
        dims=_dims(dataset),
        slope=_or(number(dataset, "RescaleSlope"), 1.0),
        intercept=_or(number(dataset, "RescaleIntercept"), 0.0),
        precise=_precise(facts, dataset),
        windows=_windows(dataset),
        detector=_pair(numbers(dataset, "ImagerPixelSpacing") or numbers(dataset, "NominalScannedPixelSpacing")),
    )


def _dims(dataset: Dataset) -> tuple[tuple[str, Any], ...]:
    b_value = number(dataset, "DiffusionBValue")
    if b_value is None:
        raw = get(dataset, (0x0019, 0x100C))
        with_b = raw.decode("ascii", "ignore") if isinstance(raw, bytes) else raw
        try:
            b_value = float(with_b) if with_b is not None else None
        except (TypeError, ValueError):
            b_value = None
    direction = numbers(dataset, "DiffusionGradientOrientation") or numbers(dataset, (0x0019, 0x100E))
    found: list[tuple[str, Any]] = [
        ("time point", whole(dataset, "TemporalPositionIdentifier") or whole(dataset, "TemporalPositionIndex")),
        ("trigger time", number(dataset, "TriggerTime")),
        ("b-value", b_value),
        ("gradient", (b_value, direction) if direction else None),
        ("inversion time", number(dataset, "InversionTime")),
        ("acquisition", whole(dataset, "AcquisitionNumber")),
        ("time", text(dataset, "FrameReferenceTime") or None),
        ("clock", text(dataset, "AcquisitionTime") or None),
        ("clock of content", text(dataset, "ContentTime") or None),
    ]
    return tuple((name, value) for name, value in found if value is not None)


def _enhanced(facts: FileFacts, dataset: Dataset, shared: Dataset | None, per_frame: list[Dataset]) -> list[Frame]:
    if len(per_frame) != facts.frames:
        facts = _faulty(facts, f"it promises {facts.frames} frames and describes {len(per_frame)}")
        return [Frame(facts, 0, facts.rows, facts.columns)]
    out = []
    for k, groups in enumerate(per_frame):

        def group(name: str, groups: Dataset = groups) -> Dataset | None:
            return item(groups, name) or item(shared, name)

        orientation = numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient")
        along_row, along_column = _directions(orientation)
        measures, content = group("PixelMeasuresSequence"), group("FrameContentSequence")
        change = group("PixelValueTransformationSequence")
        private = item(groups, (0x2005, 0x140F))
        types = next(
            (words(item(groups, n) or item(shared, n), "FrameType")
             for n in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
             if (item(groups, n) or item(shared, n)) is not None),
            (),
        )  # fmt: skip
        component = text(group("MRImageFrameTypeSequence"), "ComplexImageComponent")
        echo = number(group("MREchoSequence"), "EffectiveEchoTime")
        diffusion = group("MRDiffusionSequence")
        b_value = number(diffusion, "DiffusionBValue")
        direction = numbers(item(diffusion, "DiffusionGradientDirectionSequence"), "DiffusionGradientOrientation")
        index = numbers(content, "DimensionIndexValues")
        found: list[tuple[str, Any]] = [
            ("time point", whole(content, "TemporalPositionIndex")),
            ("trigger time", number(group("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime")),
            ("b-value", b_value),
            ("gradient", (b_value, direction) if direction else None),
            ("inversion time", number(group("MRTimingAndRelatedParametersSequence"), "InversionTime")),
            ("clock", text(content, "FrameAcquisitionDateTime") or None),
            *((f"dimension {d + 1}", value) for d, value in enumerate(index or ())),
        ]
        out.append(
            Frame(
                facts,
                k,
                facts.rows,
                facts.columns,
                position=_point(numbers(group("PlanePositionSequence"), "ImagePositionPatient")),
                along_row=along_row,
                along_column=along_column,
                spacing=_pair(numbers(measures, "PixelSpacing")),
                thickness=number(measures, "SliceThickness"),
                step=number(measures, "SpacingBetweenSlices"),
                instance=k + 1,
                kind=_kind(facts, (*types, component), echo),
                dims=tuple((n, v) for n, v in found if v is not None),
                slope=_or(number(change, "RescaleSlope"), 1.0),
                intercept=_or(number(change, "RescaleIntercept"), 0.0),
                precise=_precise(facts, private),
                windows=_windows(group("FrameVOILUTSequence")),
            )
        )
    return out


def _dose(facts: FileFacts, dataset: Dataset) -> list[Frame]:
    base = _plain(facts, dataset)
    offsets = numbers(dataset, "GridFrameOffsetVector") or ((0.0,) if facts.frames == 1 else ())
    scale = _or(number(dataset, "DoseGridScaling"), 1.0)
    if len(offsets) != facts.frames or base.position is None or base.along_row is None:
        facts = _faulty(facts, "its dose planes have no positions (GridFrameOffsetVector)")
        return [Frame(facts, 0, facts.rows, facts.columns)]
    offsets = tuple(offset - offsets[0] for offset in offsets)  # the vector may hold z itself (PS3.3 C.8.8.3.2)
    return [
        Frame(facts, k, facts.rows, facts.columns, _shift(base.position, base.normal, offset), base.along_row,
              base.along_column, base.spacing, instance=k + 1, slope=scale, thickness=base.thickness)
        for k, offset in enumerate(offsets)
    ]  # fmt: skip


def _mosaic(facts: FileFacts, dataset: Dataset) -> list[Frame]:
    """Return the tiles of a Siemens mosaic or a UIH grid, each with its own position."""
    base = _plain(facts, dataset)
    if base.along_row is None or base.along_column is None or base.spacing is None:
        return []
    uih = items(dataset, (0x0065, 0x1051))
    if get(dataset, (0x0065, 0x1050)) is not None:
        count = whole(dataset, (0x0065, 0x1050)) or 0
        positions = [_point(numbers(entry, "ImagePositionPatient")) for entry in uih]
        if count < 1 or len(positions) != count or None in positions:
            return [
                Frame(_faulty(facts, "it is a grid of slices without their positions"), 0, facts.rows, facts.columns)
            ]
        clock = text(uih[0], "AcquisitionDateTime")
        across = math.ceil(math.sqrt(count))
        grid = (math.ceil(count / across), across)
        return _tiles(base, grid, [p for p in positions if p is not None], (("clock", clock),) if clock else ())
    count, normal = _siemens(dataset)
    if count < 1 or normal is None or base.position is None:
        fault = "it is a mosaic, and the private header that places its slices is missing or damaged"
        return [Frame(_faulty(facts, fault), 0, facts.rows, facts.columns)]
    side = math.isqrt(count - 1) + 1
    if side > min(facts.rows, facts.columns):  # before a list of that many positions is made
        return [Frame(_faulty(facts, "it is a mosaic with more slices than pixels"), 0, facts.rows, facts.columns)]
    height, width = facts.rows // side, facts.columns // side
    # The position given is that of the mosaic's corner, as if one huge slice had been taken about the same centre.
    corner = np.array(base.position)
    corner = corner + np.array(base.along_row) * base.spacing[1] * (facts.columns - width) / 2
    corner = corner + np.array(base.along_column) * base.spacing[0] * (facts.rows - height) / 2
    step = base.step if base.step else base.thickness or 0.0
    start = (float(corner[0]), float(corner[1]), float(corner[2]))
    return _tiles(base, (side, side), [_shift(start, normal, step * k) for k in range(count)], base.dims)


def _tiles(
    base: Frame, grid: tuple[int, int], places: Sequence[Point], dims: tuple[tuple[str, Any], ...]
) -> list[Frame]:
    height, width = base.file.rows // grid[0], base.file.columns // grid[1]
    if height < 1 or width < 1:
        return [Frame(_faulty(base.file, "it is a mosaic with more slices than pixels"), 0, base.rows, base.columns)]
    return [
        Frame(base.file, 0, height, width, places[k], base.along_row, base.along_column, base.spacing, base.thickness,
              base.step, base.instance, base.kind, dims, base.slope, base.intercept, base.precise, base.windows,
              ((k // grid[1]) * height, (k % grid[1]) * width))
        for k in range(len(places))
    ]  # fmt: skip


def _siemens(dataset: Dataset) -> tuple[int, Point | None]:
    """Return the number of slices and their normal from Siemens' CSA header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel warns that its DICOM part may change
        from nibabel.nicom import csareader
    try:
        csa = csareader.get_csa_header(dataset, "image")
        count = csareader.get_n_mosaic(csa) if csa is not None else whole(dataset, (0x0019, 0x100A))
        normal = csareader.get_slice_normal(csa) if csa is not None else numbers(dataset, (0x0019, 0x100D))
    except (csareader.CSAError, *DAMAGE):
        return 0, None
    point = _point(tuple(float(v) for v in normal)) if normal is not None else None
    return int(count or 0), point


def _faulty(facts: FileFacts, fault: str) -> FileFacts:
    return facts if facts.fault else replace(facts, fault=fault)


def _kind(facts: FileFacts, types: Sequence[str], echo: float | None) -> tuple[str, ...]:
    """Return what sets pictures of one place apart: components and maps by name, echoes by time."""
    if facts.modality != "MR":
        return ()
    names = tuple(dict.fromkeys(t.upper() for t in types[2:] if t.upper() in _KINDS))
    return (*names, f"echo {echo:g} ms") if echo is not None else names


def _precise(facts: FileFacts, dataset: Dataset | None) -> float | None:
    if facts.modality != "MR" or not facts.maker.lower().startswith("philips"):
        return None
    value = number(dataset, (0x2005, 0x100E))
    return value if value is not None and value > 0 else None


def _windows(dataset: Dataset | None) -> tuple[tuple[float, float], ...]:
    centres, widths = numbers(dataset, "WindowCenter") or (), numbers(dataset, "WindowWidth") or ()
    return tuple((c, w) for c, w in zip(centres, widths, strict=False) if w > 0)


def _directions(values: tuple[float, ...] | None) -> tuple[Point, Point] | tuple[None, None]:
    """Return unit row and column directions, or None where they are no right angle."""
    if values is None or len(values) != 6:
        return None, None
    row, column = np.array(values[:3]), np.array(values[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or max(lengths) > 2 or abs(row @ column) > 0.01 * lengths[0] * lengths[1]:
        return None, None
    row, column = row / lengths[0], column / lengths[1]
    return (float(row[0]), float(row[1]), float(row[2])), (float(column[0]), float(column[1]), float(column[2]))


def _pair(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    if values is None or len(values) != 2 or not all(1e-6 < v < 1e6 for v in values):
        return None
    return values[0], values[1]


def _point(values: tuple[float, ...] | None) -> Point | None:
    if values is None or len(values) != 3 or not all(abs(v) < 1e7 for v in values):
        return None
    return values[0], values[1], values[2]


def _shift(point: Point, direction: Any, by: float) -> Point:
    moved = np.array(point) + np.asarray(direction) * by
    return float(moved[0]), float(moved[1]), float(moved[2])


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _whole_or(value: int | None, default: int) -> int:
    return default if value is None else value
