"""The one way through: read -> prepare -> infer -> restore -> threshold -> findings.

`predict` is the only place where these steps are put together. Command line, screening, plugins and servers call it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core.calibrate import p_value, p_values
from inspection_core.device import Device
from inspection_core.engine import Grid, LoadedModel
from inspection_core.errors import ModelError
from inspection_core.findings import find, find_labelled
from inspection_core.image import Image
from inspection_core.models import Explaining
from inspection_core.placement import Placement, restore_classes, restore_map
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


def measure(image: Image, model: LoadedModel) -> Measured:
    """Score an image: everything but thresholds. Calibration measures good images by the same way.

    Raises
    ------
    ReadError
        If the image is none that the model can take.
    DeviceError
        If memory ran out on every rung of the ladder.
    """
    clock = Clock()
    prepared = prepare(image, model.card)
    clock.lap("prepare")
    grid, rung = model.run(prepared.pixels)
    clock.lap("infer")
    predictor = model.predictor
    if prepared.placement is None:
        score = restore(grid.score, prepared.shape, prepared.source, predictor.stride, predictor.offset)
    else:
        score = restore_map(grid.score, prepared.placement, *_steps(model)).reshape(prepared.source)
    clock.lap("restore")
    warnings = (*prepared.warnings, *_short_of_memory(model, rung))
    return Measured(
        score=score,
        image_score=top_mean(grid.score, float(cast("Any", model.card.parameters.get("top", 0.0)))),
        peak=float(score.max()),
        grid=grid,
        prepared=prepared,
        device=str(rung),
        warnings=warnings,
        timings=clock.laps,
    )


def predict(image: Image, model: LoadedModel) -> Prediction:
    """Say what a model finds in an image.

    Parameters
    ----------
    image
        2-D or 3-D, as the model's card says.
    model
        From `inspection_core.engine.Engine.load`.

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
    """
    if model.card.task == "segmentation":
        return _segment(image, model)
    measured = measure(image, model)
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


def _segment(image: Image, model: LoadedModel) -> Prediction:
    """Predict with a network that gives class probabilities: the mask is the most probable class of each voxel."""
    card = model.card
    if card.policy.kind != "band":
        raise ModelError(
            f'The model {card.id} segments, so its policy is "band". Got {card.policy.kind!r} on its card.'
        )
    clock = Clock()
    if model.hosted:
        given, rung = model.segment(in_order(image, card.channels))
        score, labels, notes = given.score, given.mask, (*given.warnings, *_short_of_memory(model, rung))
        clock.lap("infer")
    else:
        prepared = prepare(image, card)
        clock.lap("prepare")
        foreground, rung = model.run_classes(prepared.pixels)
        place = prepared.placement or Placement.plain(prepared.source, prepared.shape)
        notes = (*prepared.warnings, *_short_of_memory(model, rung))
        del prepared  # the largest array of all
        clock.lap("infer")
        score, labels = restore_classes(foreground, place, *_steps(model))
        del foreground
        clock.lap("restore")
    shape = image.geometry.shape
    mask, findings = find_labelled(labels.reshape(shape), score.reshape(shape), image.geometry, card.classes)
    cut = cuts(card.policy, card.calibration)
    image_score = max((f.confidence for f in findings), default=0.0)
    clock.lap("findings")
    return Prediction(
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
        device=str(rung),
        timings=clock.laps,
        warnings=(*notes, *cut.warnings),
        source=image.source,
    )


def _steps(model: LoadedModel) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return stride and offset of each axis of a volume; slices are not strided over."""
    stride, offset = model.predictor.stride, model.predictor.offset
    if model.card.preparation.view == "volume":
        return (stride,) * 3, (offset,) * 3
    return (1, stride, stride), (0.0, offset, offset)


def _short_of_memory(model: LoadedModel, rung: Device) -> tuple[str, ...]:
    return () if rung == model.device else (f"memory ran short: done on {rung.name} with a batch of {rung.batch}",)


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
