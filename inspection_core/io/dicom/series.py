"""Planes into volumes: grouping, sorting, and a diagnosis in plain words.

Slices are sorted by their position projected on the slice normal, never by InstanceNumber. Each way in which a series
can be less than a regular stack is found by itself and named: missing, irregular, sheared, duplicated, several
orientations, several points in time, no positions. What cannot be loaded right is refused with that reason.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.io.dicom.discover import Blob, UnopenedError, UnreadableError, find_files
from inspection_core.io.dicom.frames import FLAT_MODALITIES, FileFacts, Frame, frames_of
from inspection_core.io.dicom.options import Override
from inspection_core.io.nifti import orientation
from inspection_core.io.quiet import quiet

Layout = Literal["volume", "picture", "cine"]
STEP_TOLERANCE = 0.02
"""Steps are even where none differs from the mean by more than this share of it (and 0.01 mm)."""
WHOLE_STEPS = 0.05
"""A step that is a whole number of steps, within this share of one, is a gap of missing slices."""
TILT_DEGREES = 0.5
"""Less than this, and the sheared grid is kept as it is: it is exact, and nothing needs resampling."""
SAME_PLACE_MM = 0.01
SAME_DIRECTION = 1e-3
SAME_SPACING = 1e-3
"""Of the spacing's own size."""


