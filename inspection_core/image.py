"""One class for every picture: scans and parts, 2-D and 3-D."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry, readonly

POSITIONAL = re.compile(r"grey|volume \d+|t = \S+ s")
"""Channel names that say no more than a channel's place in its file."""


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


def wrong_channels(wanted: Sequence[str], got: Sequence[str], *, files: bool = False) -> str:
    """Return what to say of an image whose channels are not those that a model takes.

    Parameters
    ----------
    wanted
        The model's channels, in order.
    got
        The image's own.
    files
        Whether the channels may come as files of their own, as those of scans do.

    Returns
    -------
    str
        What was expected, what came, and what to do next, to be put behind the image's name.
    """
    names = {n.casefold() for n in got}
    missing = [n for n in wanted if n.casefold() not in names]
    nameless = all(POSITIONAL.fullmatch(n) for n in got)
    listed = ", ".join(got[:6]) + (", ..." if len(got) > 6 else "")
    came = f"{len(got)} without {'a name' if len(got) == 1 else 'names'}" if nameless else f"{len(got)}, {listed}"
    lacking = f" ({', '.join(missing)} missing)" if missing and len(wanted) > 1 and not nameless else ""
    numbers = ", ".join(f"_{k:04d}" for k in range(min(3, len(wanted)))) + (", ..." if len(wanted) > 3 else "")
    coloured = tuple(got) == ("red", "green", "blue") and len(wanted) == len(got)
    together = f"give all {len(wanted)} in this order in one file" + (f", or as files CASE{numbers}" if files else "")
    what = together if len(wanted) > 1 else "convert the image"
    if coloured:
        what = (
            "give the slices of a study as CASE_1, CASE_2, ... in one folder, their colours the channels in this order"
        )
    few = "channel" if len(wanted) == 1 else f"{len(wanted)} channels"
    return f"expected the {few} {', '.join(wanted)}. Got {came}{lacking}; {what}, or choose a model for such images."
