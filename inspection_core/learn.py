"""Models from good images alone: survey, fit, cross-fit, calibrate, save.

Every good image is scored once by a model that did not see it (cross-fitting, see `FOLDS`). Those scores make the
calibration: the p-value of a new image is its place among them. Nothing here looks at an image that is not good.
"""

from __future__ import annotations

import copy
import math
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core import __version__
from inspection_core import device as devices
from inspection_core.card import Calibration, ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.errors import UsageError
from inspection_core.gather import collect
from inspection_core.infer import Clock, Measured, measure
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.stream import read_ahead
from inspection_core.models import FITTERS, FittedPredictor, Fitter, function
from inspection_core.models import weights as weights_io
from inspection_core.survey import Survey, good_folder, look
from inspection_core.threshold import cuts

Progress = Callable[[str, int, int], None]

FOLDS = {1: 5, 40: 10}
"""Number of good images -> parts they are split into for cross-fitting; each is scored by a model of the others.

More parts cost time, and bring the calibration nearer to the final model, which knows all images.
"""

PIXEL_QUANTILE = 0.999
"""Share of a good image's pixels that stay below the score at which findings are outlined."""

SAMPLED_PIXELS = 5000
"""Score-map pixels of each good image that this quantile is estimated from."""

AHEAD = 4
"""Images that are read or wait to be scored while others are, in all folds together."""

DEFECT_CELLS = 1.0
"""Cells of the score grid that the smallest defect named by the user covers."""

MAX_ENLARGEMENT = 4.0
"""Images are not enlarged more than this: there is nothing to see between their pixels."""

REVIEW_FACTOR = 2.0
"""REVIEW takes in good parts up to this many times the share that may be NG."""


@dataclass(frozen=True)
class Preset:
    """A set of defaults, chosen by the experiments in ``docs/decisions/0002-anomaly-defaults.md``.

    Parameters
    ----------
    architecture, backbone
        What is fitted.
    size
        Side of an image at inference, as the root of its area in pixels.
    top
        Share of the score map's cells that an image's score is the mean of.
    settings
        For the architecture.
    resize
        See `inspection_core.card.Preparation`.
    """

    architecture: str
    backbone: str
    size: int
    top: float
    settings: Mapping[str, Any]
    resize: Literal["float32", "uint8"] = "float32"


