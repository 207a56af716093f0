"""How a volume's own grid and a network's input lie to each other, and the way between the two.

A volume is turned by whole axes to the card's orientation, cut to a box, resized, and padded at its ends. All of it is
separable, so one line of numbers an axis says where each source voxel lies on the network's grid. The way back is
taken block by block as the network gives them, so that the classes of a whole volume never stand side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import WORLD_AXES
from inspection_core.crew import Crew
from inspection_core.geometry import Geometry
from inspection_core.tiling import pieces

if TYPE_CHECKING:
    import torch

SLAB_BYTES = 32 << 20
"""Size of the pieces that a volume is resized and restored in."""
_TIE = 1e-6


@dataclass(frozen=True)
class Placement:
    """Where a volume lies on the network's grid. All shapes are in index order.

    Parameters
    ----------
    source
        Shape of the source array ``(z, y, x)``; a 2-D image is ``(1, y, x)``.
    axes
        Source axis that becomes each axis of the oriented array.
    flips
        Whether each axis of the oriented array runs against the source's.
    start, size
        Box of the oriented array that the network looks at.
    resized
        Shape of that box on the network's grid.
    padded
        Shape of the network's input; what is added lies at the ends.
    """

    source: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    resized: tuple[int, ...]
    padded: tuple[int, ...]

    @classmethod
    def plain(cls, source: Sequence[int], resized: Sequence[int]) -> Placement:
        """Return the placement of a 2-D image that is resized and nothing else."""
        shape, inner = (1, *source), (1, *resized)
        return cls(shape, (0, 1, 2), (False,) * 3, (0, 0, 0), shape, inner, inner)

    def turned(self, order: Sequence[int]) -> Placement:
        """Return the placement with the axes of the oriented array, and of the network's grid, in another order."""
        lines = [self.axes, self.flips, self.start, self.size, self.resized, self.padded]
        return Placement(self.source, *(tuple(line[a] for a in order) for line in lines))  # type: ignore[arg-type]

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the box of an array of shape `source` as an oriented view, which can be written through."""
        turned = array.transpose(self.axes)[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]
        return turned[tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))]


def orient(geometry: Geometry, letters: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the order and the flips of axes that bring a 3-D grid closest to an orientation.

    Parameters
    ----------
    geometry
        Grid of the source.
    letters
        Where x, y and z shall point to, such as ``"LPS"``; empty leaves the grid as it is.

    Returns
    -------
    axes, flips
        As in `Placement`. The same voxels in another array order give the same oriented array, also where two axes are
        equally close to two directions.
    """
    if not letters:
        return (0, 1, 2), (False, False, False)
    steps = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    wanted = [(WORLD_AXES[letter], 1 if letter in "LPS" else -1) for letter in letters[::-1]]  # of z, y, x

    def fit(axes: Sequence[int]) -> float:
        total = 0.0
        for source, (world, _) in zip(axes, wanted, strict=True):
            v = steps[:, source]
            # At 45 degrees two orders fit alike. The second term knows a line from its mirror image, whatever its sign.
            total += abs(v[world]) + _TIE * (world + 1) * (v[0] * v[1] + 2 * v[1] * v[2] + 3 * v[0] * v[2])
        return float(total)

    best = max(itertools.permutations(range(3)), key=lambda axes: round(fit(axes), 9))
    flips = tuple(bool(steps[world, a] * sign < 0) for a, (world, sign) in zip(best, wanted, strict=True))
    return tuple(best), flips


