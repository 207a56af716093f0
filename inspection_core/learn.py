"""Models from good images alone: survey, fit, cross-fit, calibrate, save.

Every good image is scored once by a model that did not see it (cross-fitting in `FOLDS` folds). Those scores make the
calibration: the p-value of a new image is its place among them. Nothing here looks at an image that is not good.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core import __version__
from inspection_core import device as devices
from inspection_core.card import Calibration, ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel, plan
from inspection_core.errors import FitError, InspectionError, UsageError
from inspection_core.image import Image
from inspection_core.infer import Clock, measure
from inspection_core.io.raster import list_images, read_raster
from inspection_core.models import FITTERS, FittedPredictor, Fitter, function
from inspection_core.models import weights as weights_io
from inspection_core.prepare import GREY, prepare, source_box
from inspection_core.threshold import cuts

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

FOLDS = 5
"""Parts that the good images are split into for cross-fitting: each is scored by a model of the other four."""

WINDOW_TAILS = (0.1, 99.9)
"""Percentiles of an image's values between which the intensity window of 16-bit and float images lies, at least."""

PIXEL_QUANTILE = 0.999
"""Share of a good image's pixels that stay below the score at which findings are outlined."""

SAMPLED_PIXELS = 5000
"""Score-map pixels of each good image that this quantile is estimated from."""


@dataclass(frozen=True)
class Preset:
    """A set of defaults, chosen by the experiments in ``docs/decisions/0002-anomaly-defaults.md``."""

    architecture: str
    backbone: str
    size: int
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = {
    "fast": Preset("patch-memory", "tf_efficientnet_lite0", 256, {"memory": 2048, "dim": 128}),
    "accurate": Preset("patch-head", "tf_efficientnet_lite0", 256, {"memory": 4096}),
}


