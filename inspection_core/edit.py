"""Tools that change the outline of one finding, on arrays alone.

All of them take a small block, cut out by `box_around` so that they answer at once, and return a boolean array of the
block's shape. Lengths are in the grid's unit through `spacing`, in index order, so that a tool means the same on thick
slices as on thin ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inspection_core.errors import UsageError

Mask = NDArray[np.bool_]
Spacing = Sequence[float]

BLOCK_VOXELS = 120_000
"""Largest block that a tool is given: random walker and geodesic distances take about half a second for it."""
PEAKS = 12
"""Thickest places of a finding between which a waist is looked for."""
WAIST = 0.9
"""A finding is cut where it is at most this share as thick as the thinner of its two parts."""
STEP = 0.25
"""Share of its size that a finding grows or shrinks by in one step."""


def box_around(
    mask: Mask, spacing: Spacing, margin: float, limit: int = BLOCK_VOXELS
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the half-open box around a mask, with a margin as far as `limit` voxels allow.

    Parameters
    ----------
    mask
        With at least one voxel.
    spacing, margin
        In the grid's unit.
    limit
        Voxels that the box has at most, unless the mask itself takes more.

    Raises
    ------
    UsageError
        If the mask is empty.
    """
    lines = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    if any(line.size == 0 for line in lines):
        raise UsageError("This finding has no voxel; paint one first.")
    first, last = np.array([line[0] for line in lines]), np.array([line[-1] for line in lines])
    return widened(first, last + 1, mask.shape, spacing, margin, limit)


