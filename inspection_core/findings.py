"""From a map to findings: connected regions with box, centroid, size, diameters, peak, mean and confidence.

Regions are connected through faces, edges and corners (8 neighbours in 2-D, 26 in 3-D). All figures of all regions
come from one list of runs, the maximal stretches of a region along the last axis, so that the work grows with the
voxels inside regions and not with the number of regions times the size of the map.

Diameters are distances in the grid's unit, through its affine. Each voxel counts as the diamond between the centres
of its in-plane faces, the convention of scikit-image's ``feret_diameter_max`` (which differs by a tenth of a pixel or
so, as it first draws the convex hull in pixels): a single voxel is one spacing long, and n voxels in a row are n. In
3-D they are measured in slices, in the plane of acquisition, as RECIST 1.1 does: the longest diameter in any slice, and
the largest extent at right angles to it in that slice. Slices lie along the axis whose spacing differs from the two
others', however the array was turned, and along axis 0 where none does. Parts of a region that a slice shows apart
count as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, ModelError, UsageError
from inspection_core.geometry import FloatArray, Geometry
from inspection_core.prediction import Finding
from inspection_core.stretches import CHUNK, Stretches, stretches, touching, within

IntArray = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
PValues = Callable[[Floats], FloatArray]

SAME_SPACING = 0.01
"""Two spacings are the same within this share of them."""
TIE = 1e-9
"""Two diameters are the same within this share of them; rounding must not choose between equal ones."""
FEW = 100
"""Points among which all distances are computed sooner than a hull is found."""
SIZE_UNITS = {("px", 2): "px", ("px", 3): "vox", ("mm", 2): "mm2", ("mm", 3): "mm3"}


def find(
    score: NDArray[np.floating[Any]],
    low: float,
    high: float,
    geometry: Geometry,
    *,
    label: str = "anomaly",
    min_size: int = 1,
    p_values: PValues | None = None,
) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    """Outline what stands out in a score map, with hysteresis.

    A region is a connected set of voxels above `low` whose peak is above `high`.

    Parameters
    ----------
    score
        ``(z, y, x)`` or ``(y, x)``; higher is odder.
    low, high
        Cuts, ``low <= high``; see `inspection_core.threshold.map_cuts`.
    geometry
        Grid of the map.
    label
        Name of the findings.
    min_size
        Voxels that a region has at least.
    p_values
        Function from ``(n,)`` peaks to their p-values, such as `inspection_core.calibrate.p_values` on the peaks of
        good images. A finding's confidence is 1 - p. Without it the p-value is None and the confidence 0: nothing is
        claimed.

    Returns
    -------
    mask
        uint8 of the map's shape: 1 inside findings, else 0.
    findings
        By falling peak, then falling size; ids from 1.

    Raises
    ------
    GeometryError
        If map and grid differ in shape.
    UsageError
        If `low` is above `high`, or one is NaN.
    ModelError
        If the map holds NaN.
    """
    top = _highest(score, geometry)
    if not low <= high:
        raise UsageError(f"Findings need cuts with low <= high. Got {low} and {high}.")
    if not top > high:
        return np.zeros(score.shape, np.uint8), ()
    above = score > _rounded_down(low, score.dtype)
    runs = stretches(above)
    number = touching(runs)
    table = _measure(runs, number, score).where(min_size, high)
    if p_values is None:
        confidence, p = np.zeros(table.size.shape), None
    else:
        p = p_values(table.peak)
        confidence = 1 - p
    mask = above.view(np.uint8)
    runs.fill(~within(number, table.number), mask, 0)
    return mask, _findings(table, geometry, (label,), confidence, p)


def find_labelled(
    labels: NDArray[np.integer[Any]],
    score: NDArray[np.floating[Any]],
    geometry: Geometry,
    classes: Sequence[str],
    *,
    min_size: int = 1,
    spread: NDArray[np.floating[Any]] | None = None,
    copy: bool = True,
) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    """List the connected regions of each class in a label mask, as a segmentation model gives it.

    Parameters
    ----------
    labels
        ``(z, y, x)`` or ``(y, x)``; 0 is background and c is ``classes[c - 1]``.
    score
        Of the same shape: 1 - P(background), in [0, 1].
    geometry
        Grid of both.
    classes
        Names without the background, at most 255.
    min_size
        Voxels that a region has at least; smaller ones leave the mask.
    spread
        Of the same shape: how far the members of the network disagree; findings get the mean inside.
    copy
        Return a mask of its own. Else labels in uint8 become the mask, and what is too small leaves them.

    Returns
    -------
    mask
        uint8 label mask of the regions listed.
    findings
        By falling peak, then falling size; ids from 1. Confidence is the mean score inside, not calibrated: peaks of
        a softmax are near 1 nearly everywhere and tell nothing.

    Raises
    ------
    GeometryError
        If mask or map differ from the grid in shape.
    ModelError
        If the mask holds a class that has no name, or the map holds NaN.
    """
    _highest(score, geometry)
    if labels.shape != geometry.shape:
        raise GeometryError(f"The label mask lies on a grid of shape {geometry.shape}. Got shape {labels.shape}.")
    if len(classes) > np.iinfo(np.uint8).max:
        raise ModelError(f"A mask holds at most 255 classes. Got {len(classes)}; merge some in the card.")
    if labels.dtype.kind not in "uib" or labels.min() < 0 or labels.max() > len(classes):
        raise ModelError(
            f"Labels are whole numbers from 0 to {len(classes)}, one for each class of the card: {list(classes)}. "
            f"Got {labels.dtype} from {labels.min()} to {labels.max()}; compare the card's classes with the model."
        )
    mask = labels.astype(np.uint8, copy=copy)
    box = _box(mask)
    if box is None:
        return mask, ()
    start = [line.start for line in box]
    inside = mask[box]  # a view: what leaves it leaves the mask
    runs = stretches(inside)
    number = touching(runs)
    table = _measure(runs, number, score[box]).where(min_size, -np.inf)
    found = _findings(table, geometry.cropped(start, inside.shape), classes, np.clip(table.mean, 0, 1), None)
    if spread is not None:
        inner, sums = spread[box], np.zeros(int(number.max()) + 1)
        for planes, some, part in runs.slabs():
            np.add.at(sums, number[some], part.reduce(np.add, inner[planes], np.float64))
        means = sums[table.number] / table.size
        found = tuple(replace(f, spread=float(s)) for f, s in zip(found, means, strict=True))
    runs.fill(~within(number, table.number), inside, 0)
    return mask, tuple(_moved(f, start) for f in found)


def dismiss(
    mask: NDArray[np.uint8], findings: Sequence[Finding], classes: Sequence[str], least: float
) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    """Leave out what is hardly ever a lesion: calibrated findings whose confidence is below `least`.

    Parameters
    ----------
    mask, findings
        From `find_labelled`, with confidences from `inspection_core.confidence.with_confidence`.
    classes
        As for `find_labelled`.
    least
        Confidence; see `inspection_core.card.Policy.least`.

    Returns
    -------
    mask, findings
        Those given where nothing is left out; else a mask without their voxels, and the rest, with ids from 1.
    """
    doubtful = [f for f in findings if f.calibrated and f.confidence < least]
    box = _box(mask) if doubtful else None
    if box is None:
        return mask, tuple(findings)
    mask = mask.copy()
    inside = mask[box]
    runs = stretches(inside)
    number = touching(runs)
    table = _measure(runs, number, inside)
    gone = table.number[_rows_of(doubtful, table, classes, [line.start for line in box])]
    runs.fill(within(number, gone), inside, 0)
    kept = (f for f in findings if f.confidence >= least or not f.calibrated)
    return mask, tuple(replace(f, id=n) for n, f in enumerate(kept, start=1))


def _rows_of(findings: Sequence[Finding], table: _Regions, classes: Sequence[str], start: Sequence[int]) -> list[int]:
    """Return the row of each finding in a table of all regions of its mask; `start` is the table's place on the grid.

    Raises
    ------
    GeometryError
        If the findings are not those of the mask.
    """

    def is_of(finding: Finding, row: int) -> bool:
        there = table.centroid[row] + start
        return _fits(finding, classes[int(table.kind[row]) - 1], there)

    return _matched(findings, (table.start + start).tolist(), (table.stop + start).tolist(), is_of)


def _matched(
    findings: Sequence[Finding],
    starts: Iterable[Sequence[int]],
    stops: Iterable[Sequence[int]],
    is_of: Callable[[Finding, int], bool],
) -> list[int]:
    """Return the place of each finding's region among boxes; `is_of` tells those of one box apart."""
    of_box: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        of_box.setdefault((tuple(start), tuple(stop)), []).append(place)
    places = []
    for finding in findings:
        fitting = of_box.get((tuple(finding.start), tuple(finding.stop)), [])
        if len(fitting) > 1:  # one around another
            fitting = [place for place in fitting if is_of(finding, place)]
        if len(fitting) != 1:
            raise GeometryError("The findings are not those of the mask: one has no region of its own.")
        places += fitting
    return places


