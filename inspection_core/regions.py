"""Findings as numbers in an array: what a person reviews, paints and merges, where a mask knows classes alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import UsageError
from inspection_core.prediction import Finding

MAX_NUMBER = int(np.iinfo(np.uint16).max)


def number_regions(
    mask: NDArray[np.uint8], findings: Sequence[Finding], voxel_size: float = 1.0
) -> tuple[NDArray[np.uint16], dict[int, tuple[int, str]]]:
    """Give every connected region of a label mask the number of its finding.

    Parameters
    ----------
    mask
        0 for background, else a class.
    findings
        Of the mask; see `inspection_core.findings`. A region that none of them is gets a number after theirs.

    voxel_size
        Of the grid, in the unit of the findings' size.

    Returns
    -------
    regions
        uint16 of the mask's shape: 0, or a finding's id.
    numbers
        For each number in it, the class value in the mask and the class's name.

    Raises
    ------
    UsageError
        If there are more regions than numbers.
    """
    import skimage.measure
    from scipy import ndimage

    regions = np.zeros(mask.shape, np.uint16)
    whole = _box(mask)
    if whole is None:
        return regions, {}
    inside = mask[whole]
    label: Any = skimage.measure.label
    parts: NDArray[np.integer[Any]] = label(inside, background=0, connectivity=mask.ndim)
    boxes = ndimage.find_objects(parts)
    if len(boxes) + max((f.id for f in findings), default=0) > MAX_NUMBER:
        raise UsageError(f"At most {MAX_NUMBER} findings can be reviewed. Got {len(boxes)}; raise the threshold.")
    offset = [s.start for s in whole]
    open_at: dict[Any, list[Finding]] = defaultdict(list)
    for finding in findings:
        open_at[finding.start, finding.stop].append(finding)
    names: dict[int, str] = {}
    of_part = np.zeros(len(boxes) + 1, np.uint16)
    values = np.zeros(len(boxes) + 1, np.uint8)
    voxels = np.bincount(parts.ravel(), minlength=len(boxes) + 1)
    for number, box in enumerate(boxes, start=1):
        cut = parts[box]
        values[number] = inside[box][cut == number][0]
        key = (
            tuple(s.start + o for s, o in zip(box, offset, strict=True)),
            tuple(s.stop + o for s, o in zip(box, offset, strict=True)),
        )
        here = open_at[key]
        if here:
            # Regions that share a box, one inside another, are told apart by how many voxels their findings have.
            finding = min(here, key=lambda f: abs(f.size / voxel_size - voxels[number]))
            here.remove(finding)
            of_part[number] = finding.id
            names.setdefault(int(values[number]), finding.label)
    fresh = max((f.id for f in findings), default=0)
    for number in range(1, len(boxes) + 1):
        if of_part[number] == 0:
            fresh += 1
            of_part[number] = fresh
    regions[whole] = of_part[parts]
    numbers = {
        int(of_part[n]): (int(values[n]), names.get(int(values[n]), f"label {values[n]}"))
        for n in range(1, len(boxes) + 1)
    }
    return regions, dict(sorted(numbers.items()))


def _box(mask: NDArray[Any]) -> tuple[slice, ...] | None:
    lines = []
    for axis in range(mask.ndim):
        some = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if some.size == 0:
            return None
        lines.append(slice(int(some[0]), int(some[-1]) + 1))
    return tuple(lines)
