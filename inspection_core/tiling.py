"""Windows over a large grid, and blended stitching, for any number of axes.

A window's outer cells see less context than its inner ones. Where windows overlap, results are blended with weights
that fall linearly towards a window's inner borders, so that no seam shows; along the image's own border the weight does
not fall. `Stitcher` keeps the whole result; `Blend` hands it out block by block, and keeps only what later windows
still change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.crew import Crew
from inspection_core.errors import GeometryError

if TYPE_CHECKING:
    import torch

GAUSSIAN_FLOOR = 1e-3
"""Least weight of a Gaussian, as MONAI has it: where all windows are far from their centres, they count alike."""
HALF_ABOVE = 8 << 20
"""Bytes above which sums that wait for later windows are kept as float16. Sums are added in float32; rounding a part
that waits costs at most 5e-4 of it."""
PIECE = 1 << 15
"""Cells that are weighed, normalised or decided at a time."""

Window = tuple[slice, ...]


def windows(
    shape: Sequence[int], size: Sequence[int], overlap: float = 0.25, step: int = 1, even: bool = True
) -> list[Window]:
    """Cover a grid with windows of one fixed size.

    Parameters
    ----------
    shape
        Grid to cover, one entry an axis.
    size
        Size of a window; an axis shorter than it gets one window as long as the axis.
    overlap
        Smallest share of a window that it has in common with the next, in [0, 1).
    step
        Windows begin at multiples of this (the network's stride), and `shape` and `size` are multiples of it.
    even
        Space windows evenly, so that all overlaps are alike. Else each begins a window less the overlap after the one
        before, and the last is moved back to end at the border, which is MONAI's way.

    Returns
    -------
    list of tuple of slice
        In index order. All windows have the same size.

    Raises
    ------
    GeometryError
        If sizes are no multiples of `step`, or the overlap is out of range.
    """
    if not 0 <= overlap < 1:
        raise GeometryError(f"The overlap of windows is in [0, 1). Got {overlap}.")
    if len(shape) != len(size):
        raise GeometryError(f"A window has as many axes as the grid, {len(shape)}. Got {len(size)}.")
    axes = []
    for n, want in zip(shape, size, strict=True):
        w = min(n, want)
        if n % step or w % step or w < step:
            raise GeometryError(f"Grid and window are multiples of {step}. Got a grid of {n} and a window of {want}.")
        reach = max(step, w * (1 - overlap)) if even else max(step, int(w * (1 - overlap)) // step * step)
        count = 1 if w == n else int(np.ceil((n - w) / reach)) + 1
        if even:
            starts = {round(i * (n - w) / max(1, count - 1) / step) * step for i in range(count)}
        else:
            starts = {min(i * int(reach), n - w) for i in range(count)}
        axes.append([slice(s, s + w) for s in sorted(starts)])
    return [tuple(w) for w in itertools.product(*axes)]


class Stitcher:
    """Blends the results of overlapping windows into one array.

    Parameters
    ----------
    shape
        Shape of the whole result.
    ramp
        Cells over which a window's weight rises from its inner borders, per axis; at most half a window.
    """

    def __init__(self, shape: Sequence[int], ramp: int) -> None:
        self.shape = tuple(shape)
        self.ramp = ramp
        self._sum = np.zeros(self.shape, dtype=np.float64)
        self._weight = np.zeros(self.shape, dtype=np.float64)

    def add(self, window: Window, values: NDArray[Any]) -> None:
        """Blend in `values`, an array of the window's shape."""
        weight = self.weight(window)
        self._sum[window] += values * weight
        self._weight[window] += weight

    def weight(self, window: Window) -> NDArray[np.float64]:
        """Return the weights of one window, in (0, 1], with the window's shape."""
        return linear_weight(window, self.shape, self.ramp)

    def result(self) -> NDArray[np.float32]:
        """Return the stitched array.

        Raises
        ------
        GeometryError
            If some cell was covered by no window.
        """
        if not (self._weight > 0).all():
            raise GeometryError("The windows must cover the whole grid. Some cells were never added.")
        return np.asarray(self._sum / self._weight, dtype=np.float32)


def linear_weight(window: Window, shape: Sequence[int], ramp: int) -> NDArray[np.float64]:
    """Return a window's weights in (0, 1]: 1 inside, falling linearly over `ramp` cells to its inner borders."""
    return _product([linear_line(w, n, ramp) for w, n in zip(window, shape, strict=True)])


def gaussian_weight(window: Window) -> NDArray[np.float64]:
    """Return a window's weights: a Gaussian about its centre, standard deviation an eighth of its side, and a floor."""
    return np.maximum(_product([gaussian_line(w.stop - w.start) for w in window]), GAUSSIAN_FLOOR)


def linear_line(line: slice, length: int, ramp: int) -> NDArray[np.float64]:
    """Return the weights along one axis of `length` cells: 1 inside, falling over `ramp` cells to inner borders."""
    size = line.stop - line.start
    weight = np.ones(size)
    reach = min(ramp, size // 2)
    rise = np.arange(1, reach + 1) / (reach + 1)
    if line.start > 0:
        weight[:reach] = rise
    if line.stop < length:
        weight[size - reach :] = rise[::-1]
    return weight


def gaussian_line(size: int) -> NDArray[np.float64]:
    """Return the Gaussian along one axis of a window."""
    return np.asarray(np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) * (8 / size)) ** 2))


