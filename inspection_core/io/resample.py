"""One image onto another's grid, by world coordinates, a slab at a time so that memory stays bounded.

Along the axes of a grid that is coarser than the image, a voxel gets the mean over its own length, not the value at its
centre: what is finer than the grid can show would come back as patterns that are not there.
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.image import Image

SLAB_VOXELS = 1 << 21
"""Voxels whose coordinates are held at once."""
SAMPLES_A_VOXEL = 2
"""Of the image, along an axis that is averaged; `COARSER` is the step, in voxels of the image, from which on it is."""
COARSER = 1.05
MAX_SAMPLES = 64


def resample(image: Image, grid: Geometry, fill: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Return an image's values on another grid of the same world, linearly interpolated, averaged where it is coarser.

    Parameters
    ----------
    image
        ``(C, z, y, x)`` in LPS millimetres.
    grid
        The grid wanted.
    fill
        Value outside the image's field of view; each channel's lowest value if not given.

    Returns
    -------
    ndarray, float
        ``(C, *grid.shape)``, and the share of the grid that lies outside the image's field of view, 0 to 1. A voxel's
        own half width still belongs to the field of view.

    Raises
    ------
    GeometryError
        If either is in pixels, or they have not the same number of axes: nothing relates such worlds.
    """
    if image.geometry.unit != "mm" or grid.unit != "mm" or image.ndim != grid.ndim:
        raise GeometryError(
            "Only grids in millimetres with the same number of axes can be brought onto each other. Got "
            f"{image.ndim}-D in {image.geometry.unit} and {grid.ndim}-D in {grid.unit}."
        )
    to_source = np.linalg.inv(image.geometry.affine) @ grid.affine
    steps = _samples(to_source[:-1, :-1])
    out = np.empty((len(image.array), *grid.shape), np.float32)
    last = np.array(image.geometry.shape)[:, None] - 1
    fills = [float(c.min()) if fill is None else fill for c in image.array]
    floats = [c.astype(np.float32) for c in image.array]  # interpolated sums of integers would be cut to integers
    outside = 0
    rows = max(1, SLAB_VOXELS // int(np.prod(grid.shape[1:])))
    for begin in range(0, grid.shape[0], rows):
        end = min(begin + rows, grid.shape[0])
        index = np.indices((end - begin, *grid.shape[1:]), dtype=np.float64).reshape(grid.ndim, -1)
        index[0] += begin
        at = to_source[:-1, :-1] @ index + to_source[:-1, -1:]
        beyond = ((at < -0.5 - 1e-6) | (at > last + 0.5 + 1e-6)).any(axis=0)
        outside += int(beyond.sum())
        for target, source, value in zip(out, floats, fills, strict=True):
            values = np.zeros(at.shape[1], np.float32)
            for step in steps:
                values += map_coordinates(source, at + step[:, None], order=1, mode="nearest")
            values /= len(steps)
            values[beyond] = value
            target[begin:end] = values.reshape(end - begin, *grid.shape[1:])
    return out, outside / float(np.prod(grid.shape))


def _samples(to_source: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return where a voxel of the grid is sampled, from its centre, in voxels of the image; evenly along coarser axes.

    Parameters
    ----------
    to_source
        ``(n, n)``: column ``j`` is one step along axis ``j`` of the grid, in voxels of the image.
    """
    along = []
    for step in to_source.T:
        length = float(np.abs(step).max())
        count = min(ceil(SAMPLES_A_VOXEL * length), MAX_SAMPLES) if length > COARSER else 1
        along.append([(k + 0.5) / count - 0.5 for k in range(count)])
    return [to_source @ np.array(place) for place in product(*along)]
