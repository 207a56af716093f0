"""Rows of a run as files: CSV, Parquet, JSON Lines, COCO and the report. Rows pass one by one."""

from __future__ import annotations

import csv
import fnmatch
import heapq
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspection_core.card import ModelCard
from inspection_core.errors import UsageError
from inspection_core.io.atomic import atomic_path
from inspection_core.io.results import finite_in
from inspection_core.io.store import Row
from inspection_core.prediction import RESEARCH_USE
from inspection_core.report import Crop, ReportData, ReportItem, write_report
from inspection_core.threshold import Cuts

COLUMNS = ("path", "status", "score", "p_value", "verdict", "n_findings", "seconds", "error", "sha256")
CHUNK = 5_000
"""Rows of a row group of Parquet."""

LISTED = 5_000
"""Most images that a report lists: those with the highest scores, and failures. All are counted and in the tables."""

FORMATS = ("csv", "parquet", "jsonl", "coco")

Rows = Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Filter:
    """Which rows are wanted; what is not given holds for all.

    Parameters
    ----------
    verdicts
        ``OK``, ``REVIEW``, ``NG`` or ``failed``.
    match
        Pattern of a path, such as ``line3/*.png``.
    min_score, max_p
        Least score, largest p-value.
    """

    verdicts: frozenset[str] = frozenset()
    match: str | None = None
    min_score: float | None = None
    max_p: float | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(self.verdicts - {"OK", "REVIEW", "NG", "failed"}):
            raise UsageError(f"A verdict is OK, REVIEW, NG or failed. Got {unknown[0]!r}.")

    def wants(self, row: Row) -> bool:
        """Tell whether a row is wanted."""
        return (
            (not self.verdicts or (row.verdict or "failed") in self.verdicts)
            and (self.match is None or fnmatch.fnmatchcase(row.path, self.match))
            and (self.min_score is None or (row.score is not None and row.score >= self.min_score))
            and (self.max_p is None or (row.p_value is not None and row.p_value <= self.max_p))
        )


def values(row: Row) -> list[Any]:
    """Return the columns of a row."""
    return [*(getattr(row, c) for c in COLUMNS[:-1]), row.content or None]


def write_tables(folder: Path, rows: Rows, formats: Iterable[str] = ("csv", "parquet")) -> tuple[Path, ...]:
    """Write rows as ``results.csv``, ``.parquet`` and ``.jsonl``, and as ``coco.json``; each whole or not at all.

    Parameters
    ----------
    folder
        Where to.
    rows
        Gives the rows in their order, each time it is called.
    formats
        Of `FORMATS`; others are left to their writers.
    """
    writers = {"csv": _csv, "parquet": _parquet, "jsonl": _jsonl, "coco": _coco}
    names = {"csv": "results.csv", "parquet": "results.parquet", "jsonl": "results.jsonl", "coco": "coco.json"}
    written = []
    for name in FORMATS:
        if name in formats:
            with atomic_path(folder / names[name]) as temporary:
                writers[name](temporary, rows)
            written.append(folder / names[name])
    return tuple(written)


def _csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(values(row) for row in rows())


def _parquet(path: Path, rows: Rows) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"score": "float64", "p_value": "float64", "seconds": "float64", "n_findings": "Int64"}
    with ExitStack() as stack:
        writer = None
        for part in _chunks(map(values, rows())):
            frame = pd.DataFrame(part, columns=list(COLUMNS)).astype({c: types.get(c, "string") for c in COLUMNS})
            frame.attrs["note"] = RESEARCH_USE
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table.cast(writer.schema) if table.schema != writer.schema else table)