@dataclass(frozen=True)
class Problem:
    """Why a volume is not loaded.

    Parameters
    ----------
    words
        Plain words, without a full stop.
    override
        What the user may allow to load it all the same, or None where nothing would make it right.
    """

    words: str
    override: Override | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """Frames that make one volume (over time, perhaps), one picture, or one film.

    Parameters
    ----------
    layout
        ``"volume"``, ``"picture"`` (2-D) or ``"cine"`` (2-D over time).
    frames
        ``frames[t][z]``, z sorted along the normal; pictures have one of each.
    channels
        Name of each point in time.
    positions
        Distance of each slice along the normal in mm; empty for pictures.
    tilt_degrees
        Angle between the normal and the line through the slices' first pixels; 0 where the stack is straight.
    problems, notes
        Why it is refused, and what a user should know although it loads.
    """

    layout: Layout
    frames: tuple[tuple[Frame, ...], ...]
    channels: tuple[str, ...]
    positions: tuple[float, ...] = ()
    tilt_degrees: float = 0.0
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Frame:
        """First plane."""
        return self.frames[0][0]

    @property
    def file(self) -> FileFacts:
        """What the first file says."""
        return self.first.file

    @property
    def kind(self) -> str:
        """What sets it apart from others of its series, such as ``"M, echo 2.46 ms"``."""
        return ", ".join(self.first.kind)

    @property
    def count(self) -> int:
        """Number of planes."""
        return sum(len(t) for t in self.frames)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape as stored."""
        plane = (self.first.rows, self.first.columns)
        return plane if self.layout != "volume" else (len(self.frames[0]), *plane)

    def refused(self, allow: frozenset[str] = frozenset()) -> tuple[Problem, ...]:
        """Return the problems that stand in the way, given what the user allows."""
        return tuple(p for p in self.problems if p.override not in allow)

    def stored_geometry(self, at_detector: bool = False) -> Geometry:
        """Return the grid of the planes as they were taken, a tilt as a shear; steps must be even.

        Parameters
        ----------
        at_detector
            Take a projection image that has no spacing of its own by that of the detector.

        Raises
        ------
        GeometryError
            If the planes span no volume.
        """
        first = self.frames[0][0]
        if self.layout != "volume" or first.spacing is None:
            return self._flat_geometry(at_detector)
        if first.position is None or first.along_row is None or first.along_column is None:
            raise GeometryError("A volume's slices have positions and orientations. Got one without.")
        last = self.frames[0][-1]
        n = len(self.frames[0])
        affine = np.eye(4)
        if n > 1:
            affine[:3, 0] = (np.array(last.position) - np.array(first.position)) / (n - 1)
        else:
            affine[:3, 0] = first.normal * abs(first.step or first.thickness or 0.0)
        affine[:3, 1] = np.array(first.along_column) * first.spacing[0]
        affine[:3, 2] = np.array(first.along_row) * first.spacing[1]
        affine[:3, 3] = first.position
        return Geometry(self.shape, affine, "mm")

    def corners(self) -> NDArray[np.float64]:
        """Return ``(n, 3)`` world positions of the first pixel of each slice of the first point in time."""
        return np.array([f.position for f in self.frames[0]], dtype=np.float64)

    def _flat_geometry(self, at_detector: bool = False) -> Geometry:
        spacing = self.first.spacing or (self.first.detector if at_detector else None)
        plane = (self.first.rows, self.first.columns)
        return Geometry.pixels(plane) if spacing is None else Geometry.from_spacing(plane, spacing)

    def summary(self) -> dict[str, Any]:
        """Return what a list shows: no patient, no identifier."""
        spacing: tuple[float, ...] = ()
        axes = ""
        if not self.file.fault and min(self.shape) > 0:
            geometry = self.stored_geometry()
            if geometry.unit == "mm":
                spacing = tuple(round(s, 4) for s in geometry.spacing)
            axes = orientation(geometry) if geometry.ndim == 3 else ""
        return {
            "kind": self.kind,
            "layout": self.layout,
            "shape": list(self.shape),
            "channels": len(self.channels) * self.file.samples,
            "spacing_mm": list(spacing),
            "orientation": axes,
            "frames": self.count,
            "loads": not self.refused(),
            "verdict": self.verdict,
            "reasons": [p.words for p in self.problems],
            "allow": sorted({p.override for p in self.problems if p.override}),
            "notes": list(self.notes),
        }

    @property
    def verdict(self) -> str:
        """One line: what it is, and what is wrong."""
        size = " x ".join(str(n) for n in reversed(self.shape))
        parts = []
        if self.layout == "cine":
            parts.append(f"2-D film of {len(self.channels)} frames")
        elif self.layout == "picture":
            parts.append(f"2-D image, {size}")
        elif len(self.channels) > 1:
            parts.append(f"4-D: {len(self.channels)} {_plural(self.channels)}")
        elif len(self.frames[0]) == 1:
            parts.append("single slice")
        else:
            parts.append("regular stack" if not self.problems and not self.tilt_degrees else "stack")
        if any(f.corner != (0, 0) for f in self.frames[0]):
            parts.append(f"mosaic of {len(self.frames[0])} slices")
        if self.tilt_degrees:
            parts.append(f"{self.tilt_degrees:.3g} degree {_tilt_word(self.first)}")
        parts += [p.words for p in self.problems]
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Series:
    """Everything under one SeriesInstanceUID.

    Parameters
    ----------
    id
        Eight characters of the UID's hash: names the series without naming the patient.
    volumes
        In a stable order.
    folder
        Where its first file is.
    """

    id: str
    volumes: tuple[Volume, ...]
    folder: Path

    @property
    def file(self) -> FileFacts:
        """What the first file says."""
        return self.volumes[0].file

    @property
    def verdict(self) -> str:
        """One line for the whole series."""
        if len(self.volumes) == 1:
            return self.volumes[0].verdict
        turns = {orientation(v.stored_geometry()) for v in self.volumes if v.layout == "volume" and not v.file.fault}
        several = [v for v in self.volumes if v.layout == "volume"]
        if len(several) == len(self.volumes) == 3 == len(turns):
            head = "three-plane localiser: 3 volumes"
        elif len(turns) > 1:
            head = f"{len(self.volumes)} volumes of different orientation"
        elif any(v.kind for v in self.volumes) and len({v.kind for v in self.volumes}) > 1:
            head = f"{len(self.volumes)} volumes: " + ", ".join(v.kind or "other" for v in self.volumes)
        elif not several:
            head = f"{len(self.volumes)} 2-D images"
        else:
            head = f"{len(self.volumes)} volumes that share no grid"
        where: dict[str, list[str]] = defaultdict(list)
        for k, volume in enumerate(self.volumes, start=1):
            for problem in volume.problems:
                where[problem.words].append(str(k))
        wrong = [
            f"{'every volume' if len(at) == len(self.volumes) else 'volume ' + ', '.join(at[:5])}: {words}"
            for words, at in where.items()
        ]
        return "; ".join([head, *wrong[:5], *([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else [])])

    def summary(self) -> dict[str, Any]:
        """Return what a list shows: no patient, no identifier."""
        return {
            "id": self.id,
            "number": self.file.number,
            "modality": self.file.modality,
            "maker": self.file.maker,
            "description": self.file.description,
            "files": len({f.file.blob for v in self.volumes for t in v.frames for f in t}),
            "verdict": self.verdict,
            "volumes": [v.summary() for v in self.volumes],
        }


@dataclass(frozen=True, eq=False)
class Inventory:
    """What was found under a path.

    Parameters
    ----------
    series
        Image series, in order of their files.
    others
        ``(file name, what it is)`` of everything else, in words.
    other_files
        The files of `others`, in the same order.
    refused
        ``(path, why)`` of what could not be opened, so that nobody knows whether it belongs here: archives that are
        damaged or not to be trusted, dead links, files and folders that may not be read.
    """

    series: tuple[Series, ...]
    others: tuple[tuple[str, str], ...]
    other_files: tuple[Blob, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def scan_dicom(
    paths: Path | str | Sequence[Path | str],
    progress: Callable[[int, int], None] | None = None,
    *,
    forgiving: bool = False,
) -> Inventory:
    """Read every header under the paths, and sort out what is there; no pixels are read but those of suspected copies.

    Parameters
    ----------
    paths
        File, folder, DICOMDIR or zip archive, or several of them.
    progress
        Called with the number of files done and their total.
    forgiving
        Whether an archive among the paths that cannot be trusted is listed as refused, as it is in a folder.

    Raises
    ------
    ReadError
        If a path does not exist, or is an archive that cannot be trusted.
    """
    files = find_files(paths, forgiving=forgiving)
    found: dict[Hashable, list[Frame]] = defaultdict(list)
    others: list[tuple[Blob, ReadError]] = []
    refused: list[tuple[Blob, ReadError]] = []
    with quiet():
        for done, blob in enumerate(files):
            try:
                frames = frames_of(blob)
                # Without a series UID nothing says that two files belong together.
                found[frames[0].file.series_uid or (blob.path, blob.member)].extend(frames)
            except UnopenedError as error:
                refused.append((blob, error))
            except ReadError as error:
                others.append((blob, error))
            if progress is not None:
                progress(done + 1, len(files))
        lost = [(b, e) for b, e in others if isinstance(e, UnreadableError)] + refused
        series = tuple(_with_lost(_series(key, frames), lost) for key, frames in found.items())
    return Inventory(
        series,
        tuple((b.name, str(e)) for b, e in others),
        tuple(b for b, _ in others),
        tuple((str(b.path), str(e)) for b, e in refused),
    )


def short_id(uid: str) -> str:
    """Return eight characters that stand for a UID without telling it."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


