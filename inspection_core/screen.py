"""Screening: a whole folder through one model, resumable, one row for every input.

Reading runs ahead of the network by a few images in threads; pictures for the report are written behind it. A bad file
becomes a row with its reason and never stops the batch. Running the same command again continues where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspection_core.card import ModelCard
from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, UsageError
from inspection_core.image import Image
from inspection_core.infer import Clock, predict
from inspection_core.io.atomic import atomic_path
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.results import finding_json, utf8
from inspection_core.io.store import Row, RunStore
from inspection_core.io.stream import image_or_error, read_ahead
from inspection_core.prediction import RESEARCH_USE, Prediction
from inspection_core.reliability import FILE as DIAGRAM
from inspection_core.render import render_overlay, render_pair, render_plain, save_picture, score_scale
from inspection_core.report import Crop, ReportData, ReportItem, write_report
from inspection_core.threshold import cuts

if TYPE_CHECKING:
    import PIL.Image

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
    rows
        One for each input, ordered by path.
    counts
        Inputs by outcome: ``OK``, ``REVIEW``, ``NG``, ``failed``.
    new
        Inputs done by this call; the others were there already.
    seconds
        Of this call's inference part.
    outputs
        Files written.
    warnings
        On the calibration, in plain words.
    """

    folder: Path
    rows: tuple[Row, ...]
    counts: dict[str, int]
    new: int
    seconds: float
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...]


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
    source = Path(source).absolute()
    own = Path(run).absolute() / PICTURES  # a run may lie inside the folder that it screens
    found = list_images(source) if paths is None else [Path(p).absolute() for p in paths]
    inputs = [p for p in found if not p.is_relative_to(own)]
    if not inputs:
        raise UsageError(f"Found no PNG, JPEG, TIFF, BMP or WebP image below {source}. Give a folder with images.")
    card = model.card
    clock = Clock()
    with RunStore(run) as store:
        store.claim(
            {
                "model": f"{card.id} {card.version} {card.weights_sha256}",
                "model card": _card_mark(card),
                "folder": utf8(str(source)),
            }
        )
        names = {p: _relative(p, source) for p in inputs}
        store.forget(set(names.values()))
        done = store.fingerprints()
        todo = [p for p, name in names.items() if done.get(name) != fingerprint(p)]
        pictures = _Pictures(run / PICTURES, card)
        progress(len(names) - len(todo), len(names))
        for count, (path, mark, image) in enumerate(read_ahead(todo, _read), start=1):
            store.put(_one(names[path], mark, image, model, pictures))
            progress(len(names) - len(todo) + count, len(names))
        clock.lap("inference")
        rows = list(store.rows())
    outputs = write_tables(run, rows)
    cut = cuts(card.policy, card.calibration)
    report = write_report(
        run / "report.html",
        ReportData(
            title=title or source.name,
            card=card,
            items=[item(row, run, truth(row.path)) for row in rows],
            threshold=cut.ng,
            review_threshold=cut.review,
            certified_rate=cut.certified_rate,
            metrics=metrics(rows),
            notes=tuple(notes),
            warnings=cut.warnings,
            command=command,
            scale=pictures.scale,
            reliability=_diagram(model.folder),
        ),
    )
    counts = dict.fromkeys(("OK", "REVIEW", "NG", "failed"), 0)
    for row in rows:
        counts[row.verdict or "failed"] += 1
    return Screening(
        folder=run,
        rows=tuple(rows),
        counts=counts,
        new=len(todo),
        seconds=clock.laps["inference"],
        outputs=(*outputs, report),
        warnings=cut.warnings,
    )


def _diagram(folder: Path) -> Path | None:
    """Return the reliability diagram that came with a model, if any."""
    return path if (path := folder / DIAGRAM).is_file() else None


def _card_mark(card: ModelCard) -> str:
    """Return a hash of what verdicts follow from besides the weights: rows of one run must be comparable."""
    decides = (card.preparation, card.policy, card.calibration, sorted(card.parameters.items()))
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """Return size and time of a file: a file with another fingerprint is another input."""
    try:
        status = path.stat()
    except OSError:
        return "unreadable"
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(path: Path) -> tuple[Path, str, Image | InspectionError]:
    mark = fingerprint(path)  # before reading: a file that changes meanwhile is done again
    return path, mark, image_or_error(path)


