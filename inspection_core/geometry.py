"""Where an array lies in the world.

Index order is ``(z, y, x)`` in 3-D and ``(y, x)`` in 2-D; an integer index is the centre of a voxel. World order is
``(x, y, z)`` or ``(x, y)``. In 3-D, world is LPS as in DICOM: x grows to the patient's left, y to the back (posterior),
z to the head (superior). NIfTI's RAS is turned at the I/O edge and nowhere else. See ``docs/coordinates.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspection_core.errors import GeometryError

Unit = Literal["mm", "px"]
FloatArray = NDArray[np.float64]

AFFINE_TOLERANCE = 1e-6
"""Two affines are the same where every entry differs by no more than this, relative to the largest spacing."""


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of `array` that refuses writing; the data are not copied."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape of a grid and the affine map from its indices to world coordinates.

    Parameters
    ----------
    shape
        Spatial shape, ``(z, y, x)`` or ``(y, x)``, each at least 1.
    affine
        ``(n + 1, n + 1)`` matrix for n spatial axes: ``affine @ (z, y, x, 1) = (x, y, z, 1)`` of the world.
    unit
        ``"mm"``, or ``"px"`` where no physical size is known. Millimetres are never invented.

    Raises
    ------
    GeometryError
        If the shape is empty, or the affine is not finite, not invertible, or of the wrong shape.
    """

    shape: tuple[int, ...]
    affine: FloatArray
    unit: Unit = "px"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        n = len(shape)
        if n not in (2, 3) or min(shape) < 1:
            raise GeometryError(f"A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape {shape}.")
        affine = np.array(self.affine, dtype=np.float64) + 0.0  # no -0.0: it equals 0.0 but hashes to something else
        if affine.shape != (n + 1, n + 1):
            raise GeometryError(f"The affine of a {n}-D grid is {n + 1} x {n + 1}. Got shape {affine.shape}.")
        if not np.isfinite(affine).all():
            raise GeometryError("The affine must be finite. Got NaN or infinity; check the file's orientation fields.")
        if not np.allclose(affine[n], [0.0] * n + [1.0]):
            raise GeometryError(f"The last row of an affine is 0 ... 0 1. Got {affine[n].tolist()}.")
        with np.errstate(over="ignore"):  # beyond what floats hold: infinite, and refused next
            lengths = np.linalg.norm(affine[:n, :n], axis=0)
        if (lengths == 0).any() or abs(np.linalg.det(affine[:n, :n] / lengths)) < 1e-9:
            raise GeometryError(
                "The affine must be invertible: the axes of the grid may not be parallel or of zero length. "
                f"Got spacings {lengths.tolist()}."
            )
        if self.unit not in ("mm", "px"):
            raise GeometryError(f'The unit is "mm" or "px". Got {self.unit!r}.')
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", readonly(affine))

    @classmethod
    def pixels(cls, shape: Sequence[int]) -> Geometry:
        """Return a grid of unit steps with no physical size: world ``(x, y[, z])`` is the index reversed."""
        return _pixels(tuple(shape))

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing: Sequence[float], origin: Sequence[float] | None = None, unit: Unit = "mm"
    ) -> Geometry:
        """Return a grid whose axes run along the world's axes.

        Parameters
        ----------
        shape, spacing
            In index order, ``(z, y, x)`` or ``(y, x)``; spacing in `unit`.
        origin
            World position ``(x, y[, z])`` of the voxel with index 0; zeros if not given.
        unit
            ``"mm"`` or ``"px"``.
        """
        n = len(shape)
        if len(spacing) != n or (origin is not None and len(origin) != n):
            raise GeometryError(f"Shape, spacing and origin have one entry an axis. Got {shape}, {spacing}, {origin}.")
        if not all(np.isfinite(s) and s > 0 for s in spacing):
            raise GeometryError(f"Spacings are finite and above 0. Got {tuple(spacing)}.")
        affine = np.eye(n + 1)
        affine[:n, :n] = np.diag(np.asarray(spacing, dtype=float))[::-1]
        if origin is not None:
            affine[:n, n] = origin
        return cls(tuple(shape), affine, unit)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each index axis, in `unit`."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def voxel_size(self) -> float:
        """Volume (3-D) or area (2-D) of one voxel, in cubed or squared `unit`."""
        return float(abs(np.linalg.det(self.affine[:-1, :-1])))

    def index_to_world(self, index: ArrayLike) -> FloatArray:
        """Map ``(..., n)`` indices in ``(z, y, x)`` order to ``(..., n)`` world points in ``(x, y, z)`` order."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def world_to_index(self, world: ArrayLike) -> FloatArray:
        """Map ``(..., n)`` world points to fractional indices; the inverse of `index_to_world`."""
        points = np.asarray(world, dtype=np.float64) - self.affine[:-1, -1]
        return np.asarray(np.linalg.solve(self.affine[:-1, :-1], points[..., None])[..., 0], dtype=np.float64)

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """Return the grid of the block that begins at index `start` and has `shape`; it may reach outside (padding)."""
        if len(start) != self.ndim or len(shape) != self.ndim:
            raise GeometryError(
                f"A block has a start and a shape of {self.ndim} entries. Got {tuple(start)} and {tuple(shape)}."
            )
        affine = self.affine.copy()
        affine[:-1, -1] = self.index_to_world(np.asarray(start, dtype=float))
        return Geometry(tuple(shape), affine, self.unit)

    def resized(self, shape: Sequence[int]) -> Geometry:
        """Return the grid with another number of voxels over the same field of view (outer edges stay in place)."""
        if len(shape) != self.ndim or min(shape) < 1:
            raise GeometryError(f"A new shape has {self.ndim} entries of at least 1. Got {tuple(shape)}.")
        factor = np.asarray(self.shape, dtype=float) / np.asarray(shape, dtype=float)
        to_old = np.eye(self.ndim + 1)
        to_old[:-1, :-1] = np.diag(factor)
        to_old[:-1, -1] = (factor - 1) / 2
        return Geometry(tuple(shape), self.affine @ to_old, self.unit)

    def flipped(self, axis: int) -> Geometry:
        """Return the grid of ``numpy.flip(array, axis)``: every voxel keeps its place in the world."""
        if not -self.ndim <= axis < self.ndim:
            raise GeometryError(f"An axis is between {-self.ndim} and {self.ndim - 1}. Got {axis}.")
        axis %= self.ndim  # a negative one would count the affine's column of origins
        affine = self.affine.copy()
        last = np.zeros(self.ndim)
        last[axis] = self.shape[axis] - 1
        affine[:-1, -1] = self.index_to_world(last)
        affine[:-1, axis] *= -1
        return Geometry(self.shape, affine, self.unit)

    def transposed(self, axes: Sequence[int]) -> Geometry:
        """Return the grid of ``numpy.transpose(array, axes)``: every voxel keeps its place in the world."""
        if sorted(axes) != list(range(self.ndim)):
            raise GeometryError(f"Axes are an order of {list(range(self.ndim))}. Got {list(axes)}.")
        affine = self.affine.copy()
        affine[:-1, :-1] = self.affine[:-1, :-1][:, list(axes)]
        return Geometry(tuple(self.shape[a] for a in axes), affine, self.unit)

    def is_close(self, other: Geometry, tolerance: float = AFFINE_TOLERANCE) -> bool:
        """Tell whether two grids are the same: shape, unit, and affine within `tolerance` of the largest spacing."""
        return (
            self.shape == other.shape
            and self.unit == other.unit
            and bool(np.abs(self.affine - other.affine).max() <= tolerance * max(self.spacing))
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and self.unit == other.unit and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.unit, self.affine.tobytes()))


@functools.lru_cache(maxsize=64)
def _pixels(shape: tuple[int, ...]) -> Geometry:
    """Return the grid of `Geometry.pixels`; images of a folder mostly have one size, and nobody can change a grid."""
    return Geometry.from_spacing(shape, (1.0,) * len(shape), unit="px")
