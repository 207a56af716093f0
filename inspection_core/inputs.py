"""What a user points at, as inputs one by one: pictures, scan files, and every series of DICOM under a path.

Headers are read to find out, pixels are not. What cannot be predicted on is refused with its reason and does not stand
in the way of the rest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inspection_core.cases import read_slices
from inspection_core.image import Image
from inspection_core.io.candidates import Candidate
from inspection_core.io.dicom.options import Scaling
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.raster import RASTER_SUFFIXES, list_images, read_raster
from inspection_core.io.results import folder_names
from inspection_core.io.study import Allowed, load_picked, overrides
from inspection_core.io.volumes import is_volume, read_volume
from inspection_core.prepare import name_channels

if TYPE_CHECKING:
    from inspection_core.io.dicom import DicomImage, Series, Volume

Kind = Literal["picture", "stack", "scan", "dicom"]
SAME_GRID = 1e-3
"""A mask lies on its image's grid where no entry of the affine differs by more than this share of the spacing."""
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
        ``"picture"``, ``"stack"`` (the slices of a study as pictures), ``"scan"`` (NIfTI, NRRD, MetaImage) or
        ``"dicom"``.
    label
        What messages and lists call it: a path, and the series' short id where one path holds several.
    name
        Distinct name of its folder of results.
    files
        The files; several where each holds a channel, or a slice.
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
    return Listing(tuple(named(found)), tuple(refused), tuple(series))


def open_input(item: Input, channels: Sequence[str], choices: Choices | None = None) -> Opened:
    """Read an input; channels without names of their own get the model's, in order.

    Raises
    ------
    ReadError, GeometryError
        If it cannot be read right, or nothing relates the grids of a case's files.
    """
    choices = choices or Choices()
    if item.kind == "picture":
        return Opened(read_raster(item.files[0]))
    if item.kind == "stack":
        return Opened(read_slices(item.files, channels))
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
        from inspection_core.io.dicom import load_volume

        suv = choices.suv and item.volume.file.modality == "PT"
        loaded = load_volume(
            item.volume, allow=overrides(choices.allow), suv=suv, scaling=choices.scaling, assume_mm=choices.assume_mm
        )
        return Opened(loaded.image, loaded)
    opened = _scan(item.files[0], choices)
    return replace(opened, image=name_channels(opened.image, channels))


def list_scans(folder: Path, choices: Choices | None = None, skip: Sequence[Path] = ()) -> Listing:
    """Find what is no picture below a folder: scan files, and every series of DICOM.

    Parameters
    ----------
    folder
        Searched to any depth; hidden files and folders are left out.
    choices
        As for `list_inputs`.
    skip
        Folders that are left out.
    """
    choices = choices or Choices()
    scans: list[Path] = []
    rest: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(root) / name not in skip)
        for path in (Path(root) / name for name in sorted(names) if not name.startswith(".")):
            if is_nifti(path) or is_volume(path):
                scans += [path] if not path.name.lower().endswith((".img", ".img.gz")) else []  # its .hdr stands for it
            elif path.suffix.lower() not in RASTER_SUFFIXES and path.name.upper() != "DICOMDIR":
                rest.append(path)
    inputs = [Input("scan", str(p), "", (p,)) for p in scans]
    dicom = _dicom(rest, folder, choices) if rest else Listing()
    found = (i for i in dicom.inputs if i.kind == "dicom")
    return Listing((*inputs, *found), dicom.refused, dicom.found)


def _folder(folder: Path, choices: Choices) -> Listing:
    locked: list[Path] = []
    pictures = [Input("picture", str(p), "", (p,)) for p in list_images(folder, locked)]
    scans = list_scans(folder, choices)
    refused = [(str(path), f"{path.name} is a folder that cannot be listed; check who may read it.") for path in locked]
    return Listing((*pictures, *scans.inputs), (*scans.refused, *refused), scans.found)


def _dicom(paths: list[Path], given: Path, choices: Choices) -> Listing:
    """List the volumes under paths; where there is none, a single file is left to the reader of pictures."""
    from inspection_core.io.dicom import scan_dicom

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
            place = place_of(series)
            label = f"{place} (series {series.id}{f', volume {k}' if several else ''})"
            if reasons := volume.refused(overrides(choices.allow)):
                words = "; ".join(p.words for p in reasons)
                ways = sorted({p.override for p in reasons if p.override})
                hint = f" Use --allow {' --allow '.join(ways)} to go on all the same." if ways else ""
                refused.append((label, f"{volume.file.modality} series is not loaded: {words}.{hint}"))
                continue
            name = f"{bare(place)}_{series.id}" + (f"_{k}" if several else "")
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


def _scan(path: Path, choices: Choices) -> Opened:
    if not is_nifti(path):
        return Opened(read_volume(path, assume_mm=choices.assume_mm))
    from inspection_core.io.nifti import read_nifti_scan

    scan = read_nifti_scan(path, assume_mm=choices.assume_mm)
    named = int(scan.header["xyzt_units"]) & 7
    # A header without a unit would say again that there is none.
    return Opened(scan.image, None, scan.header if named or not choices.assume_mm else None)


def place_of(series: Series) -> Path:
    """Return the folder of a series, or the archive that it lies in."""
    blob = series.file.blob
    return blob.path if blob.member else series.folder


def named(inputs: Sequence[Input]) -> list[Input]:
    """Give every input a name of its own: a file's stem, or the folder of a series or study with its short id."""
    stems = [Path(without_gz(Path(i.label))) for i in inputs if i.kind != "dicom" and not i.parts]
    names = iter(folder_names(stems))
    given = [i.name if i.kind == "dicom" or i.parts else next(names) for i in inputs]
    counts = Counter(n.casefold() for n in given)
    return [
        replace(i, name=f"{n}_{k}" if counts[n.casefold()] > 1 else n)
        for k, (i, n) in enumerate(zip(inputs, given, strict=True), start=1)
    ]


def without_gz(path: Path) -> Path:
    """Return a path whose last suffix is the one that counts."""
    return path.with_suffix("") if path.name.lower().endswith((".nii.gz", ".hdr.gz", ".img.gz")) else path


def bare(path: Path) -> str:
    """Return a name for the results of what lies in a folder or an archive."""
    name = path.resolve().name
    return (name.removesuffix(".zip") if path.is_file() else name) or "scan"
