"""What the tests of readers and writers share: where the shared real images lie, and small scans made on the spot."""

import os
from pathlib import Path

import numpy as np
import pytest

from inspection_core.geometry import Geometry
from inspection_core.image import Image

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """Folder of the shared scans; set INSPECTION_DATA where it is not beside the project."""
    folder = Path(os.environ.get("INSPECTION_DATA") or ROOT.parent / "shared" / "data") / "medical"
    if not folder.is_dir():
        pytest.skip(f"shared scans not found in {folder}; set INSPECTION_DATA to the folder that holds `medical`")
    return folder


OBLIQUE = np.array([[0.9, 0.1, -0.3], [-0.05, 0.95, 0.2], [0.25, -0.2, 0.93]])
OBLIQUE = np.linalg.qr(OBLIQUE)[0] * np.sign(np.diag(np.linalg.qr(OBLIQUE)[1]))
"""A rotation about all three axes, columns x, y, z."""


def oblique_geometry(shape=(7, 9, 11), spacing=(3.0, 0.8, 0.5), origin=(-31.25, 12.5, 40.0)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = (OBLIQUE * np.asarray(spacing)[::-1])[:, ::-1]
    affine[:3, 3] = origin
    return Geometry(shape, affine, "mm")


@pytest.fixture
def oblique_image() -> Image:
    """Every voxel has its own value, so that any swap or flip of axes shows."""
    geometry = oblique_geometry()
    array = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(1, *geometry.shape)
    return Image(array, geometry, ("grey",))