def widened(
    start: Sequence[int] | NDArray[Any],
    stop: Sequence[int] | NDArray[Any],
    shape: Sequence[int],
    spacing: Spacing,
    margin: float,
    limit: int = BLOCK_VOXELS,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a box with a margin, inside `shape`, and no larger than `limit` voxels where that leaves the box whole."""
    start, stop = np.asarray(start), np.asarray(stop)
    for share in (1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.0):
        by = np.ceil(share * margin / np.asarray(spacing, dtype=float)).astype(int)
        low, high = np.maximum(start - by, 0), np.minimum(stop + by, shape)
        if share == 0.0 or np.prod(high - low) <= limit:
            break
    return tuple(int(v) for v in low), tuple(int(v) for v in high)


def at_level(mask: Mask, score: NDArray[np.floating[Any]], level: float) -> Mask:
    """Return the region above a score that hangs together with a finding.

    Parameters
    ----------
    mask
        The finding.
    score
        Score map of the block.
    level
        Score that voxels are above; where none of the finding is, its highest voxel alone is returned.
    """
    peak = _peak(mask, score)
    if score[peak] <= level:
        only = np.zeros(mask.shape, bool)
        only[peak] = True
        return only
    # As float64, or numpy would round the level to the map's type.
    parts, _ = ndimage.label(score > np.float64(level), np.ones((3,) * mask.ndim))
    wanted = np.unique(parts[mask & (parts > 0)])
    return np.isin(parts, wanted[wanted > 0])


def level_of(mask: Mask, score: NDArray[np.floating[Any]]) -> float:
    """Return the score just below that of a finding's faintest voxel: `at_level` gives the finding back there."""
    lowest = float(score[mask].min())
    return float(np.nextafter(np.float64(lowest), -np.inf))


def grown(mask: Mask, score: NDArray[np.floating[Any]], allowed: Mask | None = None, share: float = STEP) -> Mask:
    """Let a finding grow by a share of its size into the highest scores around it.

    Parameters
    ----------
    mask, score
        Of the block.
    allowed
        Where it may grow; everywhere if not given. Other findings are kept out in this way.
    share
        Of its size, above 0. At least one voxel is added where there is room.
    """
    free = np.ones(mask.shape, bool) if allowed is None else allowed | mask
    wanted = max(1, round(share * int(mask.sum())))
    out = mask.copy()
    while wanted > 0:
        rim = ndimage.binary_dilation(out, ndimage.generate_binary_structure(mask.ndim, 1)) & ~out & free
        places = np.flatnonzero(rim)
        if places.size == 0:
            break
        take = min(wanted, max(1, places.size // 2))  # in several rounds, so that it follows a ridge
        best = places[np.argsort(-score.ravel()[places], kind="stable")[:take]]
        out.ravel()[best] = True
        wanted -= take
    return out


def shrunk(mask: Mask, score: NDArray[np.floating[Any]], share: float = STEP) -> Mask:
    """Take the lowest scores off the rim of a finding, a share of its size; one voxel stays at least."""
    size = int(mask.sum())
    drop = min(max(1, round(share * size)), size - 1)
    out = mask.copy()
    keep = np.ravel_multi_index(_peak(mask, score), mask.shape)
    while drop > 0:
        inner = ndimage.binary_erosion(out, ndimage.generate_binary_structure(mask.ndim, 1), border_value=1)
        places = np.flatnonzero(out & ~inner)
        places = places[places != keep]
        if places.size == 0:
            break
        take = min(drop, max(1, places.size // 2))
        out.ravel()[places[np.argsort(score.ravel()[places], kind="stable")[:take]]] = False
        drop -= take
    return out


def from_seeds(image: NDArray[Any], inside: Mask, outside: Mask, spacing: Spacing, *, method: str = "geodesic") -> Mask:
    """Return what hangs together with seeds, by the picture.

    Parameters
    ----------
    image
        Intensities of the block.
    inside, outside
        Seeds of the finding and of what it is not. Without any of the latter the rim of the block is taken.
    spacing
        In the grid's unit.
    method
        ``"geodesic"``: every voxel goes to the seed that is nearest on a path that pays for changes of intensity
        (Criminisi et al. 2008), quick. ``"random walker"``: to the seed that a random walker reaches first
        (Grady 2006), smoother where the picture is noisy.

    Raises
    ------
    UsageError
        If there is no seed inside, or the method is unknown.
    """
    if not inside.any():
        raise UsageError("Growing needs a seed: paint a few voxels of the finding first.")
    if method not in ("geodesic", "random walker"):
        raise UsageError(f'A method is "geodesic" or "random walker". Got {method!r}.')
    outside = outside & ~inside
    if not outside.any():
        outside = _rim(image.shape) & ~inside
    step = math.ceil((image.size / BLOCK_VOXELS) ** (1 / image.ndim))
    if step > 1:  # a finding that is larger than a block is grown on a coarser grid
        coarse = from_seeds(
            ndimage.uniform_filter(np.asarray(image, dtype=np.float32), step)[(slice(None, None, step),) * image.ndim],
            _pooled(inside, step),
            _pooled(outside, step) & ~_pooled(inside, step),
            [s * step for s in spacing],
            method=method,
        )
        fine = coarse
        for axis in range(image.ndim):
            fine = np.repeat(fine, step, axis)
        return (fine[tuple(slice(n) for n in image.shape)] & ~outside) | inside
    values = _contrasted(image, inside, outside)
    if method == "random walker" and values.std() > 0:  # with nothing to see, the nearer seed decides
        return _random_walk(values, inside, outside, spacing)
    return _geodesic(values, inside, outside, spacing)


def between_slices(mask: Mask, axis: int = 0) -> Mask:
    """Fill the slices between painted ones: their outlines change and move evenly from one to the next.

    The signed distance to the outline is interpolated (Raya and Udupa 1990), so a large disc and a small one have a
    middle one between them, half way from one's middle to the other's. Painted slices stay as they are.

    Parameters
    ----------
    mask
        ``(z, y, x)``, with slices painted along `axis`.
    axis
        Across the slices.

    Raises
    ------
    UsageError
        If fewer than two slices are painted, or none is missing between them.
    """
    planes = np.moveaxis(mask, axis, 0)
    painted = np.flatnonzero(planes.reshape(len(planes), -1).any(axis=1))
    if painted.size < 2 or painted[-1] - painted[0] + 1 == painted.size:
        raise UsageError("Interpolating needs at least two painted slices with empty ones between them.")
    out = planes.copy()
    for low, high in pairwise(painted):
        if high - low == 1:
            continue
        below, above = _signed_distance(planes[low]), _signed_distance(planes[high])
        begin, end = (np.argwhere(planes[z]).mean(axis=0) for z in (low, high))
        for z in range(low + 1, high):
            share = (z - low) / (high - low)
            here = (1 - share) * begin + share * end
            shapes = (ndimage.shift(d, here - c, order=1, mode="nearest") for d, c in ((below, begin), (above, end)))
            out[z] = (1 - share) * next(shapes) + share * next(shapes) > 0
    return np.moveaxis(out, 0, axis)


def without_islands(mask: Mask, keep: int = 1) -> Mask:
    """Return the `keep` largest connected parts of a finding."""
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if count <= keep:
        return mask.copy()
    sizes = np.bincount(parts.ravel())[1:]
    return np.isin(parts, 1 + np.argsort(-sizes, kind="stable")[:keep])


def filled(mask: Mask, axis: int | None = None) -> Mask:
    """Return a finding without holes; with `axis`, holes of each slice across it are filled too."""
    if axis is None or mask.ndim == 2:
        return np.asarray(ndimage.binary_fill_holes(mask))
    planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(mask, axis, 0)]
    return np.asarray(ndimage.binary_fill_holes(np.moveaxis(np.stack(planes), 0, axis)))


def smoothed(mask: Mask, spacing: Spacing, radius: float) -> Mask:
    """Return a finding with an even outline: a Gaussian of `radius` over it, cut at the level that keeps its size."""
    sigma = [radius / s for s in spacing]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")
    size = int(mask.sum())
    if size == 0 or size == mask.size:
        return mask.copy()
    level = np.partition(soft.ravel(), soft.size - size)[soft.size - size]
    out = soft >= max(level, 0.05)
    return out if out.any() else mask.copy()


def split(mask: Mask, spacing: Spacing) -> NDArray[np.int32]:
    """Cut a finding in two or more: into its connected parts, or at its waist where it is one.

    Returns
    -------
    ndarray
        0 outside; parts are numbered from 1, the largest first.

    Raises
    ------
    UsageError
        If it has no waist to cut.
    """
    import skimage.feature
    import skimage.segmentation

    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if count == 1:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[(slice(1, -1),) * mask.ndim]
        depth = ndimage.gaussian_filter(depth, [0.5 * min(spacing) / s for s in spacing])
        apart = max(1, round(float(depth.max()) / max(spacing)))
        peak_local_max: Any = skimage.feature.peak_local_max
        watershed: Any = skimage.segmentation.watershed
        peaks = peak_local_max(
            depth, min_distance=apart, labels=mask.astype(np.int32), num_peaks=PEAKS, exclude_border=False
        )
        near = np.ones((3,) * mask.ndim)
        for other in peaks[1:]:  # a thick part has several peaks of its own: the first one behind a waist counts
            seeds = np.zeros(mask.shape, np.int32)
            seeds[tuple(peaks[0])], seeds[tuple(other)] = 1, 2
            parts = watershed(-depth, seeds, mask=mask)
            seam = ndimage.binary_dilation(parts == 1, near) & (parts == 2)
            if seam.any() and float(depth[seam].max()) <= WAIST * float(depth[tuple(other)]):
                break
        else:
            raise UsageError("This finding has no waist to be cut at. Erase a gap with the eraser, then split again.")
    sizes = np.bincount(parts.ravel())[1:]
    rank = np.zeros(len(sizes) + 1, np.int32)
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    return np.asarray(rank[parts])


def _peak(mask: Mask, score: NDArray[np.floating[Any]]) -> tuple[int, ...]:
    places = np.flatnonzero(mask)
    if places.size == 0:
        raise UsageError("This finding has no voxel; paint one first.")
    best = places[int(score.ravel()[places].argmax())]
    return tuple(int(i) for i in np.unravel_index(best, mask.shape))


def _rim(shape: Sequence[int]) -> Mask:
    rim = np.ones(shape, bool)
    rim[tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)] = False
    return rim


def _pooled(mask: Mask, step: int) -> Mask:
    """Return a mask on a coarser grid: a cell is inside where any of its voxels is."""
    padded = np.pad(mask, [(0, -n % step) for n in mask.shape])
    for axis in range(mask.ndim):
        shape = (*padded.shape[:axis], padded.shape[axis] // step, step, *padded.shape[axis + 1 :])
        padded = np.asarray(padded.reshape(shape).any(axis=axis + 1))
    return padded


def _contrasted(image: NDArray[Any], inside: Mask, outside: Mask) -> NDArray[np.float64]:
    """Return intensities with the median of the outer seeds at 0 and that of the inner ones at 1, cut off beyond.

    A bone or a plate of metal in the block then weighs no more than the finding does.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    at_home, away = float(np.median(values[inside])), float(np.median(values[outside]))
    low, high = np.percentile(values, (1, 99))
    if abs(at_home - away) < 0.02 * (high - low):
        at_home, away = high, low
    if at_home == away:
        return np.zeros(values.shape)
    return np.asarray(np.clip((values - away) / (at_home - away), -1, 2))


def _geodesic(values: NDArray[np.float64], inside: Mask, outside: Mask, spacing: Spacing) -> Mask:
    from skimage.graph import MCP_Geometric

    smooth = ndimage.gaussian_filter(values, 0.5)
    steps = np.sqrt(sum(ndimage.sobel(smooth, axis=a, mode="nearest") ** 2 for a in range(values.ndim)))
    costs = 0.01 + np.asarray(steps) / (8.0 if values.ndim == 2 else 32.0)
    unit = min(spacing)
    reach = []
    for seeds in (inside, outside):
        # The rim of the seeds alone: paths from inner ones pass through it.
        edge = seeds & ~ndimage.binary_erosion(seeds)
        paths = MCP_Geometric(costs, sampling=[s / unit for s in spacing])
        distance, _ = paths.find_costs(np.argwhere(edge).tolist())
        distance[seeds] = 0
        reach.append(distance)
    return np.asarray((reach[0] < reach[1]) | inside)


def _random_walk(values: NDArray[np.float64], inside: Mask, outside: Mask, spacing: Spacing) -> Mask:
    import warnings

    from skimage.segmentation import random_walker

    seeds = np.zeros(values.shape, np.int32)
    seeds[outside], seeds[inside] = 1, 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the solvers that may be installed, and on its own use of scipy
        labels = random_walker(
            values, seeds, beta=300, mode="cg_j", tol=1e-2, spacing=np.asarray(spacing) / min(spacing)
        )
    return np.asarray((labels == 2) | inside)


def _signed_distance(plane: Mask) -> NDArray[np.float64]:
    inside = ndimage.distance_transform_edt(plane)
    outside = ndimage.distance_transform_edt(~plane)
    return np.asarray(inside - outside)