def _product(lines: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    weight: NDArray[np.float64] = np.ones((), dtype=np.float64)
    for line in lines:
        weight = weight[..., None] * line
    return weight


class Blend:
    """Blends the windows of several channels; a block comes out as soon as no later window reaches it.

    A window's result goes through one stage an axis, the innermost first. A stage adds what earlier windows left for
    these cells, passes on the part that the next window along its axis does not reach, and keeps the rest. So what is
    held is a part of a window, of a row of windows and of a layer of windows: never the result.

    Parameters
    ----------
    todo
        All windows: the product of the windows along each axis, sorted by their starts along the axes of `order`.
    shape
        Of the whole grid.
    channels
        Number of channels.
    ramp
        As for `Stitcher`; None weighs as `gaussian_weight`.
    done
        Called with each block that is done, as its place and float32 values ``(channels, *block)`` that may be kept
        until the next call of `add` only, and written over.
    device
        Where sums are kept: that of the values.
    order
        All axes, the outermost first; index order if not given. `least_held` gives the one that takes the least memory.
    crew
        Who does it; the caller alone if not given.

    Raises
    ------
    GeometryError
        If the windows do not cover the grid.
    """

    def __init__(
        self,
        todo: Sequence[Window],
        shape: Sequence[int],
        channels: int,
        ramp: int | None,
        done: Callable[[Window, torch.Tensor], None],
        device: torch.device | None = None,
        order: Sequence[int] = (),
        crew: Crew | None = None,
    ) -> None:
        self._crew = crew or Crew()
        self._shape = tuple(shape)
        self._ramp = ramp
        self._done = done
        self._floor = GAUSSIAN_FLOOR if ramp is None else 0.0
        self._lines = [_distinct(w[axis] for w in todo) for axis in range(len(shape))]
        if any(b.start > a.stop for line in self._lines for a, b in itertools.pairwise(line)) or any(
            (line[0].start, line[-1].stop) != (0, n) for line, n in zip(self._lines, shape, strict=True)
        ):
            raise GeometryError("The windows must cover the whole grid. Some cells lie in none.")
        order = tuple(order) or tuple(range(len(shape)))
        self._stages = [
            _Stage(axis, self._lines[axis], channels, size, order[order.index(axis) + 1 :], self._crew, device)
            for axis, size in _waiting(self._lines, self._shape, order)
        ]
        self._kept: dict[Any, torch.Tensor] = {}

    def add(self, window: Window, values: torch.Tensor) -> None:
        """Blend in float32 ``(channels, *window)`` values, which are written over."""
        import torch

        with torch.inference_mode():
            values = values.contiguous()
            self._crew.share(
                lambda part: values[:, part].mul_(self._weight(window, _planes(window, part), values.device)),
                pieces(values.shape[1:]),
            )
            block, place = values, window
            for stage in self._stages:
                block, place = stage.take(block, place)
            self._crew.share(
                lambda part: block[:, part].div_(self._total(_planes(place, part), block.device)),
                pieces(block.shape[1:]),
            )
            self._done(place, block)

    def _weight(self, window: Window, part: Window, device: torch.device) -> torch.Tensor:
        """Return the weights of a window in a part of it."""
        lines = [
            self._line(axis, w, device)[p.start - w.start : p.stop - w.start]
            for axis, (w, p) in enumerate(zip(window, part, strict=True))
        ]
        weight = lines[0]
        for line in lines[1:]:
            weight = weight[..., None] * line
        return weight.clamp_min_(self._floor) if self._floor else weight

    def _total(self, block: Window, device: torch.device) -> torch.Tensor:
        """Return the sum of all windows' weights in a block."""
        import torch

        meet = [
            [line for line in lines if line.start < b.stop and line.stop > b.start]
            for lines, b in zip(self._lines, block, strict=True)
        ]
        total = torch.zeros([b.stop - b.start for b in block], device=device)
        for window in itertools.product(*meet):
            part = tuple(slice(max(w.start, b.start), min(w.stop, b.stop)) for w, b in zip(window, block, strict=True))
            at = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, block, strict=True))
            total[at] += self._weight(window, part, device)
        return total

    def _line(self, axis: int, line: slice, device: torch.device) -> torch.Tensor:
        """Return a window's weights along an axis."""
        import torch

        n = self._shape[axis]
        key = (line.stop - line.start, line.start == 0, line.stop == n)
        if key not in self._kept:
            weight = gaussian_line(key[0]) if self._ramp is None else linear_line(line, n, self._ramp)
            self._kept[key] = torch.from_numpy(weight.astype(np.float32)).to(device)
        return self._kept[key]


