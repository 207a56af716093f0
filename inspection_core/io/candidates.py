"""The scans of a study, and which of them is T1, T1 after contrast, T2 or FLAIR: by headers, names, or choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inspection_core.errors import ReadError
from inspection_core.io.dicom.sequence_words import NAMES, from_words
from inspection_core.io.nifti_names import SUFFIXES as NIFTI
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.volumes import SUFFIXES as VOLUMES
from inspection_core.io.volumes import is_volume

if TYPE_CHECKING:
    from inspection_core.io.dicom import Series, Volume

NUMBERED = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
"""nnU-Net's naming: ``CASE_0000``, one file a channel."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A scan that may become a channel.

    Parameters
    ----------
    words
        What a user is shown: a series by number, description and id, or a file's name.
    sequence, why
        What it was recognised as (empty: nothing), and what says so.
    keys
        What a user may choose it by.
    volume, file
        The one of the two that it is.
    """

    words: str
    sequence: str
    why: str
    keys: tuple[str, ...]
    volume: Volume | None = None
    file: Path | None = None


SHORT = {
    "pre": "t1",
    "pre-contrast": "t1",
    "precontrast": "t1",
    "post": "t1c",
    "post-contrast": "t1c",
    "postcontrast": "t1c",
}
"""Names of channels that leave out what a model of contrast on MR means."""


def canonical(channel: str) -> str:
    """Return the sequence that a channel's name speaks of, or the name itself in lower case."""
    name = channel.strip().lower().replace("_", "-")
    return from_words(channel) or SHORT.get(name) or channel.strip().lower()


def _title(channel: str) -> str:
    name = NAMES.get(canonical(channel))
    return f"{channel} ({name})" if name and name.lower() != channel.lower() else channel


def sequence_of_file(path: Path) -> str:
    """Return the sequence that a file's name speaks of, or an empty string."""
    return from_words(_stem(path))


# What is there ------------------------------------------------------------------------------------------------------


def is_scan_file(path: Path) -> bool:
    """Tell by its name whether a file is NIfTI, NRRD or MetaImage."""
    return is_nifti(path) or is_volume(path)


def find_candidates(
    paths: Sequence[Path | str], wanted: tuple[str, ...]
) -> tuple[list[Candidate], tuple[tuple[str, str], ...]]:
    """Return every scan under the paths; beside a single file, those of the same case too.

    Returns
    -------
    candidates
        All of them.
    refused
        ``(path, why)`` of what could not be opened; see `inspection_core.io.dicom.Inventory`.

    Raises
    ------
    ReadError
        If there is none, or a path does not exist.
    """
    files: list[Path] = []
    others: list[Path | str] = []
    for given in paths:
        path = Path(given)
        if path.is_file() and is_scan_file(path):
            files += beside(path) if len(paths) == 1 else [path]
        else:
            others.append(path)
            if path.is_dir():
                files += sorted(p for p in path.rglob("*") if p.is_file() and is_scan_file(p) and _is_header(p))
    found = [file_candidate(f, wanted) for f in files]
    refused: tuple[tuple[str, str], ...] = ()
    if others:
        from inspection_core.io.dicom import scan_dicom

        inventory = scan_dicom(others)
        found += dicom_candidates(inventory.series)
        refused = inventory.refused
    if not found:
        why = f" {refused[0][1]}" if refused else ""
        raise ReadError(f"No scan was found in {Path(paths[0]).name}; point at the folder of one study.{why}")
    return found, refused


def dicom_candidates(series: Sequence[Series]) -> list[Candidate]:
    """Return every volume of DICOM series as a candidate."""
    return [_dicom_candidate(s, k, v) for s in series for k, v in enumerate(s.volumes, start=1)]


def _dicom_candidate(series: Series, k: int, volume: Volume) -> Candidate:
    from inspection_core.io.dicom.sequences import recognise

    many = len(series.volumes) > 1
    number = "a series" if series.file.number is None else f"series {series.file.number}"
    description = f" '{series.file.description}'" if series.file.description else ""
    guess = recognise(volume)
    usable = volume.layout == "volume" and len(volume.channels) == 1 and volume.count > 1
    names = [series.id] + ([] if series.file.number is None else [str(series.file.number)])
    keys = [f"{name}:{k}" for name in names] + ([] if many else names)
    words = f"{number}{description} ({series.id}{f':{k}' if many else ''})"
    return Candidate(words, guess.name if usable else "", guess.why, tuple(keys), volume)