def _chunks(rows: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    """Yield rows in groups; one empty group where there is none, so that a file with its columns is written."""
    part: list[list[Any]] = []
    first = True
    for row in rows:
        part.append(row)
        if len(part) == CHUNK:
            yield part
            part, first = [], False
    if part or first:
        yield part


def message(row: Row) -> dict[str, Any]:
    """Return a row as JSON Lines and messages tell it."""
    told = dict(zip(COLUMNS, values(row), strict=True))
    details = {key: row.details[key] for key in ("findings", "warnings") if row.details.get(key)}
    result: dict[str, Any] = finite_in(told | details)
    return result


def _jsonl(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(message(row), allow_nan=False) + "\n" for row in rows())


def _coco(path: Path, rows: Rows) -> None:
    """Write one COCO file; every row holds its own, which are numbered through."""
    labels: dict[str, int] = {}
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": ' + json.dumps({"description": RESEARCH_USE}) + ', "images": [')
        number = 0
        for row in rows():
            for image in row.details.get("coco", {}).get("images", ()):
                number += 1
                file.write((",\n" if number > 1 else "\n") + json.dumps({**image, "id": number, "file_name": row.path}))
        file.write('], "annotations": [')
        number = count = 0
        for row in rows():
            coco = row.details.get("coco", {})
            names = {c["id"]: c["name"] for c in coco.get("categories", ())}
            number += len(coco.get("images", ()))
            for one in coco.get("annotations", ()):
                count += 1
                category = labels.setdefault(names[one["category_id"]], len(labels) + 1)
                told = {**one, "id": count, "image_id": number, "category_id": category}
                file.write((",\n" if count > 1 else "\n") + json.dumps(told, allow_nan=False))
        categories = [{"id": k, "name": label} for label, k in labels.items()]
        file.write('], "categories": ' + json.dumps(categories) + "}\n")


# The report ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Telling:
    """What a report says besides rows; see `inspection_core.report.ReportData`."""

    title: str
    card: ModelCard
    cut: Cuts
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metrics: Mapping[str, Any] | None = None
    command: str = ""
    scale: tuple[float, float] | None = None
    reliability: Path | None = None


def write_run_report(
    path: Path, rows: Rows, run: Path, telling: Telling, truth: Callable[[str], str | None] = lambda path: None
) -> Path:
    """Write the HTML report of a run; of a very large one it lists the highest scores, and counts all.

    Parameters
    ----------
    path
        The file.
    rows, run
        Of the run, and its folder, which the pictures are in.
    telling
        What it says besides.
    truth
        Gives the known label of an image by its path.
    """
    notes = list(telling.notes)
    listed, counts, rest = _listed(rows)
    total = sum(counts.values())
    if len(listed) < total:
        notes.append(
            f"The {len(listed):,} images with the highest scores, failures among them, are listed here. All {total:,} "
            "are counted above and are in results.csv."
        )
    return write_report(
        path,
        ReportData(
            title=telling.title,
            card=telling.card,
            items=[item(row, run, truth(row.path)) for row in listed],
            threshold=telling.cut.ng,
            review_threshold=telling.cut.review,
            certified_rate=telling.cut.certified_rate,
            metrics=telling.metrics,
            notes=tuple(notes),
            warnings=telling.warnings,
            command=telling.command,
            scale=telling.scale,
            reliability=telling.reliability,
            counts=counts if len(listed) < total else None,
            unlisted=rest,
        ),
    )


def _listed(rows: Rows) -> tuple[list[Row], dict[str, int], Sequence[float]]:
    """Return the rows to list, in their order; the number of all by outcome; and the scores of the others."""
    counts = dict.fromkeys(("OK", "REVIEW", "NG", "failed"), 0)
    best: list[tuple[float, int, Row]] = []
    rest = array("d")
    for number, row in enumerate(rows()):
        counts[row.verdict or "failed"] += 1
        # A tenth of the list is for failures, wherever it gets long.
        rank = row.score if row.score is not None else math.inf if counts["failed"] <= LISTED // 10 else -math.inf
        entry = (rank, -number, row)
        if len(best) < LISTED:
            heapq.heappush(best, entry)
        else:
            _, _, out = heapq.heappushpop(best, entry)
            if out.score is not None:
                rest.append(out.score)
    return [row for _, _, row in sorted(best, key=lambda entry: -entry[1])], counts, rest


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