# One series ---------------------------------------------------------------------------------------------------------


def _series(key: Hashable, frames: list[Frame]) -> Series:
    frames, copies = _without_copies(frames)
    volumes: list[Volume] = []
    damaged = [f for f in frames if f.file.fault]
    whole = [f for f in frames if not f.file.fault]
    flat = [f for f in whole if _is_flat(f)]
    volumes += [_stack(group, copies) for group in _groups([f for f in whole if not _is_flat(f)])]
    volumes += _pictures(flat)
    if damaged:
        volumes = _with_damaged(volumes, damaged)
    folder = frames[0].file.blob.path.parent
    return Series(short_id(str(key)), tuple(volumes), folder)


def _without_copies(frames: list[Frame]) -> tuple[list[Frame], int]:
    """Drop frames of files that say they are one and the same and hold the same pixels."""
    by_name: dict[str, dict[FileFacts, None]] = defaultdict(dict)
    for frame in frames:
        if frame.file.sop_uid:
            by_name[frame.file.sop_uid][frame.file] = None
    drop: set[FileFacts] = set()
    for first, *copies in by_name.values():
        drop |= {other for other in copies if _same_pixels(first, other)}
    return [f for f in frames if f.file not in drop], len(drop)


def _same_pixels(a: FileFacts, b: FileFacts) -> bool:
    from inspection_core.io.dicom.pixels import pixel_digest  # decoding is not needed to list a healthy series

    try:
        return pixel_digest(a) == pixel_digest(b)
    except ReadError:
        return False


def _is_flat(frame: Frame) -> bool:
    if frame.position is None or frame.along_row is None or frame.spacing is None:
        return True
    return frame.file.modality in FLAT_MODALITIES and not frame.file.sop_class.startswith("1.2.840.10008.5.1.4.1.1.30")


def _groups(frames: list[Frame]) -> list[list[Frame]]:
    """Put planes of one size, frame of reference, kind, direction and spacing together, each beside its likes.

    Ten thousand planes may each have another direction, so those known are compared all at once.
    """
    groups: list[list[Frame]] = []
    known: dict[Hashable, tuple[list[int], NDArray[np.float64]]] = {}
    tolerance = np.array([SAME_DIRECTION] * 6 + [SAME_SPACING] * 2)
    for frame in frames:
        look = (frame.rows, frame.columns, frame.file.samples, frame.file.frame_of_reference, frame.kind)
        place = np.array([*(frame.along_row or ()), *(frame.along_column or ()), *np.log(frame.spacing or ())])
        which, places = known.get(look, ([], np.empty((0, 8))))
        alike = np.flatnonzero((np.abs(places - place) <= tolerance).all(axis=1))
        if alike.size:
            groups[which[alike[0]]].append(frame)
        else:
            known[look] = ([*which, len(groups)], np.vstack([places, place]))
            groups.append([frame])
    return groups


