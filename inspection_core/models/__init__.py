"""Architectures: the table of what can be loaded, and the protocol that each keeps.

An architecture is a plain function ``load(folder, card, device) -> Predictor``. Ours stand in `MODELS`; a third party
adds one through the entry-point group ``inspection_core.models``, without changing this package. See
``docs/add-a-model.md``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from inspection_core.card import ModelCard, Scalar
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.image import Image
from inspection_core.prediction import Neighbour

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

ENTRY_POINTS = "inspection_core.models"

MODELS: Mapping[str, str] = {
    "intensity-band": "inspection_core.models.intensity_band:load",
    "monai-unet": "inspection_core.models.monai_unet:load",
    "onnx": "inspection_core.models.exported:load",
    "openvino": "inspection_core.models.exported:load",
    "patch-memory": "inspection_core.models.patch_memory:load",
    "timm-unet": "inspection_core.models.timm_unet:load",
    "torchscript": "inspection_core.models.exported:load",
}
"""Architecture -> ``module:function`` that loads it. Strings, so that nothing is imported before it is used."""

FITTERS: Mapping[str, str] = {
    "patch-memory": "inspection_core.models.patch_memory:PatchMemoryFitter",
}
"""Architectures that can be fitted from good images alone -> the `Fitter` that does it."""

HOSTS: Mapping[str, str] = {
    "bundle": "inspection_core.models.bundle:open_bundle",
    "nnunet": "inspection_core.models.nnunet:open_results",
}
"""Models of other makers, named ``prefix:PATH`` -> ``open(path, device, trust) -> (ModelCard, Host)``."""


@dataclass(frozen=True)
class Scores:
    """What a predictor gives for a batch of windows.

    Parameters
    ----------
    map
        float32 ``(B, *grid)``; higher is more abnormal.
    neighbour
        int64 ``(B, *grid)``: which stored reference came nearest, or None for models without a memory.
    """

    map: torch.Tensor
    neighbour: torch.Tensor | None = None


class Predictor(Protocol):
    """Tensor in, score tensor out. It knows no files, geometry, thresholds or GUI.

    A cell of the score grid with index i along an axis looks at the input pixel ``stride * i + offset``.
    """

    stride: int
    offset: float

    def __call__(self, batch: torch.Tensor) -> Scores:
        """Score a batch ``(B, C, *spatial)`` of float32 windows, intensity window mapped to 0 and 1."""
        ...

    def to(self, device: Device) -> None:
        """Move the model to another device."""
        ...


class Segmenter(Protocol):
    """What a card with the task "segmentation" loads: tensor in, class probabilities out.

    The rest is as for `Predictor`; of the view "slices", stride and offset are those of the plane. A network of several
    members, or that looks at flips too, may have an attribute ``spread`` that is true: then it gives one channel more,
    the last, with the standard deviation of P(not background) over them. One with an attribute ``logits`` that is true
    gives the classes' logits in place of their probabilities; the softmax is then taken piece by piece.

    One with a method ``room`` can save an array: asked with the shape of the batches to come, it returns a float32
    tensor of that shape, in which each of them may be put, or None. That may be the memory of what it returned, since
    the next batch comes when that is done with; what it returns next may then lie where the batch was.
    """

    stride: int
    offset: float

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return float probabilities ``(B, 1 + K, *grid)``, the background first, then the card's classes.

        `batch` is float32: ``(B, C, h, w)``; ``(B, (2 k + 1) * C, h, w)`` for slices with k neighbours on each side,
        all channels of the lowest plane first; or ``(B, C, d, h, w)`` for volumes. Its memory is used again for the
        next batch, and what is returned is written over: return nothing that is kept.
        """
        ...

    def to(self, device: Device) -> None:
        """Move the model to another device."""
        ...


@dataclass(frozen=True, eq=False)
class Segmented:
    """Score and mask of an image: what a `Host` gives, and what a `Segmenter` comes to.

    Parameters
    ----------
    score
        float32 on the image's own grid, in [0, 1]: 1 - P(background).
    mask
        uint8 on the same grid: 0, or a class of the card, counted from 1.
    warnings
        What was adapted, in plain words.
    spread
        float32 on the same grid: the disagreement of a network's members; None for others.
    """

    score: NDArray[np.float32]
    mask: NDArray[np.uint8]
    warnings: tuple[str, ...] = ()
    spread: NDArray[np.float32] | None = None


@runtime_checkable
class Host(Protocol):
    """A model that goes its own way from an image to a mask, because its makers' pre- and post-processing belong to it.

    `Predictor` and `Segmenter` are what to write for a new model: the core prepares, tiles and restores for them.
    """

    def segment(self, image: Image, device: Device) -> Segmented:
        """Return score and mask on the image's own grid.

        Raises
        ------
        ReadError
            If the image is none that the model can take.
        ModelError
            If the model fails on it.
        """
        ...

    def to(self, device: Device) -> None:
        """Move the model to another device."""
        ...


class Fitter(Protocol):
    """Makes predictors of one architecture from the patches of good images, seen once, in bounded memory.

    Made with ``Fitter(backbone, settings, images, device, seed)``. `describe` and `add` are called for every window of
    every image; then `build` gives a predictor from a subset of the images, so that cross-fitting needs no second look
    at the rest.
    """

    stride: int
    offset: float

    @property
    def lanes(self) -> int:
        """Calls of `describe`, and of `build`, that may run at once, each in a thread with one core."""
        ...

    def describe(self, batch: torch.Tensor) -> Any:
        """Return what is to be known of the windows ``(B, C, h, w)`` of one image."""
        ...

    def add(self, image: int, described: Any, origins: torch.Tensor) -> None:
        """Take in what `describe` gave of one image, in a given order, from one thread.

        `origins` is float32 ``(B, h', w', 4)``: centre y, x and height, width of each cell in the source's pixels.
        """
        ...

    def build(self, images: Collection[int], names: Sequence[str]) -> FittedPredictor:
        """Make a predictor from the patches of `images`; `names` holds the name of every image that was added."""
        ...


class FittedPredictor(Predictor, Protocol):
    """A predictor that can be saved."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that `load` needs besides the card."""
        ...

    def parameters(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the settings that the card keeps."""
        ...


class Explaining(Protocol):
    """A predictor that can say which good patch a score was measured against."""

    def explain(self, reference: int) -> Neighbour:
        """Return the good patch with the number that `Scores.neighbour` gave; its distance is left at 0."""
        ...


def architectures() -> dict[str, str]:
    """Return every known architecture with where it comes from, third parties' included.

    Raises
    ------
    ModelError
        If two have one name.
    """
    found = dict(MODELS)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in found:
            raise ModelError(
                f"Two architectures are named {entry.name!r}: {found[entry.name]} and {entry.value}. "
                "Uninstall one of the packages, or ask its author for another name."
            )
        found[entry.name] = entry.value
    return found


def load_predictor(folder: Path, card: ModelCard, device: Device) -> Predictor:
    """Load the network of a model's folder.

    Raises
    ------
    ModelError
        If the card's architecture is unknown, its package cannot be imported, or the weights are damaged.
    """
    return cast("Predictor", function(architectures(), card.architecture)(folder, card, device))


def function(table: Mapping[str, str], name: str) -> Callable[..., Any]:
    """Import what `table` says under `name`."""
    if name not in table:
        raise ModelError(f"The architecture {name!r} is unknown. Known are: {', '.join(sorted(table))}.")
    module, _, attribute = table[name].partition(":")
    try:
        return cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ModelError(f"The architecture {name!r} cannot be loaded from {table[name]}: {error}.") from error
