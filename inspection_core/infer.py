"""The one way through: read -> prepare -> infer -> restore -> threshold -> findings.

`predict` is the only place where these steps are put together. Command line, plugins and servers call it; screening
calls its three parts, `begin`, `forward` and `complete`, so that they overlap for different images. A model on a server
is asked for the same prediction; there, this same function is called.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core.calibrate import p_value, p_values
from inspection_core.card import ModelCard
from inspection_core.channel_order import check_order
from inspection_core.confidence import with_confidence
from inspection_core.device import Device
from inspection_core.engine import Grid, LoadedModel, Model
from inspection_core.errors import ModelError
from inspection_core.findings import dismiss, find, find_labelled
from inspection_core.image import Image
from inspection_core.input_check import check_input
from inspection_core.models import Explaining, Segmented
from inspection_core.placement import Placement, restore_map
from inspection_core.prediction import Finding, Prediction
from inspection_core.prepare import Prepared, in_order, prepare, restore
from inspection_core.threshold import cuts, map_cuts, verdict


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of an image before any threshold.

    Parameters
    ----------
    score
        float32 map on the source's grid.
    image_score
        Of the whole image: mean of the highest share of cells that the card's parameter ``top`` names.
    peak
        Highest value of the map.
    grid, prepared
        The network's own grid, and the input that it came from.
    device
        Where it ran.
    warnings
        What was adapted on the way.
    timings
        Seconds of each step.
    """

    score: NDArray[np.float32]
    image_score: float
    peak: float
    grid: Grid
    prepared: Prepared
    device: str
    warnings: tuple[str, ...]
    timings: dict[str, float]


@dataclass(frozen=True, eq=False)
class Begun:
    """An image that is ready for the network.

    Parameters
    ----------
    image
        As it was read.
    prepared
        The network's input; None where the network is in another process, or another maker's: those prepare
        themselves.
    timings
        Seconds of each step so far.
    unlike
        Where the input is unlike those of training, in words.
    """

    image: Image
    prepared: Prepared | None
    timings: dict[str, float]
    unlike: tuple[str, ...] = ()


@dataclass(eq=False)
class Forwarded:
    """An image that has been through the network.

    Parameters
    ----------
    begun
        What went in; of a model that segments without the pixels, the largest array of all.
    output
        The `Grid` of an anomaly model, the `Segmented` of one that segments, or a whole `Prediction` where another
        process made it. None once it was handed over.
    rung
        Of the memory ladder; None where another process knows.
    timings
        Seconds of each step so far; what a batch took is shared out evenly.
    """

    begun: Begun
    output: Grid | Segmented | Prediction | None
    rung: Device | None
    timings: dict[str, float]

    def take(self) -> Grid | Segmented | Prediction:
        """Hand over what the network gave, which can be given up before the findings are looked for: it is large."""
        given, self.output = self.output, None
        return cast("Grid | Segmented | Prediction", given)


def begin(image: Image, model: Model) -> Begun:
    """Prepare an image for the network.

    Raises
    ------
    ReadError
        If the image is none that the model can take.
    """
    if not isinstance(model, LoadedModel):
        return Begun(image, None, {})
    if model.hosted:
        return Begun(in_order(image, model.card.channels), None, {})
    clock = Clock()
    prepared = prepare(image, model.card, model.most_voxels)
    unlike = _unlike(prepared, model)
    clock.lap("prepare")
    return Begun(image, prepared, clock.laps, unlike)


def forward(ready: Sequence[Begun], model: Model) -> list[Forwarded]:
    """Send images through the network together; each result is what the image alone would get.

    Raises
    ------
    DeviceError
        If memory ran out on every rung of the ladder.
    ModelError
        If the network does not give what its card says.
    """
    if not isinstance(model, LoadedModel):
        return [Forwarded(one, model.predict(one.image), None, one.timings) for one in ready]
    clock = Clock()
    outputs: Sequence[tuple[Grid | Segmented, Device]]
    if model.card.task == "segmentation":
        _check_segmenter(model)
        outputs = [_classes(one, model) for one in ready]
    else:
        pixels = [cast("Prepared", one.prepared).pixels for one in ready]
        # One alone may find company elsewhere: on a server, `run` puts several requests together.
        outputs = [model.run(pixels[0])] if len(pixels) == 1 else model.run_many(pixels)
    clock.lap("infer")
    seconds = clock.laps["infer"] / max(1, len(ready))
    return [
        Forwarded(
            _without_pixels(one) if model.card.task == "segmentation" else one,
            output,
            rung,
            one.timings | {"infer": seconds},
        )
        for one, (output, rung) in zip(ready, outputs, strict=True)
    ]