def _fits(finding: Finding, label: str, centroid: FloatArray) -> bool:
    return label == finding.label and np.allclose(centroid, finding.centroid_index, atol=1e-6)


def regions_of(findings: Sequence[Finding], regions: NDArray[Any], mask: NDArray[Any], classes: Sequence[str],
                start: Sequence[int]) -> NDArray[np.int64]:  # fmt: skip
    """Return the region of each finding: the one of its class that fills its box, with its centroid.

    Parameters
    ----------
    findings
        Of the mask.
    regions
        From `connected`.
    mask, classes
        Class numbers of the same shape, and the names; class c is ``classes[c - 1]``.
    start
        Index of the arrays' first voxel on the findings' grid.

    Raises
    ------
    GeometryError
        If the findings are not those of the mask.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(regions)

    def is_of(finding: Finding, place: int) -> bool:
        own = np.argwhere(regions[boxes[place]] == place + 1) + [e.start for e in boxes[place]]
        return _fits(finding, classes[int(mask[tuple(own[0])]) - 1], own.mean(axis=0) + start)

    starts = [[e.start + a for e, a in zip(box, start, strict=True)] for box in boxes]
    stops = [[e.stop + a for e, a in zip(box, start, strict=True)] for box in boxes]
    return np.asarray(_matched(findings, starts, stops, is_of), dtype=np.int64) + 1


def find_numbered(
    regions: NDArray[np.integer[Any]],
    score: NDArray[np.floating[Any]],
    geometry: Geometry,
    labels: Mapping[int, str],
) -> tuple[Finding, ...]:
    """Measure findings that a person drew, merged or split: each is the voxels of its number, connected or not.

    Parameters
    ----------
    regions
        ``(z, y, x)`` or ``(y, x)``: 0, or a finding's number.
    score
        Of the same shape.
    geometry
        Grid of both.
    labels
        Class name of each number to measure; other numbers are left out.

    Returns
    -------
    tuple of Finding
        Of the numbers that have a voxel, in their order. Confidence is 0 and not calibrated: a model's holds for the
        outline that the model drew, and for no other.

    Raises
    ------
    GeometryError
        If the arrays differ from the grid in shape.
    """
    if regions.shape != geometry.shape or score.shape != geometry.shape:
        raise GeometryError(
            f"Numbers and score lie on a grid of shape {geometry.shape}. Got {regions.shape} and {score.shape}."
        )
    numbers = sorted(labels)
    if not numbers:
        return ()
    # One look-up makes 1, 2, 3, ... of the numbers asked for, and background of the rest.
    place = np.zeros(int(max(numbers[-1], regions.max())) + 1, np.int32)
    place[numbers] = np.arange(1, len(numbers) + 1)
    ordered = place[regions]
    box = _box(ordered)
    if box is None:
        return ()
    start = [line.start for line in box]
    runs = stretches(ordered[box])
    table = _measure(runs, runs.value, score[box])
    names = [labels[n] for n in numbers]
    part = geometry.cropped(start, ordered[box].shape)
    found = _findings(table, part, names, np.zeros(table.size.shape), None)
    there = [numbers[int(k) - 1] for k in table.kind]
    return tuple(replace(_moved(f, start), id=n) for f, n in zip(found, there, strict=True))


def _box(labels: NDArray[Any]) -> tuple[slice, ...] | None:
    """Return the box around everything but 0, or None."""
    lines = []
    for axis in range(labels.ndim):
        some = np.flatnonzero(labels.any(axis=tuple(a for a in range(labels.ndim) if a != axis)))
        if some.size == 0:
            return None
        lines.append(slice(int(some[0]), int(some[-1]) + 1))
    return tuple(lines)


def _moved(finding: Finding, start: Sequence[int]) -> Finding:
    """Return a finding of a part of a grid as one of the whole; its place in the world is the same."""
    return replace(
        finding,
        start=tuple(a + s for a, s in zip(finding.start, start, strict=True)),
        stop=tuple(a + s for a, s in zip(finding.stop, start, strict=True)),
        centroid_index=tuple(a + s for a, s in zip(finding.centroid_index, start, strict=True)),
    )


def _highest(score: NDArray[np.floating[Any]], geometry: Geometry) -> float:
    """Return the peak of the map after checking it; a maximum passes on any NaN."""
    if score.shape != geometry.shape:
        raise GeometryError(f"The score map lies on a grid of shape {geometry.shape}. Got shape {score.shape}.")
    top = float(score.max())
    if np.isnan(top):
        raise ModelError("A score map holds numbers. Got NaN; check the image and the model's weights for NaN.")
    return top


def _rounded_down(cut: float, kind: np.dtype[Any]) -> Any:
    """Return the largest number of a map's type that is not above a cut: a score exceeds both, or neither."""
    near = kind.type(cut)
    return np.nextafter(near, kind.type(-np.inf)) if float(near) > cut else near


