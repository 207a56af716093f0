"""One class for every picture: scans and parts, 2-D and 3-D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry, readonly


@dataclass(frozen=True, eq=False)
class Image:
    """An array with its place in the world.

    Parameters
    ----------
    array
        ``(C, *spatial)``, as stored in the file: integers keep their type and range, nothing is rescaled. Read-only.
    geometry
        Grid of the spatial axes.
    channels
        One name a channel, such as ``("red", "green", "blue")`` or ``("grey",)``.
    source
        File that it was read from, if any.
    notes
        What the reader noticed, in plain words (``"alpha channel dropped"``); shown to the user with the result.

    Raises
    ------
    GeometryError
        If array, geometry and channel names do not fit together.
    """

    array: NDArray[Any]
    geometry: Geometry
    channels: tuple[str, ...]
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.shape[1:] != self.geometry.shape:
            raise GeometryError(
                f"An image is (C, *spatial) with the spatial shape of its grid, {self.geometry.shape}. "
                f"Got an array of shape {array.shape}."
            )
        if array.shape[0] != len(self.channels):
            raise GeometryError(f"Each of the {array.shape[0]} channels needs a name. Got {list(self.channels)}.")
        if array.dtype.kind not in "uif":
            raise GeometryError(f"Values are integers or floats. Got {array.dtype}; convert booleans to uint8.")
        object.__setattr__(self, "array", readonly(array))
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.geometry.ndim

    @property
    def name(self) -> str:
        """File name of the source, or ``"image"``."""
        return self.source.name if self.source is not None else "image"
