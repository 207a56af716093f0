"""Screening: a whole folder through one model, resumable, one row for every input.

Reading runs ahead of the network by a few images in threads; pictures for the report are written behind it. A bad file
becomes a row with its reason and never stops the batch. Running the same command again continues where it stopped.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from inspection_core import device as devices
from inspection_core.card import ModelCard
from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.infer import Clock, predict
from inspection_core.io.atomic import atomic_path
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.results import finding_json
from inspection_core.io.store import Row, RunStore
from inspection_core.prediction import Finding, Prediction
from inspection_core.report import Crop, ReportData, ReportItem, write_report
from inspection_core.threshold import cuts

T = TypeVar("T")
Progress = Callable[[int, int], None]

COLUMNS = ("path", "status", "score", "p_value", "verdict", "n_findings", "seconds", "error")
PICTURES = "report_images"
CROPS = 3
"""Findings of an image that are shown beside their nearest good patch."""


@dataclass(frozen=True)
class Screening:
    """Outcome of a run.

    Parameters
    ----------
    folder
        The run's folder.
    counts
        Inputs by outcome: ``OK``, ``REVIEW``, ``NG``, ``failed``.
    new
        Inputs done by this call; the others were there already.
    seconds
        Of this call's inference part.
    outputs
        Files written.
    """

    folder: Path
    counts: dict[str, int]
    new: int
    seconds: float
    outputs: tuple[Path, ...]


def screen(
    source: Path,
    model: LoadedModel,
    run: Path,
    *,
    paths: Sequence[Path] | None = None,
    truth: Callable[[str], str | None] = lambda path: None,
    notes: Sequence[str] = (),
    metrics: Callable[[Sequence[Row]], dict[str, Any] | None] = lambda rows: None,
    title: str = "",
    command: str = "",
    progress: Progress = lambda done, total: None,
) -> Screening:
    """Put all images below a folder through a model.

    Parameters
    ----------
    source
        Folder of images, searched to any depth.
    model
        From `inspection_core.engine.Engine.load`.
    run
        Folder for the results; continued if it holds a run of the same model.
    paths
        Images below `source` to take; all, if not given.
    truth
        Gives the known label of an image by its relative path, for the report.
    notes, title, command
        For the report.
    metrics
        Figures for the report, from all rows.
    progress
        Called with the number of inputs done and their total.

    Raises
    ------
    UsageError
        If there is no image, or `run` holds a run of something else.
    """
    source = Path(source).resolve()
    inputs = list_images(source) if paths is None else list(paths)
    if not inputs:
        raise UsageError(f"Found no PNG, JPEG, TIFF, BMP or WebP image below {source}. Give a folder with images.")
    clock = Clock()
    with RunStore(run) as store:
        store.claim({"model": f"{model.card.id} {model.card.version} {model.card.weights_sha256}", "folder": str(source)})
        names = {_relative(p, source): p for p in inputs}
        store.forget(set(names))
        done = store.fingerprints()
        todo = [(n, p) for n, p in names.items() if done.get(n) != _fingerprint(p)]
        pictures = _Pictures(run / PICTURES, model.card, source)
        progress(len(names) - len(todo), len(names))
        with ThreadPoolExecutor(devices.threads()) as pool:
            for count, (name, path, image) in enumerate(_read_ahead(todo, pool), start=1):
                store.put(_one(name, path, image, model, pictures))
                progress(len(names) - len(todo) + count, len(names))
        clock.lap("inference")
        rows = list(store.rows())
    outputs = _write_tables(run, rows)
    cut = cuts(model.card.policy, model.card.calibration)
    report = write_report(
        run / "report.html",
        ReportData(
            title=title or source.name,
            card=model.card,
            items=[_item(row, run, truth(row.path)) for row in rows],
            threshold=cut.ng,
            review_threshold=cut.review,
            metrics=metrics(rows),
            notes=tuple(notes),
            warnings=cut.warnings,
            command=command,
            scale=pictures.scale,
            created=datetime.now(UTC),
        ),
    )
    counts = dict.fromkeys(("OK", "REVIEW", "NG", "failed"), 0)
    for row in rows:
        counts[row.verdict or "failed"] += 1
    return Screening(run, counts, len(todo), clock.laps["inference"], (*outputs, report))


def read_ahead(items: Iterable[T], read: Callable[[T], Any], pool: ThreadPoolExecutor, depth: int = 4) -> Iterator[Any]:
    """Yield ``read(item)`` in order, with up to `depth` reads under way ahead of the reader; memory stays bounded."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(read, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_ahead(
    todo: Sequence[tuple[str, Path]], pool: ThreadPoolExecutor
) -> Iterator[tuple[str, Path, tuple[str, Image | InspectionError]]]:
    def read(item: tuple[str, Path]) -> tuple[str, Path, tuple[str, Image | InspectionError]]:
        name, path = item
        fingerprint = _fingerprint(path)
        try:
            return name, path, (fingerprint, read_raster(path))
        except InspectionError as error:
            return name, path, (fingerprint, error)

    return read_ahead(todo, read, pool)


def _one(
    name: str, path: Path, read: tuple[str, Image | InspectionError], model: LoadedModel, pictures: _Pictures
) -> Row:
    fingerprint, image = read
    if isinstance(image, InspectionError):
        return Row(name, fingerprint, "failed", error=str(image))
    clock = Clock()
    try:
        prediction = predict(image, model)
    except InspectionError as error:
        return Row(name, fingerprint, "failed", error=str(error))
    clock.lap("predict")
    details: dict[str, Any] = {
        "findings": [finding_json(f) for f in prediction.findings],
        "warnings": list(prediction.warnings[: len(prediction.warnings) - _card_warnings(model.card)]),
        **pictures.write(name, image, prediction),
    }
    return Row(
        path=name,
        fingerprint=fingerprint,
        status="done",
        score=prediction.image_score,
        p_value=prediction.p_value,
        verdict=prediction.verdict,
        n_findings=len(prediction.findings),
        seconds=round(clock.laps["predict"], 4),
        details=details,
    )
