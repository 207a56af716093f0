"""What a user points at, as inputs one by one: pictures, scan files, and every series of DICOM under a path.

Headers are read to find out, pixels are not. What cannot be predicted on is refused with its reason and does not stand
in the way of the rest.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inspection_core.errors import GeometryError, InspectionError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.candidates import (
    Candidate,
    beside,
    canonical,
    case_of,
    dicom_candidates,
    file_candidate,
    sequence_of_file,
)
from inspection_core.io.dicom import DicomImage, Volume, load_volume, scan_dicom
from inspection_core.io.dicom.series import Series, short_id
from inspection_core.io.dicom.volume import Scaling
from inspection_core.io.nifti import is_nifti, read_nifti_scan
from inspection_core.io.raster import RASTER_SUFFIXES, list_images, read_raster
from inspection_core.io.results import folder_names
from inspection_core.io.study import Allowed, check_choices, load_picked, overrides, pick
from inspection_core.io.volumes import is_volume, read_volume
from inspection_core.prepare import name_channels

Kind = Literal["picture", "scan", "dicom"]
SAME_GRID = 1e-3
"""Files of one case lie on one grid where no entry of the affine differs by more than this share of the spacing."""
_CHANNEL_FILE = re.compile(r"(.+)_(\d{4})(\.nii\.gz|\.nii|\.nrrd|\.mha)", re.IGNORECASE)
_NOT_DICOM = "is not DICOM"


@dataclass(frozen=True)
class Choices:
    """What the user says about reading scans; see `inspection_core.io.scans.read_scan`.

    `channel` and `grid` are the choices and the grid of `inspection_core.io.study.load_study`.
    """

    series: str | None = None
    volume: int | None = None
    allow: frozenset[Allowed] = frozenset()
    suv: bool = False
    scaling: Scaling = "precise"
    assume_mm: bool = False
    channel: Mapping[str, str] = field(default_factory=dict)
    grid: str | None = None


@dataclass(frozen=True, eq=False)
class Input:
    """One thing to predict on.

    Parameters
    ----------
    kind
        ``"picture"``, ``"scan"`` (NIfTI, NRRD, MetaImage) or ``"dicom"``.
    label
        What messages and lists call it: a path, and the series' short id where one path holds several.
    name
        Distinct name of its folder of results.
    files
        The files; several where each holds a channel.
    volume
        Of DICOM: the volume; of a study, that whose grid is used.
    given
        The path that the user gave, under which it was found.
    parts
        Of a study of several sequences: the scan of each channel.
    """

    kind: Kind
    label: str
    name: str
    files: tuple[Path, ...]
    volume: Volume | None = None
    given: Path = Path()
    parts: tuple[Candidate, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """A DICOM series under a path.

    Parameters
    ----------
    given
        The path that the user gave.
    series
        All that is in it.
    refused
        Labels of its volumes that are refused.
    """

    given: Path
    series: Series
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Opened:
    """An input that was read.

    Parameters
    ----------
    image
        What to predict on.
    dicom
        Of DICOM: the image with its slices; of a study, that whose grid is used.
    header
        Of NIfTI: the header, so that results get the same frame.
    """

    image: Image
    dicom: DicomImage | None = None
    header: Any = None


@dataclass(frozen=True, eq=False)
class Listing:
    """What was found under the paths.

    Parameters
    ----------
    inputs
        In order; names are distinct.
    refused
        ``(label, reason)`` of series and cases that cannot be predicted on, and of what could not be opened.
    found
        The DICOM series, for studies of several.
    """

    inputs: tuple[Input, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    found: tuple[Found, ...] = ()


def list_inputs(paths: Sequence[Path], choices: Choices | None = None) -> Listing:
    """Find everything to predict on under paths: images, scan files, DICOM files, folders, DICOMDIR, zip archives.

    Raises
    ------
    ReadError
        If a path itself may not be listed, or is an archive that cannot be trusted.
    """
    choices = choices or Choices()
    files: list[Path] = []
    found: list[Input] = []
    refused: list[tuple[str, str]] = []
    series: list[Found] = []
    for path in paths:
        if path.is_dir():
            listing = _folder(path, choices)
        elif is_nifti(path) or is_volume(path):
            listing = Listing((Input("scan", str(path), "", (path,)),))
        elif path.suffix.lower() in RASTER_SUFFIXES or not path.is_file():
            listing = Listing((Input("picture", str(path), "", (path,)),))
        else:
            listing = _dicom([path], path, choices)
        found += [replace(i, given=path) for i in listing.inputs if i.kind == "dicom" or i.files[0] not in files]
        files += [f for i in listing.inputs if i.kind != "dicom" for f in i.files]
        refused += listing.refused
        series += listing.found
    return Listing(tuple(_named(found)), tuple(refused), tuple(series))


def for_channels(listing: Listing, channels: Sequence[str], choices: Choices | None = None) -> Listing:
    """Put together what a model with several channels takes.

    The DICOM series of one study become one input, each channel matched by its headers; and so do files of one case
    that are numbered (``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ...) or named after their sequence. Where the user
    chose a scan for a channel, all that is under the path is one study.

    Parameters
    ----------
    listing
        From `list_inputs`.
    channels
        Of the model's card, in order.
    choices
        Which scan is which channel, and whose grid is used.

    Returns
    -------
    Listing
        What lacks a channel is refused by the name of the channel.

    Raises
    ------
    UsageError
        If a choice is for none of the channels, or there are several paths that it may be for.
    """
    choices = choices or Choices()
    if len(channels) == 1:
        if choices.channel or choices.grid is not None:
            raise UsageError(f"--channel and --grid are for models of several channels. This one takes {channels[0]}.")
        return listing
    check_choices(channels, choices.channel, choices.grid)
    if choices.channel:
        return _chosen(listing, channels, choices)
    inputs: list[Input] = []
    refused = list(listing.refused)
    seen: set[Path] = set()
    for item in listing.inputs:
        if item.volume is not None:
            continue
        match = _CHANNEL_FILE.fullmatch(item.files[0].name) if item.kind == "scan" else None
        spoken = _spoken(item, channels) if match is None else []
        if match is None and not spoken:
            inputs.append(item)
            continue
        case = item.files[0].parent / (match[1] if match else case_of(item.files[0]).lower())
        if case in seen:
            continue
        seen.add(case)
        try:
            inputs.append(_numbered(item, channels) if match else _named_case(item, spoken, channels, choices))
        except InspectionError as error:
            refused.append((str(item.files[0].parent / (match[1] if match else case_of(item.files[0]))), str(error)))
    done = _studies(listing, channels, choices)
    gone = {label for entry in done.found for label in entry.refused}
    refused = [entry for entry in refused if entry[0] not in gone]
    return Listing(tuple(_named([*inputs, *done.inputs])), (*refused, *done.refused))


def open_input(item: Input, channels: Sequence[str], choices: Choices | None = None) -> Opened:
    """Read an input; channels without names of their own get the model's, in order.

    Raises
    ------
    ReadError, GeometryError
        If it cannot be read right, or the files of a case do not lie on one grid.
    """
    choices = choices or Choices()
    if item.kind == "picture":
        return Opened(read_raster(item.files[0]))
    if item.parts:
        study = load_picked(
            Path(item.label),
            channels,
            item.parts,
            grid=choices.grid,
            allow=choices.allow,
            suv=choices.suv,
            scaling=choices.scaling,
            assume_mm=choices.assume_mm,
        )
        return Opened(study.image, study.reference, study.header)
    if item.volume is not None:
        suv = choices.suv and item.volume.file.modality == "PT"
        loaded = load_volume(
            item.volume, allow=overrides(choices.allow), suv=suv, scaling=choices.scaling, assume_mm=choices.assume_mm
        )
        return Opened(loaded.image, loaded)
    if len(item.files) > 1:
        return _case(item, channels, choices)
    opened = _scan(item.files[0], choices)
    return replace(opened, image=name_channels(opened.image, channels))


def _folder(folder: Path, choices: Choices) -> Listing:
    locked: list[Path] = []
    pictures = list_images(folder, locked)
    scans: list[Path] = []
    rest: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(root) / name for name in sorted(names) if not name.startswith(".")):
            if is_nifti(path) or is_volume(path):
                scans += [path] if not path.name.lower().endswith((".img", ".img.gz")) else []  # its .hdr stands for it
            elif path.suffix.lower() not in RASTER_SUFFIXES and path.name.upper() != "DICOMDIR":
                rest.append(path)
    inputs = [Input("picture", str(p), "", (p,)) for p in pictures]
    inputs += [Input("scan", str(p), "", (p,)) for p in scans]
    dicom = _dicom(rest, folder, choices) if rest else Listing()
    refused = [(str(path), f"{path.name} is a folder that cannot be listed; check who may read it.") for path in locked]
    found = (i for i in dicom.inputs if i.kind == "dicom")
    return Listing((*inputs, *found), (*dicom.refused, *refused), dicom.found)


def _dicom(paths: list[Path], given: Path, choices: Choices) -> Listing:
    """List the volumes under paths; where there is none, a single file is left to the reader of pictures."""
    alone = paths == [given]
    inventory = scan_dicom(paths, forgiving=not alone)
    inputs: list[Input] = []
    refused: list[tuple[str, str]] = []
    found: list[Found] = []
    wanted = [s for s in inventory.series if choices.series in (None, s.id, str(s.file.number))]
    for series in wanted:
        known = len(refused)
        for k, volume in enumerate(series.volumes, start=1):
            if choices.volume not in (None, k):
                continue
            several = len(series.volumes) > 1
            place = _place(series)
            label = f"{place} (series {series.id}{f', volume {k}' if several else ''})"
            if reasons := volume.refused(overrides(choices.allow)):
                words = "; ".join(p.words for p in reasons)
                ways = sorted({p.override for p in reasons if p.override})
                hint = f" Use --allow {' --allow '.join(ways)} to go on all the same." if ways else ""
                refused.append((label, f"{volume.file.modality} series is not loaded: {words}.{hint}"))
                continue
            name = f"{_bare(place)}_{series.id}" + (f"_{k}" if several else "")
            inputs.append(Input("dicom", label, name, (place,), volume, given))
        found.append(Found(given, series, tuple(label for label, _ in refused[known:])))
    if inventory.series and not wanted:
        there = ", ".join(f"{s.id} (number {s.file.number})" for s in inventory.series[:6])
        refused.append((str(given), f"No series is {choices.series!r} here. There are: {there}."))
    if not inventory.series and alone:
        why = [words for _, words in (*inventory.refused, *inventory.others)] or [f"{given.name} holds no image"]
        if len(why) == 1 and why[0].endswith(_NOT_DICOM):
            return Listing((Input("picture", str(given), "", (given,)),))
        return Listing((), ((str(given), f"{why[0].rstrip('.')}. Give a file or folder of images."),))
    return Listing(tuple(inputs), (*refused, *inventory.refused), tuple(found))


# Several channels ---------------------------------------------------------------------------------------------------


def _numbered(item: Input, channels: Sequence[str]) -> Input:
    """Return the case that a numbered file is part of."""
    match = _CHANNEL_FILE.fullmatch(item.files[0].name)
    case, _, suffix = match.groups() if match else ("", "", "")
    folder = item.files[0].parent
    files = tuple(folder / f"{case}_{k:04d}{suffix}" for k in range(len(channels)))
    missing = [f"{name} ({f.name})" for name, f in zip(channels, files, strict=True) if not f.is_file()]
    if missing:
        raise ReadError(f"{case} lacks {', '.join(missing)}; the model takes {_list(channels)}.")
    return Input("scan", str(folder / f"{case}{suffix}"), "", files, None, item.given)


def _spoken(item: Input, channels: Sequence[str]) -> list[Path]:
    """Return the files of the case, where this one is named after a channel's sequence and does not stand alone."""
    if item.kind != "scan" or sequence_of_file(item.files[0]) not in {canonical(c) for c in channels}:
        return []
    files = beside(item.files[0])
    return files if len(files) > 1 else []


