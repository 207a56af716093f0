"""From an image to a network's input, and from its output back to the image's own grid.

`restore` undoes the geometry of `prepare`: a value on the network's grid comes back at the place in the source that it
was computed from, whatever the network's stride and the shift of its padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard, Preparation
from inspection_core.errors import ReadError
from inspection_core.image import Image

if TYPE_CHECKING:
    import torch

GREY = ("grey",)
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as JPEG and Pillow use."""

MAX_ASPECT = 16
"""Images longer than this many times their short side are not enlarged further; a 1 x 20,000 strip stays a strip."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the inference grid.

    Parameters
    ----------
    pixels
        float32 tensor ``(C, h, w)`` on the CPU, intensity window mapped to 0 and 1.
    source
        Spatial shape ``(y, x)`` of the source image.
    warnings
        What was adapted, in plain words.
    """

    pixels: torch.Tensor
    source: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(h, w)`` of the inference grid."""
        return tuple(self.pixels.shape[1:])


def inference_shape(shape: Sequence[int], preparation: Preparation) -> tuple[int, int]:
    """Return the inference size ``(h, w)`` of an image of `shape` ``(y, x)``: aspect kept, whole multiples."""
    y, x = shape
    if preparation.short_side:
        factor = preparation.short_side / min(y, x)
        factor = min(factor, max(1.0, MAX_ASPECT * preparation.short_side / max(y, x)))
    else:
        factor = preparation.scale
    m = preparation.multiple
    return max(m, round(y * factor / m) * m), max(m, round(x * factor / m) * m)


def prepare(image: Image, card: ModelCard) -> Prepared:
    """Bring an image to the inference grid of a model.

    Parameters
    ----------
    image
        ``(C, y, x)``, grey or RGB, in the type that the model was made from.
    card
        Supplies channels, intensity window and inference size.

    Returns
    -------
    Prepared
        Resized with anti-aliasing; aspect kept but for rounding to whole multiples of the network's stride.

    Raises
    ------
    ReadError
        If the image has another number of axes, or other value type or channels than the model can take.
    """
    import torch
    import torch.nn.functional as F

    preparation = card.preparation
    if image.ndim != 2:
        raise ReadError(f"{image.name}: the model {card.id} takes 2-D images. Got {image.ndim} spatial axes.")
    kind = str(image.array.dtype)
    if preparation.dtype and kind != preparation.dtype:
        raise ReadError(
            f"{image.name}: the model {card.id} was made from {preparation.dtype} images and its intensity window "
            f"{preparation.window} fits no other type. Got {kind}; convert the image, or fit a model on such images."
        )
    array, warnings = match_channels(image, card.channels)
    size = inference_shape(image.geometry.shape, preparation)
    low, high = preparation.window
    pixels = torch.empty((len(array), *size), dtype=torch.float32)
    for channel, plane in zip(pixels, array, strict=True):  # one at a time bounds memory for very large images
        whole = torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float32))[None, None]
        if size != tuple(plane.shape):
            whole = F.interpolate(whole, size=size, mode="bilinear", antialias=True, align_corners=False)
        channel.copy_(whole[0, 0]).sub_(low).div_(high - low)
    return Prepared(pixels, image.geometry.shape, (*image.notes, *warnings))


def match_channels(image: Image, channels: Sequence[str]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the image's array with the channels that a model takes, and what was adapted.

    Raises
    ------
    ReadError
        If the channels cannot be matched.
    """
    if tuple(channels) == image.channels:
        return image.array, ()
    if tuple(channels) == GREY and len(image.channels) == 3:
        same = all(np.array_equal(image.array[0], other) for other in image.array[1:])
        if same:
            return image.array[:1], ()
        grey = np.tensordot(np.asarray(LUMA, dtype=np.float32), image.array.astype(np.float32), axes=1)
        return grey[None], ("colour image turned to grey, as the model takes",)
    if len(channels) == 3 and image.channels == GREY:
        return np.broadcast_to(image.array, (3, *image.geometry.shape)), ()
    raise ReadError(
        f"{image.name}: the model takes the channels {list(channels)}. Got {list(image.channels)}; "
        "convert the image, or choose a model for such images."
    )


def restore(
    grid: NDArray[np.floating[Any]], prepared_shape: Sequence[int], source: Sequence[int], stride: float, offset: float
) -> NDArray[np.float32]:
    """Bring a map on the network's grid back to the source's grid.

    Parameters
    ----------
    grid
        Scores, one axis for each spatial axis.
    prepared_shape
        Shape of the inference grid.
    source
        Shape of the source image.
    stride
        Inference pixels from one cell of `grid` to the next.
    offset
        Inference pixel, fractional, at the centre of cell 0. For plain blocks of `stride` pixels it is
        ``(stride - 1) / 2``; a network's padding can shift it.

    Returns
    -------
    float32 array of shape `source`
        Linear interpolation; beyond the outermost cells their value continues.
    """
    result = np.asarray(grid, dtype=np.float32)
    for axis, (inner, outer) in enumerate(zip(prepared_shape, source, strict=True)):
        n = result.shape[axis]
        place = (np.arange(outer) + 0.5) * (inner / outer) - 0.5  # source pixel -> inference pixel
        place = np.clip((place - offset) / stride, 0, n - 1)  # -> cell
        below = np.minimum(place.astype(np.intp), max(0, n - 2))
        share = (place - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(result.ndim)])
        low = np.take(result, below, axis=axis)
        if share.any():
            high = np.take(result, np.minimum(below + 1, n - 1), axis=axis)
            high -= low
            high *= share
            low += high
        result = low
    return result


def source_box(
    cell: Sequence[float], prepared_shape: Sequence[int], source: Sequence[int], stride: float, offset: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return centre and size, in source pixels, of the block of `stride` pixels around a cell of the grid."""
    centre, size = [], []
    for c, inner, outer in zip(cell, prepared_shape, source, strict=True):
        factor = outer / inner
        centre.append((c * stride + offset + 0.5) * factor - 0.5)
        size.append(stride * factor)
    return tuple(centre), tuple(size)