def least_held(todo: Sequence[Window], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the order of axes, the outermost first, with which a `Blend` of these windows holds the fewest cells.

    Of several such orders, that with the longest axis outermost: whoever gathers layers then has thin ones.
    """
    lines = [_distinct(w[axis] for w in todo) for axis in range(len(shape))]

    def held(order: Sequence[int]) -> tuple[int, ...]:
        return sum(math.prod(size) for _, size in _waiting(lines, shape, order)), *(-shape[axis] for axis in order)

    return min(itertools.permutations(range(len(shape))), key=held)


def _waiting(
    lines: Sequence[Sequence[slice]], shape: Sequence[int], order: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """Return, for the stage of each axis, the innermost first, the grid of the sums that wait there."""
    size = [line[0].stop - line[0].start for line in lines]
    depth = [max((a.stop - b.start for a, b in itertools.pairwise(line)), default=0) for line in lines]
    stages = []
    for k in reversed(range(len(order))):
        grid = list(shape)
        for axis in order[:k]:
            grid[axis] = size[axis]
        grid[order[k]] = depth[order[k]]
        stages.append((order[k], tuple(grid)))
    return stages


def pieces(shape: Sequence[int]) -> Iterator[slice]:
    """Yield the planes of a grid in pieces of `PIECE` cells or so; arrays made for a piece stay in the cache."""
    step = max(1, PIECE // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


def _planes(block: Window, part: slice) -> Window:
    """Return the place of some planes of a block."""
    return (slice(block[0].start + part.start, block[0].start + part.stop), *block[1:])


class _Stage:
    """One axis of a `Blend`: adds what waits, passes on what is done, keeps the rest.

    `size` is the grid of what waits, of which only the axes `inner` have the whole grid's length.
    """

    def __init__(
        self,
        axis: int,
        lines: Sequence[slice],
        channels: int,
        size: Sequence[int],
        inner: Sequence[int],
        crew: Crew,
        device: torch.device | None,
    ) -> None:
        import torch

        self._crew = crew
        self._axis, self._inner = axis, frozenset(inner)
        self._ends = {a.start: b.start for a, b in itertools.pairwise(lines)}
        self._starts = {b.start: a.stop for a, b in itertools.pairwise(lines)}
        shape = (channels, *size)
        half = 4 * math.prod(shape) > HALF_ABOVE
        self._waiting = torch.empty(shape, dtype=torch.float16 if half else torch.float32, device=device)

    def take(self, values: torch.Tensor, place: Window) -> tuple[torch.Tensor, Window]:
        axis, dim = self._axis, self._axis + 1
        line = place[axis]
        waiting = self._waiting[(slice(None), *(p if a in self._inner else slice(None) for a, p in enumerate(place)))]
        met = self._starts.get(line.start, line.start) - line.start
        if met > 0:
            mine, theirs = values.narrow(dim, 0, met), waiting.narrow(dim, 0, met)
            # In pieces: of float16, torch makes a copy in float32 first.
            self._crew.share(lambda part: mine[:, part].add_(theirs[:, part]), pieces(mine.shape[1:]))
        end = self._ends.get(line.start, line.stop)
        rest = line.stop - end
        if rest > 0:
            kept, left = waiting.narrow(dim, 0, rest), values.narrow(dim, end - line.start, rest)
            self._crew.share(lambda part: kept[:, part].copy_(left[:, part]), pieces(kept.shape[1:]))
        return values.narrow(dim, 0, end - line.start), (*place[:axis], slice(line.start, end), *place[axis + 1 :])


def _distinct(lines: Iterable[slice]) -> list[slice]:
    return [slice(*pair) for pair in sorted({(line.start, line.stop) for line in lines})]