def _classes(one: Begun, model: LoadedModel) -> tuple[Segmented, Device]:
    return model.segment(one.image) if one.prepared is None else model.run_classes(one.prepared)


def complete(done: Forwarded, model: Model) -> Prediction:
    """Turn what the network gave into scores on the image's own grid, a verdict and findings."""
    if isinstance(done.output, Prediction):
        return done.output
    model = cast("LoadedModel", model)
    return _segmented(done, model) if model.card.task == "segmentation" else _scored(done, model)


def measure(image: Image, model: LoadedModel) -> Measured:
    """Score an image: everything but thresholds. Calibration measures good images by the same way.

    Raises
    ------
    ReadError
        If the image is none that the model can take.
    DeviceError
        If memory ran out on every rung of the ladder.
    """
    (done,) = forward([begin(image, model)], model)
    return _measured(done, model)


def _measured(done: Forwarded, model: LoadedModel) -> Measured:
    clock = Clock()
    prepared, grid = cast("Prepared", done.begun.prepared), cast("Grid", done.take())
    predictor = model.predictor
    if prepared.placement is None:
        score = restore(grid.score, prepared.shape, prepared.source, predictor.stride, predictor.offset)
    else:
        score = restore_map(grid.score, prepared.placement, *model.steps).reshape(prepared.source)
    clock.lap("restore")
    warnings = (*prepared.warnings, *done.begun.unlike, *_short_of_memory(model, done.rung))
    return Measured(
        score=score,
        image_score=top_mean(grid.score, float(cast("Any", model.card.parameters.get("top", 0.0)))),
        peak=float(score.max()),
        grid=grid,
        prepared=prepared,
        device=str(done.rung),
        warnings=warnings,
        timings=done.timings | clock.laps,
    )


def predict(image: Image, model: Model) -> Prediction:
    """Say what a model finds in an image.

    Parameters
    ----------
    image
        2-D or 3-D, as the model's card says.
    model
        From the `load` of an `inspection_core.engine.InferenceEngine`.

    Returns
    -------
    Prediction
        On the image's own grid.

    Raises
    ------
    ReadError
        If the image is none that the model can take.
    DeviceError
        If memory ran out on every rung of the ladder.
    ModelError
        If the network does not give what its card says.
    EngineError
        If the model is on a server that cannot be reached, or refuses.
    """
    if isinstance(model, LoadedModel) and model.card.task == "segmentation":
        _check_segmenter(model)  # before any work
    (done,) = forward([begin(image, model)], model)
    return complete(done, model)


def _scored(done: Forwarded, model: LoadedModel) -> Prediction:
    image = done.begun.image
    measured = _measured(done, model)
    clock = Clock()
    card = model.card
    cut = cuts(card.policy, card.calibration)
    low, high = map_cuts(card.policy, card.calibration)
    peaks = card.calibration.peaks
    mask, findings = find(
        measured.score,
        low,
        high,
        image.geometry,
        label=card.classes[0],
        p_values=(lambda values: p_values(values, peaks)) if peaks else None,
    )
    findings = _explain(findings, measured, model)
    calibrated = bool(card.calibration.scores)
    clock.lap("findings")
    return Prediction(
        geometry=image.geometry,
        score=measured.score,
        mask=mask,
        findings=findings,
        image_score=measured.image_score,
        p_value=p_value(measured.image_score, card.calibration.scores) if calibrated else None,
        verdict=verdict(measured.image_score, cut),
        threshold=cut.ng,
        model_id=card.id,
        model_version=card.version,
        model_sha256=card.weights_sha256,
        device=measured.device,
        timings=measured.timings | clock.laps,
        warnings=(*measured.warnings, *cut.warnings),
        source=image.source,
    )


def _check_segmenter(model: LoadedModel) -> None:
    card = model.card
    if card.policy.kind != "band":
        raise ModelError(
            f'The model {card.id} segments, so its policy is "band". Got {card.policy.kind!r} on its card.'
        )


def _without_pixels(one: Begun) -> Begun:
    """Return what is left to know once an image has been through a network that segments."""
    import torch

    if one.prepared is None:
        return one
    prepared = one.prepared
    return replace(one, prepared=replace(prepared, voxels=torch.empty(0), placement=prepared.place))


