"""From an image to a network's input, and from its output back to the image's own grid.

`restore` undoes the geometry of `prepare`: a value on the network's grid comes back at the place in the source that it
was computed from, whatever the network's stride and the shift of its padding. Volumes are placed by
`inspection_core.placement`, which restores them too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard, Preparation
from inspection_core.errors import ReadError
from inspection_core.image import POSITIONAL, Image, wrong_channels
from inspection_core.normalise import (
    BRIGHT,
    Normalised,
    Voxels,
    bright_levels,
    normalisation,
    normalised,
    volume_of,
    whole,
)
from inspection_core.placement import Placement, orient, resize

if TYPE_CHECKING:
    import torch

GREY = ("grey",)
RGB = ("red", "green", "blue")
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as JPEG and Pillow use."""

MAX_ASPECT = 16
"""Images longer than this many times their short side are not enlarged further; a 1 x 20,000 strip stays a strip."""


MAX_VOXELS = 1 << 31
"""Of a network's whole input, all channels together: 8 GiB of float32."""
STRAY = 0.02
"""Share of a row or a plane that may be bright and yet lie outside the box around the foreground."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the inference grid.

    Parameters
    ----------
    voxels
        Normalised, on the CPU: a float32 tensor ``(C, h, w)`` for the view "image", else ``(C, d, h, w)``. A scan that
        is not resized is normalised where it is looked at; see `inspection_core.normalise.Normalised`.
    source
        Spatial shape of the source image.
    warnings
        What was adapted, in plain words.
    placement
        Where the source lies on that grid; None for the view "image", which is only resized.
    """

    voxels: Voxels
    source: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    placement: Placement | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the inference grid."""
        return tuple(self.voxels.shape[1:])

    @property
    def pixels(self) -> torch.Tensor:
        """All voxels as one float32 tensor, which of a large scan takes its memory."""
        return whole(self.voxels)

    @property
    def volume(self) -> Voxels:
        """The voxels as ``(C, d, h, w)``; an image is a volume of one plane."""
        return volume_of(self.voxels)

    @property
    def place(self) -> Placement:
        """Where the source lies on the grid of `volume`."""
        return self.placement or Placement.plain(self.source, self.shape)


def inference_shape(shape: Sequence[int], preparation: Preparation) -> tuple[int, int]:
    """Return the inference size ``(h, w)`` of an image of `shape` ``(y, x)``: aspect kept, whole multiples."""
    y, x = shape
    if preparation.short_side:
        factor = preparation.short_side / min(y, x)
        factor = min(factor, max(1.0, MAX_ASPECT * preparation.short_side / max(y, x)))
    elif preparation.side:
        low, high = preparation.scales
        factor = min(max(preparation.side / math.sqrt(y * x), low), high)
    else:
        factor = preparation.scale
    m = preparation.multiple
    return max(m, round(y * factor / m) * m), max(m, round(x * factor / m) * m)


def prepare(image: Image, card: ModelCard, most: int = MAX_VOXELS) -> Prepared:
    """Bring an image to the inference grid of a model.

    The result follows from the values alone, to the bit: how the array lies in memory changes nothing.

    Parameters
    ----------
    image
        ``(C, y, x)``, grey or RGB, in the type that the model was made from; ``(C, z, y, x)`` for models of scans.
    card
        Supplies channels, intensity window and inference size.
    most
        Voxels of the network's input, all channels together, above which the image is refused.

    Returns
    -------
    Prepared
        Resized with anti-aliasing; aspect kept but for rounding to whole multiples of the network's stride. For the
        views "slices" and "volume" see `prepare_volume`.

    Raises
    ------
    ReadError
        If the image has another number of axes, or other value type or channels than the model can take, or holds
        values that are not finite.
    """
    import torch

    preparation = card.preparation
    if preparation.view != "image":
        return prepare_volume(image, card, most)
    if image.ndim != 2:
        raise ReadError(f"{image.name}: the model {card.id} takes 2-D images. Got {image.ndim} spatial axes.")
    _check_type(image, card)
    array, warnings = match_channels(image, card.channels)
    size = inference_shape(image.geometry.shape, preparation)
    if len(array) * math.prod(size) > most:
        raise ReadError(
            f"{image.name}: at the model's scale this image of {image.geometry.shape} would be {size} pixels, which is "
            "too large. Give a part of it, or fit a model with a larger --smallest-defect."
        )
    low, high = preparation.window
    if array.dtype == np.uint8 and preparation.resize == "uint8":
        pixels = _resized_bytes(array, size).to(torch.float32)
    else:
        pixels = _resized(array, size, image.name)
    pixels.sub_(low).div_(high - low)
    return Prepared(pixels, image.geometry.shape, (*image.notes, *warnings))


def _resized_bytes(array: NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """Return ``(C, y, x)`` at a size, in whole grey values: an eighth of the time that float32 takes.

    Rounding adds a third of a grey value of noise, as an 8-bit camera does itself.
    """
    import torch
    import torch.nn.functional as F

    whole = torch.from_numpy(np.array(array))  # images are read-only; the copy keeps their order in memory
    if size == tuple(whole.shape[1:]):
        return whole
    return F.interpolate(whole[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def _resized(array: NDArray[Any], size: tuple[int, int], name: str) -> torch.Tensor:
    """Return ``(C, y, x)`` as float32 at a size."""
    import torch
    import torch.nn.functional as F

    pixels = torch.empty((len(array), *size), dtype=torch.float32)
    for channel, plane in zip(pixels, array, strict=True):  # one at a time bounds memory for very large images
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused next
            values = np.array(plane, dtype=np.float32, order="C")  # images are read-only
        if plane.dtype.kind == "f" and not np.isfinite(values).all():
            raise ReadError(
                f"{name}: holds NaN or infinity, which no score can come from. Set such values to numbers first."
            )
        whole = torch.from_numpy(values)[None, None]
        if size != tuple(plane.shape):
            whole = F.interpolate(whole, size=size, mode="bilinear", antialias=True, align_corners=False)
        channel.copy_(whole[0, 0])
    return pixels


def _check_type(image: Image, card: ModelCard) -> None:
    kind, preparation = str(image.array.dtype), card.preparation
    if preparation.dtype and kind != preparation.dtype:
        raise ReadError(
            f"{image.name}: the model {card.id} was made from {preparation.dtype} images and its intensity window "
            f"{preparation.window} fits no other type. Got {kind}; convert the image, or fit a model on such images."
        )


def prepare_volume(image: Image, card: ModelCard, most: int = MAX_VOXELS) -> Prepared:
    """Bring a scan to the inference grid of a model of volumes, or of their slices.

    Channels are found by name, normalised on the source's own voxels, turned to the card's orientation, cut to the
    foreground if the card says so, resized to its spacing, and padded at the ends to what the network takes.

    Parameters
    ----------
    image
        ``(C, z, y, x)``, or ``(C, y, x)``, which is a volume of one slice.
    card
        With the view ``"slices"`` or ``"volume"``.
    most
        As for `prepare`.

    Returns
    -------
    Prepared
        Voxels ``(C, d, h, w)``, with their placement.

    Raises
    ------
    ReadError
        If a channel is missing, or the image is none that the model can take.
    """
    import torch

    preparation = card.preparation
    if image.ndim == 2 and preparation.view == "volume":
        raise ReadError(f"{image.name}: the model {card.id} takes volumes. Got a 2-D image; give the whole series.")
    _check_type(image, card)
    array, warnings = match_channels(image, card.channels)
    if image.ndim == 2:
        array = array[:, None]
    axes, flips = ((0, 1, 2), (False,) * 3) if image.ndim == 2 else orient(image.geometry, preparation.orientation)
    source = tuple(array.shape[1:])
    shape = tuple(source[a] for a in axes)
    place = Placement(source, axes, flips, (0, 0, 0), shape, shape, shape)
    if preparation.crop:
        place = _cropped(place, array, preparation)
    spacing = (0.0, *image.geometry.spacing) if image.ndim == 2 else image.geometry.spacing
    resized, said = volume_shape(place.size, [spacing[a] for a in axes], image.geometry.unit, card)
    padded = padded_shape(resized, preparation)
    if len(array) * math.prod(padded) > most:
        raise ReadError(
            f"{image.name}: at the model's spacing this scan of {shape} would be {padded} voxels, which is too large. "
            "Check the spacing in the file, or give a part of the scan."
        )
    place = replace(place, resized=resized, padded=padded)
    scales, bad = [], 0
    for channel in array:
        shift, gain, broken = normalisation(channel, preparation)
        scales.append((shift, gain))
        bad += broken
    if bad:
        said = (*said, f"{bad} voxels are not finite: taken as 0")
    views = [place.view(channel) for channel in array]
    voxels: Voxels = Normalised(views, scales, preparation, padded)
    if resized != place.size:  # interpolated, which is not done twice
        voxels = torch.zeros((len(array), *padded), dtype=torch.float32)
        for target, view, scale in zip(voxels, views, scales, strict=True):
            planes = (torch.from_numpy(normalised(plane, scale, preparation)) for plane in view)
            resize(planes, place.size[0], target[tuple(slice(n) for n in resized)])
    return Prepared(voxels, image.geometry.shape, (*image.notes, *warnings, *said), place)


def volume_shape(
    shape: Sequence[int], spacing: Sequence[float], unit: str, card: ModelCard
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape of an oriented volume on a model's grid before padding, and what a user should know.

    `spacing` is that of the volume in `unit`, both in index order. With a spacing on the card each axis is scaled to
    it. Without, slices are scaled in their plane by ``short_side`` or ``scale``, and volumes by ``scale``.
    """
    preparation = card.preparation
    if any(card.spacing):
        if unit != "mm":
            wanted = " x ".join(f"{s:g}" if s else "any" for s in card.spacing)
            return tuple(shape), (f"no spacing is known: not scaled to the model's {wanted} mm, results may be poor",)
        pairs = zip(shape, spacing, card.spacing, strict=True)
        return tuple(max(1, round(n * s / want)) if want and s else n for n, s, want in pairs), ()
    factors = [preparation.scale] * 3
    if preparation.view == "slices":
        if preparation.short_side:
            factor = preparation.short_side / min(shape[1:])
            factors = [min(factor, max(1.0, MAX_ASPECT * preparation.short_side / max(shape[1:])))] * 3
        factors[0] = 1.0
    return tuple(max(1, round(n * f)) for n, f in zip(shape, factors, strict=True)), ()


