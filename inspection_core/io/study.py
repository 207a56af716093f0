"""Studies of several sequences: T1, T1 after contrast, T2, FLAIR of one patient as the channels of one image.

Each channel is found by what its headers or its file name say, or is named by the user, who has the last word. All are
brought onto the grid of one of them. What is missing, ambiguous or in another frame of reference is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.candidates import Candidate, canonical, chosen_scan, find_candidates, is_scan_file, matched
from inspection_core.io.dicom.options import Override, Scaling
from inspection_core.io.nifti_names import is_nifti
from inspection_core.io.volumes import read_volume

if TYPE_CHECKING:
    from inspection_core.io.dicom import DicomImage

Allowed = Override | Literal["frames"]


@dataclass(frozen=True)
class Match:
    """Which scan became a channel.

    Parameters
    ----------
    channel
        As asked for.
    scan
        Words that name it: a series by number and id, or a file.
    why
        What says that it is this one.
    """

    channel: str
    scan: str
    why: str


@dataclass(frozen=True, eq=False)
class Study:
    """Several sequences on one grid.

    Parameters
    ----------
    image
        ``(C, z, y, x)``, channels in the order asked for and by the names asked for; notes say what each one is.
    matches
        One a channel.
    reference
        The DICOM image whose grid it is, to write results on its slices; None where that is a file of another format.
    header
        The NIfTI header of that file, where it is one.
    """

    image: Image
    matches: tuple[Match, ...]
    reference: DicomImage | None
    header: Any = None


def read_study(
    path: Path | str | Sequence[Path | str],
    channels: Sequence[str],
    *,
    choices: Mapping[str, str | Path] | None = None,
    grid: str | None = None,
    allow: Sequence[Allowed] | frozenset[Allowed] = frozenset(),
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Image:
    """Read several sequences as the channels of one image; see `load_study`."""
    return load_study(
        path, channels, choices=choices, grid=grid, allow=allow, scaling=scaling, assume_mm=assume_mm, progress=progress
    ).image


def load_study(
    path: Path | str | Sequence[Path | str],
    channels: Sequence[str],
    *,
    choices: Mapping[str, str | Path] | None = None,
    grid: str | None = None,
    allow: Sequence[Allowed] | frozenset[Allowed] = frozenset(),
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Read several sequences as the channels of one image, and say which scan each one is.

    Parameters
    ----------
    path
        A study: DICOM folder, DICOMDIR or zip archive; a folder with one NIfTI, NRRD or MetaImage file a channel
        (``CASE_0000.nii.gz``, or names that hold t1, t1c, t2, flair); one such file, beside which the others lie; a
        4-D file with as many volumes as channels are asked for; or several paths.
    channels
        What is wanted, in order. ``"t1"``, ``"t1c"``, ``"t2"``, ``"flair"`` and the ways they are usually written
        (``"T1 post-contrast"``, ``"T1ce"``, ``"T2-FLAIR"``) are matched; any other name needs a choice.
    choices
        ``{channel: scan}`` where the user knows better: a path, or a series by id or number as `scan` lists it, with
        ``:2`` for its second volume. Never overruled.
    grid
        Channel whose grid is used; the first if not given.
    allow
        See `inspection_core.io.dicom.load_volume`; ``"frames"`` takes scans of different frames of reference as if
        their coordinates were one world.
    scaling, assume_mm
        See `inspection_core.io.scans.read_scan`.
    progress
        Called with the number of channels read and their total.

    Raises
    ------
    UsageError
        If a channel is asked for twice, or a choice or grid names none.
    ReadError
        If a sequence is missing or ambiguous, cannot be loaded right, or lies in another frame of reference.
    """
    wanted = tuple(channels)
    chosen = dict(choices or {})
    _check_request(wanted, chosen, grid)
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    if len(paths) == 1 and not chosen and Path(paths[0]).is_file() and is_scan_file(Path(paths[0])):
        whole = _read_file(Path(paths[0]), assume_mm)
        if len(whole.array) == len(wanted):
            return _four_d(whole, wanted)
    candidates: list[Candidate] = []
    refused: tuple[tuple[str, str], ...] = ()
    if set(wanted) - set(chosen) or _needs_list(chosen):
        candidates, refused = find_candidates(paths, wanted)
    study = load_picked(
        Path(paths[0]),
        wanted,
        pick(candidates, wanted, chosen),
        grid=grid,
        allow=allow,
        scaling=scaling,
        assume_mm=assume_mm,
        progress=progress,
    )
    left_out = tuple(f"left out: {reason}" for _, reason in refused)
    return replace(study, image=replace(study.image, notes=(*study.image.notes, *left_out)))


