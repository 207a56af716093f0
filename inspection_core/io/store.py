"""The record of a run: one row an input, in a database through SQLAlchemy.

SQLite inside the run folder by default; any other database by URL. A row is committed as soon as its input is done, so
a killed process loses at most the image it was working on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import sqlalchemy as sql

from inspection_core.errors import UsageError
from inspection_core.prediction import Verdict

RUN_DATABASE = "run.sqlite"

_metadata = sql.MetaData()
_run = sql.Table(
    "run",
    _metadata,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("value", sql.String, nullable=False),
)
_results = sql.Table(
    "results",
    _metadata,
    sql.Column("path", sql.String, primary_key=True),
    sql.Column("fingerprint", sql.String, nullable=False),
    sql.Column("status", sql.String, nullable=False),
    sql.Column("score", sql.Float),
    sql.Column("p_value", sql.Float),
    sql.Column("verdict", sql.String),
    sql.Column("n_findings", sql.Integer),
    sql.Column("seconds", sql.Float),
    sql.Column("error", sql.String),
    sql.Column("details", sql.String, nullable=False),
)


@dataclass(frozen=True)
class Row:
    """One input of a run.

    Parameters
    ----------
    path
        Relative to the screened folder, with forward slashes.
    fingerprint
        Size and time of the file when it was read; a changed file is done again.
    status
        ``"done"`` or ``"failed"``; a failed input has neither score nor verdict.
    score, p_value, verdict, n_findings, seconds, error
        Columns of ``results.csv``.
    details
        What the report shows besides: findings, warnings, pictures.
    """

    path: str
    fingerprint: str
    status: Literal["done", "failed"]
    score: float | None = None
    p_value: float | None = None
    verdict: Verdict | None = None
    n_findings: int | None = None
    seconds: float | None = None
    error: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class RunStore:
    """Results of one run, opened for reading and writing.

    Parameters
    ----------
    folder
        The run's folder; its database is made where it is not there yet.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = sql.create_engine(f"sqlite:///{folder / RUN_DATABASE}")
        self._folder = folder
        try:
            _metadata.create_all(self._engine)
        except sql.exc.DatabaseError as error:
            self.close()
            raise UsageError(
                f"{folder / RUN_DATABASE} is no database of a run. Give a new folder for --out, or remove that file."
            ) from error

    def claim(self, what: Mapping[str, str]) -> None:
        """Record what the run is about (model, folder), or check that a resumed run is about the same.

        Raises
        ------
        UsageError
            If the folder holds a run of something else.
        """
        with self._engine.begin() as connection:
            there = {row.key: row.value for row in connection.execute(sql.select(_run))}
            for key, value in what.items():
                if key not in there:
                    connection.execute(sql.insert(_run).values(key=key, value=value))
                elif there[key] != value:
                    raise UsageError(
                        f"{self._folder} holds a run with another {key}: {there[key]}. Asked for: {value}. "
                        "Give a new folder for --out."
                    )

    def fingerprints(self) -> dict[str, str]:
        """Return path -> fingerprint of every input that is done; failed ones are tried again."""
        query = sql.select(_results.c.path, _results.c.fingerprint).where(_results.c.status == "done")
        with self._engine.connect() as connection:
            return {row.path: row.fingerprint for row in connection.execute(query)}

    def put(self, row: Row) -> None:
        """Write or replace one row, and commit."""
        values = {k: getattr(row, k) for k in _results.c.keys() if k != "details"}  # noqa: SIM118 - a SQL collection
        values["details"] = json.dumps(dict(row.details), allow_nan=False)
        with self._engine.begin() as connection:
            connection.execute(sql.delete(_results).where(_results.c.path == row.path))
            connection.execute(sql.insert(_results).values(**values))

    def forget(self, keep: set[str]) -> int:
        """Remove rows whose input is no longer there; return how many."""
        with self._engine.begin() as connection:
            paths = [row.path for row in connection.execute(sql.select(_results.c.path))]
            gone = [p for p in paths if p not in keep]
            for path in gone:
                connection.execute(sql.delete(_results).where(_results.c.path == path))
        return len(gone)

    def rows(self) -> Iterator[Row]:
        """Yield all rows, ordered by path."""
        with self._engine.connect() as connection:
            for row in connection.execute(sql.select(_results).order_by(_results.c.path)):
                values = dict(row._mapping)
                values["details"] = json.loads(values["details"])
                yield Row(**values)

    def close(self) -> None:
        """Release the database file."""
        self._engine.dispose()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()