def resize(planes: Iterator[torch.Tensor], depth: int, out: torch.Tensor) -> None:
    """Resize a volume, given plane by plane, into `out` ``(d, h, w)``: linear, with anti-aliasing where it shrinks.

    The outer edges of the field of view stay in place. Memory is bounded by `out` and, where the number of planes
    changes, by all planes at their new size.
    """
    import torch
    import torch.nn.functional as F

    size = tuple(out.shape[1:])
    same = depth == out.shape[0]
    stack = out if same else torch.empty((depth, *size), dtype=torch.float32)
    for target, plane in zip(stack, planes, strict=True):
        if tuple(plane.shape) != size:
            plane = F.interpolate(plane[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)[
                0, 0
            ]
        target.copy_(plane)
    if same:
        return
    rows = max(1, SLAB_BYTES // (4 * max(depth, out.shape[0]) * size[1]))
    for y in range(0, size[0], rows):
        part = stack[:, y : y + rows]
        flat = part.reshape(1, 1, depth, -1)
        thin = F.interpolate(
            flat, size=(out.shape[0], flat.shape[-1]), mode="bilinear", antialias=True, align_corners=False
        )
        out[:, y : y + rows].copy_(thin.reshape(out.shape[0], *part.shape[1:]))


def restore_map(
    grid: NDArray[np.floating[Any]], place: Placement, stride: Sequence[int], offset: Sequence[float]
) -> NDArray[np.float32]:
    """Bring a score map from the network's cells back to the source's own grid.

    Parameters
    ----------
    grid
        ``(d, h, w)`` cells.
    place
        How the source was placed.
    stride, offset
        Of each axis: input voxels from one cell to the next, and the input voxel at the centre of cell 0.

    Returns
    -------
    float32 array of shape ``place.source``
        Linear between cells; 0 outside the box that the network looked at.
    """
    score = np.zeros(place.source, np.float32)
    inside = place.view(score)
    for rows, values in _slabs(grid[None], _lines(grid.shape, place, stride, offset), slice(0, place.size[0])):
        inside[rows] = values[0]
    return score


def restore_classes(
    foreground: NDArray[np.floating[Any]],
    place: Placement,
    stride: Sequence[int],
    offset: Sequence[float],
    cut: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Bring class probabilities back to the source's own grid, as a score map and a label mask.

    Parameters
    ----------
    foreground
        ``(K, d, h, w)`` probabilities of the classes without the background, which is what is left to 1.
    place, stride, offset
        As for `restore_map`.
    cut
        Of the policy: 1 - P(background) above which a voxel is of its most probable class; 0 compares the background
        like any class.

    Returns
    -------
    score
        float32 of shape ``place.source``: 1 - P(background).
    mask
        uint8: the class of the highest probability, from 1; 0 where none is above the background's, or the cut is not
        reached.
    """
    whole = ClassMap(len(foreground), foreground.shape[1:], place, stride, offset, cut)
    whole.add(tuple(slice(0, n) for n in foreground.shape[1:]), foreground)
    score, mask, _ = whole.result()
    return score, mask


class ClassMap:
    """Score map and label mask on the source's own grid, made from the probabilities of blocks as they come.

    Where the network's cells are the source's voxels, a block is finished at once. Else a layer of blocks is gathered,
    and each plane of the source is interpolated as soon as the cells around it are there.

    Parameters
    ----------
    classes
        K, without the background.
    cells
        Shape of the network's grid.
    place, stride, offset, cut
        As for `restore_classes`.
    spread
        Whether one channel more follows the classes, which is brought back as it is.
    order
        All axes, the outermost first, in which blocks come.
    crew
        Who decides; the caller alone if not given.
    """

    def __init__(
        self,
        classes: int,
        cells: Sequence[int],
        place: Placement,
        stride: Sequence[int],
        offset: Sequence[float],
        cut: float = 0.0,
        spread: bool = False,
        order: Sequence[int] = (0, 1, 2),
        crew: Crew | None = None,
    ) -> None:
        self._crew = crew or Crew()
        self._plain = place.resized == place.size and all(s == 1 for s in stride) and not any(offset)
        if self._plain:
            order = (0, 1, 2)  # blocks that are finished at once may come in any
        self._classes, self._cut, self._order = classes, cut, tuple(order)
        self._cells, self._place = tuple(cells[a] for a in order), place.turned(order)
        self._score, self._mask = np.zeros(place.source, np.float32), np.zeros(place.source, np.uint8)
        self._spread = np.zeros(place.source, np.float32) if spread else None
        self._lines = _lines(self._cells, self._place, [stride[a] for a in order], [offset[a] for a in order])
        self._stack: NDArray[Any] = np.zeros((classes + spread, 0, *self._cells[1:]), np.float16)
        self._first = 0  # plane of cells that the stack begins with
        self._row = 0  # plane of the source's box that is next

    def add(self, block: tuple[slice, ...], values: NDArray[np.floating[Any]]) -> None:
        """Take in ``(K, *block)`` probabilities, with the spread behind them where there is one.

        Blocks come layer by layer along the outermost axis, and those of one layer have the same planes.
        """
        block = tuple(block[a] for a in self._order)
        values = values.transpose(0, *(a + 1 for a in self._order))
        if self._plain:
            inner = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(block, self._place.resized, strict=True))
            if all(s.start < s.stop for s in inner):
                cut = tuple(slice(0, s.stop - s.start) for s in inner)
                self._put(inner, np.asarray(values[(slice(None), *cut)], np.float32))
            return
        planes, *rest = block
        if all((s.start, s.stop) == (0, n) for s, n in zip(block, self._cells, strict=True)):
            self._stack = values
        else:
            grow = planes.stop - self._first - self._stack.shape[1]
            if grow > 0:
                more = np.zeros((len(self._stack), grow, *self._cells[1:]), np.float16)
                self._stack = np.concatenate([self._stack, more], axis=1)
            at = slice(planes.start - self._first, planes.stop - self._first)
            self._stack[(slice(None), at, *rest)] = values
        if rest[0].stop == self._cells[1] and rest[1].stop == self._cells[2]:
            self._finish(planes.stop)

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32] | None]:
        """Return score, mask and spread, all of shape ``place.source``, once all blocks were given."""
        return self._score, self._mask, self._spread

    def _finish(self, upto: int) -> None:
        """Write the planes of the source that lie between cells before plane `upto`, and forget what they needed."""
        below, share = self._lines[0]
        ready = int(np.searchsorted(below + (share > 0), upto))
        if ready > self._row:
            lines = [(below - self._first, share), *self._lines[1:]]
            for rows, values in _slabs(self._stack, lines, slice(self._row, ready)):
                self._put((rows, *(slice(0, n) for n in self._place.size[1:])), values)
            self._row = ready
        keep = min(int(below[ready]) if ready < below.size else upto, upto) - self._first
        if keep > 0:
            self._stack, self._first = self._stack[:, keep:].copy(), self._first + keep

    def _put(self, at: tuple[slice, ...], values: NDArray[np.float32]) -> None:
        first, *rest = at

        def some(part: slice) -> None:
            rows = (slice(first.start + part.start, first.start + part.stop), *rest)
            score, labels = decide(values[: self._classes, part], self._cut)
            self._place.view(self._score)[rows] = score
            self._place.view(self._mask)[rows] = labels
            if self._spread is not None:
                self._place.view(self._spread)[rows] = values[-1, part]

        self._crew.share(some, pieces(values.shape[1:]))


def decide(probabilities: NDArray[np.float32], cut: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return 1 - P(background) and the class of each voxel from ``(K, ...)`` probabilities without the background.

    `cut` is as for `restore_classes`.
    """
    total = probabilities.sum(axis=0)
    labels = np.zeros(total.shape, np.uint8)
    highest = np.where(total > cut, 0, np.inf).astype(np.float32) if cut else 1 - total
    above = np.empty(total.shape, np.bool_)
    for k, value in enumerate(probabilities, start=1):
        np.greater(value, highest, out=above)
        np.copyto(labels, np.uint8(k), where=above)
        np.maximum(highest, value, out=highest)
    return np.clip(total, 0, 1, out=total), labels


def _lines(
    cells: Sequence[int], place: Placement, stride: Sequence[int], offset: Sequence[float]
) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Return, for each axis of the source's box, the cell below each voxel and the share of the next one."""
    lines = []
    for n, inner, outer, s, o in zip(cells, place.resized, place.size, stride, offset, strict=True):
        at = (np.arange(outer) + 0.5) * (inner / outer) - 0.5  # source voxel -> input voxel
        last = min(n - 1.0, max(0.0, (inner - 1 - o) / s))  # cells beyond look at padding
        at = np.clip((at - o) / s, 0, last)
        below = np.minimum(at.astype(np.intp), max(0, n - 2))
        lines.append((below, np.asarray(at - below, np.float32)))
    return lines


def _slabs(
    stack: NDArray[np.floating[Any]], lines: Sequence[tuple[NDArray[np.intp], NDArray[np.float32]]], rows: slice
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield slabs ``(K, planes, y, x)`` of some rows of the oriented box, linearly interpolated between cells."""
    size = max(1, SLAB_BYTES // (4 * len(stack) * lines[1][0].size * lines[2][0].size))
    for z in range(rows.start, rows.stop, size):
        part = slice(z, min(z + size, rows.stop))
        values: NDArray[Any] = stack
        for axis, (below, share) in enumerate(lines, start=1):
            at, weight = (below[part], share[part]) if axis == 1 else (below, share)
            values = _between(values, axis, at, weight)
        yield part, np.asarray(values, np.float32)


def _between(values: NDArray[Any], axis: int, below: NDArray[Any], share: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = share.any()
    if not moved and below[-1] - below[0] == below.size - 1:  # one for one: no copy
        return values[(slice(None),) * axis + (slice(int(below[0]), int(below[-1]) + 1),)]
    low = np.take(values, below, axis=axis).astype(np.float32, copy=False)
    if moved:
        high = np.take(values, np.minimum(below + 1, values.shape[axis] - 1), axis=axis).astype(np.float32, copy=False)
        high -= low
        high *= share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        low += high
    return low
