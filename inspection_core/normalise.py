"""Intensities of a scan as a network takes them, for the whole scan or for the parts that are looked at.

A scan in float32 takes two to four times the memory of its file's own integers. A network over blocks looks at a layer
at a time, so `Normalised` makes the layers from the scan when they are asked for, and keeps none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import Preparation

if TYPE_CHECKING:
    import torch

BRIGHT = 0.1
"""Share of the way from a channel's darkest to its brightest values, above which a voxel is bright."""

Scale = tuple[float, float]
"""Shift and gain of a channel: what the network sees is ``(value - shift) * gain``."""


class Normalised:
    """A scan on the network's grid that is normalised anew wherever it is looked at.

    It stands in for the float32 tensor ``(C, d, h, w)`` of the same scan: it has its shape, and an index gives the
    same values, to the bit, as a tensor of their own.

    Parameters
    ----------
    channels
        ``(d, h, w)`` each, turned and cut to what the network looks at.
    scales
        Of each channel.
    preparation
        Of the card.
    padded
        Shape of the grid; what lies beyond the channels' own is 0.
    """

    def __init__(
        self,
        channels: Sequence[NDArray[Any]],
        scales: Sequence[Scale],
        preparation: Preparation,
        padded: Sequence[int],
    ) -> None:
        self._channels, self._scales, self._preparation = tuple(channels), tuple(scales), preparation
        self.shape = (len(channels), *padded)

    def __len__(self) -> int:
        """Return the number of channels."""
        return len(self._channels)

    def __getitem__(self, at: tuple[slice | Sequence[int], ...]) -> torch.Tensor:
        """Return a part: all channels, and for each axis, as far as given, a slice of it; planes may be numbers too.

        Parameters
        ----------
        at
            ``(slice(None), planes, rows, columns)``; slices have no step.

        Returns
        -------
        torch.Tensor
            float32 ``(C, *part)``, the caller's own.
        """
        import torch

        lines = [
            range(n)[line] if isinstance(line, slice) else list(line)
            for n, line in zip(self.shape[1:], (*at[1:], *(slice(None),) * (4 - len(at))), strict=True)
        ]
        out = torch.zeros((len(self), *map(len, lines)), dtype=torch.float32)
        planes, rows, columns = lines
        box = tuple(slice(line[0], line[-1] + 1) if line else slice(0, 0) for line in (rows, columns))
        for target, channel, scale in zip(out.numpy(), self._channels, self._scales, strict=True):
            for into, z in zip(target, planes, strict=True):
                if z < len(channel):
                    part = channel[z][box]
                    into[: part.shape[0], : part.shape[1]] = normalised(part, scale, self._preparation)
        return out


Voxels: TypeAlias = "torch.Tensor | Normalised"
"""A prepared scan: what has a shape and gives parts when it is indexed."""


def volume_of(voxels: Voxels) -> Voxels:
    """Return ``(C, d, h, w)``; an image ``(C, h, w)`` is a volume of one plane."""
    return voxels if isinstance(voxels, Normalised) or voxels.ndim == 4 else voxels[:, None]


def whole(voxels: Voxels) -> torch.Tensor:
    """Return all of a prepared scan as one tensor."""
    return voxels[(slice(None),)] if isinstance(voxels, Normalised) else voxels


def normalised(values: NDArray[Any], scale: Scale, preparation: Preparation) -> NDArray[np.float32]:
    """Return part of a channel as the network takes it, in C order; each value by itself, so that any part will do."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and that 0
        out = np.array(values, dtype=np.float32, order="C")
    if values.dtype.kind == "f":
        np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    nothing = out == 0 if preparation.foreground == "nonzero" else None
    out -= np.float32(scale[0])
    out *= np.float32(scale[1])
    if preparation.clip and preparation.normalise in ("window", "percentile"):
        np.clip(out, 0, 1, out=out)
    if nothing is not None:
        out[nothing] = 0
    return out


def normalisation(channel: NDArray[Any], preparation: Preparation) -> tuple[float, float, int]:
    """Return shift and gain, so that ``(value - shift) * gain`` is the network's, and how many voxels are not finite.

    Means are taken plane by plane: a copy of the channel in float64 would be the largest array of all.
    """
    bad = 0
    if channel.dtype.kind == "f":
        bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in channel)
    low, high = preparation.window
    if preparation.normalise == "window":
        return low, 1 / (high - low), bad
    if preparation.normalise == "percentile":
        values = _counted(channel, preparation) if bad or preparation.foreground != "all" else channel
        low, high = (float(v) for v in np.percentile(values, preparation.percentiles)) if values.size else (0.0, 1.0)
        return low, 1 / (high - low) if high > low else 1.0, bad
    if preparation.normalise == "mean":
        low, _ = bright_levels(channel)
        values = _counted(np.ascontiguousarray(channel), preparation)
        mean = float(values.mean(dtype=np.float64)) - low if values.size else 0.0
        return low, 1 / mean if mean > 0 else 1.0, bad
    at_once = preparation.foreground == "bright"
    # Sums depend on the order of their terms, which numpy takes from the memory; a plane in C order has only one.
    parts = [_counted(np.ascontiguousarray(part), preparation) for part in (channel[None] if at_once else channel)]
    count = sum(p.size for p in parts)
    if not count:
        return 0.0, 1.0, bad
    mean = sum(float(p.sum(dtype=np.float64)) for p in parts) / count
    variance = sum(float(np.square(p - mean, dtype=np.float64).sum()) for p in parts) / count
    return mean, 1 / math.sqrt(variance) if variance > 0 else 1.0, bad


def _counted(values: NDArray[Any], preparation: Preparation) -> NDArray[Any]:
    """Return the values that a channel's figures are taken from."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if preparation.foreground == "bright":
        low, high = bright_levels(values)
        return values[values > low + BRIGHT * (high - low)]
    return values[values != 0] if preparation.foreground == "nonzero" else values


def bright_levels(channel: NDArray[Any]) -> tuple[float, float]:
    """Return the darkest and brightest values of a channel, but for half a per cent at either end."""
    values = np.nan_to_num(channel, nan=0.0, posinf=0.0, neginf=0.0) if channel.dtype.kind == "f" else channel
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)