def _named_case(item: Input, files: Sequence[Path], channels: Sequence[str], choices: Choices) -> Input:
    folder, case = item.files[0].parent, case_of(item.files[0])
    candidates = [file_candidate(f, tuple(channels)) for f in files]
    name = case.strip("_-. ") or _bare(folder)
    return _study(str(folder / case), name, item.given, channels, candidates, choices)


def _study(
    label: str, name: str, given: Path, channels: Sequence[str], candidates: Sequence[Candidate], choices: Choices
) -> Input:
    """Return a study as an input, each channel matched or as chosen; see `inspection_core.io.study.pick`."""
    parts = pick(candidates, channels, choices.channel)
    home = parts[list(channels).index(choices.grid) if choices.grid is not None else 0]
    files = tuple(p.file for p in parts if p.file is not None) or (Path(label),)
    return Input("scan" if home.volume is None else "dicom", label, name, files, home.volume, given, parts)


def _chosen(listing: Listing, channels: Sequence[str], choices: Choices) -> Listing:
    """Take everything under the one path as one study, with the user's choices."""
    given = {i.given for i in listing.inputs} | {f.given for f in listing.found}
    if len(given) > 1:
        raise UsageError(f"--channel is for one study. Got {len(given)} paths; give one.")
    if not given:
        return listing
    path = given.pop()
    scans = [i.files[0] for i in listing.inputs if i.kind == "scan"]
    if path.is_file() and scans:
        scans = beside(path)
    candidates = [file_candidate(f, tuple(channels)) for f in scans]
    candidates += dicom_candidates([f.series for f in listing.found])
    series = {label for f in listing.found for label in f.refused}
    refused = [entry for entry in listing.refused if entry[0] not in series]
    try:
        study = _study(str(path), _bare(Path(_without_gz(path))), path, channels, candidates, choices)
    except ReadError as error:
        return Listing((), (*refused, (str(path), f"{error} The model takes {_list(channels)}.")))
    return Listing(tuple(_named([study])), tuple(refused))