def _with_damaged(volumes: list[Volume], damaged: list[Frame]) -> list[Volume]:
    files = list(dict.fromkeys(f.file for f in damaged))
    example = files[0]
    if not volumes:
        words = f"cannot be read: {example.fault}"
        if len(files) > 1:
            words = f"none of its {len(files)} files can be read ({example.blob.name}: {example.fault})"
        return [Volume("picture", tuple((f,) for f in damaged), ("grey",), problems=(Problem(words),))]
    words = f"{len(files)} of its files cannot be read ({example.blob.name}: {example.fault})"
    return [_add(v, Problem(words)) for v in volumes]


def _with_lost(series: Series, lost: Sequence[tuple[Blob, ReadError]]) -> Series:
    """Note files beside a series that may have been slices of it: at an end of the stack, no gap would tell."""
    places = {f.file.blob.path.parent for v in series.volumes for t in v.frames for f in t}
    archives = {f.file.blob.path for v in series.volumes for t in v.frames for f in t if f.file.blob.member}
    near = [e for b, e in lost if (b.path in archives if b.member else b.path.parent in places)]
    if not near:
        return series
    count = "one file beside it" if len(near) == 1 else f"{len(near)} files beside it"
    note = f"{count} cannot be read, so slices may be lacking ({str(near[0]).rstrip('.')})"
    return replace(series, volumes=tuple(replace(v, notes=(*v.notes, note)) for v in series.volumes))


def _add(volume: Volume, *problems: Problem) -> Volume:
    return replace(volume, problems=(*volume.problems, *problems))


# Pictures -----------------------------------------------------------------------------------------------------------


def _pictures(frames: list[Frame]) -> list[Volume]:
    by_file: dict[FileFacts, list[Frame]] = defaultdict(list)
    for frame in frames:
        by_file[frame.file].append(frame)
    out = []
    homeless = [f for f in by_file if f.modality not in FLAT_MODALITIES]
    for file, planes in sorted(by_file.items(), key=lambda kv: (kv[1][0].instance is None, kv[1][0].instance or 0)):
        problems: list[Problem] = []
        notes: list[str] = []
        if file.modality not in FLAT_MODALITIES:
            lacks = _lacks(planes[0])
            if file.frames > 1:
                problems.append(
                    Problem(f"its {file.frames} frames have {lacks}, so their order and distance are unknown")
                )
            elif len(homeless) > 1:
                problems.append(
                    Problem(f"its {len(homeless)} slices have {lacks}, so their order and distance are unknown")
                )
            else:
                notes.append(f"{lacks}: read as a 2-D image")
        notes += _about_scale(planes[0])
        layout: Layout = "cine" if len(planes) > 1 else "picture"
        channels = tuple(f"frame {k + 1}" for k in range(len(planes))) if len(planes) > 1 else ("grey",)
        out.append(Volume(layout, tuple((p,) for p in planes), channels, problems=tuple(problems), notes=tuple(notes)))
    return out


def _about_scale(frame: Frame) -> list[str]:
    """Say what a projection image's scale means (PS3.3 10.7.1.3): at the detector, things are larger than in life."""
    detector = " x ".join(f"{v:g}" for v in frame.detector or ())
    if frame.notes and frame.spacing is not None:
        return list(frame.notes)
    if frame.spacing is None:
        if not detector:
            return ["; ".join(["no PixelSpacing: read as pixels", *frame.notes])]
        words = f"no PixelSpacing: read as pixels. They are {detector} mm at the detector (ImagerPixelSpacing), less in"
        return [f"{words} the patient (--assume-mm takes those of the detector)"]
    if frame.detector is not None and np.allclose(frame.spacing, frame.detector, rtol=1e-3):
        return ["PixelSpacing is that of the detector: in the patient, distances are smaller by the magnification"]
    return []


def _lacks(frame: Frame) -> str:
    if frame.position is None:
        return "no position (ImagePositionPatient)"
    return "no usable orientation (ImageOrientationPatient)" if frame.along_row is None else "no usable PixelSpacing"


