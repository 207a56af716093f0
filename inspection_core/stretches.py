"""Connected regions of a mask, found from its stretches: the maximal rows of equal voxels along the last axis.

A mask of some hundred lines has some hundred stretches where it has some hundred thousand voxels. Which of them touch
is found by searching sorted lists, so what is made is small: no number for every voxel, as labelling needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]

PIECE = 1 << 20
"""Voxels that are looked at together: of a large mask, and of its values, no copy is made as a whole."""
CHUNK = 1 << 15
"""Stretches whose neighbours are looked for together; a scan with many small structures has millions."""


@dataclass(frozen=True, eq=False)
class Stretches:
    """The stretches of a mask in raster order.

    Parameters
    ----------
    shape
        Of the mask, ``(z, y, x)`` or ``(y, x)``.
    value
        ``(n,)``: what the voxels of each stretch hold; never 0.
    line
        ``(n,)``: the place of each stretch's line among all lines, in raster order.
    start, stop
        ``(n,)``: first voxel along the last axis, and the one after the last.

    A scan with rough structures has many millions of stretches, so types are small: values have the mask's, lines are
    int32, and the other two uint16 where lines are short enough.
    """

    shape: tuple[int, ...]
    value: IntArray
    line: IntArray
    start: IntArray
    stop: IntArray

    @property
    def first(self) -> IntArray:
        """Place of each stretch's first voxel among all voxels, in raster order."""
        return self.line.astype(np.int64) * self.shape[-1] + self.start

    @property
    def length(self) -> IntArray:
        """Voxels of each stretch."""
        return self.stop - self.start

    def rows(self, which: IntArray | None = None) -> IntArray:
        """Return ``(n, ndim + 1)``: the index of each first voxel, and the last entry of the last voxel's.

        Parameters
        ----------
        which
            Places of the stretches to return, all without.
        """
        count = self.line.size if which is None else which.size
        rows = np.empty((count, len(self.shape) + 1), np.int32)
        for part in _chunks(count):
            some = part if which is None else which[part]
            line = self.line[some]
            for column, index in enumerate(np.unravel_index(line, self.shape[:-1]) if rows.shape[1] > 3 else (line,)):
                rows[part, column] = index
            rows[part, -2], rows[part, -1] = self.start[some], self.stop[some] - 1
        return rows

    def slabs(self) -> Iterator[tuple[slice, slice, Stretches]]:
        """Yield slabs of the mask that hold a stretch: its planes, the places of its stretches, and these alone."""
        lines = math.prod(self.shape[1:-1])
        for planes in _slabs(self.shape):
            if planes.stop == self.shape[0] and planes.start == 0:  # most images: nothing is cut
                if self.line.size:
                    yield planes, slice(0, self.line.size), self
                return
            above = planes.start * lines
            some = slice(*np.searchsorted(self.line, [above, planes.stop * lines]).tolist())
            if some.start < some.stop:
                shape = (planes.stop - planes.start, *self.shape[1:])
                line = self.line[some] - np.int32(above)
                yield planes, some, Stretches(shape, self.value[some], line, self.start[some], self.stop[some])

    def reduce(self, ufunc: np.ufunc, values: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
        """Return ``(n,)``: a reduction, such as ``numpy.add``, of the values in each stretch."""
        given = np.zeros(self.line.size, dtype or values.dtype)
        for planes, some, part in self.slabs():
            first = part.first
            ends = np.stack([first, first + part.length], axis=1).ravel()
            # What lies between two stretches is reduced too, and left out of the result.
            inside = values[planes].reshape(-1)[: ends[-1]]
            given[some] = ufunc.reduceat(inside, ends[:-1], dtype=dtype)[::2]
        return given

    def fill(self, chosen: NDArray[np.bool_], array: NDArray[Any], value: Any) -> None:
        """Write a value into the voxels of the chosen stretches, in place; the array may be a part of another."""
        for part in _chunks(chosen.size if chosen.any() else 0):
            for *line, first, last in self.rows(part.start + np.flatnonzero(chosen[part])).tolist():
                array[(*line, slice(first, last + 1))] = value


def stretches(mask: NDArray[Any]) -> Stretches:
    """Return the stretches of a mask: boolean, of classes, or of numbers of regions."""
    lines = math.prod(mask.shape[1:-1])
    found = [_stretches(mask[part], part.start * lines) for part in _slabs(mask.shape)]
    if len(found) == 1:
        return Stretches(mask.shape, *found[0])
    columns = [list(parts) for parts in zip(*found, strict=True)]
    del found
    # The parts of one are gone before the next is put together.
    value, line, start, stop = (np.concatenate(columns.pop(0)) for _ in range(4))
    return Stretches(mask.shape, value, line, start, stop)


def within(number: IntArray, listed: IntArray) -> NDArray[np.bool_]:
    """Say which numbers, from 0, are listed; `numpy.isin` takes many times the memory of what it returns."""
    is_listed = np.zeros(int(number.max(initial=-1)) + 1, bool)
    is_listed[listed] = True
    answer = np.empty(number.size, bool)
    for part in _chunks(number.size):
        answer[part] = is_listed[number[part]]
    return answer


def _chunks(count: int) -> Iterator[slice]:
    """Yield slices of so many stretches: an index of them all is a copy of 8 bytes each."""
    for begin in range(0, count, CHUNK):
        yield slice(begin, min(begin + CHUNK, count))


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Yield slabs of planes of a mask, or of lines of a flat one, one at least."""
    step = max(1, PIECE // max(1, math.prod(shape[1:])))
    for first in range(0, max(1, shape[0]), step):
        yield slice(first, min(first + step, shape[0]))


def _stretches(mask: NDArray[Any], above: int) -> tuple[IntArray, ...]:
    """Return value, line, start and stop of the stretches of a slab with so many lines before it."""
    width = mask.shape[-1]
    lines = np.ascontiguousarray(mask).reshape(-1, width)
    seen = np.flatnonzero(lines.any(axis=1))  # most lines of most masks are empty
    part = lines[seen]
    begins = np.ones(part.shape, bool)
    np.not_equal(part[:, 1:], part[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    value, length = part.ravel()[first], np.diff(first, append=part.size)
    some = np.flatnonzero(value)
    line, start = np.divmod(first[some], width)
    short = np.uint16 if width <= np.iinfo(np.uint16).max else np.int32
    stop = start + length[some]
    return value[some], (seen[line] + above).astype(np.int32), start.astype(short), stop.astype(short)


def touching(of: Stretches) -> IntArray:
    """Return for each stretch the number of its region, from 0 in the order of their first voxels.

    Voxels of one value are connected through faces, edges and corners: 8 neighbours in 2-D, 26 in 3-D.

    Stretches are gone through in raster order, some at a time. Each gets the place of the first stretch that it is
    known to be connected with. Where two such places turn out to be one region, that is noted, and settled at the end.
    """
    count = of.line.size
    first = np.zeros(count, np.int32)
    notes = []
    for part in _chunks(count):
        begin = part.start
        chunk = np.arange(begin, part.stop)
        a, b = _neighbours(of, chunk)
        earlier = b < begin
        before = first[b[earlier]]
        known = np.unique(before)
        places = np.concatenate([known, chunk])  # ascending
        other = b - begin + known.size
        other[earlier] = np.searchsorted(known, before)
        lowest = _lowest(places, a - begin + known.size, other)
        first[part] = lowest[known.size :]
        lowest = lowest[: known.size].astype(np.int32)
        moved = lowest < known
        notes.append(np.stack([known[moved], lowest[moved]]))
    # Numbered by their first stretch.
    leads = np.zeros(count, bool)
    for part in _chunks(count):
        leads[first[part]] = True
    noted = np.concatenate(notes, axis=1) if notes else np.zeros((2, 0), np.int32)
    del notes
    other, to = _settled(*noted)
    leads[other] = False
    number = np.cumsum(leads, dtype=np.int32)
    number -= 1
    number[other] = number[to]
    for part in _chunks(count):
        first[part] = number[first[part]]
    return first


def _settled(a: IntArray, b: IntArray) -> tuple[IntArray, IntArray]:
    """Return the places that are not the lowest of those that pairs connect them with, and the lowest of each."""
    if not a.size:
        return a, b
    places = np.unique([a, b])
    lowest = _lowest(places, np.searchsorted(places, a), np.searchsorted(places, b))
    moved = lowest < places
    return places[moved], lowest[moved]


def _neighbours(of: Stretches, chunk: IntArray) -> tuple[IntArray, IntArray]:
    """Return the stretches of a chunk, and those before them in raster order that they touch, pair by pair."""
    rows = of.shape[:-1]
    back = sum(math.prod(rows[k:]) for k in range(1, len(rows) + 1))  # lines to the first that can touch
    begin = int(np.searchsorted(of.line, int(of.line[chunk[0]]) - back))
    part = slice(begin, int(chunk[-1]) + 1)
    span = of.shape[-1] + 2
    lines = of.line[part].astype(np.int64) * span
    starts, stops = lines + of.start[part], lines + of.stop[part]
    index = np.stack(np.unravel_index(of.line[chunk], rows), axis=1)
    pairs = []
    for step in _before(len(rows)):
        other = index + step
        there = np.flatnonzero(((other >= 0) & (other < rows)).all(axis=1))
        if not there.size:
            continue
        line = np.ravel_multi_index(tuple(other[there].T), rows) * span
        # Of the other line's stretches, those that end at this one's start or later and begin at its stop or earlier.
        low = np.searchsorted(stops, line + of.start[chunk[there]])
        many = np.maximum(np.searchsorted(starts, line + of.stop[chunk[there]], "right") - low, 0)
        place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        pairs.append(np.stack([np.repeat(chunk[there], many), begin + np.repeat(low, many) + place]))
    a, b = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    same = of.value[a] == of.value[b]
    return a[same], b[same]


def _lowest(places: IntArray, a: IntArray, b: IntArray) -> IntArray:
    """Return for each of some ascending places the lowest that it is connected with, given connected pairs of them."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    graph = sparse.coo_array((np.ones(a.size, bool), (a, b)), shape=(places.size, places.size))
    _, number = connected_components(graph, directed=False)
    _, first = np.unique(number, return_index=True)
    lowest: IntArray = places[first][number]
    return lowest


def _before(axes: int) -> list[NDArray[np.int64]]:
    """Return the steps to those of a line's neighbours that come before it in raster order."""
    steps = itertools.product((-1, 0, 1), repeat=axes)
    return [np.array(step, np.int64) for step in steps if step < (0,) * axes]
