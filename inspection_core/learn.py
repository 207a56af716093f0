"""Models from good images alone: survey, fit, cross-fit, calibrate, save.

Every good image is scored once by a model that did not see it (cross-fitting in `FOLDS` folds). Those scores make the
calibration: the p-value of a new image is its place among them. Nothing here looks at an image that is not good.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
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
from inspection_core.infer import Clock, measure
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.stream import read_ahead
from inspection_core.models import FITTERS, FittedPredictor, Fitter, function
from inspection_core.models import weights as weights_io
from inspection_core.prepare import Prepared, prepare, source_box
from inspection_core.threshold import cuts
from inspection_core.tiling import Window

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

DEFECT_CELLS = 1.0
"""Cells of the score grid that the smallest defect named by the user covers."""

MAX_ENLARGEMENT = 4.0
"""Images are not enlarged more than this: there is nothing to see between their pixels."""

REVIEW_FACTOR = 2.0
"""REVIEW takes in good parts up to this many times the share that may be NG."""

TURN_TESTS = 4
"""Good images that turns are tried on."""

TURNS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mirrored left-right": lambda t: t.flip(-1),
    "mirrored up-down": lambda t: t.flip(-2),
    "turned by 180": lambda t: t.flip(-1, -2),
    "turned by 90": lambda t: t.transpose(-1, -2).flip(-1),
    "turned by 270": lambda t: t.transpose(-1, -2).flip(-2),
}
"""Exact turns of an array ``(C, h, w)``."""

TURN_TOLERANCE = 1.1
"""A turned image is taken for a good one if its patches are no more than this factor farther from the good ones."""


@dataclass(frozen=True)
class Preset:
    """A set of defaults, chosen by the experiments in ``docs/decisions/0002-anomaly-defaults.md``.

    Parameters
    ----------
    architecture, backbone
        What is fitted.
    size
        Side of the median good image at inference, as the root of its area in pixels; one scale holds for all images.
    top
        Share of the score map's cells that an image's score is the mean of.
    settings
        For the architecture.
    """

    architecture: str
    backbone: str
    size: int
    top: float
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = {
    "fast": Preset(
        "patch-memory",
        "tf_efficientnet_lite0",
        size=256,
        top=0.03,
        settings={"views": ((1.0, 4.0, 4.0, True),), "memory": 2048, "share": 0.1, "dim": 128, "smoothing": 1.0},
    ),
    "accurate": Preset(
        "patch-memory",
        "tf_efficientnet_lite0",
        size=320,
        top=0.03,
        settings={
            "views": ((1.0, 10.0, 3.0, True), (0.8, 4.0, 4.0, True), (0.8, 4.0, 4.0, False)),
            "memory": 4096,
            "share": 0.1,
            "dim": 0,
            "smoothing": 1.0,
        },
    ),
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
    side
        Median side of the images in pixels: the root of their area, so that every image costs about the same.
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
    side: float
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

    scale = chosen.size / survey.side if smallest_defect is None else DEFECT_CELLS * network.stride / smallest_defect
    card = ModelCard(
        id=out.name,
        version="1",
        architecture=kind,
        task="anomaly",
        channels=survey.channels,
        score="distance to the nearest good patch in units of a typical good patch, summed over views; no upper limit",
        preparation=Preparation(
            window=survey.window,
            dtype=survey.dtype,
            short_side=0,
            scale=min(scale, MAX_ENLARGEMENT),
            multiple=math.lcm(network.multiple, 32 if network.stride < 16 else network.multiple),
        ),
        policy=Policy(max_false_alarms=max_false_alarms, review=min(1.0, REVIEW_FACTOR * max_false_alarms)),
        parameters={"top": chosen.top},
        intended_use="Inspection of parts that look like the good images; research use only, not for diagnosis.",
        limits="Sees what differs from the good images. Other products, cameras or light need a new model.",
        licence=licence,
    )
    fitter: Fitter = fitter_class(network, chosen.settings, len(survey.paths), on, seed)
    turns = _collect(survey, card, fitter, progress)
    clock.lap("features")

    held_out = _cross_fit(survey, card, fitter, out, on, seed, progress)
    clock.lap("cross-fit")
    predictor = fitter.build(range(len(survey.paths)), survey.names)
    suspects = _suspects(survey.names, held_out)
    card = replace(
        card,
        calibration=held_out.calibration,
        parameters={**predictor.parameters(), "top": chosen.top},
        training={
            "folder": str(root.absolute()),
            "images": len(survey.paths),
            "names": survey.names,
            "data_sha256": survey.sha256,
            "split": f"all images are good; calibration by {len(held_out.folds)}-fold cross-fitting, in given order",
            "suspects": suspects,
            "turns": turns,
            "preset": preset,
            "seed": seed,
            "suite": __version__,
        },
    )
    card = weights_io.save(out, card, predictor.tensors())
    clock.lap("final model")
    notes = [*survey.warnings, *cuts(card.policy, card.calibration).warnings]
    if suspects:
        notes.append(f"look at these good images, they are unlike the others: {', '.join(suspects[:10])}")
    return Fitted(card, out, suspects, tuple(notes), clock.laps)


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
        raise FitError(f"{folder} has test images but no train/good. Give the folder that holds good images only.")
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
    low, high = min(s.low for s in seen), max(s.high for s in seen)
    if high <= low:
        raise FitError(f"The good images hold one single value, {low:g}, so there is nothing to learn from them.")
    return Survey(
        paths=tuple(s.path for s in seen),
        names=tuple(names),
        channels=max((s.channels for s in seen), key=len),
        dtype=seen[0].dtype,
        window=(0.0, 255.0) if seen[0].dtype == "uint8" else (low, high),
        side=float(np.median([s.side for s in seen])),
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
    side: float
    sha256: str


def _look_at(path: Path) -> _Seen | InspectionError:
    try:
        image = read_raster(path)
        digest = weights_io.sha256(path)
    except (InspectionError, OSError) as error:
        return error if isinstance(error, InspectionError) else FitError(f"{path}: {error.strerror}")
    if image.array.dtype == np.uint8:
        low, high = float(image.array.min()), float(image.array.max())
    else:
        low, high = (float(v) for v in np.percentile(image.array, WINDOW_TAILS))
    side = math.sqrt(math.prod(image.geometry.shape))
    return _Seen(path, image.channels, str(image.array.dtype), low, high, side, digest)


@dataclass(frozen=True)
class _HeldOut:
    calibration: Calibration
    scores: NDArray[np.float64]
    folds: list[NDArray[np.intp]]


def _cross_fit(
    survey: Survey, card: ModelCard, fitter: Fitter, out: Path, device: Device, seed: int, progress: Progress
) -> _HeldOut:
    """Score every good image with a model of the others."""
    n = len(survey.paths)
    if n < 2:
        return _HeldOut(Calibration(), np.zeros(0), [])
    # Contiguous: neighbours in a folder are often the same part again, and must not vouch for each other.
    folds = np.array_split(np.arange(n), min(FOLDS, n))
    scores, peaks, samples = np.zeros(n), np.zeros(n), []
    generator = np.random.default_rng(seed)
    done = 0
    for fold in folds:
        predictor = fitter.build([i for i in range(n) if i not in set(fold.tolist())], survey.names)
        model = LoadedModel(card, out, predictor, device)
        for i, image in zip(fold, read_ahead([survey.paths[j] for j in fold], read_raster), strict=True):
            measured = measure(image, model)
            scores[i], peaks[i] = measured.image_score, measured.peak
            flat = measured.score.ravel()
            samples.append(flat[generator.integers(0, flat.size, min(SAMPLED_PIXELS, flat.size))])
            done += 1
            progress("calibrating", done, n)
    calibration = Calibration(
        method=f"{len(folds)}-fold cross-fitting over {n} good images, folds contiguous in the order given",
        scores=tuple(float(s) for s in scores),
        peaks=tuple(float(p) for p in peaks),
        pixel_low=float(np.quantile(np.concatenate(samples), PIXEL_QUANTILE)),
    )
    return _HeldOut(calibration, scores, folds)


def _suspects(names: Sequence[str], held_out: _HeldOut) -> tuple[str, ...]:
    """Return images far outside: above the third quartile by three times the interquartile range (Tukey's far out).

    Each is compared with its own fold: a fold as a whole may lie far from the others, as a camera drifts.
    """
    if held_out.scores.size < 8:
        return ()
    excess = held_out.scores.copy()
    for fold in held_out.folds:
        excess[fold] -= np.median(excess[fold])
    low, high = np.quantile(excess, (0.25, 0.75))
    order = np.argsort(excess)[::-1]
    return tuple(names[i] for i in order if excess[i] > high + 3 * (high - low))


def _collect(survey: Survey, card: ModelCard, fitter: Fitter, progress: Progress) -> tuple[str, ...]:
    """Hand every window of every good image to the fitter, plain and turned; return the names of the turns."""
    n = len(survey.paths)
    for i, image in enumerate(read_ahead(survey.paths, read_raster)):
        prepared = prepare(image, card)
        _add(fitter, i, prepared.pixels, _origins(prepared, fitter.stride, fitter.offset), card)
        progress("features", i + 1, n)
    accepted = _turns_that_help(survey, card, fitter)
    if accepted:
        for i, image in enumerate(read_ahead(survey.paths, read_raster)):
            prepared = prepare(image, card)
            origins = _origins(prepared, fitter.stride, fitter.offset)
            for name in accepted:
                turn = TURNS[name]
                _add(fitter, i, turn(prepared.pixels), turn(origins.permute(2, 0, 1)).permute(1, 2, 0), card)
            progress("turned copies", i + 1, n)
    return tuple(accepted)


def _turns_that_help(survey: Survey, card: ModelCard, fitter: Fitter) -> list[str]:
    """Return the turns under which good images still look good.

    The yardstick is how far a good image lies from the others; for a lone image, how far it lies from itself moved by
    half a cell. A turn that goes much beyond that would teach the model that wrongly placed parts are good.
    """
    import torch

    def distance(predictor: FittedPredictor, pixels: torch.Tensor) -> float:
        with torch.inference_mode():
            scores = [
                predictor(pixels[(slice(None), *window)][None]).map.mean()
                for window in _windows(pixels, card.preparation)
            ]
        return float(torch.stack(scores).mean())

    n = len(survey.paths)
    if n >= 2 * TURN_TESTS:
        tested = _spread(range(n), TURN_TESTS)
        groups = [(tested, _spread([i for i in range(n) if i not in tested], 5 * TURN_TESTS))]
    else:
        groups = [([i], [j for j in range(n) if j != i] or [i]) for i in range(n)]
    ratios: dict[str, list[float]] = {name: [] for name in TURNS}
    for tested, others in groups:
        predictor = fitter.build(others, survey.names)
        for i in tested:
            pixels = prepare(read_raster(survey.paths[i]), card).pixels
            half = fitter.stride // 2
            plain = distance(predictor, pixels if n > 1 else torch.roll(pixels, (half, half), dims=(1, 2)))
            for name, turn in TURNS.items():
                ratios[name].append(distance(predictor, turn(pixels)) / max(plain, 1e-6))
    return [name for name, values in ratios.items() if np.mean(values) <= TURN_TOLERANCE]


def _spread(items: Sequence[int], count: int) -> list[int]:
    """Return up to `count` of the items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[i] for i in sorted({round(p) for p in places})]


def _windows(pixels: torch.Tensor, preparation: Preparation) -> list[Window]:
    return plan(tuple(pixels.shape[1:]), preparation.tile, preparation.overlap, preparation.multiple)


def _add(fitter: Fitter, image: int, pixels: torch.Tensor, origins: torch.Tensor, card: ModelCard) -> None:
    for window in _windows(pixels, card.preparation):
        cells = tuple(slice(s.start // fitter.stride, s.stop // fitter.stride) for s in window)
        fitter.add(image, pixels[(slice(None), *window)][None], origins[cells][None])


def _origins(prepared: Prepared, stride: int, offset: float) -> torch.Tensor:
    """Return ``(h', w', 4)``: centre y, x and height, width of each cell in the source's pixels."""
    import torch

    rows, columns = (np.arange(n // stride) for n in prepared.shape)
    (y, x), size = source_box((rows, columns), prepared.shape, prepared.source, stride, offset)
    grid = np.stack(
        [*np.meshgrid(y, x, indexing="ij"), *(np.full((len(rows), len(columns)), s) for s in size)], axis=-1
    )
    return torch.from_numpy(grid.astype(np.float32))