def padded_shape(shape: Sequence[int], preparation: Preparation) -> tuple[int, ...]:
    """Return the shape of a network's input for a volume ``(d, h, w)``: whole multiples, and a window at least.

    Windows with fixed steps end at the border wherever it is, so that only a window at least is needed.
    """
    m = 1 if preparation.steps == "fixed" else preparation.multiple
    least = (0,) * (3 - len(preparation.window_size)) + preparation.window_size if preparation.window_size else (0,) * 3
    out = [max(-(-n // m) * m, w) for n, w in zip(shape, least, strict=True)]
    return (shape[0], *out[1:]) if preparation.view == "slices" else tuple(out)


def _cropped(place: Placement, array: NDArray[Any], preparation: Preparation) -> Placement:
    """Return the placement cut to the box around what is not 0 in any channel; uncut where all is 0."""
    if preparation.foreground == "bright":
        return _cropped_to_bright(place, array)
    seen = [np.zeros(n, bool) for n in place.size]
    for channel in array:
        for z, plane in enumerate(place.view(channel)):
            some = np.nan_to_num(plane) != 0 if plane.dtype.kind == "f" else plane != 0
            seen[0][z] |= some.any()
            seen[1] |= some.any(axis=1)
            seen[2] |= some.any(axis=0)
    return _boxed(place, seen)


def _cropped_to_bright(place: Placement, array: NDArray[Any]) -> Placement:
    """Return the placement cut to where at least half of the channels are bright, but for a few stray voxels."""
    levels = [bright_levels(channel) for channel in array]
    cuts = [low + BRIGHT * (high - low) if high > low else math.inf for low, high in levels]
    most = [np.zeros(n) for n in place.size]  # of each row of each axis, its largest bright share in any plane
    views = [place.view(channel) for channel in array]
    for z in range(place.size[0]):
        votes = sum((view[z] > cut).astype(np.uint8) for view, cut in zip(views, cuts, strict=True))
        bright = np.asarray(votes) * 2 >= len(views)
        most[0][z] = bright.mean()
        np.maximum(most[1], bright.mean(axis=1), out=most[1])
        np.maximum(most[2], bright.mean(axis=0), out=most[2])
    return _boxed(place, [line > STRAY for line in most])


def _boxed(place: Placement, seen: Sequence[NDArray[np.bool_]]) -> Placement:
    if not all(line.any() for line in seen):
        return place
    bounds = [(int(line.argmax()), line.size - int(line[::-1].argmax())) for line in seen]
    return replace(place, start=tuple(a for a, _ in bounds), size=tuple(b - a for a, b in bounds))


def name_channels(image: Image, channels: Sequence[str]) -> Image:
    """Give an image whose channels have no names of their own those of a model, in order, and say so.

    For files that hold nothing but channels, such as 4-D NIfTI. Another number of channels than the model's is left
    as it is, and `match_channels` then says what is missing.
    """
    if image.channels == tuple(channels) or len(image.channels) != len(channels) or len(channels) == 1:
        return image  # a lone channel needs no name
    if not all(POSITIONAL.fullmatch(name) for name in image.channels):
        return image
    note = f"channels have no names in the file: taken in order as {', '.join(channels)}"
    return replace(image, channels=tuple(channels), notes=(*image.notes, note))


def in_order(image: Image, channels: Sequence[str]) -> Image:
    """Return an image with the channels that a model takes, in their order; what was adapted is in its notes.

    For models that bring their own preparation. A lone channel needs no name.

    Raises
    ------
    ReadError
        If the channels cannot be matched.
    """
    if len(channels) == len(image.channels) == 1:
        return replace(image, channels=tuple(channels))
    array, said = match_channels(image, channels)
    return replace(image, array=array, channels=tuple(channels), notes=(*image.notes, *said))


def match_channels(image: Image, channels: Sequence[str]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the image's array with the channels that a model takes, and what was adapted.

    Raises
    ------
    ReadError
        If the channels cannot be matched.
    """
    if tuple(channels) == image.channels:
        return image.array, ()
    if tuple(channels) == GREY and image.channels == RGB:
        same = all(np.array_equal(image.array[0], other) for other in image.array[1:])
        if same:
            return image.array[:1], ()
        grey = np.tensordot(np.asarray(LUMA, dtype=np.float32), image.array.astype(np.float32, order="C"), axes=1)
        return grey[None], ("colour image turned to grey, as the model takes",)
    if tuple(channels) == RGB and image.channels == GREY:
        return np.broadcast_to(image.array, (3, *image.geometry.shape)), ()
    by_name = {name.casefold(): k for k, name in enumerate(image.channels)}
    missing = [name for name in channels if name.casefold() not in by_name]
    if not missing:
        order = [by_name[name.casefold()] for name in channels]
        spare = [name for k, name in enumerate(image.channels) if k not in order]
        said = (f"channels not used: {', '.join(spare)}",) if spare else ()
        # A run of channels needs no copy of what may be a large scan.
        whole = order == list(range(order[0], order[0] + len(order)))
        return image.array[order[0] : order[-1] + 1] if whole else image.array[order], said
    if len(channels) == len(image.channels) == 1 and POSITIONAL.fullmatch(image.channels[0]):
        return image.array, ()
    raise ReadError(f"{image.name}: {wrong_channels(channels, image.channels, files=image.ndim == 3)}")


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
    for axis in reversed(range(result.ndim)):  # the first axis last: there, whole lines are computed
        inner, outer, n = prepared_shape[axis], source[axis], result.shape[axis]
        place = (np.arange(outer) + 0.5) * (inner / outer) - 0.5  # source pixel -> inference pixel
        place = np.clip((place - offset) / stride, 0, n - 1)  # -> cell
        below = np.minimum(place.astype(np.intp), max(0, n - 2))
        share = (place - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(result.ndim)])
        step = np.diff(result, axis=axis, append=np.take(result, [-1], axis=axis))
        if axis == 0:
            return _lines(result, step, below, share)
        high = np.take(step, below, axis=axis)
        high *= share
        high += np.take(result, below, axis=axis)
        result = high
    return result


def _lines(
    cells: NDArray[np.float32], step: NDArray[np.float32], below: NDArray[np.intp], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate along the first axis, ``cells[below] + share * step[below]``, cell by cell, while it is in cache."""
    out = np.empty((len(below), *cells.shape[1:]), np.float32)
    bounds = np.searchsorted(below, np.arange(len(cells) + 1))
    for cell, (first, last) in enumerate(itertools.pairwise(bounds.tolist())):
        if first < last:
            np.multiply(step[cell], share[first:last], out=out[first:last])
            out[first:last] += cells[cell]
    return out


def source_box(
    cell: Sequence[Any], prepared_shape: Sequence[int], source: Sequence[int], stride: float, offset: float
) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """Return centre and size, in source pixels, of the block of `stride` pixels around a cell of the grid.

    A cell is an index ``(y, x)``, of numbers or of arrays of them.
    """
    centre: list[Any] = []
    size: list[float] = []
    for c, inner, outer in zip(cell, prepared_shape, source, strict=True):
        factor = outer / inner
        centre.append((c * stride + offset + 0.5) * factor - 0.5)
        size.append(stride * factor)
    return tuple(centre), tuple(size)