def _studies(listing: Listing, channels: Sequence[str], choices: Choices) -> Listing:
    """Return the DICOM studies; in `found` the series that they stand for.

    A study in which no sequence is recognised, but volumes with as many channels as the model takes, gives each of
    these as an input: films, colour pictures and series over time.
    """
    studies: dict[tuple[Path, str], list[Found]] = {}
    for entry in listing.found:
        studies.setdefault((entry.given, entry.series.file.study_uid), []).append(entry)
    names = {canonical(c) for c in channels}
    inputs: list[Input] = []
    refused: list[tuple[str, str]] = []
    found: list[Found] = []
    for (given, uid), entries in studies.items():
        volumes = {id(v) for e in entries for v in e.series.volumes}
        items = [i for i in listing.inputs if i.volume is not None and id(i.volume) in volumes]
        whole = [i for i in items if i.volume and len(i.volume.channels) * i.volume.file.samples == len(channels)]
        candidates = dicom_candidates([e.series for e in entries])
        if whole and not any(c.sequence in names for c in candidates):
            inputs += whole
            few = f"The model takes the channels {_list(channels)}, and this series holds another number of them."
            refused += [(i.label, few) for i in items if i not in whole]
            continue
        if not items:
            continue  # all of it is refused already
        place = Path(os.path.commonpath([_place(e.series).absolute() for e in entries]))
        place = given if place == given.absolute() else place
        label = str(place) if len(studies) == 1 else f"{place} (study {short_id(uid)})"
        try:
            name = f"{_bare(place)}_{short_id(uid)}"
            inputs.append(_study(label, name, given, channels, candidates, choices))
            found += entries
        except InspectionError as error:
            refused.append((label, f"{error} The model takes {_list(channels)}."))
    return Listing(tuple(inputs), tuple(refused), tuple(found))


