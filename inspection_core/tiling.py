"""Windows over a large grid, and blended stitching, for any number of axes.

A window's outer cells see less context than its inner ones. Where windows overlap, results are blended with weights
that fall linearly towards a window's inner borders, so that no seam shows; along the image's own border the weight does
not fall. Memory is bounded by the stitched result plus one window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError

Window = tuple[slice, ...]


def windows(shape: Sequence[int], size: Sequence[int], overlap: float = 0.25, step: int = 1) -> list[Window]:
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
        # Even spacing: the last window ends at the border, and all overlaps are alike.
        count = 1 if w == n else int(np.ceil((n - w) / max(step, w * (1 - overlap)))) + 1
        starts = {round(i * (n - w) / max(1, count - 1) / step) * step for i in range(count)}
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
    weight: NDArray[np.float64] = np.ones((), dtype=np.float64)
    for axis, (w, n) in enumerate(zip(window, shape, strict=True)):
        size = w.stop - w.start
        line = np.ones(size)
        reach = min(ramp, size // 2)
        rise = np.arange(1, reach + 1) / (reach + 1)
        if w.start > 0:
            line[:reach] = rise
        if w.stop < n:
            line[size - reach :] = rise[::-1]
        weight = weight[..., None] * line if axis else line
    return weight


def gaussian_weight(window: Window) -> NDArray[np.float64]:
    """Return a window's weights in (0, 1]: a Gaussian about its centre, standard deviation an eighth of its side."""
    weight: NDArray[np.float64] = np.ones((), dtype=np.float64)
    for axis, w in enumerate(window):
        size = w.stop - w.start
        line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) * (8 / size)) ** 2)
        weight = weight[..., None] * line if axis else line
    return weight


class SlabStitcher:
    """Blends windows of several channels, and is done with a plane once no later window can reach it.

    Sums and weights stand only for the planes that open windows reach, so that memory is bounded by the result and
    one layer of windows.

    Parameters
    ----------
    shape
        Shape ``(d, h, w)`` of the whole result.
    channels
        Number of channels.
    ramp
        As for `Stitcher`; None blends with `gaussian_weight`.
    dtype
        Type of the result.
    """

    def __init__(
        self, shape: Sequence[int], channels: int, ramp: int | None, dtype: type[np.floating[Any]] = np.float32
    ) -> None:
        self.shape = tuple(shape)
        self.ramp = ramp
        self._out: NDArray[Any] = np.zeros((channels, *self.shape), dtype)
        self._base = 0  # planes before this are done
        self._sum = np.zeros((channels, 0, *self.shape[1:]), np.float32)
        self._weight = np.zeros((0, *self.shape[1:]), np.float32)

    def add(self, window: Window, values: NDArray[Any]) -> None:
        """Blend in ``(channels, *window)`` values. Windows come in the order of their first plane.

        Raises
        ------
        GeometryError
            If a window begins before planes that are done.
        """
        first, *rest = window
        if first.start < self._base:
            raise GeometryError(f"Windows come by their first plane. Got {first.start} after {self._base}.")
        self._finish(first.start)
        grow = first.stop - self._base - self._sum.shape[1]
        if grow > 0:
            self._sum = np.concatenate([self._sum, np.zeros_like(self._sum, shape=self._grown(grow))], axis=1)
            self._weight = np.concatenate([self._weight, np.zeros((grow, *self.shape[1:]), np.float32)])
        weight = gaussian_weight(window) if self.ramp is None else linear_weight(window, self.shape, self.ramp)
        weight = weight.astype(np.float32)
        at = (slice(first.start - self._base, first.stop - self._base), *rest)
        self._sum[(slice(None), *at)] += values * weight
        self._weight[at] += weight

    def result(self) -> NDArray[Any]:
        """Return the stitched array.

        Raises
        ------
        GeometryError
            If some cell was covered by no window.
        """
        self._finish(self.shape[0])
        return self._out

    def _grown(self, planes: int) -> tuple[int, ...]:
        return (self._sum.shape[0], planes, *self.shape[1:])

    def _finish(self, upto: int) -> None:
        count = upto - self._base
        if count <= 0:
            return
        if self._weight.shape[0] < count or not (self._weight[:count] > 0).all():
            raise GeometryError("The windows must cover the whole grid. Some cells were never added.")
        self._out[:, self._base : upto] = self._sum[:, :count] / self._weight[:count]
        self._sum, self._weight = self._sum[:, count:].copy(), self._weight[count:].copy()
        self._base = upto
