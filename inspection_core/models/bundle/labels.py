"""Which label of a bundle's mask is which channel of its network: found out by sending single channels through.

A bundle's metadata name the network's channels, and its post-processing makes labels of them in any way it likes: the
largest, those above a threshold, numbers of its own. So a few voxels in which one channel, or two, are 1 go through it
when the bundle is loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspection_core.errors import ModelError
from inspection_core.models.bundle import components
from inspection_core.models.bundle.meta import Format

POINTWISE = frozenset({"AsDiscrete", "Lambda", "MapLabelValue", "EnsureType", "CastToType", "SqueezeDim", "ToTensor"})
"""Transforms of a mask that look at one voxel at a time."""
MAX_PAIRS = 16


@dataclass(frozen=True)
class Labels:
    """How a bundle's final array becomes a mask.

    Parameters
    ----------
    classes
        Names of the mask's labels, label 1 first.
    values
        The value of each in a final array of one channel; empty where it has a channel for each class.
    first
        Of an array with several channels: that of label 1.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...] = ()
    first: int = 0

    def mask(self, final: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
        """Return the mask ``(*spatial)`` of a final array ``(C, *spatial)``, and whether classes overlap.

        Where they do, the class with fewer voxels in the whole image is on top: a part of a tumour stays visible in it.

        Raises
        ------
        ModelError
            If the array holds a label that no channel gives.
        """
        if not self.values:
            parts = final[self.first : self.first + len(self.classes)] > 0.5
            mask = np.zeros(final.shape[1:], np.uint8)
            for k in sorted(range(len(parts)), key=lambda k: -int(parts[k].sum())):
                mask[parts[k]] = k + 1
            return mask, bool((parts.sum(axis=0) > 1).any()) if len(parts) > 1 else False
        whole = np.rint(final[0])
        table = dict(zip(self.values, range(1, 256), strict=False))
        mask = np.zeros(whole.shape, np.uint8)
        unknown = []
        for value in np.unique(whole).tolist():
            if value in table:
                mask[whole == value] = table[value]
            elif value != 0:
                unknown.append(f"{value:g}")
        if unknown:
            raise ModelError(
                f"The bundle's mask holds the labels {', '.join(unknown[:5])}, and none of its channels gives them. "
                f"Known are {list(self.values)}; ask who made the bundle."
            )
        return mask, False


def find(tail: Sequence[Any], key: str, form: Format, ndim: int) -> Labels:
    """Find out what labels the end of a post-processing gives.

    Parameters
    ----------
    tail
        Its transforms from the first that makes labels on.
    key
        Name of the network's output in their dictionaries.
    form
        Names of the network's channels.
    ndim
        Spatial axes.

    Raises
    ------
    ModelError
        If it cannot be told which label is which class.
    """
    pointwise = [t for t in tail if components.plain(type(t).__name__) in POINTWISE]
    count = len(form.outputs)
    alone = [_through(pointwise, key, (k,), count, ndim) for k in range(count)]
    shape = alone[0].shape
    if any(a.shape != shape or a.ndim != ndim + 1 for a in alone):
        raise ModelError(f"The bundle's post-processing gives arrays of odd shapes: {[a.shape for a in alone][:3]}.")
    if len(shape) and shape[0] > 1:
        if shape[0] == count:
            first = int(form.background)
            return Labels(form.outputs[first:], first=first)
        if shape[0] == count - 1:
            return Labels(form.outputs[1:])
        raise ModelError(f"The bundle's post-processing makes {shape[0]} channels out of {count}, which have no names.")
    found: dict[int, str] = {}
    for k, array in enumerate(alone):
        value = round(float(array.flat[0]))
        if value and value not in found:
            found[value] = form.outputs[k]
    pairs = itertools.combinations(range(count), 2) if count <= MAX_PAIRS else ()
    for a, b in pairs:
        value = round(float(_through(pointwise, key, (a, b), count, ndim).flat[0]))
        if value and value not in found:
            found[value] = f"{form.outputs[a]} and {form.outputs[b]}"
    if not found or len(found) > 255:
        raise ModelError(
            f"The bundle's post-processing gives {len(found)} labels; a mask holds 1 to 255. Its network's channels "
            f"are {list(form.outputs[:8])}."
        )
    values = sorted(found)
    return Labels(tuple(found[v] for v in values), tuple(values))


def _through(transforms: Sequence[Any], key: str, on: Sequence[int], count: int, ndim: int) -> NDArray[Any]:
    value: dict[str, Any] = {key: torch.zeros((count, *(2,) * ndim))}
    value[key][list(on)] = 1
    try:
        for transform in transforms:
            value = transform(value)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The bundle's post-processing fails on {count} channels: {' '.join(str(error).split())}."
        ) from error
    return np.asarray(torch.as_tensor(value[key]), dtype=np.float64)
