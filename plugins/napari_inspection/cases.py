"""Which layer shows which case; and cases of layers that napari or another plugin opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from inspection_core.geometry import Geometry
from inspection_core.image import Image
from napari_inspection.layers import KEY, Case, Frame, frame_of

_foreign: WeakKeyDictionary[Any, tuple[Any, tuple[Any, ...], Case]] = WeakKeyDictionary()
"""Of layers that came from somewhere else: the data they had, where it lay, and the case that was made of them."""


def is_image(layer: Any, case: Case) -> bool:
    """Say whether a layer shows the image of a case, or one of its channels, and not what was made of it."""
    if type(layer).__name__ != "Image" or layer.name == "score":
        return False
    return layer.metadata.get(KEY) is case or (layer in _foreign and _foreign[layer][2] is case)


def case_of(layer: Any) -> Case | None:
    """Return the case that a layer shows, or make one of an image layer that came from somewhere else.

    The same layer gives the same case until it is given other data or another place.
    """
    case = getattr(layer, "metadata", {}).get(KEY)
    if isinstance(case, Case):
        return case
    if layer is None or type(layer).__name__ != "Image" or why_not(layer):
        return None
    where = (*layer.scale, *layer.translate, *(str(u) for u in layer.units), layer.rgb)
    if layer in _foreign:
        data, place, made = _foreign[layer]
        if data is layer.data and place == where:
            return made
    made = _made(layer)
    _foreign[layer] = (layer.data, where, made)
    return made


def why_not(layer: Any) -> str:
    """Return why an image layer from somewhere else cannot be worked on, and what to do; empty where it can."""
    if type(layer).__name__ != "Image" or isinstance(layer.metadata.get(KEY), Case):
        return ""
    n = layer.ndim
    if layer.multiscale:
        what = "is a pyramid"
    elif n not in (2, 3):
        what = f"has {n} axes, and an image has 2 or 3"
    elif layer.dtype == bool or np.issubdtype(layer.dtype, np.complexfloating):
        what = f"holds {'true and false' if layer.dtype == bool else 'complex numbers'}, and no grey values or colours"
    elif min(layer.data.shape) == 0:
        what = "is empty"
    elif not _straight(layer):
        what = "is turned, mirrored or sheared in the viewer"
    else:
        return ""
    return f"The layer {layer.name} {what}. Choose another layer, or open its file in the Open tab."


def _straight(layer: Any) -> bool:
    """Say whether a layer's place is told by its scale and translation alone."""
    turned = np.asarray(layer.rotate), np.asarray(layer.affine)
    return (
        all(np.allclose(matrix, np.eye(len(matrix))) for matrix in turned)
        and np.allclose(layer.shear, 0)
        and bool(np.all(np.asarray(layer.scale) > 0))
    )


def _made(layer: Any) -> Case:
    """Return a case of an image layer: what its scale and units say, no more."""
    from inspection_core.inputs import Opened

    array = np.asarray(layer.data)
    array = np.moveaxis(array, -1, 0)[:3] if layer.rgb else array[None]
    shape = array.shape[1:]
    names = [str(u) for u in layer.units]
    known = len(shape) == 3 and all(n in ("millimeter", "mm") for n in names)
    scale = tuple(float(s) for s in layer.scale)
    origin = tuple(float(t) for t in layer.translate)
    geometry = Geometry.from_spacing(shape, scale, origin[::-1]) if known else Geometry.pixels(shape)
    channels = ("red", "green", "blue") if layer.rgb else ("grey",)
    source = layer.source.path
    image = Image(array, geometry, channels, Path(source) if source else None)
    frame: Frame = replace(frame_of(geometry), scale=scale, translate=origin, units=tuple(layer.units))
    return Case(Opened(image), frame, layer.name)
