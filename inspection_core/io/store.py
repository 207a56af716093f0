"""The record of a run: one row an input, in a database through SQLAlchemy.

SQLite inside the run folder by default; any other database by URL. A row is committed as soon as its input is done, so
a killed process loses at most the images it was working on, which are done again.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import filelock
import sqlalchemy as sql

from inspection_core.errors import UsageError
from inspection_core.io.database import RUN_DATABASE, connect, facts, in_work, metadata, outbox, place_of, results
from inspection_core.prediction import Verdict

__all__ = ["RUN_DATABASE", "Known", "Row", "RunStore"]

RUN_LOCK = "run.lock"
RUNNING = ".running"
"""There while a process works on a run; left behind by one that died. Removing it needs no room on a full disk."""
CHUNK = 500
"""Rows held at once when all of them are read."""


@dataclass(frozen=True)
class Row:
    """One input of a run.

    Parameters
    ----------
    path
        Relative to the screened folder, with forward slashes.
    fingerprint
        Size and time of the file when it was read; where they are the same, the file is not read again.
    status
        ``"done"`` or ``"failed"``; a failed input has neither score nor verdict.
    score, p_value, verdict, n_findings, seconds, error
        Columns of ``results.csv``.
    details
        What the report shows besides: findings, warnings, pictures.
    content
        SHA-256 of the file's bytes; empty where it could not be read.
    again
        Whether a failed input is tried again by the next call, or only once its file has changed.
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
    content: str = ""
    again: bool = True


class Known(NamedTuple):
    """What a run knows of an input from before."""

    fingerprint: str
    content: str
    settled: bool
    """Not to be done again as long as the file is the same."""


class Deaths(NamedTuple):
    """How often the process died while an input was in work, and how often with no other in work."""

    times: int
    alone: int