# Stacks -------------------------------------------------------------------------------------------------------------


def _stack(frames: list[Frame], copies: int) -> Volume:
    notes = [f"{copies} exact copies of files left out"] if copies else []
    if flat := sum(f.slope == 0 for f in frames):
        notes.append(f"RescaleSlope is 0 in {flat} of {len(frames)} slices, so all their values are the same")
    normal = frames[0].normal
    order = sorted(frames, key=lambda f: (float(np.dot(f.position, normal)), f.instance or 0))  # type: ignore[arg-type]
    slots: list[list[Frame]] = []
    for frame in order:
        at = float(np.dot(frame.position, normal))  # type: ignore[arg-type]
        if slots and at - float(np.dot(slots[-1][0].position, normal)) <= SAME_PLACE_MM:  # type: ignore[arg-type]
            slots[-1].append(frame)
        else:
            slots.append([frame])
    times, channels, problems, said = _times(slots)
    notes += said
    first = times[0]
    positions = np.array([np.dot(f.position, normal) for f in first])  # type: ignore[arg-type]
    tilt = 0.0
    if len(first) > 1:
        problems += _uneven(first, positions)
        tilt, sideways = _tilt(first, positions)
        problems += sideways
        nominal = frames[0].step
        steps = np.diff(positions)
        if nominal and not problems and abs(float(np.median(steps)) - nominal) > 0.1 * nominal:
            notes.append(
                f"the header says that slices are {nominal:g} mm apart; their positions are "
                f"{float(np.median(steps)):.4g} mm apart, which is used"
            )
        if len(first) == 2:
            notes.append("two slices only: nothing shows whether one between them is missing")
    elif not (first[0].step or first[0].thickness):
        notes.append("one slice without a thickness: read as a 2-D image")
        return Volume("picture", tuple(tuple(t) for t in times), channels, problems=tuple(problems), notes=tuple(notes))
    if tilt:
        what = f"{tilt:.3g} degree {_tilt_word(first[0])}"
        notes.append(f"{what}: resampled to a straight stack; results are mapped back to the slices taken")
    return Volume(
        "volume",
        tuple(tuple(t) for t in times),
        channels,
        tuple(float(p) for p in positions),
        tilt,
        tuple(problems),
        tuple(notes),
    )


def _times(slots: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[str, ...], list[Problem], list[str]]:
    """Set points in time (or diffusion) apart where places repeat."""
    counts = [len(slot) for slot in slots]
    if max(counts) == 1:
        return [[slot[0] for slot in slots]], ("grey",), [], []
    frames = [f for slot in slots for f in slot]
    names = list(dict.fromkeys(name for f in frames for name, _ in f.dims))
    values = {id(f): dict(f.dims) for f in frames}
    slot_of = {id(f): k for k, slot in enumerate(slots) for f in slot}
    partial: tuple[str, list[Any], dict[Any, list[Frame]]] | None = None
    for keys in [(n,) for n in names] + list(combinations(names[:6], 2)):
        groups: dict[Any, list[Frame]] = defaultdict(list)
        for slot in slots:
            for f in slot:
                groups[tuple(values[id(f)].get(k) for k in keys)].append(f)
        distinct = all(len({slot_of[id(f)] for f in g}) == len(g) for g in groups.values())
        if len(groups) < 2 or not distinct:
            continue
        ordered = sorted(groups, key=_sortable)
        if all(len(g) == len(slots) for g in groups.values()):
            return [groups[k] for k in ordered], _channel_names(keys, ordered), [], []
        if partial is None and max(counts) == len(groups):
            partial = (" and ".join(keys), ordered, groups)
    if len(set(counts)) == 1 and all(len({f.instance for f in slot}) == len(slot) for slot in slots):
        n = counts[0]
        ranked = [sorted(slot, key=lambda f: f.instance or 0) for slot in slots]
        said = [f"{n} points in time, told apart by InstanceNumber alone"]
        return (
            [[slot[k] for slot in ranked] for k in range(n)],
            tuple(f"time point {k + 1}" for k in range(n)),
            [],
            said,
        )
    if partial is not None:
        _, ordered, groups = partial
        fullest = max(groups.values(), key=len)
        short = [(k, len(slots) - len(groups[key])) for k, key in enumerate(ordered) if len(groups[key]) < len(slots)]
        k, lacks = short[0]
        words = f"4-D with slices missing: point {k + 1} of {len(groups)} lacks {lacks} of {len(slots)} slices"
        return [fullest], ("grey",), [Problem(words)], []
    return _copies(slots)