def pick(
    candidates: Sequence[Candidate], channels: Sequence[str], choices: Mapping[str, str | Path] | None = None
) -> tuple[Candidate, ...]:
    """Say which scan each channel is, without reading any pixels; see `load_study`.

    Raises
    ------
    UsageError
        If a channel is asked for twice, or a choice names none.
    ReadError
        If a sequence is missing or ambiguous, or a scan is asked for twice.
    """
    wanted, chosen = tuple(channels), dict(choices or {})
    _check_request(wanted, chosen, None)
    picked = [chosen_scan(c, str(chosen[c]), candidates) if c in chosen else matched(c, candidates) for c in wanted]
    _no_scan_twice(wanted, picked, chosen)
    return tuple(picked)


def load_picked(
    source: Path,
    channels: Sequence[str],
    picked: Sequence[Candidate],
    *,
    grid: str | None = None,
    allow: Sequence[Allowed] | frozenset[Allowed] = frozenset(),
    suv: bool = False,
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Read the scans that were picked, one a channel, onto one grid.

    Parameters
    ----------
    source
        What the image is said to come from.
    channels, picked
        Names, and what `pick` gave for them.
    suv
        PET in standardised uptake values.
    grid, allow, scaling, assume_mm, progress
        See `load_study`.

    Raises
    ------
    ReadError, GeometryError
        If a scan cannot be loaded right, or lies in another frame of reference or on a grid that nothing relates.
    """
    wanted = tuple(channels)
    loaded: list[tuple[Image, DicomImage | None]] = []
    for k, candidate in enumerate(picked):
        loaded.append(_load(candidate, allow, suv, scaling, assume_mm, wanted[k]))
        if progress is not None:
            progress(k + 1, len(wanted))
    matches = tuple(Match(c, p.words, p.why) for c, p in zip(wanted, picked, strict=True))
    first = wanted.index(grid) if grid is not None else 0
    said = [f"{m.channel} is {m.scan} ({m.why})" for m in matches]
    said += [f"{c}: {note}" for c, (image, _) in zip(wanted, loaded, strict=True) for note in image.notes]
    said += _check_frames(wanted, loaded, first, "frames" in allow)
    array, notes = _on_one_grid(wanted, [image for image, _ in loaded], first)
    reference = loaded[first][0]
    image = Image(array, reference.geometry, wanted, source, (*said, *notes))
    file = picked[first].file
    return Study(image, matches, loaded[first][1], _header(file, assume_mm) if file is not None else None)


# Request ------------------------------------------------------------------------------------------------------------


def _check_request(wanted: tuple[str, ...], chosen: Mapping[str, object], grid: str | None) -> None:
    if not wanted or "" in wanted:
        raise UsageError("A study needs the names of its channels, such as t1,t1c,t2,flair.")
    twice = {c for c in wanted if [canonical(w) for w in wanted].count(canonical(c)) > 1}
    if twice:
        raise UsageError(f"Each channel is asked for once. {' and '.join(sorted(twice))} mean the same.")
    check_choices(wanted, chosen, grid)


def check_choices(wanted: Sequence[str], chosen: Mapping[str, object], grid: str | None) -> None:
    """Refuse a choice or a grid that is for none of the channels.

    Raises
    ------
    UsageError
        Naming it.
    """
    if unknown := sorted(set(chosen) - set(wanted)):
        raise UsageError(f"A choice is for one of the channels {', '.join(wanted)}. Got {unknown[0]!r}.")
    if grid is not None and grid not in wanted:
        raise UsageError(f"The grid is that of one of the channels {', '.join(wanted)}. Got {grid!r}.")


def _needs_list(chosen: Mapping[str, str | Path]) -> bool:
    return any(not Path(value).exists() for value in chosen.values())


def _no_scan_twice(wanted: tuple[str, ...], picked: Sequence[Candidate], chosen: Mapping[str, str | Path]) -> None:
    """Refuse a scan that stands for two channels, but where both were asked for: it is then a stand-in on purpose."""
    seen: dict[int | Path, str] = {}
    for channel, candidate in zip(wanted, picked, strict=True):
        key = candidate.file.resolve() if candidate.file is not None else id(candidate.volume)
        if key in seen and not {seen[key], channel} <= set(chosen):
            raise ReadError(
                f"{seen[key]} and {channel} are both {candidate.words}; each channel is a scan of its own. Where "
                "one is to stand for both, choose it for both."
            )
        seen[key] = channel


# One grid -----------------------------------------------------------------------------------------------------------


def _read_file(path: Path, assume_mm: bool) -> Image:
    if not is_nifti(path):
        return read_volume(path, assume_mm=assume_mm)
    from inspection_core.io.nifti import read_nifti

    return read_nifti(path, assume_mm=assume_mm)


def overrides(allow: Sequence[Allowed] | frozenset[Allowed]) -> frozenset[Override]:
    """Return what is allowed of a single series."""
    return frozenset(a for a in allow if a != "frames")


def _header(path: Path, assume_mm: bool) -> Any:
    """Return a file's NIfTI header, but where it would deny a unit that was taken for granted."""
    if not is_nifti(path):
        return None
    from inspection_core.io.nifti import read_nifti_header

    header = read_nifti_header(path)
    return header if int(header["xyzt_units"]) & 7 or not assume_mm else None


def _load(
    candidate: Candidate,
    allow: Sequence[Allowed] | frozenset[Allowed],
    suv: bool,
    scaling: Scaling,
    assume_mm: bool,
    channel: str,
) -> tuple[Image, DicomImage | None]:
    if candidate.volume is not None:
        from inspection_core.io.dicom import load_volume

        try:
            as_suv = suv and candidate.volume.file.modality == "PT"
            loaded = load_volume(candidate.volume, allow=overrides(allow), suv=as_suv, scaling=scaling)
        except ReadError as error:
            raise ReadError(f"{channel}: {error}") from None
        image, dicom = loaded.image, loaded
    elif candidate.file is not None:
        image, dicom = _read_file(candidate.file, assume_mm), None
    else:  # pragma: no cover - a candidate is one or the other
        raise ReadError(f"{channel} has no scan.")
    if len(image.array) != 1:
        raise ReadError(f"{channel}: {candidate.words} holds {len(image.array)} volumes; a channel is one.")
    return image, dicom


def _four_d(whole: Image, wanted: tuple[str, ...]) -> Study:
    words = [f"volume {k + 1} of the file" for k in range(len(wanted))]
    said = [f"{c} is {w} (by its place)" for c, w in zip(wanted, words, strict=True)]
    image = Image(whole.array, whole.geometry, wanted, whole.source, (*said, *whole.notes))
    return Study(image, tuple(Match(c, w, "by its place") for c, w in zip(wanted, words, strict=True)), None)


def _check_frames(
    wanted: tuple[str, ...], loaded: Sequence[tuple[Image, DicomImage | None]], first: int, allowed: bool
) -> list[str]:
    """Hold every DICOM channel's frame of reference against the grid's; without one nothing is known."""
    frames = {c: d.volume.file.frame_of_reference for c, (_, d) in zip(wanted, loaded, strict=True) if d is not None}
    home = frames.get(wanted[first])
    if home is None:
        return []
    said = []
    for channel, frame in frames.items():
        if frame and home and frame != home:
            words = f"{channel} lies in another frame of reference than {wanted[first]}"
            if not allowed:
                raise ReadError(
                    f"{words}, so nothing says how they fit. Register them first; or allow frames, where you know that "
                    "the patient did not move between them."
                )
            said.append(f"{words}; their coordinates are taken as one world, as allowed")
        elif not frame or not home:
            said.append(
                f"{channel if not frame else wanted[first]} names no frame of reference; taken as that of the rest"
            )
    return list(dict.fromkeys(said))


def _on_one_grid(wanted: tuple[str, ...], images: Sequence[Image], first: int) -> tuple[NDArray[np.generic], list[str]]:
    grid = images[first].geometry
    units = {image.geometry.unit for image in images}
    planes, notes = [], []
    for channel, image in zip(wanted, images, strict=True):
        if image.geometry.is_close(grid, 1e-3):
            planes.append(image.array)
            continue
        from inspection_core.io.resample import resample  # SciPy, only where it is needed

        try:
            values, outside = resample(image, grid)
        except GeometryError as error:
            hint = " Take files that name no unit as millimetres with --assume-mm." if "px" in units else ""
            raise GeometryError(f"{channel} lies on another grid than {wanted[first]}. {error}{hint}") from None
        if outside == 1:
            raise ReadError(
                f"{channel} and {wanted[first]} show no place in common; they are not of one examination, or one of "
                "them was moved."
            )
        planes.append(values)
        share = f"; {outside:.0%} of it lies outside, and holds the lowest value" if outside >= 0.005 else ""
        notes.append(f"{channel} is resampled to the grid of {wanted[first]} (linear){share}")
    dtype = np.result_type(*planes)
    out = np.empty((len(planes), *grid.shape), dtype)
    for k, plane in enumerate(planes):
        out[k] = plane[0]
    return out, notes
