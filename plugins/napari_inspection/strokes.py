"""What napari's tools wrote into a layer, as a block that the review takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = tuple[tuple[int, ...], NDArray[Any]]
"""Where a block of the shown array begins, and what it holds after the change."""


def painted(value: Any, shown: NDArray[Any]) -> Block | None:
    """Return where the shown array's block begins that a stroke changed, and the block as it is after the stroke.

    A stroke is a list of what changed: boxes with a mask inside, or arrays of indices with values. napari tells of it
    before it writes, or after, depending on the tool; so what is written is taken from the list itself.
    """
    boxes = []
    for atom in value:
        key = getattr(atom, "slice_key", None)
        if key is not None:
            spans = [s.indices(n)[:2] for s, n in zip(key, shown.shape, strict=True)]
        else:
            places = [np.atleast_1d(np.asarray(i)) for i in atom[0]]
            if any(p.size == 0 for p in places):
                continue
            spans = [(int(p.min()), int(p.max()) + 1) for p in places]
        boxes.append((atom, spans))
    if not boxes:
        return None
    low = [min(spans[axis][0] for _, spans in boxes) for axis in range(shown.ndim)]
    high = [max(spans[axis][1] for _, spans in boxes) for axis in range(shown.ndim)]
    block = np.array(shown[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    for atom, spans in boxes:
        if getattr(atom, "slice_key", None) is None:
            block[tuple(np.asarray(i) - a for i, a in zip(atom[0], low, strict=True))] = atom[2]
            continue
        part = block[tuple(slice(a - o, b - o) for (a, b), o in zip(spans, low, strict=True))]
        part[... if atom.mask is None else atom.mask] = atom.new_value
    return tuple(low), block


def replaced(before: NDArray[Any], after: NDArray[Any]) -> Block | None:
    """Return the block in which two arrays of one shape differ, as it is in the second; None where they do not."""
    places = np.nonzero(before != after)
    if places[0].size == 0:
        return None
    low = tuple(int(p.min()) for p in places)
    return low, np.array(after[tuple(slice(a, int(p.max()) + 1) for a, p in zip(low, places, strict=True))])
