"""The basic confidentiality profile of DICOM PS3.15 Annex E, on one dataset with all its sequences.

Table E.1-1 comes from KitwareMedical's dicom-anonymizer. Applying it is done here: recursively, with UIDs that stay
consistent, dates moved by one offset a patient (Retain Longitudinal Temporal Information with Modified Dates), and what
the table does not know left out where it could hold a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydicom.datadict import dictionary_is_retired, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

from inspection_core import __version__
from inspection_core.io.dicom.pseudonym import Pseudonyms, shift_date, shift_moment
from inspection_core.io.dicom.values import DAMAGE, get, text

EDITION = "2026c"
"""Edition of the standard that the table is of."""
Action = Literal["X", "Z", "D", "U"]
Counts = Counter[tuple[str, str]]
REMOVED = "removed"
CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113104": "Clean Structured Content Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
}
"""Context group 7050."""
# Where the table leaves a choice by the attribute's type, what is valid for every type is taken.
_COLUMNS: dict[str, Action] = {
    "X_TAGS": "X", "Z_TAGS": "Z", "D_TAGS": "D", "U_TAGS": "U", "Z_D_TAGS": "D", "X_Z_TAGS": "Z", "X_D_TAGS": "D",
    "X_Z_D_TAGS": "D", "X_Z_U_STAR_TAGS": "U",
}  # fmt: skip
_STRICTER = (
    "GraphicAnnotationSequence", "InstitutionCodeSequence", "InstitutionName", "OperatorIdentificationSequence",
    "ReferencedStudySequence", "WaveformAnnotationSequence", "AcquisitionDeviceProcessingDescription",
)  # fmt: skip
"""Optional wherever they stand (or dropped with what they belong to), so nothing has to take their place."""
_NO_DATE_KEPT = frozenset(["PatientBirthDate", "PatientBirthTime", "SelectorDAValue", "SelectorDTValue"])
"""Dates and times that the option on modified dates does not keep."""
_CLASS_UIDS = frozenset(
    [
        "SOPClassUID", "ReferencedSOPClassUID", "ReferencedSOPClassUIDInFile", "AffectedSOPClassUID",
        "RequestedSOPClassUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID", "ImplementationClassUID",
        "ReferencedTransferSyntaxUIDInFile", "AvailableTransferSyntaxUID", "EncryptedContentTransferSyntaxUID",
        "RelatedGeneralSOPClassUID", "OriginalSpecializedSOPClassUID", "SOPClassesInStudy", "SOPClassesSupported",
        "MACCalculationTransferSyntaxUID",
    ]
)  # fmt: skip
"""They name a kind of thing, not a thing, also where a maker defined them."""
_TEXTS = frozenset(["LO", "SH", "LT", "ST", "UT", "UC", "UR"])
_NUMBERS = frozenset(["IS", "DS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"])
_SCHEMES = frozenset(["DCM", "SCT", "SRT", "SNM3", "UCUM", "LN", "RADLEX", "FMA", "NCIt", "UMLS", "NEU", "ITIS_TSN"])
"""Their meanings come from a dictionary, so no patient's name is among them."""
_IDENTITY = ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "AccessionNumber",
             "InstitutionName", "StationName", "PatientBirthDate")  # fmt: skip
_COMMON = re.compile(r"(.)\1*|none|null|anon|anonymous|unknown|patient|name|first|last|middle|test|phantom|subject")
_LEAST = 4
"""Shorter tokens than this are not searched for in kept texts; they would be found everywhere."""


@dataclass(frozen=True)
class Patient:
    """Whose file it is, and what stands for that.

    Parameters
    ----------
    pseudonym
        In place of name and number.
    days
        By how many days dates move into the past.
    tokens
        Parts of names, numbers and dates, in lower case, that no kept text may repeat.
    """

    pseudonym: str
    days: int
    tokens: frozenset[bytes] = field(repr=False)


