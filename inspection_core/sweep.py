"""A network over the slices or the blocks of a volume: windows in, blended class maps out.

Windows come by their first plane, and a plane is finished once no window can reach it any more. So of a large volume
only the result and one layer of windows are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import Preparation
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.progress import tick
from inspection_core.tiling import SlabStitcher, Window, windows

if TYPE_CHECKING:
    import torch

Network = Callable[["torch.Tensor"], "torch.Tensor"]


def sweep(
    network: Network,
    pixels: torch.Tensor,
    device: Device,
    preparation: Preparation,
    stride: int,
    channels: int,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Put all windows of a prepared volume through a network and blend what comes out.

    Parameters
    ----------
    network
        From a batch of windows to ``(B, channels, *grid)``; for slices the grid is ``(h', w')``.
    pixels
        ``(C, d, h, w)`` as `inspection_core.prepare.prepare` gives them.
    device
        Batches have its size, padded with zeros, so that company changes nothing.
    preparation
        Of the card: view, neighbours, windows and blending.
    stride
        Input voxels from one cell to the next, on every axis that the network strides over.
    channels
        What the network gives.
    dtype
        Type of the result; float16 keeps probabilities to 5e-4.

    Returns
    -------
    ndarray
        ``(channels, d', h', w')``.

    Raises
    ------
    ModelError
        If the network gives another number of channels, or another grid, than was said.
    """
    import torch

    flat = preparation.view != "volume"
    shape = tuple(pixels.shape[1:])
    steps = (1, stride, stride) if flat else (stride,) * 3
    todo = volume_windows(shape, preparation)
    size = tuple(s.stop - s.start for s in todo[0])
    grid = tuple(n // s for n, s in zip(size, steps, strict=True))
    ramp = None if preparation.blend == "gaussian" else max(1, int(min(size[1:]) * preparation.overlap) // stride)
    stitcher = SlabStitcher([n // s for n, s in zip(shape, steps, strict=True)], channels, ramp, dtype)
    planes = 2 * preparation.neighbours + 1
    form = (planes * len(pixels), *size[1:]) if flat else (len(pixels), *size)
    for first in range(0, len(todo), device.batch):
        tick(first, len(todo))
        part = todo[first : first + device.batch]
        batch = torch.zeros((device.batch, *form), dtype=torch.float32)
        for slot, window in zip(batch, part, strict=False):
            slot.copy_(_cut(pixels, window, preparation.neighbours) if flat else pixels[(slice(None), *window)])
        with torch.inference_mode():
            given = network(batch.to(device.torch))
        wanted = (device.batch, channels, *(grid[1:] if flat else grid))
        if tuple(given.shape) != wanted:
            raise ModelError(
                f"The network gives an array of shape {tuple(given.shape)} where its card needs {wanted}: compare the "
                "card's classes (and one for the background), view and stride with the network."
            )
        values = given.float().cpu().numpy()
        for window, result in zip(part, values, strict=False):
            at = tuple(slice(s.start // k, s.stop // k) for s, k in zip(window, steps, strict=True))
            stitcher.add(at, result[:, None] if flat else result)
    return stitcher.result()


def volume_windows(shape: Sequence[int], preparation: Preparation) -> list[Window]:
    """Return the windows ``(z, y, x)`` of a prepared volume by their first plane; slices are one plane thick."""
    m = preparation.multiple
    side = max(m, preparation.tile // m * m)
    if preparation.view == "volume":
        return windows(shape, preparation.window_size or (side,) * 3, preparation.overlap, step=m)
    plane = windows(shape[1:], preparation.window_size or (side, side), preparation.overlap, step=m)
    return [(slice(z, z + 1), *window) for z in range(shape[0]) for window in plane]


def _cut(pixels: torch.Tensor, window: Window, neighbours: int) -> torch.Tensor:
    """Return the channels of a plane and its neighbours, ``((2 k + 1) * C, h, w)``, the lowest plane first."""
    z, *rest = window
    last = pixels.shape[1] - 1
    planes = [min(max(z.start + k, 0), last) for k in range(-neighbours, neighbours + 1)]
    cut = pixels[:, planes][:, :, rest[0], rest[1]]
    return cut.movedim(1, 0).reshape(-1, *cut.shape[2:])
