"""Which MR sequence a volume is: T1, T1 after contrast, T2, FLAIR and others, by what the headers say.

Three witnesses are heard: the words of the series (SeriesDescription, ProtocolName, SequenceName, AcquisitionContrast),
the contrast agent, and the times (TE, TR, TI with the kind of sequence; limits after Brown et al., Magnetic Resonance
Imaging, 2nd edition, chapter 15). Where they contradict each other the sequence stays unknown: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from inspection_core.errors import ReadError
from inspection_core.io.dicom.frames import read_header
from inspection_core.io.dicom.sequence_words import NAMES, from_words, speaks_of_contrast
from inspection_core.io.dicom.series import Volume
from inspection_core.io.dicom.values import get, item, items, number, numbers, text, words
from inspection_core.io.quiet import quiet

OTHER_KINDS = frozenset(["P", "R", "I", "PHASE", "REAL", "IMAGINARY", "FIELD_MAP", "B0", "P_FFE", "P_SE", "VELOCITY"])
"""Parts of the complex signal and maps, which no model of T1 or T2 images means."""


@dataclass(frozen=True)
class Sequence:
    """What a volume was recognised as.

    Parameters
    ----------
    name
        ``"t1"``, ``"t1c"``, ``"t2"``, ``"flair"``, another key of `NAMES`, or empty where it is not known.
    why
        What says so, or why it is not known, in plain words that hold nothing of the header itself.
    """

    name: str
    why: str


def recognise(volume: Volume) -> Sequence:
    """Return which MR sequence a volume is, by its first plane's header."""
    if volume.file.modality != "MR":
        return Sequence("", f"it is {volume.file.modality}, not MR")
    if OTHER_KINDS & set(volume.first.kind):
        return Sequence("", "it is a phase, a part of the complex signal, or a map")
    try:
        with quiet():
            dataset = read_header(volume.file.blob)
            return _judge(dataset, _group_of(dataset, volume.first.number))
    except ReadError:
        return Sequence("", "its header cannot be read")


@dataclass(frozen=True)
class _Groups:
    """Functional groups of one frame of an enhanced file; of another file, the header itself."""

    own: Dataset
    shared: Dataset

    def item(self, name: str) -> Dataset | None:
        return item(self.own, name) or item(self.shared, name)


def _group_of(dataset: Dataset, frame: int) -> _Groups:
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    own = per_frame[frame] if frame < len(per_frame) else Dataset()
    return _Groups(own, item(dataset, "SharedFunctionalGroupsSequence") or Dataset())


def _judge(dataset: Dataset, groups: _Groups) -> Sequence:
    phrases = [text(dataset, "SeriesDescription"), text(dataset, "ProtocolName")]
    said = from_words(phrases[0]) or from_words(phrases[1]) or from_words(text(dataset, "SequenceName"))
    types = {w.upper() for w in words(dataset, "ImageType")}
    for name, mark in (("localizer", "LOCALIZER"), ("adc", "ADC"), ("dwi", "DIFFUSION"), ("subtraction", "SUBTRACT")):
        if mark in types:
            return Sequence(name, "its image type says so")
    frame_type = groups.item("MRImageFrameTypeSequence")
    contrast = text(frame_type, "AcquisitionContrast") or text(dataset, "AcquisitionContrast")
    said = said or {"T1": "t1", "T2": "t2", "FLUID_ATTENUATED": "flair", "PROTON_DENSITY": "pd", "DIFFUSION": "dwi",
                    "T2_STAR": "swi", "PERFUSION": "perfusion"}.get(contrast.upper(), "")  # fmt: skip
    timed = _by_times(dataset, groups)
    if said in ("t1", "t1c") and timed in ("t2", "flair"):
        return Sequence("", f"its words say {NAMES[said]} and its times say {NAMES[timed]}")
    if said in ("t2", "flair") and timed == "t1":
        return Sequence("", f"its words say {NAMES[said]} and its times say T1")
    name, why = (said, "by its words") if said else (timed, "by its times (TE, TR, TI)")
    if not name:
        return Sequence("", "neither words nor times of its header say what it is")
    if name == "t1" and not speaks_of_contrast(*phrases) and _agent(dataset):
        return Sequence("t1c", f"{why}, with a contrast agent in its header")
    return Sequence(name, why)


def _agent(dataset: Dataset) -> bool:
    named = text(dataset, "ContrastBolusAgent").lower()
    return (
        named not in ("", "no", "none", "n", "0", "without", "no contrast", "unknown")
        or bool(items(dataset, "ContrastBolusAgentSequence"))
        or (number(dataset, "ContrastBolusVolume") or 0) > 0
    )


def _by_times(dataset: Dataset, groups: _Groups) -> str:
    timing = groups.item("MRTimingAndRelatedParametersSequence")
    te = number(groups.item("MREchoSequence"), "EffectiveEchoTime") or number(dataset, "EchoTime")
    tr = number(timing, "RepetitionTime") or number(dataset, "RepetitionTime")
    inversions = numbers(item(groups.own, "MRModifierSequence") or item(groups.shared, "MRModifierSequence"),
                         "InversionTimes") or ()  # fmt: skip
    ti = number(dataset, "InversionTime") or next(iter(inversions), None)
    if te is None or tr is None:
        return ""
    kinds = {w.upper() for w in words(dataset, "ScanningSequence")} | {text(dataset, "EchoPulseSequence").upper()}
    if "EP" in kinds or get(dataset, "DiffusionBValue") is not None:
        return ""
    if ti is not None and ti > 0:
        if ti >= 1400 and te >= 60 and tr >= 4000:
            return "flair"
        return "t1" if 300 <= ti <= 1400 and te < 30 else ""
    if kinds & {"GR", "GRADIENT"} and not kinds & {"SE", "SPIN", "BOTH"}:
        return "t1" if te < 8 and tr < 60 else ""
    if te >= 60 and tr >= 1800:
        return "t2"
    if te < 35 and tr >= 1800:
        return "pd"
    return "t1" if te < 35 and tr <= 1200 else ""