@cache
def table() -> dict[int, Action]:
    """Return what Table E.1-1 does with each attribute, by tag."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    columns = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    out = {
        int(Tag(entry)): action
        for name, action in _COLUMNS.items()
        for entry in columns[name]
        if len(entry) == 2  # groups 50xx and 60xx are dropped whole
    }
    return out | {int(tag_for_keyword(name) or 0): "X" for name in _STRICTER}


def patient_of(dataset: Dataset, pseudonyms: Pseudonyms) -> Patient:
    """Tell whose file it is: by patient number, else by name and birth date, else by study."""
    number, name = _plain(text(dataset, "PatientID")), _plain(text(dataset, "PatientName"))
    if number:
        identity = f"id {number}"
    elif name:
        identity = f"name {name} {text(dataset, 'PatientBirthDate')}"
    else:
        identity = f"study {text(dataset, 'StudyInstanceUID') or text(dataset, 'SOPInstanceUID')}"
    return Patient(pseudonyms.patient(identity), pseudonyms.days(identity), frozenset(_tokens(dataset)))


def clean(dataset: Dataset, patient: Patient, pseudonyms: Pseudonyms) -> Counts:
    """Apply the profile to a dataset in place; call inside `quiet`.

    Parameters
    ----------
    dataset
        As read, with its meta header; attributes that cannot be parsed are removed.
    patient
        From `patient_of`, before this.
    pseudonyms
        The key.

    Returns
    -------
    Counter
        ``{(keyword, "removed" | "emptied" | "replaced" | "shifted"): how often}``; no value.
    """
    counts: Counts = Counter()
    structured = "ContentSequence" in dataset
    explicit = not UID(dataset.file_meta.TransferSyntaxUID).is_implicit_VR
    _Walk(patient, pseudonyms, counts, explicit).dataset(dataset)
    _say_so(dataset, ["113100", *(["113104"] if structured else []), "113107"])
    dataset.file_meta = _meta(dataset, counts)
    dataset.preamble = b"\0" * 128
    return counts


def add_code(dataset: Dataset, code: str) -> None:
    """Add an option to the methods that a cleaned dataset names."""
    present = [str(item.CodeValue) for item in dataset.DeidentificationMethodCodeSequence]
    _say_so(dataset, sorted({*present, code}))


# The walk -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Walk:
    patient: Patient
    pseudonyms: Pseudonyms
    counts: Counts
    explicit: bool

    def dataset(self, ds: Dataset) -> None:
        for tag in list(ds.keys()):
            try:
                self._element(ds, tag)
            except DAMAGE:
                ds._dict.pop(tag, None)
                self._count(_name(tag), "removed")

    def _element(self, ds: Dataset, tag: BaseTag) -> None:
        if tag.is_private:
            return self._drop(ds, tag, "private attributes")
        if tag.element == 0 or tag.group in (0x0000, 0x0002, 0x0004, 0xFFFE):
            return self._drop(ds, tag, "")
        if 0x5000 <= tag.group <= 0x50FF or 0x6000 <= tag.group <= 0x60FF:
            return self._drop(ds, tag, "curves" if tag.group < 0x6000 else "overlays")
        action = table().get(int(tag))
        try:
            known: str = dictionary_VR(tag)
        except KeyError:
            return self._drop(ds, tag, "attributes unknown to the dictionary" if action is None else _name(tag))
        if action == "X" and known not in ("DA", "DT", "TM"):
            return self._drop(ds, tag, _name(tag))
        stored = ds.get_item(tag)
        if self.explicit and getattr(stored, "VR", "") is None:
            ds[tag]  # a file that lies about its encoding is written as it says
        if _name(tag) == "SpecificCharacterSet":
            return None
        return self._kept(ds, tag, known, action)

    def _kept(self, ds: Dataset, tag: BaseTag, known: str, action: Action | None) -> None:
        keyword = _name(tag)
        if known in ("DA", "DT", "TM"):
            return self._moment(ds, tag, keyword, known, action)
        if known == "SQ":
            return self._sequence(ds, tag, keyword, action)
        if known == "UI":
            return self._uid(ds, tag, keyword, action)
        if keyword == "PatientName" or keyword == "PatientID":
            return self._set(ds, tag, known, self.patient.pseudonym if len(ds[tag].value or "") else "")
        if keyword == "ROIName":
            return self._set(ds, tag, known, f"ROI {text(ds, 'ROINumber')}".strip())
        if keyword == "TextValue" or known == "PN":
            return self._set(ds, tag, known, "" if action == "Z" else REMOVED)
        if action == "Z":
            return self._set(ds, tag, known, None if known in _NUMBERS else "")
        if action == "D":
            return self._set(ds, tag, known, self._dummy(keyword, known, text(ds, keyword)))
        stored = ds.get_item(tag)
        vr = known if stored is None or stored.VR in (None, "UN") else stored.VR
        if vr in ("PN", "AE", "SQ") or (vr in _TEXTS and dictionary_is_retired(tag)):
            return self._drop(ds, tag, keyword)
        standard = keyword == "CodeMeaning" and text(ds, "CodingSchemeDesignator") in _SCHEMES
        if vr in _TEXTS and not standard and self._repeats(ds, tag, ds.get_item(tag)):
            return self._set(ds, tag, known, REMOVED)
        return None

    def _moment(self, ds: Dataset, tag: BaseTag, keyword: str, vr: str, action: Action | None) -> None:
        if keyword in _NO_DATE_KEPT:
            return self._drop(ds, tag, keyword) if action == "X" else self._set(ds, tag, vr, "")
        values = _values(ds[tag].value)
        if vr == "TM":
            # Times of day stay: days alone are moved, so every interval does.
            if not all(re.fullmatch(r"[\d.: ]*", v.strip("\0")) for v in values):
                self._set(ds, tag, vr, "")
            return None
        moved = [(shift_date if vr == "DA" else shift_moment)(v, self.patient.days) for v in values]
        if any(m is None for m in moved):
            return self._set(ds, tag, vr, "")
        if any(moved):
            ds[tag] = DataElement(tag, vr, moved if len(moved) > 1 else moved[0])
            self._count(keyword, "shifted")
        return None

    def _sequence(self, ds: Dataset, tag: BaseTag, keyword: str, action: Action | None) -> None:
        if action == "Z":
            ds[tag] = DataElement(tag, "SQ", Sequence([]))
            return self._count(keyword, "emptied")
        if action == "D" and keyword.endswith("CodeSequence"):
            ds[tag] = DataElement(tag, "SQ", Sequence([_code("REMOVED", "99REMOVED", REMOVED)]))
            return self._count(keyword, "replaced")
        items = ds[tag].value
        if not isinstance(items, Sequence):
            return self._drop(ds, tag, keyword)
        for item in items:
            self.dataset(item)
        return None

    def _uid(self, ds: Dataset, tag: BaseTag, keyword: str, action: Action | None) -> None:
        if keyword in _CLASS_UIDS and action != "U":
            return
        old = _values(ds[tag].value)
        new = [self.pseudonyms.uid(v) for v in old]
        if new != old:
            ds[tag] = DataElement(tag, "UI", new if len(new) > 1 else new[0])
            self._count(keyword, "replaced")

    def _dummy(self, keyword: str, vr: str, old: str) -> Any:
        if vr in _TEXTS - {"UR"}:
            if re.search(r"(ID|Identifier|SerialNumber)$", keyword) and old:
                return self.pseudonyms.word(keyword, old)
            return REMOVED
        if vr in _NUMBERS:
            return 0
        fixed = {"AS": "000Y", "UR": "http://removed.invalid", "OB": b"\0\0", "UN": b"\0\0", "OW": b"\0\0"}
        return fixed.get(vr, REMOVED.upper())

    def _repeats(self, ds: Dataset, tag: BaseTag, stored: Any) -> bool:
        """Tell whether a text that would be kept repeats a part of the patient's name, a number or a date."""
        if isinstance(stored, RawDataElement):
            raw = stored.value or b""
            data = raw if isinstance(raw, bytes) else str(raw).encode()
        else:
            value = ds[tag].value
            data = value if isinstance(value, bytes) else "\\".join(_values(value)).encode("utf-8", "replace")
        data = data.lower()
        return any(token in data for token in self.patient.tokens)

    def _set(self, ds: Dataset, tag: BaseTag, vr: str, value: Any) -> None:
        old = ds.get_item(tag)
        ds[tag] = DataElement(tag, vr, value)
        if old is None or old.value not in (None, "", b""):
            self._count(_name(tag), "emptied" if value in (None, "") else "replaced")

    def _drop(self, ds: Dataset, tag: BaseTag, name: str) -> None:
        del ds[tag]
        self._count(name, "removed")

    def _count(self, name: str, what: str) -> None:
        if name:
            self.counts[name, what] += 1


