"""Masks as closed contours, and contours as masks: plain geometry of one plane, in pixels.

Points are ``(row, column)``; an integer is the centre of a pixel. A contour runs half way between the centres inside
and the centres outside (marching squares, Lorensen and Cline 1987, doi 10.1145/37402.37422), so that the rule by which
planning systems fill contours, "a pixel belongs to it where its centre lies inside", gives the mask back exactly.

Pixels that touch at a corner belong together. A hole is cut into its contour through a channel of no width (the
"keyhole" of DICOM PS3.3 C.8.8.6.3), so that every island is one contour and none depends on how overlaps are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

Points = NDArray[np.float64]
SNAP = 1e-4
"""In pixels: contours of other tools run through pixel centres, and come back from millimetres a little beside them."""


def contours_of(mask: NDArray[np.bool_]) -> list[Points]:
    """Return one closed contour an island of a mask.

    Parameters
    ----------
    mask
        ``(rows, columns)``.

    Returns
    -------
    list of ndarray
        ``(n, 2)`` rows and columns, the first point not repeated, no three in a row on one line unless a hole is
        joined there.
    """
    islands, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = ndimage.find_objects(islands)
    out = []
    for number in range(1, count + 1):
        box = boxes[number - 1]
        island = np.pad(islands[box] == number, 1)
        filled = ndimage.binary_fill_holes(island)
        outer = _trace(filled, "high")
        holes, many = ndimage.label(filled & ~island)
        inner = [_trace(holes == k, "low") for k in range(1, many + 1)]
        for hole in sorted(inner, key=lambda h: float(h[:, 1].min())):  # a channel only ever leads to the left
            outer = _keyhole(outer, hole)
        out.append(_simplified(outer) + np.array([box[0].start - 1, box[1].start - 1]))
    return out


def mask_of(contours: Iterable[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill closed contours, by the even-odd rule over all of them: a contour inside another is a hole.

    Parameters
    ----------
    contours
        ``(n, 2)`` rows and columns each; what lies outside the plane is cut off.
    shape
        Of the plane.

    Returns
    -------
    ndarray
        Where a pixel's centre is inside, or on a contour.
    """
    turns = np.zeros((shape[0], shape[1] + 1), np.int32)
    edge = np.zeros(shape, bool)
    for contour in contours:
        whole = np.rint(contour)
        points = np.where(np.abs(contour - whole) < SNAP, whole, contour)
        row, column, counts = _crossings(points, shape[0])
        at = np.clip(np.ceil(column), 0, shape[1]).astype(np.int64)
        np.add.at(turns, (row[counts], at[counts]), 1)
        on = (np.abs(column - np.rint(column)) < SNAP) & (column > -SNAP) & (column < shape[1] - 1 + SNAP)
        edge[row[on], np.rint(column[on]).astype(np.int64)] = True
        for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
            if a[0] == b[0] and a[0] % 1 == 0 and 0 <= a[0] < shape[0]:
                left, right = sorted((a[1], b[1]))
                edge[int(a[0]), max(int(np.ceil(left)), 0) : max(int(np.floor(right)) + 1, 0)] = True
    inside: NDArray[np.bool_] = np.cumsum(turns[:, :-1], axis=1) % 2 == 1
    return inside | edge


def _crossings(points: Points, rows: int) -> tuple[NDArray[np.int64], Points, NDArray[np.bool_]]:
    """Return where the edges of a contour meet the lines of pixel centres.

    Returns
    -------
    row, column
        Of each meeting.
    counts
        Whether it counts as a crossing: an edge owns its upper end and not its lower one, so that a contour that
        passes through a centre line at a corner crosses it once.
    """
    a, b = points, np.roll(points, -1, axis=0)
    upper, lower = np.where(a[:, :1] <= b[:, :1], a, b), np.where(a[:, :1] <= b[:, :1], b, a)
    slanted = upper[:, 0] < lower[:, 0]
    upper, lower = upper[slanted], lower[slanted]
    first = np.clip(np.ceil(upper[:, 0]), 0, rows).astype(np.int64)
    last = np.clip(np.floor(lower[:, 0]), -1, rows - 1).astype(np.int64)
    length = np.maximum(last - first + 1, 0)
    which = np.repeat(np.arange(len(upper)), length)
    row = np.repeat(first - np.cumsum(length) + length, length) + np.arange(int(length.sum()))
    share = (row - upper[which, 0]) / (lower[which, 0] - upper[which, 0])
    column = upper[which, 1] + share * (lower[which, 1] - upper[which, 1])
    return row, column, row < lower[which, 0]


def _trace(mask: NDArray[np.bool_], touching: str) -> Points:
    """Return the one contour around a set that hangs together and has no hole."""
    find: Any = measure.find_contours
    (contour,) = find(np.pad(mask, 1).astype(np.float64), 0.5, fully_connected=touching)
    points: Points = contour[:-1] - 1
    return points


def _keyhole(outer: Points, hole: Points) -> Points:
    """Join a hole to the contour around it by a channel along a line between two rows, where no pixel has its centre.

    The line starts at the hole's leftmost crossing between two rows, and ends at the first edge to its left.
    """
    between = np.flatnonzero(hole[:, 0] % 1 == 0.5)
    start = int(between[np.argmin(hole[between, 1])])
    row, column = hole[start]
    a, b = outer, np.roll(outer, -1, axis=0)
    # Rows of points are whole or half numbers, so an edge either ends on this line, or crosses it half way up.
    touches = a[:, 0] == row
    crosses = (np.minimum(a[:, 0], b[:, 0]) < row) & (row < np.maximum(a[:, 0], b[:, 0]))
    at = np.where(touches, a[:, 1], np.where(crosses, (a[:, 1] + b[:, 1]) / 2, np.inf))
    at = np.where(at < column, at, -np.inf)
    best = int(np.argmax(at))
    gate = np.array([[row, at[best]]])
    around = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([outer[: best + 1], gate, around, gate, outer[best + 1 :]])


def _simplified(points: Points) -> Points:
    """Drop repeated points, and points on a straight line between their neighbours; the shape stays the same."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bend = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    return np.asarray(points[bend | back])
