"""A synthetic head with a known lesion, for demonstrations: shows geometry, overlay and export, and no more.

It is drawn from ellipsoids, and is no brain: no figure of accuracy follows from it, and models of real brains may well
call it unlike what they know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspection_core.geometry import FloatArray, Geometry
from inspection_core.image import Image

CHANNELS = ("pre", "FLAIR", "post")
SHAPE, SPACING = (28, 200, 168), (5.0, 1.0, 1.0)
LABEL = "synthetic phantom, not a patient"
_TILT = 12.0
"""Degrees about the left-right axis, as scans are tilted."""

# tissue: (centre, half axes, both in mm from the middle of the head as (z, y, x); value in each channel)
_TISSUES: tuple[tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((0, 0, 0), (72, 94, 76), (150.0, 110.0, 155.0)),  # scalp
    ((0, 0, 0), (68, 89, 71), (25.0, 20.0, 25.0)),  # skull
    ((0, 0, 0), (64, 84, 66), (75.0, 85.0, 80.0)),  # grey matter
    ((0, 2, 27), (50, 66, 27), (100.0, 65.0, 105.0)),  # white matter, both sides
    ((0, 2, -27), (50, 66, 27), (100.0, 65.0, 105.0)),
    ((4, 0, 9), (18, 28, 7), (30.0, 15.0, 30.0)),  # ventricles
    ((4, 0, -9), (18, 28, 7), (30.0, 15.0, 30.0)),
)
_LESION = ((12.0, -24.0, 34.0), (17.0, 20.0, 15.0), (62.0, 165.0, 72.0))


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic study.

    Parameters
    ----------
    image
        float32 ``(3, z, y, x)``: T1 before contrast, FLAIR, T1 after contrast; oblique, its second axis stored the
        other way round than most files have it.
    lesion
        bool ``(z, y, x)``: where the lesion was drawn.
    """

    image: Image
    lesion: NDArray[np.bool_]


def phantom(seed: int = 0) -> Phantom:
    """Draw the head. One `seed` gives one head."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(s * (np.arange(n) - (n - 1) / 2) for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    points = np.stack(grid)
    array = np.zeros((3, *SHAPE), np.float32)
    for centre, axes, values in (*_TISSUES, _LESION):
        inside = _inside(points, centre, axes)
        for channel, value in zip(array, values, strict=True):
            channel[inside] = value
    lesion = _inside(points, *_LESION[:2])
    texture = gaussian_filter(rng.normal(size=SHAPE), (0.7, 3, 3)).astype(np.float32)
    for channel in array:
        blurred = gaussian_filter(channel, (0, 1.0, 1.0))
        channel[:] = np.abs(blurred * (1 + 0.6 * texture) + rng.normal(scale=3, size=SHAPE))
    geometry = _tilted(Geometry.from_spacing(SHAPE, SPACING)).flipped(1)
    image = Image(array[:, :, ::-1], geometry, CHANNELS, notes=(LABEL,))
    return Phantom(image, np.ascontiguousarray(lesion[:, ::-1]))


def _inside(points: FloatArray, centre: tuple[float, ...], axes: tuple[float, ...]) -> NDArray[np.bool_]:
    total = sum(((p - c) / a) ** 2 for p, c, a in zip(points, centre, axes, strict=True))
    return np.asarray(total < 1)


def _tilted(geometry: Geometry) -> Geometry:
    c, s = np.cos(np.radians(_TILT)), np.sin(np.radians(_TILT))
    turn = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    return Geometry(geometry.shape, turn @ geometry.affine, geometry.unit)