def _name(tag: BaseTag) -> str:
    return keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})"


def _plain(value: str) -> str:
    return " ".join(re.split(r"[\s^]+", value.strip())).strip().lower()


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, (MultiValue, list, tuple)):
        return [str(v) for v in value]
    return str(value).split("\\")


def _tokens(dataset: Dataset) -> Iterator[bytes]:
    """Yield what no kept text may repeat, in each encoding that it may stand in."""
    for keyword in _IDENTITY:
        value = get(dataset, keyword)
        whole = "\\".join(_values(value)) if value is not None else ""
        parts = re.split(r"[\s^=,;_\\]+", whole) if "Name" in keyword and "Patient" in keyword else whole.split("\\")
        for part in parts:
            token = part.strip("\0 .-").lower()
            if len(token) >= _LEAST and not _COMMON.fullmatch(token):
                yield token.encode("utf-8", "replace")
                stored = token.encode("latin-1", "ignore")
                if len(stored) >= _LEAST:
                    yield stored
    for tag in list(dataset.keys()):
        if not tag.is_private and _known_vr(tag) == "DA":
            for day in re.findall(r"\d{8}", text(dataset, (tag.group, tag.element))):
                yield day.encode()


def _known_vr(tag: BaseTag) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


# What the result says of itself -------------------------------------------------------------------------------------


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _say_so(dataset: Dataset, codes: list[str]) -> None:
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [f"PS3.15 {EDITION} Annex E basic profile", f"inspection-suite {__version__}"]
    dataset.DeidentificationMethodCodeSequence = Sequence([_code(c, "DCM", CODES[c]) for c in codes])
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"


def _meta(dataset: Dataset, counts: Counts) -> FileMetaDataset:
    """Return a meta header of what is needed alone: the old one names the sender and may hold private information."""
    old = getattr(dataset, "file_meta", None) or FileMetaDataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = old.TransferSyntaxUID
    if sop := text(dataset, "SOPClassUID"):
        meta.MediaStorageSOPClassUID = UID(sop)
    if instance := text(dataset, "SOPInstanceUID"):
        meta.MediaStorageSOPInstanceUID = UID(instance)
        counts["MediaStorageSOPInstanceUID", "replaced"] += 1
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    for tag in old.keys():  # noqa: SIM118 - a dataset yields elements, not tags
        if tag not in meta and tag.element not in (0x0000, 0x0001, 0x0013):
            counts[_name(tag), "removed"] += 1
    return meta