def _is_header(path: Path) -> bool:
    """Leave out the half of a pair that has no header of its own."""
    return not path.name.lower().endswith((".img", ".img.gz"))


def beside(path: Path) -> list[Path]:
    """Return the files of the same case: those whose numbered or spoken channel alone differs from this one's."""
    case = case_of(path).lower()
    found = [p for p in sorted(path.parent.iterdir()) if p.is_file() and is_scan_file(p) and case_of(p).lower() == case]
    return [p for p in found if _is_header(p)] or [path]


def case_of(path: Path) -> str:
    """Return a file's name without its suffix and without what names its channel."""
    stem = _stem(path)
    if match := NUMBERED.match(stem):
        return match["case"]
    spoken = r"[_\-. ]*(t1|t2|flair)[a-z]*([_\-. ]*(post|pre|gd|ce|flair|contrast))*"
    return re.sub(spoken, "", stem, flags=re.IGNORECASE)


def _stem(path: Path) -> str:
    name = Path(path).name
    for suffix in sorted((*NIFTI, *VOLUMES), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def file_candidate(path: Path, wanted: tuple[str, ...]) -> Candidate:
    """Return a file as a candidate: by the number in its name, a place among the channels wanted, or by its words."""
    match = NUMBERED.match(_stem(path))
    if match and int(match["channel"]) < len(wanted):
        k = int(match["channel"])
        return Candidate(path.name, canonical(wanted[k]), f"numbered {k:04d}", (), file=path)
    return Candidate(path.name, sequence_of_file(path), "by its file name", (), file=path)


# Which is which -----------------------------------------------------------------------------------------------------


def matched(channel: str, candidates: Sequence[Candidate]) -> Candidate:
    """Return the one scan that is a channel's sequence.

    Raises
    ------
    ReadError
        If none is, or several are; the text names them.
    """
    found = [c for c in candidates if c.sequence == canonical(channel)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ReadError(
            f"{_title(channel)} is ambiguous: {len(found)} scans may be it: {_listed(found)}. "
            f"Choose one, with --channel {channel}= and its id or path."
        )
    unsure = [c for c in candidates if not c.sequence and "its words say" in c.why]
    there = _listed([c for c in candidates if c.sequence], True) or "no sequence that is recognised"
    doubt = f" Not sure of {_listed(unsure)}: {unsure[0].why}." if unsure else ""
    raise ReadError(
        f"{_title(channel)} is missing. There is {there}.{doubt} Add it, or choose a scan, "
        f"with --channel {channel}= and its id or path."
    )


def _listed(candidates: Sequence[Candidate], named: bool = False) -> str:
    head = "; ".join((f"{c.sequence}: " if named else "") + c.words for c in candidates[:8])
    return head + (f"; and {len(candidates) - 8} more" if len(candidates) > 8 else "")


def chosen_scan(channel: str, choice: str, candidates: Sequence[Candidate]) -> Candidate:
    """Return the scan that a user chose for a channel, by path, id or number.

    Raises
    ------
    ReadError
        If it is no scan, or several.
    """
    if keyed := [c for c in candidates if choice in c.keys]:
        if len(keyed) > 1:
            raise ReadError(
                f"{channel}={choice} is ambiguous: {_listed(keyed)}. Choose by id, and by :1, :2 ... for the volume."
            )
        return Candidate(keyed[0].words, keyed[0].sequence, "chosen", keyed[0].keys, keyed[0].volume, keyed[0].file)
    path = Path(choice)
    if parts := [c for c in candidates if any(key.rpartition(":")[0] == choice for key in c.keys)]:
        raise ReadError(
            f"{channel}={choice} has {len(parts)} volumes: {_listed(parts)}. Say {choice}:1, {choice}:2 ..."
        )
    if not path.exists():
        raise ReadError(
            f"{channel}={choice} is neither a path that exists nor the id or number of a series. There are "
            f"{_listed(candidates)}."
        )
    if path.is_file() and is_scan_file(path):
        return Candidate(path.name, "", "chosen", (), file=path)
    from inspection_core.io.dicom import scan_dicom

    volumes = [(s, v) for s in scan_dicom(path).series for v in s.volumes]
    if len(volumes) != 1:
        raise ReadError(f"{channel}={choice} holds {len(volumes)} volumes; choose a folder or file that holds one.")
    series, volume = volumes[0]
    return Candidate(f"series {series.file.number} ({series.id})", "", "chosen", (), volume)