def _one(name: str, mark: str, image: Image | InspectionError, model: LoadedModel, pictures: _Pictures) -> Row:
    clock = Clock()
    try:
        if isinstance(image, InspectionError):
            raise image
        prediction = predict(image, model)
    except InspectionError as error:
        return Row(name, mark, "failed", error=utf8(str(error)))
    clock.lap("predict")
    own = [w for w in prediction.warnings if w not in pictures.common_warnings]
    return Row(
        path=name,
        fingerprint=mark,
        status="done",
        score=prediction.image_score,
        p_value=prediction.p_value,
        verdict=prediction.verdict,
        n_findings=len(prediction.findings),
        seconds=round(clock.laps["predict"], 4),
        details={
            "findings": [finding_json(f) for f in prediction.findings],
            "warnings": own,
            **pictures.write(name, image, prediction),
        },
    )


class _Pictures:
    """Writes what the report shows of each image: plain, with overlay, and findings beside their nearest good patch.

    Parameters
    ----------
    folder
        Where the pictures go, beside the report.
    card
        Supplies window, score scale and the folder of the good images.
    """

    def __init__(self, folder: Path, card: ModelCard) -> None:
        self.folder = folder
        self.window = card.preparation.window
        self.scale = score_scale(card)
        self.common_warnings = cuts(card.policy, card.calibration).warnings
        self.good = Path(str(card.training.get("folder", "")))
        # Neighbouring findings share good images; a few decoded ones are kept.
        self._good_image = lru_cache(maxsize=8)(self._read_good)

    def write(self, name: str, image: Image, prediction: Prediction) -> dict[str, Any]:
        """Write the pictures of one image; return their names, relative to the report."""
        stem = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
        plain = self._save(f"{stem}.webp", render_plain(image, self.window))
        overlay = self._save(f"{stem}_overlay.webp", render_overlay(image, prediction, self.window, self.scale))
        crops = []
        for finding in prediction.findings[:CROPS]:
            good = self._good_image(finding.neighbour.image) if finding.neighbour else None
            pair = render_pair(image, finding, good, self.window)
            files = [p and self._save(f"{stem}_{finding.id}{'ab'[i]}.webp", p) for i, p in enumerate(pair)]
            crops.append([finding.id, *files])
        return {"plain": plain, "picture": overlay, "crops": crops}

    def _save(self, name: str, picture: PIL.Image.Image) -> str:
        save_picture(self.folder / name, picture)
        return f"{self.folder.name}/{name}"

    def _read_good(self, name: str) -> Image | None:
        path = (self.good / name).resolve()
        if not path.is_relative_to(self.good.resolve()):  # the name comes from a file
            return None
        try:
            return read_raster(path)
        except InspectionError:
            return None


def item(row: Row, run: Path, truth: str | None = None) -> ReportItem:
    """Return a stored row as the report shows it."""
    details = row.details
    return ReportItem(
        path=row.path,
        status=row.status,
        score=row.score,
        p_value=row.p_value,
        verdict=row.verdict,
        seconds=row.seconds,
        error=row.error or "",
        findings=tuple(details.get("findings", ())),
        picture=run / details["picture"] if "picture" in details else None,
        plain=run / details["plain"] if "plain" in details else None,
        crops=tuple(Crop(i, run / a, run / b if b else None) for i, a, b in details.get("crops", ())),
        truth=truth,
        warnings=tuple(details.get("warnings", ())),
    )


def write_tables(run: Path, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write ``results.csv`` and ``results.parquet``, in the order of `rows`."""
    import pandas as pd

    table = pd.DataFrame([[getattr(r, c) for c in COLUMNS] for r in rows], columns=list(COLUMNS))
    types = {"score": "float64", "p_value": "float64", "seconds": "float64", "n_findings": "Int64"}
    table = table.astype({c: types.get(c, "string") for c in COLUMNS})
    csv, parquet = run / "results.csv", run / "results.parquet"
    with atomic_path(csv) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(parquet) as temporary:
        table.attrs["note"] = RESEARCH_USE
        table.to_parquet(temporary, index=False)
    return csv, parquet


def _relative(path: Path, folder: Path) -> str:
    """Return a path below `folder` with forward slashes; links are not followed, so that names stay the user's."""
    return utf8(Path(os.path.relpath(path, folder)).as_posix())