PRESETS: Mapping[str, Preset] = {
    "fast": Preset(
        "patch-memory",
        "tf_efficientnet_lite0",
        size=256,
        top=0.01,
        settings={"views": ((1.0, 4.0, 4.0, True),), "memory": 2048, "share": 0.1, "dim": 31, "smoothing": 1.0},
        resize="uint8",
    ),
    "accurate": Preset(
        "patch-memory",
        "tf_efficientnet_lite0",
        size=320,
        top=0.01,
        settings={
            "views": ((1.0, 10.0, 3.0, True), (0.8, 0.0, 1.0, True)),
            "memory": 8192,
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
    OSError
        If `out` cannot be written; this is found before the work, not after it.
    """
    if preset not in PRESETS:
        raise UsageError(f"A preset is one of {', '.join(PRESETS)}. Got {preset!r}.")
    if not 0 < max_false_alarms < 1:
        raise UsageError(f"The share of false alarms is between 0 and 1. Got {max_false_alarms}.")
    if shots is not None and shots < 1:
        raise UsageError(f"The number of shots is at least 1. Got {shots}.")
    if smallest_defect is not None and not 0 < smallest_defect < math.inf:
        raise UsageError(f"The smallest defect has a size above 0 pixels. Got {smallest_defect}.")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"A seed is a whole number from 0 to 2**63 - 1. Got {seed}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already. Give a new folder: a model is never changed in place.")
    _check_writable(out)

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

    smallest, largest = survey.sides
    size: dict[str, Any] = {
        "side": chosen.size,
        "scales": (min(MAX_ENLARGEMENT, chosen.size / largest), min(MAX_ENLARGEMENT, chosen.size / smallest)),
    }
    if smallest_defect is not None:
        size = {"scale": min(MAX_ENLARGEMENT, DEFECT_CELLS * network.stride / smallest_defect)}
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
            resize=chosen.resize,
            **size,
            multiple=math.lcm(network.multiple, 32 if network.stride < 16 else network.multiple),
        ),
        policy=Policy(max_false_alarms=max_false_alarms, review=min(1.0, REVIEW_FACTOR * max_false_alarms)),
        parameters={"top": chosen.top},
        intended_use="Inspection of parts that look like the good images; research use only, not for diagnosis.",
        limits="Sees what differs from the good images. Other products, cameras or light need a new model.",
        licence=licence,
    )
    fitter: Fitter = fitter_class(network, chosen.settings, len(survey.paths), on, seed)
    turns = collect(survey, card, fitter, progress)
    clock.lap("features")

    held_out, predictor = _cross_fit(survey, card, fitter, out, on, seed, progress)
    clock.lap("cross-fit")
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
    clock.lap("saving")
    notes = [*survey.warnings, *cuts(card.policy, card.calibration).warnings]
    if suspects:
        notes.append(f"look at these good images, they are unlike the others: {', '.join(suspects[:10])}")
    return Fitted(card, out, suspects, tuple(notes), clock.laps)


def _check_writable(out: Path) -> None:
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    finally:
        if new:
            out.rmdir()


@dataclass(frozen=True)
class _HeldOut:
    calibration: Calibration
    scores: NDArray[np.float64]
    folds: list[NDArray[np.intp]]


@dataclass(frozen=True)
class _Score:
    """What calibration keeps of an image: its number, its score, the highest pixel and some of the others."""

    image: int
    score: float
    peak: float
    sample: NDArray[np.float32]


def _cross_fit(
    survey: Survey, card: ModelCard, fitter: Fitter, out: Path, device: Device, seed: int, progress: Progress
) -> tuple[_HeldOut, FittedPredictor]:
    """Score every good image with a model of the others; return that, and the model of them all.

    The models of several folds are made and used at once, each in a thread of one core: most steps are too short to
    share. The results are those of one after the other, since nothing depends on their order.
    """
    n = len(survey.paths)
    # Contiguous: neighbours in a folder are often the same part again, and must not vouch for each other.
    parts = max(count for least, count in FOLDS.items() if n >= least)
    folds = np.array_split(np.arange(n), min(parts, n)) if n > 1 else []
    draws = _draws([[survey.pixels[i] for i in fold] for fold in folds], seed)
    found: list[_Score] = []
    told: queue.SimpleQueue[_Score | Exception] = queue.SimpleQueue()
    stopped = threading.Event()
    lanes = min(fitter.lanes, len(folds) + 1)

    def score(fold: NDArray[np.intp], generator: np.random.Generator) -> None:
        try:
            predictor = fitter.build([i for i in range(n) if not fold[0] <= i <= fold[-1]], survey.names)
            model = LoadedModel(card, out, predictor, device)
            images = read_ahead([survey.paths[i] for i in fold], read_raster, max(1, AHEAD // lanes - 1))
            for i, image in zip(fold, images, strict=True):
                told.put(_scored(int(i), measure(image, model), generator))
                if stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - raised anew in the calling thread
            told.put(error)

    with ExitStack() as stack:
        start = stack.enter_context(devices.single_threads()) if lanes > 1 else None
        pool = stack.enter_context(ThreadPoolExecutor(lanes, "fold", start))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        stack.callback(stopped.set)  # where something fails, those at work stop after their image
        whole = pool.submit(fitter.build, range(n), survey.names)
        for fold, generator in zip(folds, draws, strict=True):
            pool.submit(score, fold, generator)
        while len(found) < n and folds:
            if isinstance(one := told.get(), Exception):
                raise one
            found.append(one)
            progress("calibrating", len(found), n)
        predictor = whole.result()
    if not folds:
        return _HeldOut(Calibration(), np.zeros(0), []), predictor
    found.sort(key=lambda one: one.image)
    calibration = Calibration(
        method=f"{len(folds)}-fold cross-fitting over {n} good images, folds contiguous in the order given",
        scores=tuple(one.score for one in found),
        peaks=tuple(one.peak for one in found),
        pixel_low=float(np.quantile(np.concatenate([one.sample for one in found]), PIXEL_QUANTILE)),
    )
    return _HeldOut(calibration, np.array([one.score for one in found]), folds), predictor


def _draws(folds: Sequence[Sequence[int]], seed: int) -> list[np.random.Generator]:
    """Return for each fold, given by its images' pixels, the generator that it draws from when its turn comes.

    It is where those of earlier folds have left it, so that the draws are the same whoever is first.
    """
    generator = np.random.default_rng(seed)
    draws = []
    for fold in folds:
        draws.append(copy.deepcopy(generator))
        for pixels in fold:
            _places(pixels, generator)
    return draws


def _places(pixels: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return generator.integers(0, pixels, min(SAMPLED_PIXELS, pixels))


def _scored(image: int, measured: Measured, generator: np.random.Generator) -> _Score:
    flat = measured.score.ravel()
    return _Score(image, float(measured.image_score), float(measured.peak), flat[_places(flat.size, generator)])


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
