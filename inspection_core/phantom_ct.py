"""A synthetic head in CT, with lesions at known places: for trying things out where no scan may be shown.

Nothing in it comes from a patient. It is built from ellipsoids in world coordinates, so that it looks the same on every
grid; only the noise depends on the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.geometry import Geometry
from inspection_core.image import Image

NAME = "synthetic phantom"
AIR, BONE, BRAIN, FLUID, LESION, FAINT = -1000, 900, 35, 6, 74, 56
"""Hounsfield units."""
NOISE = 3.0
"""Standard deviation, in Hounsfield units."""
Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float], float]
HEAD: tuple[Ellipsoid, ...] = (
    ((0, 0, 0), (78, 92, 72), BONE),
    ((0, 0, 0), (71, 85, 65), BRAIN),
    ((-11, -6, 8), (6, 25, 12), FLUID),
    ((11, -6, 8), (6, 25, 12), FLUID),
)
"""Centre and half axes ``(x, y, z)`` in mm from the middle of the head, in LPS, and value; later ones win."""
LESIONS: tuple[Ellipsoid, ...] = (
    ((-38, -30, 12), (11, 9, 10), LESION),
    ((-46, -22, 14), (6, 6, 7), LESION),
    ((34, 38, -9), (7, 7, 6), LESION),
    ((40, -20, 27), (4, 4, 5), LESION),
    ((-22, 47, 20), (8, 6, 6), FAINT),
    ((24, 10, -30), (5, 5, 5), FAINT),
)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic scan and where its lesions are.

    Parameters
    ----------
    image
        ``(1, z, y, x)`` int16 in Hounsfield units, in mm.
    truth
        uint8 of its shape: 1 inside lesions, also the faint ones.
    """

    image: Image
    truth: NDArray[np.uint8]


def make_phantom(
    shape: tuple[int, int, int] = (56, 176, 160), spacing: tuple[float, float, float] = (3.0, 1.2, 1.2), seed: int = 0
) -> Phantom:
    """Make a head with four lesions, two of them touching, and two faint ones.

    Parameters
    ----------
    shape, spacing
        Of the grid, in index order ``(z, y, x)`` and mm; its middle is the middle of the head.
    seed
        Of the noise.
    """
    extent = [(n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)]
    geometry = Geometry.from_spacing(shape, spacing, origin=[-e for e in reversed(extent)])
    axes = [np.arange(n) * s - e for n, s, e in zip(shape, spacing, extent, strict=True)]
    values = np.full(shape, AIR, np.float32)
    for centre, half, value in HEAD:
        values[_inside(axes, centre, half)] = value
    truth = np.zeros(shape, np.uint8)
    for centre, half, value in LESIONS:
        inside = _inside(axes, centre, half)
        values[inside] = value
        truth[inside] = 1
    values += np.random.default_rng(seed).normal(0, NOISE, shape).astype(np.float32)
    array = np.rint(values).astype(np.int16)[None]
    return Phantom(Image(array, geometry, ("CT",), notes=(f"{NAME}, no patient",)), truth)


def make_phantom_model(folder: Path) -> ModelCard:
    """Write a model that finds the phantom's lesions by their brightness, and nothing else; return its card."""
    from inspection_core.models.intensity_band import make

    card = ModelCard(
        id="phantom-lesions",
        version="1",
        architecture="intensity-band",
        task="segmentation",
        channels=("CT",),
        score="1 - P(background), from soft edges around 50 to 110 HU",
        classes=("lesion",),
        preparation=Preparation(window=(-100.0, 200.0), short_side=0, multiple=4, tile=64, overlap=0.0, view="slices"),
        policy=Policy(kind="band", low=0.3, high=0.7),
        intended_use="Trying out the viewer on the synthetic phantom.",
        limits="Knows brightness alone. It finds nothing of use in a scan of a patient.",
        licence="Apache-2.0",
        training={"data": "none: the band was set by hand"},
        site="brain",
    )
    return make(folder, card, ((0.5, 0.7),), softness=0.03)


def _inside(axes: list[NDArray[Any]], centre: tuple[float, ...], half: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return where an ellipsoid is, given the world coordinates along ``(z, y, x)``."""
    parts = [((axis - c) / h) ** 2 for axis, c, h in zip(axes, reversed(centre), reversed(half), strict=True)]
    z, y, x = np.ix_(*parts)
    return np.asarray(z + y + x <= 1)