class RunStore:
    """Results of one run, opened for reading and writing.

    Parameters
    ----------
    folder
        Run folder; created if it is not there.
    database
        URL of SQLAlchemy; without it, what the folder names, or SQLite inside it.

    Raises
    ------
    UsageError
        If the database is none of a run, or cannot be reached.
    """

    def __init__(self, folder: Path, database: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._place = place_of(folder, database)
        self._run = self._place.run
        self._engine = connect(folder, self._place)
        try:
            metadata.create_all(self._engine)
        except sql.exc.OperationalError as error:
            self.close()
            if self._place.url is None:
                raise OSError(errno.EIO, str(error.orig), str(folder / RUN_DATABASE)) from error
            raise UsageError(f"The database cannot be reached: {_first_line(error)}.") from error
        except sql.exc.DatabaseError as error:
            self.close()
            raise UsageError(
                f"{folder / RUN_DATABASE} is no database of a run. Give a new folder for --out, or remove that file."
                if self._place.url is None
                else f"The database cannot be used: {_first_line(error)}."
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from working on this run, until the block ends or this process dies.

        If the one before died, a death is counted for every input that it had in work; see `deaths`.

        Raises
        ------
        UsageError
            If another process works on it.
        """
        busy = UsageError(
            f"Another process is working on {self._folder}. Wait until it is done or stop it; for more than one "
            "machine there is --ray."
        )
        lock = filelock.FileLock(self._folder / RUN_LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise busy from None
        with contextlib.ExitStack() as stack:
            stack.callback(lock.release)
            if self._engine.dialect.name == "postgresql":
                # Locks of files do not reach from one machine to another on every network drive; this one does. It is
                # the session's, so it goes with the process.
                session = stack.enter_context(self._engine.connect())
                stack.callback(session.invalidate)  # ends the session, and its lock
                if not session.scalar(sql.select(sql.func.pg_try_advisory_lock(int(self._run, 16) - (1 << 63)))):
                    raise busy
                session.rollback()  # the lock stays, no transaction does
            running = self._folder / RUNNING
            self._bury(died=running.exists())
            running.touch()
            stack.callback(running.unlink, missing_ok=True)
            yield

    def held(self) -> bool:
        """Tell whether a process works on the run, as far as this machine knows."""
        lock = filelock.FileLock(self._folder / RUN_LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # a run that may only be read
            return False
        lock.release()
        return False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.OperationalError as error:  # the disk or the network, not the data
            where = str(self._folder / RUN_DATABASE) if self._place.url is None else "the database"
            raise OSError(errno.EIO, str(error.orig).partition("\n")[0], where) from error

    def claim(self, what: Mapping[str, str]) -> None:
        """Record what the run is about (model, folder), or check that a resumed run is about the same.

        Raises
        ------
        UsageError
            If the folder holds a run of something else.
        """
        there = self.facts()
        for key, value in what.items():
            if there.get(key, value) != value:
                raise UsageError(
                    f"{self._folder} holds a run with another {key}: {there[key]}. Asked for: {value}. "
                    "Give a new folder for --out."
                )
        self.note({key: value for key, value in what.items() if key not in there})

    def note(self, what: Mapping[str, str]) -> None:
        """Write facts about the run, in place of earlier ones under the same keys."""
        with self._transaction() as connection:
            for key, value in what.items():
                connection.execute(sql.delete(facts).where(facts.c.run == self._run, facts.c.key == key))
                connection.execute(sql.insert(facts).values(run=self._run, key=key, value=value))

    def facts(self) -> dict[str, str]:
        """Return what was claimed and noted."""
        query = sql.select(facts.c.key, facts.c.value).where(facts.c.run == self._run)
        with self._transaction() as connection:
            return {row.key: row.value for row in connection.execute(query)}

    def known(self) -> dict[str, Known]:
        """Return path -> what is known of every input that has a row."""
        c = results.c
        settled = ((c.status == "done") | ~c.again).label("settled")
        query = sql.select(c.path, c.fingerprint, c.content, settled).where(c.run == self._run)
        with self._transaction() as connection:
            return {
                row.path: Known(row.fingerprint, row.content, bool(row.settled))
                for row in connection.execute(query.execution_options(yield_per=CHUNK))
            }

    def put(self, *rows: Row, messages: Iterable[tuple[str, str]] = ()) -> None:
        """Write or replace rows and commit; their inputs are no longer in work.

        `messages` are pairs of a receiver's name and a text, kept until they are `confirmed`.
        """
        with self._transaction() as connection:
            for first in range(0, len(rows), CHUNK):
                part = rows[first : first + CHUNK]
                for table in (results, in_work):
                    mine = (table.c.run == self._run) & table.c.path.in_([row.path for row in part])
                    connection.execute(sql.delete(table).where(mine))
                connection.execute(sql.insert(results), [{"run": self._run, **_values(row)} for row in part])
            waiting = [{"run": self._run, "sink": sink, "payload": text} for sink, text in messages]
            if waiting:
                connection.execute(sql.insert(outbox), waiting)

    def touch(self, path: str, fingerprint: str, moved_from: str | None = None) -> None:
        """Record that an input has the content it had, under another time, or another path."""
        old = path if moved_from is None else moved_from
        with self._transaction() as connection:
            if old != path:
                connection.execute(_of(results, self._run, path, sql.delete(results)))
            connection.execute(
                _of(results, self._run, old, sql.update(results)).values(path=path, fingerprint=fingerprint)
            )
            connection.execute(_of(in_work, self._run, path, sql.delete(in_work)))

    def forget(self, keep: set[str]) -> int:
        """Remove rows whose input is no longer there; return how many."""
        with self._transaction() as connection:
            paths = connection.scalars(sql.select(results.c.path).where(results.c.run == self._run))
            gone = [path for path in paths if path not in keep]
            for first in range(0, len(gone), CHUNK):
                part = gone[first : first + CHUNK]
                connection.execute(sql.delete(results).where(results.c.run == self._run, results.c.path.in_(part)))
        return len(gone)

    def rows(self, *, status: str | None = None) -> Iterator[Row]:
        """Yield all rows, ordered by path; a few at a time are in memory."""
        query = sql.select(results).where(results.c.run == self._run).order_by(results.c.path)
        if status is not None:
            query = query.where(results.c.status == status)
        with self._transaction() as connection:
            for row in connection.execute(query.execution_options(yield_per=CHUNK)):
                values = dict(row._mapping)
                del values["run"]
                values["details"] = json.loads(values["details"])
                yield Row(**values)

    def counts(self) -> dict[str, int]:
        """Return the number of inputs by outcome: ``OK``, ``REVIEW``, ``NG``, ``failed``."""
        c = results.c
        query = sql.select(c.verdict, sql.func.count()).where(c.run == self._run).group_by(c.verdict)
        counted = dict.fromkeys(("OK", "REVIEW", "NG", "failed"), 0)
        with self._transaction() as connection:
            for verdict, number in connection.execute(query):
                counted[verdict or "failed"] += number
        return counted

    # Inputs in work ---------------------------------------------------------------------------------------------

    def begin(self, paths: Sequence[str]) -> None:
        """Record that these inputs are in work, so that it is known whose turn it was if the process dies."""
        with self._transaction() as connection:
            there = sql.select(in_work.c.path).where(in_work.c.run == self._run, in_work.c.path.in_(paths))
            known = set(connection.scalars(there))
            if known:
                mine = (in_work.c.run == self._run) & in_work.c.path.in_(known)
                connection.execute(sql.update(in_work).where(mine).values(active=True))
            if new := [path for path in paths if path not in known]:
                fresh = {"run": self._run, "active": True, "deaths": 0, "alone": 0}
                connection.execute(sql.insert(in_work), [fresh | {"path": path} for path in new])

    def deaths(self) -> dict[str, Deaths]:
        """Return the inputs that were in work when a process died, and are not done."""
        query = sql.select(in_work.c.path, in_work.c.deaths, in_work.c.alone).where(in_work.c.run == self._run)
        with self._transaction() as connection:
            return {row.path: Deaths(row.deaths, row.alone) for row in connection.execute(query) if row.deaths}

    def _bury(self, died: bool) -> None:
        """Count a death for what a process left in work, if it died; what stopped in good order only stopped."""
        c = in_work.c
        mine = (c.run == self._run) & c.active
        with self._transaction() as connection:
            left = connection.scalar(sql.select(sql.func.count()).where(mine)) or 0
            if died and left:
                counted = {"deaths": c.deaths + 1, "alone": c.alone + (1 if left == 1 else 0)}
                connection.execute(sql.update(in_work).where(mine).values(counted))
            if left:
                connection.execute(sql.update(in_work).where(mine).values(active=False))
            connection.execute(sql.delete(in_work).where(c.run == self._run, c.deaths == 0))

    # Messages to others -----------------------------------------------------------------------------------------

    def waiting(self, sink: str, limit: int = 100) -> list[tuple[int, str]]:
        """Return the oldest messages that a receiver has not confirmed, with their numbers."""
        c = outbox.c
        query = sql.select(c.id, c.payload).where(c.run == self._run, c.sink == sink).order_by(c.id).limit(limit)
        with self._transaction() as connection:
            return [(row.id, row.payload) for row in connection.execute(query)]

    def confirmed(self, numbers: Sequence[int]) -> None:
        """Drop messages that their receiver has."""
        with self._transaction() as connection:
            connection.execute(sql.delete(outbox).where(outbox.c.id.in_(numbers)))

    def close(self) -> None:
        """Release the database file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _values(row: Row) -> dict[str, Any]:
    values = {k: getattr(row, k) for k in results.c.keys() if k not in ("run", "details")}  # noqa: SIM118 - of SQL
    return values | {"details": json.dumps(dict(row.details), allow_nan=False)}


def _of(table: sql.Table, run: str, path: str, statement: Any) -> Any:
    return statement.where(table.c.run == run, table.c.path == path)


def _first_line(error: sql.exc.DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
