"""A sorted series into an image: decoding in parallel, rescaling per frame, straightening what was taken tilted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.device import threads
from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom.frames import BRIGHT_IS_LOW, FileFacts, Frame, read_header
from inspection_core.io.dicom.options import Override, Scaling
from inspection_core.io.dicom.pixels import decode, modality_lut, open_pixels, packed_frame, plain_frames
from inspection_core.io.dicom.series import Inventory, Series, Volume, offsets, scan_dicom
from inspection_core.io.dicom.suv import moment, suv_factor
from inspection_core.io.dicom.values import text
from inspection_core.io.quiet import quiet
from inspection_core.io.rescale import rescale, result_type

WORKERS = min(8, threads())
FRAMES_A_JOB = 16
"""Fewer frames of one file are not shared among threads: each would open the file anew."""


@dataclass(frozen=True, eq=False)
class DicomImage:
    """An image with the slices that it came from.

    Parameters
    ----------
    image
        ``(C, z, y, x)`` in LPS millimetres, or ``(C, y, x)``.
    volume
        Frames and diagnosis.
    windows
        VOI windows of the first frame, ``((centre, width), ...)``: for display, never applied.
    padding
        Value of the voxels outside what was scanned, on the image's scale, or None.
    units
        Unit of the values, such as ``"HU"``, ``"BQML"``, ``"SUVbw"`` or ``""``.
    resampled
        Whether the image's grid is another than that of the slices.
    """

    image: Image
    volume: Volume
    windows: tuple[tuple[float, float], ...]
    padding: float | None
    units: str
    resampled: bool

    def to_slices(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Bring a mask or map from the image's grid back to the slices taken, by the nearest voxel.

        Parameters
        ----------
        labels
            ``(z, y, x)`` on the image's grid.

        Returns
        -------
        ndarray
            ``(slice, row, column)`` in the order of ``volume.frames[0]``.
        """
        if labels.shape != self.image.geometry.shape:
            raise GeometryError(
                f"The mask lies on the image's grid of {self.image.geometry.shape}. Got {labels.shape}."
            )
        frames = self.volume.frames[0]
        if not self.resampled:
            return np.array(labels) if labels.ndim == 3 else labels[None].copy()
        out = np.zeros((len(frames), frames[0].rows, frames[0].columns), dtype=labels.dtype)
        for plane, (z, y, x) in zip(out, self._corners(), strict=True):
            if 0 <= z < len(labels):
                bottom, right = min(plane.shape[0], labels.shape[1] - y), min(plane.shape[1], labels.shape[2] - x)
                plane[:bottom, :right] = labels[z, y : y + bottom, x : x + right]
        return out

    def from_slices(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Bring a mask or map drawn on the slices taken onto the image's grid, by the nearest slice and pixel.

        Parameters
        ----------
        labels
            ``(slice, row, column)`` in the order of ``volume.frames[0]``.

        Returns
        -------
        ndarray
            ``(z, y, x)``, or ``(y, x)`` where the image is 2-D.
        """
        shape = self.image.geometry.shape
        if not self.resampled:
            return np.array(labels) if len(shape) == 3 else labels[0].copy()
        corners = self._corners()
        out = np.zeros(shape, dtype=labels.dtype)
        exact = self.image.geometry.world_to_index(self.volume.corners())[:, 0]
        for z in range(shape[0]):
            k = int(np.abs(exact - z).argmin())
            _, y, x = corners[k]
            bottom, right = min(labels.shape[1], shape[1] - y), min(labels.shape[2], shape[2] - x)
            out[z, y : y + bottom, x : x + right] = labels[k, :bottom, :right]
        return out

    def _corners(self) -> NDArray[np.int64]:
        """Return the nearest index on the image's grid of each slice's first pixel, never before its beginning."""
        index = self.image.geometry.world_to_index(self.volume.corners())
        corners = np.rint(index).astype(np.int64)
        corners[:, 1:] = np.maximum(corners[:, 1:], 0)
        return corners


def read_dicom(
    paths: Path | str | Sequence[Path | str],
    *,
    series: str | None = None,
    volume: int | None = None,
    allow: frozenset[Override] | Sequence[Override] = frozenset(),
    suv: bool = False,
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DicomImage:
    """Read the one volume under a path, or the one that is chosen.

    Parameters
    ----------
    paths
        File, folder, DICOMDIR, zip archive, or several.
    series
        Its id or number as `scan_dicom` lists it; needed where there are several.
    volume
        Which volume of the series, from 1; needed where there are several.
    allow, suv, scaling, assume_mm, progress
        See `load_volume`.

    Raises
    ------
    ReadError
        If there is none, if several ask for a choice, or if it cannot be loaded right.
    """
    return load_volume(
        choose(scan_dicom(paths), series, volume),
        allow=allow,
        suv=suv,
        scaling=scaling,
        assume_mm=assume_mm,
        progress=progress,
    )


def choose(inventory: Inventory, series: str | None = None, volume: int | None = None) -> Volume:
    """Return the one volume of an inventory, or the one chosen; see `read_dicom`."""
    found = list(inventory.series)
    if not found:
        others = "; ".join(words for _, words in (*inventory.refused, *inventory.others)[:3])
        raise ReadError(f"No DICOM image was found{': ' + others if others else ''}.")
    if series is not None:
        chosen = [s for s in found if series in (s.id, str(s.file.number))]
        if len(chosen) != 1:
            raise ReadError(f"{len(chosen)} series have the id or number {series!r}. There are {_listed(found)}.")
        found = chosen
    if len(found) > 1:
        raise ReadError(f"{len(found)} series are there; choose one by id or number. There are {_listed(found)}.")
    volumes = found[0].volumes
    if volume is None and len(volumes) > 1:
        final = [[p.words for p in v.problems if p.override is None] for v in volumes]
        if all(final):  # no choice would help
            reasons = "; ".join(list(dict.fromkeys(w for words in final for w in words))[:3])
            raise ReadError(f"{volumes[0].file.modality} series is not loaded: {reasons}.")
        raise ReadError(f"The series has {len(volumes)} volumes ({found[0].verdict}); choose one by number from 1.")
    if volume is not None and not 1 <= volume <= len(volumes):
        raise ReadError(f"The series has volumes 1 to {len(volumes)}. Got {volume}.")
    return volumes[(volume or 1) - 1]


def _listed(series: Sequence[Series]) -> str:
    head = ", ".join(f"{s.id} (number {s.file.number}, {s.file.modality})" for s in series[:6])
    return head + (f" and {len(series) - 6} more" if len(series) > 6 else "")


def load_volume(
    volume: Volume,
    *,
    allow: frozenset[Override] | Sequence[Override] = frozenset(),
    suv: bool = False,
    scaling: Scaling = "precise",
    assume_mm: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DicomImage:
    """Decode a volume and put its slices together.

    Parameters
    ----------
    volume
        From `scan_dicom`.
    allow
        What to load although it is not right: ``"gaps"`` fills missing slices from their neighbours, ``"irregular"``
        resamples uneven steps to even ones, ``"duplicates"`` takes the first of several slices at one place.
    suv
        For PET: standardised uptake values by body weight.
    scaling
        For Philips MR: ``"precise"`` gives the scanner's floating-point values (Chenevert et al. 2014,
        doi 10.1593/tlo.13811), the same throughout an examination, as dcm2niix does; ``"displayed"`` what the rescale
        of the DICOM standard gives.
    assume_mm
        Take a projection image without a spacing of its own as millimetres at the detector.
    progress
        Called with the number of files (or runs of frames) decoded and their total.

    Raises
    ------
    ReadError
        If the volume is refused, or a file cannot be decoded.
    """
    if refused := volume.refused(frozenset(allow)):
        reasons = "; ".join(p.words for p in refused)
        ways = sorted({p.override for p in refused if p.override})
        hint = (
            f" Allow {' and '.join(ways)} to load it all the same." if ways and all(p.override for p in refused) else ""
        )
        raise ReadError(f"{volume.file.modality} series is not loaded: {reasons}.{hint}")
    frames = [f for t in volume.frames for f in t]
    factor, units, notes = _factor(frames, volume, suv)
    with quiet():
        array = _decode_all(volume, frames, scaling, factor, progress)
    notes = [*volume.notes, *notes]
    inverted = _is_inverted(volume.file)
    windows = volume.first.windows
    if inverted:
        slope, intercept = _change(volume.first, scaling, factor)
        ends = (2**volume.file.bits - 1 if not volume.file.signed else -1) * slope + 2 * intercept
        windows = tuple((ends - centre, width) for centre, width in windows)
        notes.append("MONOCHROME1: values are turned round, so that more is brighter")
    if any(f.precise for f in frames) and scaling == "precise":
        notes.append("Philips: the scanner's own floating-point values, not those displayed")
    padding = volume.file.padding
    padding_value = None
    if padding is not None and not volume.file.has_lut:
        slope, intercept = _change(volume.first, scaling, factor)
        padding_value = padding * slope + intercept
    if volume.layout != "volume":
        geometry = volume.stored_geometry(at_detector=assume_mm)
        if assume_mm and volume.first.spacing is None and geometry.unit == "mm":
            notes.append("millimetres are those at the detector, as asked; in the patient they are smaller")
        channels = _channel_names(volume, array.shape[0])
        return DicomImage(
            Image(array, geometry, channels, _source(volume), tuple(notes)),
            volume,
            windows,
            padding_value,
            units,
            False,
        )
    channels = _channel_names(volume, array.shape[0])
    if volume.tilt_degrees or volume.problems:
        fill = padding_value if padding_value is not None else float(array.min())
        array, geometry, said = _straighten(volume, array, fill)
        notes += said
        return DicomImage(
            Image(array, geometry, channels, _source(volume), tuple(notes)), volume, windows, padding_value, units, True
        )
    image = Image(array, volume.stored_geometry(), channels, _source(volume), tuple(notes))
    return DicomImage(image, volume, windows, padding_value, units, False)


# Values -------------------------------------------------------------------------------------------------------------


def _factor(frames: Sequence[Frame], volume: Volume, suv: bool) -> tuple[float, str, list[str]]:
    if not suv:
        return 1.0, volume.file.units, []
    if volume.file.modality != "PT":
        raise ReadError(f"SUV is for PET. Got a series of {volume.file.modality}.")
    starts = []
    with quiet():
        for blob in {f.file.blob for f in frames}:
            header = read_header(blob)
            at = moment(text(header, "AcquisitionDate") or text(header, "SeriesDate"), text(header, "AcquisitionTime"))
            starts += [at] if at is not None else []
        header = read_header(volume.file.blob)
        series = moment(text(header, "SeriesDate"), text(header, "SeriesTime"))
        # SeriesTime may have been set anew by post-processing; decay is counted from the earliest acquisition then.
        earliest = min(starts, default=None)
        start = earliest if series is None or (earliest is not None and earliest < series) else series
        return suv_factor(header, start), "SUVbw", ["values are SUV by body weight (g/ml)"]


def _change(frame: Frame, scaling: Scaling, factor: float) -> tuple[float, float]:
    slope, intercept = frame.slope, frame.intercept
    if frame.precise and scaling == "precise" and slope:
        # Displayed = stored * slope + intercept; precise = displayed / (slope * scale slope).
        slope, intercept = 1.0 / frame.precise, intercept / (slope * frame.precise)
    return slope * factor, intercept * factor


def _is_inverted(file: FileFacts) -> bool:
    return file.photometric == "MONOCHROME1" and file.modality in BRIGHT_IS_LOW


def _decode_all(
    volume: Volume,
    frames: Sequence[Frame],
    scaling: Scaling,
    factor: float,
    progress: Callable[[int, int], None] | None,
) -> NDArray[Any]:
    """Return ``(C, z, y, x)`` or ``(C, y, x)``, decoded straight into place; beside it, memory holds a few planes."""
    by_file: dict[FileFacts, list[tuple[int, Frame]]] = defaultdict(list)
    for k, frame in enumerate(frames):
        by_file[frame.file].append((k, frame))
    jobs = _jobs(by_file)
    times, depth = len(volume.frames), len(volume.frames[0])
    rows, columns = volume.first.rows, volume.first.columns
    # One plane is decoded first: only it tells type and number of samples for certain.
    probe = next(_planes(volume.first.file, [(0, volume.first)], scaling, factor))[1]
    samples = 1 if probe.ndim == 2 else probe.shape[2]
    safe = _dtype(volume, frames, probe, scaling, factor)

    def decode_as(dtype: np.dtype[Any]) -> NDArray[Any]:
        out = np.empty((times, samples, depth, rows, columns), dtype=dtype)

        def work(entry: tuple[FileFacts, list[tuple[int, Frame]]]) -> None:
            for k, plane in _planes(*entry, scaling, factor, dtype):
                t, z = divmod(k, depth)
                if (plane.shape[2] if plane.ndim == 3 else 1) != samples:
                    raise ReadError(f"{entry[0].blob.name} has another number of colours than the rest of its series.")
                out[t, :, z] = plane if plane.ndim == 2 else np.moveaxis(plane, 2, 0)

        with ThreadPoolExecutor(max_workers=min(WORKERS, len(jobs))) as pool:
            for done, _ in enumerate(pool.map(work, jobs), start=1):
                if progress is not None:
                    progress(done, len(jobs))
        return out

    # Header ranges are wider than what is there: a CT of 16 bits and intercept -1024 fits int16 all the same.
    small = np.dtype(np.int16) if safe == np.int32 and probe.dtype.itemsize == 2 else safe
    out = _unless_too_small(decode_as, small)
    if out is None:  # the first try is let go before the second begins
        out = decode_as(safe)
    array = out.reshape(times * samples, depth, rows, columns)
    return array[:, 0] if volume.layout != "volume" else array


def _jobs(by_file: dict[FileFacts, list[tuple[int, Frame]]]) -> list[tuple[FileFacts, list[tuple[int, Frame]]]]:
    """Return what one thread does at a time: a file, or where files are few, a run of a file's frames."""
    parts = max(1, WORKERS // len(by_file))
    jobs = []
    for file, wanted in by_file.items():
        numbers = sorted({frame.number for _, frame in wanted})
        size = max(FRAMES_A_JOB, -(-len(numbers) // parts))
        for begin in range(0, len(numbers), size):
            run = set(numbers[begin : begin + size])
            jobs.append((file, [entry for entry in wanted if entry[1].number in run]))
    return jobs


def _unless_too_small(decode_as: Callable[[np.dtype[Any]], NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    try:
        return decode_as(dtype)
    except OverflowError:
        return None


def _planes(
    file: FileFacts, wanted: Sequence[tuple[int, Frame]], scaling: Scaling, factor: float, dtype: Any = None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Decode the frames wanted of one file, one by one; without a type, leave them as stored."""
    numbers = sorted({frame.number for _, frame in wanted})
    by_number: dict[int, list[tuple[int, Frame]]] = defaultdict(list)
    for k, frame in wanted:
        by_number[frame.number].append((k, frame))
    stored: Iterable[NDArray[Any]] | None = plain_frames(file, numbers)
    dataset = None
    if stored is None and (unpacked := packed_frame(file)) is not None:
        stored = [unpacked]
    if stored is None:
        dataset = open_pixels(file)
        stored = decode(file, dataset, numbers)
    for number, array in zip(numbers, stored, strict=True):
        if file.has_lut and array.ndim == 2 and dataset is not None:
            array = modality_lut(array, dataset)
        for k, frame in by_number[number]:
            top, left = frame.corner
            plane = array[top : top + frame.rows, left : left + frame.columns]
            if dtype is not None:
                if _is_inverted(file) and not file.has_lut and plane.dtype.kind in "ui":
                    plane = (2**file.bits - 1 - plane) if not file.signed else (-1 - plane)
                slope, intercept = (1.0, 0.0) if file.has_lut or plane.ndim == 3 else _change(frame, scaling, factor)
                plane = rescale(plane, slope, intercept, dtype)
            yield k, plane


def _dtype(
    volume: Volume, frames: Sequence[Frame], probe: NDArray[Any], scaling: Scaling, factor: float
) -> np.dtype[Any]:
    if probe.ndim == 3 or volume.file.has_lut:
        return probe.dtype.newbyteorder("=")
    low, high = 0, 0
    stored = probe.dtype
    for file in {f.file for f in frames}:
        span = (-(2 ** (file.bits - 1)), 2 ** (file.bits - 1) - 1) if file.signed else (0, 2**file.bits - 1)
        low, high = min(low, span[0]), max(high, span[1])
        if file.signed != volume.file.signed or file.allocated != volume.file.allocated:
            stored = np.dtype(np.int32 if file.allocated <= 16 else np.int64)
    if stored.kind in "ui":
        info = np.iinfo(stored)
        low, high = max(low, int(info.min)), min(high, int(info.max))
        if volume.file.allocated == 1:
            high = 1
    return result_type(stored, low, high, [_change(f, scaling, factor) for f in frames])


def _channel_names(volume: Volume, count: int) -> tuple[str, ...]:
    if count == len(volume.channels):
        return volume.channels
    colours = ("red", "green", "blue", "alpha")[: count // len(volume.channels)]
    if len(volume.channels) == 1:
        return colours
    return tuple(f"{name} {colour}" for name in volume.channels for colour in colours)


def _source(volume: Volume) -> Path:
    blobs = {f.file.blob for t in volume.frames for f in t}
    path = volume.file.blob.path
    return path if len(blobs) == 1 or volume.file.blob.member else path.parent


# Tilt, gaps and uneven steps ----------------------------------------------------------------------------------------


def _straighten(volume: Volume, array: NDArray[Any], fill: float) -> tuple[NDArray[Any], Geometry, list[str]]:
    """Resample to a straight stack of even steps: linear between slices, linear within a slice.

    Where steps are even, no slice is mixed with another: each is only moved within its plane.
    """
    frames = volume.frames[0]
    first = frames[0]
    if first.spacing is None or first.position is None:
        raise GeometryError("A volume's slices have positions and spacings. Got one without.")
    positions = np.array(volume.positions)
    steps = np.diff(positions)
    reasons = {p.override for p in volume.problems}
    if reasons & {"gaps", "irregular"}:
        step = float(np.median(steps)) if "irregular" in reasons else float(steps.min())
        count = int(np.floor((positions[-1] - positions[0]) / step + 1e-3)) + 1
    else:
        step, count = float(steps.mean()), len(positions)
    targets = positions[0] + step * np.arange(count)
    if count > 4 * len(positions) + 16:
        raise ReadError(
            f"The slices lie {steps.min():.3g} to {steps.max():.3g} mm apart; even steps would take {count} slices for "
            f"{len(positions)}. Load a part of the series."
        )
    along = first.normal
    if volume.tilt_degrees:
        shift = np.round(offsets(frames) / np.array(first.spacing), 3)  # in pixels, (rows, columns)
    else:  # what little shear there is stays in the grid, where it is exact
        shift = np.zeros((len(frames), 2))
        along = (np.array(frames[-1].position) - np.array(first.position)) / (positions[-1] - positions[0])
    low, high = np.floor(shift.min(axis=0)).astype(int), np.ceil(shift.max(axis=0)).astype(int)
    rows, columns = first.rows + high[0] - low[0], first.columns + high[1] - low[1]
    if rows > 4 * first.rows or columns > 4 * first.columns:
        raise ReadError(
            f"The slices shift sideways by {np.ptp(shift, axis=0).max():.0f} pixels, too far to be one volume."
        )
    out = np.full((len(array), count, rows, columns), fill, dtype=array.dtype)
    notes = []
    between = 0
    for k, at in enumerate(targets):
        after = int(np.clip(np.searchsorted(positions, at), 1, len(positions) - 1))
        share = float(np.clip((at - positions[after - 1]) / steps[after - 1], 0, 1))
        share = round(share) if abs(share - round(share)) * steps[after - 1] < 0.02 * step else share
        planes = [(after - 1, 1 - share), (after, share)]
        between += 0 < share < 1
        for c in range(len(array)):
            total = np.zeros((rows, columns))
            for source, weight in planes:
                if weight > 0:
                    total += weight * _moved(array[c, source], shift[source] - low, (rows, columns), fill)
            out[c, k] = np.rint(total) if array.dtype.kind in "ui" else total
    if "gaps" in reasons or "irregular" in reasons:
        notes.append(
            f"{between} of {count} slices are interpolated between their neighbours (every {step:.4g} mm), as allowed"
        )
    corner = np.array(first.position)
    corner = corner + np.array(first.along_column) * low[0] * first.spacing[0]
    corner = corner + np.array(first.along_row) * low[1] * first.spacing[1]
    affine = np.eye(4)
    affine[:3, 0] = along * step
    affine[:3, 1] = np.array(first.along_column) * first.spacing[0]
    affine[:3, 2] = np.array(first.along_row) * first.spacing[1]
    affine[:3, 3] = corner
    return out, Geometry(out.shape[1:], affine, "mm"), notes


def _moved(plane: NDArray[Any], by: NDArray[np.float64], shape: tuple[int, int], fill: float) -> NDArray[np.float64]:
    """Return a plane moved by a fraction of pixels inside a larger one, linearly interpolated."""
    whole = np.floor(by + 1e-6).astype(int)
    rest = by - whole
    out = np.full(shape, fill, dtype=np.float64)
    values = plane.astype(np.float64)
    for axis in (0, 1):
        if rest[axis] > 1e-6:
            pad = [(0, 0), (0, 0)]
            pad[axis] = (1, 1)
            wide = np.pad(values, pad, constant_values=fill)
            n = wide.shape[axis]
            values = (1 - rest[axis]) * np.take(wide, range(1, n), axis) + rest[axis] * np.take(
                wide, range(n - 1), axis
            )
    rows, columns = min(values.shape[0], shape[0] - whole[0]), min(values.shape[1], shape[1] - whole[1])
    out[whole[0] : whole[0] + rows, whole[1] : whole[1] + columns] = values[:rows, :columns]
    return out