def connected(array: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """Return the connected sets of equal values other than 0, numbered from 1 in raster order."""
    import skimage.measure

    label: Any = skimage.measure.label
    regions: NDArray[np.integer[Any]] = label(array, background=0, connectivity=array.ndim)
    return regions


@dataclass(frozen=True, eq=False)
class _Regions:
    """Figures of R regions, all of shape ``(R,)`` or ``(R, ndim)``, in index units, and where their stretches are."""

    number: IntArray  # that their stretches have
    kind: IntArray  # class index, from 1
    start: IntArray
    stop: IntArray
    centroid: Floats
    size: IntArray
    peak: Floats
    mean: Floats
    first: IntArray  # place in the order of the first stretch
    count: IntArray  # of stretches
    order: IntArray  # (n,): all stretches by region, in raster order within each
    of: Stretches

    def runs(self) -> Iterator[IntArray]:
        """Yield ``(n, ndim + 1)`` of each region: the index of each first voxel and the last's last entry."""
        ends = np.cumsum(self.count)
        low = 0
        while low < ends.size:  # of small regions many at once, of large ones no two
            high = max(low + 1, int(np.searchsorted(ends, ends[low] - self.count[low] + CHUNK, "right")))
            places = zip(self.first[low:high].tolist(), self.count[low:high].tolist(), strict=True)
            own = [self.order[first : first + count] for first, count in places]
            rows = self.of.rows(own[0] if len(own) == 1 else np.concatenate(own))
            yield from np.split(rows, ends[low : high - 1] - ends[low] + self.count[low])
            low = high

    def where(self, min_size: int, high: float) -> _Regions:
        """Return the regions of at least `min_size` voxels with a peak above `high`, by falling peak, then size."""
        order = np.lexsort((-self.size, -self.peak))
        order = order[(self.size[order] >= min_size) & (self.peak[order] > high)]
        return _Regions(
            number=self.number[order],
            kind=self.kind[order],
            start=self.start[order],
            stop=self.stop[order],
            centroid=self.centroid[order],
            size=self.size[order],
            peak=self.peak[order],
            mean=self.mean[order],
            first=self.first[order],
            count=self.count[order],
            order=self.order,
            of=self.of,
        )


def _measure(of: Stretches, number: IntArray, score: NDArray[Any]) -> _Regions:
    """Add up stretches, one or more, by the number of their region; its class is what they hold.

    Slab by slab, so that of all stretches no more is held than their order and the sum of the score in each.
    """
    n, regions = len(of.shape), int(number.max()) + 1
    count = np.zeros(regions, np.int64)
    for _, some, _ in of.slabs():
        np.add.at(count, number[some], 1)
    first = np.cumsum(count) - count
    follows = first.copy()  # where the next stretch of each region goes
    order, total = np.empty(of.line.size, np.int32), np.empty(of.line.size)
    kind, size = np.zeros(regions, of.value.dtype), np.zeros(regions, np.int64)
    start, stop = np.full((regions, n), max(of.shape), np.int32), np.zeros((regions, n), np.int32)
    centre, peak = np.zeros((regions, n)), np.full(regions, -np.inf)
    for planes, some, part in of.slabs():
        by = np.argsort(number[some], kind="stable")
        here = number[some][by]
        begin = np.flatnonzero(np.diff(here, prepend=-1))
        here = here[begin]
        times = np.diff(begin, append=by.size)
        place = np.repeat(follows[here] - begin, times) + np.arange(by.size)
        follows[here] += times
        order[place] = by + some.start
        total[place] = part.reduce(np.add, score[planes], np.float64)[by]
        highest = np.maximum.reduceat(part.reduce(np.maximum, score[planes])[by], begin)
        peak[here] = np.maximum(peak[here], highest)
        runs, length = part.rows(by), part.length[by]
        runs[:, 0] += planes.start
        kind[here] = part.value[by[begin]]
        size[here] += np.add.reduceat(length, begin, dtype=np.int64)
        for k in range(n):
            low, high = runs[:, k], runs[:, k + (k == n - 1)]
            start[here, k] = np.minimum(start[here, k], np.minimum.reduceat(low, begin))
            stop[here, k] = np.maximum(stop[here, k], np.maximum.reduceat(high, begin) + 1)
            # Exact, in whatever order: sums of whole numbers and halves.
            centre[here, k] += np.add.reduceat((low + high) / 2 * length, begin)
    there = np.flatnonzero(count)
    if there.size < regions:
        kind, start, stop, centre = kind[there], start[there], stop[there], centre[there]
        size, peak, first, count = size[there], peak[there], first[there], count[there]
    centre /= size[:, None]
    return _Regions(
        number=there,
        kind=kind,
        start=start,
        stop=stop,
        centroid=centre,
        size=size,
        peak=peak,
        mean=np.add.reduceat(total, first) / size,
        first=first,
        count=count,
        order=order,
        of=of,
    )


def _findings(
    table: _Regions, geometry: Geometry, classes: Sequence[str], confidence: Floats, p: FloatArray | None
) -> tuple[Finding, ...]:
    world = geometry.index_to_world(table.centroid)
    size = table.size * geometry.voxel_size
    found = []
    order = _slice_order(geometry)
    for i, runs in enumerate(table.runs()):
        long_axis, short_axis = _diameters(runs if order[0] == 0 else _turned(runs, order), geometry, order[-2:])
        found.append(
            Finding(
                id=i + 1,
                label=classes[int(table.kind[i]) - 1],
                start=tuple(table.start[i].tolist()),
                stop=tuple(table.stop[i].tolist()),
                centroid_index=tuple(table.centroid[i].tolist()),
                centroid_world=tuple(world[i].tolist()),
                size=float(size[i]),
                size_unit=SIZE_UNITS[geometry.unit, geometry.ndim],
                long_axis=long_axis,
                short_axis=short_axis,
                peak=float(table.peak[i]),
                mean=float(table.mean[i]),
                confidence=float(confidence[i]),
                calibrated=p is not None,
                p_value=None if p is None else float(p[i]),
            )
        )
    return tuple(found)


def _slice_order(geometry: Geometry) -> tuple[int, ...]:
    """Return the axes of a grid with that across the plane of acquisition first."""
    axes = tuple(range(geometry.ndim))
    if geometry.ndim == 2:
        return axes
    for axis in axes:
        a, b = (geometry.spacing[k] for k in axes if k != axis)
        if math.isclose(a, b, rel_tol=SAME_SPACING) and not math.isclose(
            geometry.spacing[axis], a, rel_tol=SAME_SPACING
        ):
            return (axis, *(k for k in axes if k != axis))
    return axes


def _turned(runs: IntArray, order: Sequence[int]) -> IntArray:
    """Return the runs of a region's voxels with their axes in another order."""
    length = runs[:, -1] - runs[:, -2] + 1
    voxels = np.repeat(runs[:, :-1], length, axis=0)
    voxels[:, -1] += np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    voxels = voxels[:, order]
    voxels = voxels[np.lexsort(voxels.T[::-1])]
    follows = (np.diff(voxels[:, :-1], axis=0) == 0).all(axis=1) & (np.diff(voxels[:, -1]) == 1)
    first = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    last = np.append(first[1:], len(voxels)) - 1
    return np.column_stack([voxels[first], voxels[last, -1]])


def _diameters(runs: IntArray, geometry: Geometry, plane_axes: Sequence[int]) -> tuple[float, float]:
    """Return the longest in-plane diameter and the largest extent at right angles to it, in the grid's unit."""
    # The Cholesky factor of the Gram matrix keeps all in-plane lengths and angles: spacing, tilt and shear.
    axes = geometry.affine[:-1, list(plane_axes)]
    plane = np.linalg.cholesky(axes.T @ axes).T
    if geometry.ndim == 2:
        return _feret(runs, plane)
    slices = [s[:, 1:] for s in np.split(runs, np.flatnonzero(runs[1:, 0] != runs[:-1, 0]) + 1)]
    # The longer diagonal of a slice's box bounds its diameter, so most slices need no hull.
    extent = np.array([[s[-1, 0] - s[0, 0] + 1, s[:, 2].max() - s[:, 1].min() + 1] for s in slices])
    bound = np.maximum(*(np.linalg.norm(extent * signs @ plane.T, axis=1) for signs in ((1, 1), (1, -1))))
    best = (0.0, 0.0)
    for i in np.argsort(-bound, kind="stable"):
        if bound[i] < best[0] * (1 - TIE):
            break
        pair = _feret(slices[i], plane)
        if pair[0] > best[0] * (1 + TIE) or (pair[0] > best[0] * (1 - TIE) and pair[1] > best[1]):
            best = pair
    return best


def _feret(runs: IntArray, plane: Floats) -> tuple[float, float]:
    """Return the diameters of one slice's runs ``(y, first x, last x)``, in raster order."""
    from scipy.spatial.distance import cdist

    line = np.flatnonzero(np.diff(runs[:, 0], prepend=runs[0, 0] - 1))  # of a line's runs only the ends matter
    y = (runs[line, 0] - runs[0, 0]).astype(np.float64)
    left = runs[line, 1].astype(np.float64)
    right = runs[np.append(line[1:], len(runs)) - 1, 2].astype(np.float64)
    tips = []
    for x, outwards in ((left, -1), (right, 1)):
        at, out = _upper_hull(y, outwards * x)
        end = outwards * out
        tips += [at, end + outwards / 2, at - 0.5, end, at + 0.5, end]
    points = np.stack([np.concatenate(tips[::2]), np.concatenate(tips[1::2])], axis=1)
    if len(points) > FEW:
        from scipy.spatial import ConvexHull

        # A hull maps with its points, and in index units no spacing can flatten it: it holds at least one diamond.
        points = points[ConvexHull(points).vertices]
    corners = points @ plane.T
    distances = cdist(corners, corners)
    long_axis = float(distances.max())
    a, b = np.nonzero(distances >= long_axis * (1 - TIE))
    along = (corners[b] - corners[a]) / distances[a, b][:, None]
    across = np.stack([-along[:, 1], along[:, 0]])
    return long_axis, float(np.ptp(corners @ across, axis=0).max())


def _upper_hull(y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return the corners of the upper hull of a line ``x`` over ascending ``y``, its ends among them."""
    if len(y) > 2:  # most points are not above the straight between their neighbours, and so no corners
        dy, dx = np.diff(y), np.diff(x)
        bends = np.ones(len(y), bool)
        np.greater(dx[:-1] * dy[1:], dx[1:] * dy[:-1], out=bends[1:-1])
        y, x = y[bends], x[bends]
    corners: list[tuple[float, float]] = []
    for y2, x2 in zip(y.tolist(), x.tolist(), strict=True):
        while len(corners) > 1:  # Andrew 1979: without the last one, if it is no longer above
            (y0, x0), (y1, x1) = corners[-2:]
            if (x1 - x0) * (y2 - y1) > (x2 - x1) * (y1 - y0):
                break
            corners.pop()
        corners.append((y2, x2))
    found = np.array(corners)
    return found[:, 0], found[:, 1]