@dataclass(frozen=True)
class Fitted:
    """A new model.

    Parameters
    ----------
    card, folder
        The model.
    suspects
        Good images that look unlike the others, most suspect first: perhaps a defect among the good ones.
    warnings
        What the user should know.
    seconds
        Of each stage.
    """

    card: ModelCard
    folder: Path
    suspects: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Survey:
    """What the good images have in common.

    Parameters
    ----------
    paths, names
        Readable images, in natural order; names are relative to the folder.
    channels, dtype
        The same for all; colour where grey and colour are mixed.
    window
        Intensities that become 0 and 1: the whole range of 8-bit images, robust extremes over all images otherwise.
    short_side
        Median of the images' short sides, in pixels.
    sha256
        Of all names and contents.
    warnings
        Files that were left out, and why.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    channels: tuple[str, ...]
    dtype: str
    window: tuple[float, float]
    short_side: float
    sha256: str
    warnings: tuple[str, ...]


def fit(
    folder: Path,
    out: Path,
    *,
    preset: str = "accurate",
    architecture: str | None = None,
    backbone: str | None = None,
    backbone_weights: Path | None = None,
    max_false_alarms: float = 0.05,
    shots: int | None = None,
    smallest_defect: float | None = None,
    images: Sequence[Path] | None = None,
    device: str = "auto",
    seed: int = 0,
    licence: str = "",
    progress: Progress = lambda stage, done, total: None,
) -> Fitted:
    """Make an anomaly model from good images.

    Parameters
    ----------
    folder
        MVTec-style (its ``train/good`` is taken), or any folder of good images.
    out
        Folder for the model, new or empty; its name becomes the model's id.
    preset
        ``"fast"`` or ``"accurate"``.
    architecture, backbone
        In place of the preset's.
    backbone_weights
        Local file with the backbone's weights.
    max_false_alarms
        Share of good parts that may be called NG, in (0, 1).
    shots
        Take only so many of the images, evenly spaced.
    smallest_defect
        Size in pixels of the smallest defect that must be seen; sets the inference size.
    images
        The images to take, in place of those found in `folder`.
    device, seed
        Where to compute, and the seed of every random choice.
    licence
        Of the images, for the card.
    progress
        Called with the stage, the number of images done and their total.

    Raises
    ------
    FitError
        If there are too few readable images, or they are of several kinds.
    UsageError
        If an option makes no sense, or `out` holds something.
    ModelError
        If the backbone's weights cannot be had.
    """
    if preset not in PRESETS:
        raise UsageError(f"A preset is one of {', '.join(PRESETS)}. Got {preset!r}.")
    if not 0 < max_false_alarms < 1:
        raise UsageError(f"The share of false alarms is between 0 and 1. Got {max_false_alarms}.")
    if shots is not None and shots < 1:
        raise UsageError(f"The number of shots is at least 1. Got {shots}.")
    if smallest_defect is not None and smallest_defect <= 0:
        raise UsageError(f"The smallest defect has a size above 0 pixels. Got {smallest_defect}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Give a new folder: a model is never changed in place.")

    from inspection_core.models.backbone import Backbone, load_weights

    chosen = PRESETS[preset]
    name = backbone or chosen.backbone
    kind = architecture or chosen.architecture
    fitter_class = function(FITTERS, kind)
    clock = Clock()
    root = good_folder(Path(folder)) if images is None else Path(folder)
    survey = look(root, list_images(root) if images is None else images, shots, progress)
    clock.lap("survey")
    network = Backbone(name, load_weights(name, backbone_weights))
    on = devices.choose(device)
    clock.lap("backbone")
    raise NotImplementedError


def good_folder(folder: Path) -> Path:
    """Return where the good images of a folder lie: ``train/good``, ``good``, or the folder itself.

    Raises
    ------
    FitError
        If the folder has the parts of a test set, so that defects would be taken for good.
    """
    for part in (folder / "train" / "good", folder / "good"):
        if part.is_dir():
            return part
    if (folder / "ground_truth").is_dir() or (folder / "test").is_dir():
        raise FitError(
            f"{folder} has test images but no train/good. Give the folder that holds good images only."
        )
    return folder


def look(folder: Path, paths: Sequence[Path], shots: int | None = None, progress: Progress = lambda *a: None) -> Survey:
    """Read every good image once: find what they have in common, and leave out what cannot be read.

    Raises
    ------
    FitError
        If none is readable, or their value types differ.
    """
    if not paths:
        raise FitError(f"Found no PNG, JPEG, TIFF, BMP or WebP image in {folder}. Give a folder of good images.")
    if shots is not None:
        paths = [paths[i] for i in sorted({round(p) for p in np.linspace(0, len(paths) - 1, min(shots, len(paths)))})]
    seen: list[_Seen] = []
    warnings: list[str] = []
    with ThreadPoolExecutor(devices.threads()) as pool:
        for done, result in enumerate(pool.map(_look_at, paths), start=1):
            if isinstance(result, _Seen):
                seen.append(result)
            else:
                warnings.append(f"left out: {result}")
            progress("reading", done, len(paths))
    if not seen:
        raise FitError(f"None of the {len(paths)} images in {folder} can be read. The first: {warnings[0]}")
    for other in seen:
        if other.dtype != seen[0].dtype:
            raise FitError(
                f"Good images have one value type. Got {seen[0].dtype} in {seen[0].path.name} and {other.dtype} in "
                f"{other.path.name}; convert them, or fit a model for each type."
            )
    digest = hashlib.sha256()
    names = []
    for item in seen:
        names.append(item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else item.path.name)
        digest.update(f"{names[-1]}\0{item.sha256}\n".encode())
    whole = {"uint8": (0.0, 255.0)}.get(seen[0].dtype)
    low, high = whole or (min(s.low for s in seen), max(s.high for s in seen))
    if high <= low:
        raise FitError(f"The good images hold one single value, {low:g}, so there is nothing to learn from them.")
    return Survey(
        paths=tuple(s.path for s in seen),
        names=tuple(names),
        channels=max((s.channels for s in seen), key=len),
        dtype=seen[0].dtype,
        window=(low, high),
        short_side=float(np.median([s.short_side for s in seen])),
        sha256=digest.hexdigest(),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Seen:
    path: Path
    channels: tuple[str, ...]
    dtype: str
    low: float
    high: float
    short_side: int
    sha256: str


def _look_at(path: Path) -> _Seen | InspectionError:
    try:
        image = read_raster(path)
        digest = weights_io.sha256(path)
    except (InspectionError, OSError) as error:
        return error if isinstance(error, InspectionError) else FitError(f"{path}: {error.strerror}")
    low, high = (0.0, 255.0)
    if image.array.dtype != np.uint8:
        low, high = (float(v) for v in np.percentile(image.array, WINDOW_TAILS))
    return _Seen(path, image.channels, str(image.array.dtype), low, high, min(image.geometry.shape), digest)
