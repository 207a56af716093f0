"""Reviews on disk: the prediction once, and every correction as it is made.

A folder holds one prediction and any number of reviewers. The corrections are rows of a database, each committed by
itself and never changed again, so a killed process loses at most the correction it was writing.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import sqlalchemy as sql
from numpy.typing import NDArray

from inspection_core.errors import ReadError
from inspection_core.geometry import Geometry
from inspection_core.io.atomic import atomic_path, write_text
from inspection_core.io.results import dump
from inspection_core.prediction import RESEARCH_USE, Finding, Neighbour, Prediction
from inspection_core.review import Correction, Mark, Review

REVIEW_DATABASE = "review.sqlite"
PREDICTION = "prediction.npz"
SCHEMA_VERSION = 1
TRAIL_COLUMNS = ("number", "time", "reviewer", "action", "findings", "labels", "statuses", "voxels_changed",
                 "box_start", "box_stop", "model", "model_version", "model_sha256", "note")  # fmt: skip

_metadata = sql.MetaData()
_corrections = sql.Table(
    "corrections",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("reviewer", sql.String, nullable=False, index=True),
    sql.Column("author", sql.String, nullable=False),
    sql.Column("action", sql.String, nullable=False),
    sql.Column("time", sql.String, nullable=False),
    sql.Column("start", sql.String, nullable=False),
    sql.Column("shape", sql.String, nullable=False),
    sql.Column("after", sql.LargeBinary),
    sql.Column("marks", sql.String, nullable=False),
    sql.Column("note", sql.String, nullable=False),
)


class ReviewStore:
    """The corrections to one prediction, by reviewer.

    Parameters
    ----------
    folder
        Made where it is not there yet.

    Raises
    ------
    ReadError
        If the folder holds something else under the database's name.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = sql.create_engine(sql.URL.create("sqlite", database=str(folder / REVIEW_DATABASE)))
        try:
            with self._engine.begin() as connection:
                _metadata.create_all(connection)
        except sql.exc.DatabaseError as error:
            self.close()
            raise ReadError(
                f"{REVIEW_DATABASE} here is no database of a review; move it away and try again."
            ) from error

    def put(self, reviewer: str, correction: Correction) -> None:
        """Append one correction, and commit."""
        after = correction.after
        values = {
            "reviewer": reviewer,
            "author": correction.author,
            "action": correction.action,
            "time": correction.time.isoformat(),
            "start": json.dumps(correction.start),
            "shape": json.dumps(() if after is None else after.shape),
            "after": None if after is None else zlib.compress(np.ascontiguousarray(after).astype("<u2").tobytes(), 1),
            "marks": json.dumps({str(n): [m.label, m.status, m.edited] for n, m in correction.marks.items()}),
            "note": correction.note,
        }
        with self._engine.begin() as connection:
            connection.execute(sql.insert(_corrections).values(**values))

    def reviewers(self) -> dict[str, int]:
        """Return how many entries the log of each reviewer has."""
        query = sql.select(_corrections.c.reviewer, sql.func.count()).group_by(_corrections.c.reviewer)
        with self._engine.begin() as connection:
            return {str(name): int(count) for name, count in connection.execute(query.order_by("reviewer"))}

    def corrections(self, reviewer: str) -> Iterator[Correction]:
        """Yield the log of one reviewer, oldest first."""
        query = sql.select(_corrections).where(_corrections.c.reviewer == reviewer).order_by(_corrections.c.id)
        with self._engine.begin() as connection:
            for row in connection.execute(query):
                after = None
                if row.after is not None:
                    flat = np.frombuffer(zlib.decompress(row.after), "<u2")
                    after = flat.reshape(json.loads(row.shape)).astype(np.uint16)
                marks = {int(n): Mark(*mark) for n, mark in json.loads(row.marks).items()}
                start = tuple(json.loads(row.start))
                time = datetime.fromisoformat(row.time)
                yield Correction(row.action, row.author, start, after, marks, row.note, time)

    def forget(self, reviewer: str) -> None:
        """Remove the log of one reviewer: a review is begun anew."""
        with self._engine.begin() as connection:
            connection.execute(sql.delete(_corrections).where(_corrections.c.reviewer == reviewer))

    def close(self) -> None:
        """Release the database file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def write_prediction_archive(folder: Path, prediction: Prediction, classes: Sequence[str] = ()) -> Path:
    """Keep a whole prediction, whole or not at all, so that its review can be continued without the model.

    Scores are kept as float16, which changes none of them by more than a two-thousandth of itself.
    """
    facts = {
        "schema_version": SCHEMA_VERSION,
        "shape": prediction.geometry.shape,
        "affine": prediction.geometry.affine.tolist(),
        "unit": prediction.geometry.unit,
        "image_score": prediction.image_score,
        "p_value": prediction.p_value,
        "verdict": prediction.verdict,
        "threshold": prediction.threshold if np.isfinite(prediction.threshold) else None,
        "model_id": prediction.model_id,
        "model_version": prediction.model_version,
        "model_sha256": prediction.model_sha256,
        "device": prediction.device,
        "timings": dict(prediction.timings),
        "warnings": list(prediction.warnings),
        "classes": list(classes),
        "findings": [_finding(f) for f in prediction.findings],
    }
    path = folder / PREDICTION
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            mask=prediction.mask,
            score=prediction.score.astype(np.float16),
        )
    return path


def read_prediction_archive(folder: Path) -> tuple[Prediction, tuple[str, ...]]:
    """Return what `write_prediction_archive` kept, and the model's class names.

    Raises
    ------
    ReadError
        If it is not there, or damaged.
    """
    try:
        with (folder / PREDICTION).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            facts = json.loads(kept["facts"].tobytes().decode())
            mask: NDArray[np.uint8] = kept["mask"]
            score: NDArray[np.float16] = kept["score"]
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise ReadError(
            "The kept prediction of this review is missing or damaged; run the model again to begin anew."
        ) from error
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise ReadError("The kept prediction is of another version of the suite; run the model again to begin anew.")
    geometry = Geometry(tuple(facts["shape"]), np.array(facts["affine"]), facts["unit"])
    findings = tuple(Finding(**_tuples(f)) for f in facts["findings"])
    prediction = Prediction(
        geometry=geometry,
        score=score,
        mask=mask,
        findings=findings,
        image_score=facts["image_score"],
        p_value=facts["p_value"],
        verdict=facts["verdict"],
        threshold=np.inf if facts["threshold"] is None else facts["threshold"],
        model_id=facts["model_id"],
        model_version=facts["model_version"],
        model_sha256=facts["model_sha256"],
        device=facts["device"],
        timings=facts["timings"],
        warnings=tuple(facts["warnings"]),
    )
    return prediction, tuple(facts["classes"])


def trail(review: Review) -> list[dict[str, Any]]:
    """Return the audit trail of a review as plain rows, oldest first: who, when, what, from which model."""
    prediction = review.prediction
    rows = []
    for entry in review.log:
        done = entry.correction
        marks = done.marks
        stop = () if done.after is None else tuple(a + n for a, n in zip(done.start, done.after.shape, strict=True))
        rows.append(
            {
                "number": entry.number,
                "time": done.time.isoformat(timespec="milliseconds"),
                "reviewer": done.author,
                "action": done.action,
                "findings": list(entry.findings),
                "labels": sorted({m.label for m in marks.values()}),
                "statuses": sorted({m.status for m in marks.values()}),
                "voxels_changed": entry.voxels,
                "box_start": list(done.start),
                "box_stop": list(stop),
                "model": prediction.model_id,
                "model_version": prediction.model_version,
                "model_sha256": prediction.model_sha256,
                "note": done.note,
            }
        )
    return rows


def write_trail(path: Path, review: Review, entries: int | None = None) -> Path:
    """Write the audit trail as CSV or JSON, by the suffix.

    Parameters
    ----------
    path
        Ends in ``.csv`` or ``.json``.
    review
        Whose trail.
    entries
        How many of its entries, the oldest first; all if not given. A reviewer goes on while a result is written.

    Raises
    ------
    ReadError
        If the suffix is neither.
    """
    rows = trail(review)[:entries]
    if path.suffix.lower() == ".json":
        write_text(path, dump({"schema_version": SCHEMA_VERSION, "corrections": rows, "note": RESEARCH_USE}))
    elif path.suffix.lower() == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, TRAIL_COLUMNS)
        table.writeheader()
        for row in rows:
            table.writerow({k: _cell(v) for k, v in row.items()})
        write_text(path, text.getvalue())
    else:
        raise ReadError(f"An audit trail is written as .csv or .json. Got {path.name}.")
    return path


def _cell(value: Any) -> Any:
    text = " ".join(str(v) for v in value) if isinstance(value, list) else value
    # A spreadsheet takes a cell that begins so for a formula.
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@") else text


def _finding(finding: Finding) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(finding)


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON gave with its lists as tuples, and the nearest good patch as what it is."""
    near: Any = data.get("neighbour")
    out: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    if near:
        out["neighbour"] = Neighbour(near["image"], tuple(near["centre"]), tuple(near["size"]), near["distance"])
    return out


def open_review(
    folder: Path, reviewer: str, given: tuple[Prediction, Sequence[str]] | None = None
) -> tuple[ReviewStore, Review]:
    """Open a reviewer's review of the prediction kept in a folder, with all that was done to it so far.

    Parameters
    ----------
    folder
        Of the review.
    reviewer
        Whose log.
    given
        The prediction and the class names, where they are at hand; read from the folder if not.
    """
    prediction, classes = given or read_prediction_archive(folder)
    store = ReviewStore(folder)
    try:
        return store, Review(prediction, tuple(store.corrections(reviewer)), classes)
    except BaseException:
        store.close()
        raise


@contextlib.contextmanager
def reviewing(folder: Path, reviewer: str) -> Iterator[tuple[ReviewStore, Review]]:
    """Open a review for the length of a block; see `open_review`."""
    store, review = open_review(folder, reviewer)
    with store:
        yield store, review