# Files --------------------------------------------------------------------------------------------------------------


def _scan(path: Path, choices: Choices) -> Opened:
    if not is_nifti(path):
        return Opened(read_volume(path, assume_mm=choices.assume_mm))
    scan = read_nifti_scan(path, assume_mm=choices.assume_mm)
    named = int(scan.header["xyzt_units"]) & 7
    # A header without a unit would say again that there is none.
    return Opened(scan.image, None, scan.header if named or not choices.assume_mm else None)


def _case(item: Input, channels: Sequence[str], choices: Choices) -> Opened:
    parts = [_scan(path, choices) for path in item.files]
    first = parts[0].image
    for path, part in zip(item.files, parts, strict=True):
        if len(part.image.channels) != 1:
            raise ReadError(f"{path.name} holds {len(part.image.channels)} volumes; one file a channel holds one.")
        if not part.image.geometry.is_close(first.geometry, SAME_GRID):
            raise GeometryError(
                f"{path.name} lies on another grid than {item.files[0].name}; resample the channels of a case to one."
            )
    array = np.concatenate([part.image.array for part in parts])
    notes = tuple(dict.fromkeys(note for part in parts for note in part.image.notes))
    return Opened(Image(array, first.geometry, tuple(channels), Path(item.label), notes), None, parts[0].header)


def _place(series: Series) -> Path:
    """Return the folder of a series, or the archive that it lies in."""
    blob = series.file.blob
    return blob.path if blob.member else series.folder


def _named(inputs: Sequence[Input]) -> list[Input]:
    """Give every input a name of its own: a file's stem, or the folder of a series or study with its short id."""
    stems = [Path(_without_gz(Path(i.label))) for i in inputs if i.kind != "dicom" and not i.parts]
    names = iter(folder_names(stems))
    given = [i.name if i.kind == "dicom" or i.parts else next(names) for i in inputs]
    counts = Counter(n.casefold() for n in given)
    return [
        replace(i, name=f"{n}_{k}" if counts[n.casefold()] > 1 else n)
        for k, (i, n) in enumerate(zip(inputs, given, strict=True), start=1)
    ]


def _without_gz(path: Path) -> Path:
    return path.with_suffix("") if path.name.lower().endswith((".nii.gz", ".hdr.gz", ".img.gz")) else path


def _bare(path: Path) -> str:
    name = path.resolve().name
    return (name.removesuffix(".zip") if path.is_file() else name) or "scan"


def _list(channels: Sequence[str]) -> str:
    return ", ".join(channels)