def _segmented(done: Forwarded, model: LoadedModel) -> Prediction:
    """Finish for a network that segments: the mask is the most probable class of each voxel."""
    card, image, given = model.card, done.begun.image, cast("Segmented", done.take())
    clock = Clock()
    shape = image.geometry.shape
    score, labels = given.score, given.mask
    spread = None if given.spread is None else given.spread.reshape(shape)
    notes, inner = given.warnings, 1.0
    if done.begun.prepared is not None:
        prepared = done.begun.prepared
        notes, inner = (*prepared.warnings, *done.begun.unlike, *notes), cells_in(prepared.place)
    del given
    notes = (*notes, *_short_of_memory(model, done.rung))
    clock.lap("restore")
    mask, findings = find_labelled(
        labels.reshape(shape),
        score.reshape(shape),
        image.geometry,
        card.classes,
        spread=spread,
        copy=False,
    )
    del spread, labels
    findings = with_confidence(findings, card.calibration.finding, inner / image.geometry.voxel_size)
    cut = cuts(card.policy, card.calibration)
    image_score = max((f.confidence for f in findings), default=0.0)
    clock.lap("findings")
    found = Prediction(
        geometry=image.geometry,
        score=score.reshape(shape),
        mask=mask,
        findings=findings,
        image_score=image_score,
        p_value=None,
        verdict=verdict(image_score, cut),
        threshold=cut.ng,
        model_id=card.id,
        model_version=card.version,
        model_sha256=card.weights_sha256,
        device=str(done.rung),
        timings=done.timings | clock.laps,
        warnings=(*notes, *cut.warnings),
        source=image.source,
    )
    return without_doubtful(found, card)


def without_doubtful(found: Prediction, card: ModelCard) -> Prediction:
    """Return a prediction without the findings that the card dismisses; see `inspection_core.findings.dismiss`."""
    mask, findings = dismiss(found.mask, found.findings, card.classes, card.policy.least)
    score = max((f.confidence for f in findings), default=0.0)
    word = verdict(score, cuts(card.policy, card.calibration))
    return replace(found, mask=mask, findings=findings, image_score=score, verdict=word)


def _unlike(prepared: Prepared, model: LoadedModel) -> tuple[str, ...]:
    """Say where the network's input is unlike those of training, as far as the card knows them."""
    shape = prepared.shape if prepared.placement is None else prepared.placement.resized
    known = model.card.calibration
    said = check_input(prepared.voxels, shape, known.inputs)
    return said or check_order(prepared.voxels, shape, known.order, model.card.channels)


def cells_in(place: Placement) -> float:
    """Return how many voxels of the network's input one voxel of the source became."""
    return math.prod(place.resized) / math.prod(place.size)


def _short_of_memory(model: LoadedModel, rung: Device | None) -> tuple[str, ...]:
    if rung is None or rung == model.device:
        return ()
    return (f"memory ran short: done on {rung.told}",)


def top_mean(values: NDArray[np.floating[Any]], share: float) -> float:
    """Return the mean of the highest `share` of all values, at least one of them; 0 gives the maximum."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    count = max(1, round(share * flat.size))
    return float(np.partition(flat, flat.size - count)[flat.size - count :].mean())


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the time since the last lap under `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _explain(findings: Sequence[Finding], measured: Measured, model: LoadedModel) -> tuple[Finding, ...]:
    """Add to each finding the good patch that is nearest to the place of its peak."""
    neighbour = measured.grid.neighbour
    if neighbour is None:
        return tuple(findings)
    predictor = cast("Explaining", model.predictor)
    prepared, stride, offset = measured.prepared, model.predictor.stride, model.predictor.offset
    explained = []
    for finding in findings:
        box = tuple(slice(a, b) for a, b in zip(finding.start, finding.stop, strict=True))
        inside = np.unravel_index(int(measured.score[box].argmax()), measured.score[box].shape)
        place = np.array([a + i for a, i in zip(finding.start, inside, strict=True)], dtype=float)
        factor = np.array(prepared.shape) / np.array(prepared.source)
        cell = np.rint(((place + 0.5) * factor - 0.5 - offset) / stride).astype(int)
        at = tuple(np.clip(cell, 0, np.array(neighbour.shape) - 1))
        good = predictor.explain(int(neighbour[at]))
        explained.append(replace(finding, neighbour=replace(good, distance=float(measured.grid.score[at]))))
    return tuple(explained)