def _copies(slots: list[list[Frame]]) -> tuple[list[list[Frame]], tuple[str, ...], list[Problem], list[str]]:
    double = [slot for slot in slots if len(slot) > 1]
    first = [[slot[0] for slot in slots]]
    if all(_same_pixels(slot[0].file, other.file) for slot in double for other in slot[1:]):
        return first, ("grey",), [], [f"{len(double)} slices are there twice with the same pixels; one of each is used"]
    places = ", ".join(_place(slot[0]) for slot in double[:3]) + (" and more" if len(double) > 3 else "")
    words = f"duplicated: {len(double)} places have more than one slice, with different pixels ({places})"
    return first, ("grey",), [Problem(words, "duplicates")], []


def _sortable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(plain(v) for v in value)
        return (0, value, "") if isinstance(value, (int, float)) else (1, 0.0, str(value))

    return tuple(plain(v) for v in key)


def _channel_names(keys: tuple[str, ...], ordered: list[Any]) -> tuple[str, ...]:
    forms: dict[str, Callable[[Any], str]] = {
        "trigger time": lambda v: f"t = {v / 1000:g} s",
        "b-value": lambda v: f"b = {v:g} s/mm2",
        "inversion time": lambda v: f"TI = {v:g} ms",
    }
    form = forms.get(keys[0])
    if len(keys) == 1 and form is not None and all(isinstance(k[0], (int, float)) for k in ordered):
        return tuple(form(k[0]) for k in ordered)
    word = "direction" if "gradient" in keys else "echo" if "echo" in keys[0] else "time point"
    return tuple(f"{word} {n + 1}" for n in range(len(ordered)))


def _plural(channels: tuple[str, ...]) -> str:
    if channels[0].startswith("b ="):
        return "b-values"
    return "directions" if channels[0].startswith("direction") else "time points"


def _uneven(frames: Sequence[Frame], positions: NDArray[np.float64]) -> list[Problem]:
    steps = np.diff(positions)
    mean = float(steps.mean())
    if np.abs(steps - mean).max() <= max(STEP_TOLERANCE * mean, SAME_PLACE_MM):
        return []
    base = float(np.median(steps)) if len(steps) > 2 else float(steps.min())
    base = base if np.isclose(steps, base, rtol=WHOLE_STEPS).sum() >= len(steps) / 2 else float(steps.min())
    multiples = np.rint(steps / base)
    if multiples.min() >= 1 and np.abs(steps / base - multiples).max() <= WHOLE_STEPS * multiples.max():
        gaps = np.flatnonzero(multiples > 1)
        lost = int((multiples - 1).sum())
        places = [f"between {_place(frames[g])} and {_place(frames[g + 1])} mm" for g in gaps[:3]]
        what = "slice missing" if lost == 1 else f"{lost} slices missing"
        return [Problem(f"{what} {', '.join(places)}{' and more' if len(gaps) > 3 else ''}", "gaps")]
    return [
        Problem(f"irregular: steps between slices vary from {steps.min():.3g} to {steps.max():.3g} mm", "irregular")
    ]


def _place(frame: Frame) -> str:
    axis = int(np.abs(frame.normal).argmax())
    return f"{'xyz'[axis]} = {frame.position[axis] if frame.position else 0.0:.1f}"


def offsets(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return how far each slice's first pixel lies from the first slice's in the plane, ``(rows, columns)`` in mm."""
    first = frames[0]
    delta = np.array([np.array(f.position) - np.array(first.position) for f in frames])
    return np.stack([delta @ np.array(first.along_column), delta @ np.array(first.along_row)], axis=1)


def _tilt_word(frame: Frame) -> str:
    """Only a CT has a gantry; elsewhere the slices are merely sheared."""
    return "gantry tilt" if frame.file.modality == "CT" else "shear"


def _tilt(frames: Sequence[Frame], positions: NDArray[np.float64]) -> tuple[float, list[Problem]]:
    """Return the tilt in degrees, and whether slices shift sideways in a way that is no tilt."""
    shift = offsets(frames)
    depth = positions - positions[0]
    slope = shift[-1] / depth[-1]
    stray = np.abs(shift - depth[:, None] * slope).max()
    pixel = min(frames[0].spacing or (1.0, 1.0))
    problems = []
    if stray > 0.5 * pixel:
        problems.append(Problem(f"sheared unevenly: slices shift sideways by up to {stray:.3g} mm", "irregular"))
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    return (angle if angle >= TILT_DEGREES else 0.0), problems
