"""Core to napari and back: the only place where an image's grid and napari's layers meet.

napari draws axes in array order and slices along them, so a grid has to lie along napari's axes. An array is shown
with its axes ordered and turned so that they run to the patient's head, back and left, as near as whole axes can: a
*view* of the array in the core's own order, so that a stroke on a layer is a stroke on that array. Then

- where the grid runs along the patient's axes, napari's world **is** the patient's: axes z, y, x in mm, LPS;
- where it lies obliquely, napari's world is the scan's own frame in true mm, with the centre of the volume at its
  place in the patient. Slicing an oblique grid along the patient's axes would show planes that were never taken; where
  a point is in the patient is still known, and `Frame.patient` tells it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.prediction import RESEARCH_USE, Prediction

if TYPE_CHECKING:  # its readers take most of a second to import, and a widget needs none of them
    from inspection_core.inputs import Input, Opened

LayerData = tuple[Any, dict[str, Any], str]

KEY = "inspection"
"""Where a layer's metadata hold its `Case`."""
SAME_PLACE = 0.1
"""A grid runs along the patient's axes where no corner is farther off than this share of the smallest spacing."""
SINGLE_CHANNELS = 4
"""Up to so many channels are a layer each; more make one layer with a slider."""
PYRAMID_SIDE = 4096
"""Pictures larger than this are shown as a pyramid: the graphics card takes no larger texture everywhere."""
SCORE_COLOURS = "inferno"
TEXT_COLOURS = {False: "#ffffff", True: "#000000"}
"""On dark images and on bright ones."""
BRIGHT = 0.6
"""Share of the window above which the middle grey of an image makes it a bright one."""
OUTLINE = 2.0
"""Width of outlines, in pixels of the screen."""
THICKEST = 25
"""Of an outline, in pixels of the image: napari's own time for it grows with this."""
OVERLAP_COLOURS = ("#009e73", "#56b4e9", "#d55e00")
"""Of both, the first alone and the second alone; told apart with every kind of colour vision."""
AXES = {2: ("y", "x"), 3: ("z", "y", "x")}
LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Of the world's x, y and z axis: the negative and the positive direction."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How a grid is shown.

    Parameters
    ----------
    geometry
        Of the image, in the core's order.
    axes
        The array's axis that each shown axis is.
    flips
        Shown axes that run against the array's.
    shown
        Geometry of the shown array.
    scale, translate
        For napari, in the order of the shown axes.
    oblique
        Whether napari's world is the scan's own frame and not the patient's.
    units
        Of the shown axes, where a layer from somewhere else has its own; empty for those of the grid.
    """

    geometry: Geometry
    axes: tuple[int, ...]
    flips: tuple[int, ...]
    shown: Geometry
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    oblique: bool
    units: tuple[Any, ...] = ()

    def show(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the view of an array on the grid, ``(..., *spatial)``, that napari shows."""
        lead = array.ndim - self.geometry.ndim
        view = np.transpose(array, (*range(lead), *(lead + a for a in self.axes)))
        return np.flip(view, tuple(lead + a for a in self.flips))

    def unshow(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the view of a shown array in the core's order: the inverse of `show`."""
        lead = array.ndim - self.geometry.ndim
        view = np.flip(array, tuple(lead + a for a in self.flips))
        return np.transpose(view, (*range(lead), *(lead + a for a in np.argsort(self.axes))))

    def to_shown(self, index: NDArray[np.floating[Any]] | tuple[float, ...]) -> NDArray[np.float64]:
        """Return where ``(..., n)`` indices of the core's array are in the shown one."""
        points = np.asarray(index, dtype=np.float64)[..., list(self.axes)]
        for axis in self.flips:
            points[..., axis] = self.shown.shape[axis] - 1 - points[..., axis]
        return points

    def from_shown(self, index: NDArray[np.floating[Any]] | tuple[float, ...]) -> NDArray[np.float64]:
        """Return which indices of the core's array ``(..., n)`` indices of the shown one are."""
        points = np.array(index, dtype=np.float64)
        for axis in self.flips:
            points[..., axis] = self.shown.shape[axis] - 1 - points[..., axis]
        return points[..., np.argsort(self.axes)]

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the half-open box of the core's array that a half-open box of the shown one is."""
        ends = np.stack([self.from_shown(start), self.from_shown(tuple(s - 1 for s in stop))])
        low, high = ends.min(axis=0).astype(int), ends.max(axis=0).astype(int) + 1
        return tuple(low.tolist()), tuple(high.tolist())

    def world(self, index: NDArray[np.floating[Any]] | tuple[float, ...]) -> NDArray[np.float64]:
        """Return napari's world point of indices of the core's array."""
        return self.to_shown(index) * np.array(self.scale) + np.array(self.translate)

    def index(self, world: NDArray[np.floating[Any]] | tuple[float, ...]) -> NDArray[np.float64]:
        """Return the index in the core's array of a point in napari's world; the inverse of `world`."""
        return self.from_shown((np.asarray(world) - np.array(self.translate)) / np.array(self.scale))

    def patient(self, world: NDArray[np.floating[Any]] | tuple[float, ...]) -> NDArray[np.float64]:
        """Return the image's world coordinates ``(x, y[, z])`` of a point in napari's world."""
        return self.geometry.index_to_world(self.index(world))

    def letters(self, axis: int) -> tuple[str, str]:
        """Return where a shown axis comes from and goes to, such as ``("R", "L")``; empty where nobody knows.

        An oblique axis has two or three letters, the nearest first, as DICOM's PatientOrientation.
        """
        if self.geometry.ndim != 3 or self.geometry.unit != "mm":
            return "", ""
        direction = self.shown.affine[:3, axis] / self.shown.spacing[axis]
        order = [int(i) for i in np.argsort(-np.abs(direction)) if abs(direction[i]) > 0.2]
        ahead = "".join(LETTERS[i][int(direction[i] > 0)] for i in order)
        behind = "".join(LETTERS[i][int(direction[i] < 0)] for i in order)
        return behind, ahead

    @property
    def unit(self) -> str:
        """As napari names it."""
        return "mm" if self.geometry.unit == "mm" else "pixel"

    def kwargs(self, lead: int = 0) -> dict[str, Any]:
        """Return scale, translation, units and axis labels for a layer with `lead` axes before the spatial ones."""
        n = self.geometry.ndim
        return {
            "scale": (*(1.0,) * lead, *self.scale),
            "translate": (*(0.0,) * lead, *self.translate),
            "units": (*("pixel",) * lead, *(self.units or (self.unit,) * n)),
            "axis_labels": (*("volume",) * lead, *AXES[n]),
        }


@dataclass(frozen=True, eq=False)
class Case:
    """An opened input and how it is shown.

    Parameters
    ----------
    item
        What was opened; None for a layer that came from somewhere else.
    opened
        Image, and what results need of the source.
    frame
        How it is shown.
    name
        What the user reads.
    """

    opened: Opened
    frame: Frame
    name: str
    item: Input | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Image:
        """The image."""
        return self.opened.image


def frame_of(geometry: Geometry) -> Frame:
    """Return how a grid is shown; see the module's first lines."""
    n = geometry.ndim
    if n == 2:
        scale, origin = geometry.spacing, tuple(float(v) for v in geometry.affine[:2, 2][::-1])
        return Frame(geometry, (0, 1), (), geometry, scale, origin, False)
    direction = geometry.affine[:3, :3] / np.array(geometry.spacing)
    # Shown axis k runs along world axis 2 - k: z, y, x.
    axes = max(permutations(range(3)), key=lambda p: sum(abs(direction[2 - k, a]) for k, a in enumerate(p)))
    shown = geometry.transposed(axes)
    flips = tuple(k for k in range(3) if shown.affine[2 - k, k] < 0)
    for k in flips:
        shown = shown.flipped(k)
    straight = Geometry.from_spacing(shown.shape, shown.spacing, shown.affine[:3, 3].tolist(), shown.unit)
    corners = np.array(np.meshgrid(*([0, s - 1] for s in shown.shape), indexing="ij")).reshape(3, -1).T
    apart = np.linalg.norm(shown.index_to_world(corners) - straight.index_to_world(corners), axis=1).max()
    oblique = bool(apart > SAME_PLACE * min(shown.spacing))
    translate = shown.affine[:3, 3][::-1]
    if oblique:
        middle = (np.array(shown.shape) - 1) / 2
        translate = shown.index_to_world(middle)[::-1] - middle * np.array(shown.spacing)
    return Frame(geometry, tuple(axes), flips, shown, shown.spacing, tuple(float(t) for t in translate), oblique)


def make_case(opened: Opened, name: str, item: Input | None = None) -> Case:
    """Return a case of something that was read."""
    return Case(opened, frame_of(opened.image.geometry), name, item)


def image_layers(case: Case) -> list[LayerData]:
    """Return the image as napari layers: a layer a channel, an RGB layer, or one with a slider over many channels."""
    image, frame = case.image, case.frame
    shown = frame.show(image.array)
    common: dict[str, Any] = {"metadata": {KEY: case}}
    if image.channels[:3] == ("red", "green", "blue"):
        colour = np.moveaxis(shown[:3], 0, -1)
        limits = {} if colour.dtype == np.uint8 else {"contrast_limits": contrast(colour)}
        return [_pyramid(colour, {**common, **frame.kwargs(), **limits, "name": case.name, "rgb": True})]
    grey = {**common, "rgb": False}  # else napari takes three or four voxels along the last axis for colours
    if len(image.channels) > SINGLE_CHANNELS:
        meta = {**grey, **frame.kwargs(lead=1), "name": case.name, "contrast_limits": contrast(shown)}
        return [(shown, meta, "image")]
    layers = []
    for k, channel in enumerate(image.channels):
        name = case.name if len(image.channels) == 1 else f"{case.name} {channel}"
        meta = {**grey, **frame.kwargs(), "name": name, "colormap": "gray", "visible": k == 0}
        meta["contrast_limits"] = own_window(case) or contrast(shown[k])
        layers.append(_pyramid(shown[k], meta))
    return layers


def score_layer(case: Case, prediction: Prediction, scale: tuple[float, float] | None = None) -> LayerData:
    """Return the score map with a perceptual colour map; black, the lowest score, hides nothing of the image.

    On the model's `scale` a calm image looks calm; without one, the map's own range is stretched.
    """
    score = case.frame.show(prediction.score)
    low, high = scale or (float(score.min()), float(score.max()))
    meta = {
        **case.frame.kwargs(),
        "name": "score",
        "rgb": False,
        "colormap": SCORE_COLOURS,
        "opacity": 0.6,
        "blending": "additive",
        "contrast_limits": (low, high if high > low else low + 1),
        "metadata": {KEY: case},
        "visible": False,
    }
    return score, meta, "image"


def is_bright(case: Case) -> bool:
    """Say whether an image is mostly bright as it is shown, so that what is drawn on it has to be dark."""
    if "bright" not in case.extras:  # asked for with every colour
        colour = case.image.channels[:3] == ("red", "green", "blue")
        array = case.image.array[:3] if colour else case.image.array[0]
        low, high = (0.0, 255.0) if colour and array.dtype == np.uint8 else own_window(case) or contrast(array)
        step = max(1, round((array.size / 1e5) ** (1 / array.ndim)))
        middle = float(np.nanmedian(array[(..., *(slice(None, None, step),) * case.image.ndim)]))
        case.extras["bright"] = middle > low + BRIGHT * (high - low)
    return bool(case.extras["bright"])


def outline_width(zoom: float, frame: Frame) -> int:
    """Return how many pixels of the image an outline takes at a zoom, in pixels of the screen a unit of the world."""
    return int(np.clip(round(OUTLINE / max(zoom * min(frame.scale), 1e-9)), 1, THICKEST))


def labels_layer(case: Case, regions: NDArray[Any]) -> LayerData:
    """Return the numbered findings, an array in the core's order that the user may paint on."""
    meta = {
        **case.frame.kwargs(),
        "name": "findings",
        "opacity": 0.9,
        "metadata": {KEY: case},
    }
    return case.frame.show(regions), meta, "labels"


def texts_layer(case: Case, places: NDArray[np.floating[Any]], texts: list[str]) -> LayerData:
    """Return what is known of each finding as text beside it.

    Parameters
    ----------
    case
        Whose findings.
    places
        ``(n, ndim)`` indices in the core's order.
    texts
        One a finding.
    """
    n = case.frame.geometry.ndim
    points = case.frame.to_shown(places) if len(texts) else np.zeros((0, n))
    if n == 3:
        points[:, 0] = np.rint(points[:, 0])  # a slice is a whole number
    meta = {
        **case.frame.kwargs(),
        "name": "confidence",
        "ndim": n,
        "size": 1e-3,
        "opacity": 1.0,
        "features": {"text": texts},
        "text": {"string": "{text}", "size": 10, "color": TEXT_COLOURS[is_bright(case)], "anchor": "upper_left"},
        "metadata": {KEY: case},
    }
    return points, meta, "points"


def overlap_layer(case: Case, overlap: NDArray[np.uint8], names: tuple[str, str]) -> LayerData:
    """Return where two masks agree and differ: 1 is both, 2 the first alone, 3 the second alone."""
    meta = {
        **case.frame.kwargs(),
        "name": "comparison",
        "opacity": 0.6,
        "metadata": {KEY: case, "names": ("both", *(f"{name} alone" for name in names))},
        "colormap": dict(zip((None, 0, 1, 2, 3), ("transparent", "transparent", *OVERLAP_COLOURS), strict=True)),
    }
    return case.frame.show(overlap), meta, "labels"


def own_window(case: Case) -> tuple[float, float] | None:
    """Return the window that the file asks for, as ``(low, high)``."""
    windows = case.opened.dicom.windows if case.opened.dicom is not None else ()
    if not windows:
        return None
    centre, width = windows[0]
    return (centre - width / 2, centre + width / 2) if width > 0 else None


def contrast(array: NDArray[Any]) -> tuple[float, float]:
    """Return the range from the 0.5th to the 99.5th percentile of finite values, from a sample of large arrays."""
    step = max(1, round((array.size / 1e6) ** (1 / array.ndim)))
    sample = np.asarray(array[(slice(None, None, step),) * array.ndim], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return (low, high) if high > low else (low, low + 1)


def extremes(array: NDArray[Any]) -> tuple[float, float] | None:
    """Return the lowest and the highest finite value, or None where there is none."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # seldom, and a copy
        finite = array[np.isfinite(array)]
        if finite.size == 0:
            return None
        low, high = float(finite.min()), float(finite.max())
    return low, high


def describe(prediction: Prediction) -> str:
    """Return the banner: model, version, what it may be used for."""
    return f"{prediction.model_id}, version {prediction.model_version}. {RESEARCH_USE}"


def _pyramid(array: NDArray[Any], meta: dict[str, Any]) -> LayerData:
    """Return a layer, of a large picture as a pyramid whose lower levels are made when they are looked at."""
    spatial = array.shape[:2] if meta.get("rgb") else array.shape
    if len(spatial) != 2 or max(spatial) <= PYRAMID_SIDE:
        return array, meta, "image"
    import dask.array as da

    levels = [da.from_array(array, chunks=(2048, 2048, *array.shape[2:]))]
    while max(levels[-1].shape[:2]) > 1024:
        last = levels[-1]
        half = {axis: min(2, last.shape[axis]) for axis in (0, 1)}  # a line stays a line
        even = last[tuple(slice(last.shape[axis] // by * by) for axis, by in half.items())]
        levels.append(da.coarsen(np.mean, even, half).astype(array.dtype))
    return levels, {**meta, "multiscale": True}, "image"
