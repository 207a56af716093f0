"""Where runs are recorded: the tables, and how a database is reached.

SQLite inside the run folder by default, with a write-ahead log: a killed process leaves nothing half done. Any other
database by URL, PostgreSQL above all; it holds many runs, so every table names the run.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from inspection_core.errors import UsageError
from inspection_core.io.atomic import write_text

RUN_DATABASE = "run.db"
"""SQLite database inside a run folder."""

RUN_FILE = "run.json"
"""Names the database of a run folder that has none inside, and the run's id there."""

LOCAL = "run"
"""Id of the run in its own folder's database."""

BUSY_SECONDS = 30
"""How long a write waits for another process, such as one that reads a report out."""

_TEXT = sql.String().with_variant(sql.String(collation="C"), "postgresql")  # ordered by bytes, as SQLite orders

metadata = sql.MetaData()

facts = sql.Table(
    "run",
    metadata,
    sql.Column("run", sql.String, primary_key=True),
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("value", sql.String, nullable=False),
)
"""What a run is about: model, folder, options, when it began and ended."""

results = sql.Table(
    "results",
    metadata,
    sql.Column("run", sql.String, primary_key=True),
    sql.Column("path", _TEXT, primary_key=True),
    sql.Column("fingerprint", sql.String, nullable=False),
    sql.Column("content", sql.String, nullable=False),
    sql.Column("status", sql.String, nullable=False),
    sql.Column("score", sql.Double),
    sql.Column("p_value", sql.Double),
    sql.Column("verdict", sql.String),
    sql.Column("n_findings", sql.Integer),
    sql.Column("seconds", sql.Double),
    sql.Column("error", sql.String),
    sql.Column("details", sql.String, nullable=False),
    sql.Column("again", sql.Boolean, nullable=False),
)
"""One row an input."""

in_work = sql.Table(
    "in_work",
    metadata,
    sql.Column("run", sql.String, primary_key=True),
    sql.Column("path", _TEXT, primary_key=True),
    sql.Column("active", sql.Boolean, nullable=False),
    sql.Column("deaths", sql.Integer, nullable=False),
    sql.Column("alone", sql.Integer, nullable=False),
)
"""Inputs in work, and how often the process died with each of them; a finished input has no row."""

outbox = sql.Table(
    "outbox",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("run", sql.String, nullable=False, index=True),
    sql.Column("sink", sql.String, nullable=False),
    sql.Column("payload", sql.String, nullable=False),
)
"""Messages that a receiver has not confirmed; written with the result that they tell of."""


@dataclass(frozen=True)
class Place:
    """Where a run is recorded.

    Parameters
    ----------
    url
        Of SQLAlchemy, or None for SQLite inside the folder.
    run
        Id of the run there.
    """

    url: str | None
    run: str


def place_of(folder: Path, url: str | None) -> Place:
    """Return where the run of a folder is recorded; a new one with a URL gets an id of its own.

    The folder keeps the URL without its password, which libpq finds in ``~/.pgpass`` or ``PGPASSWORD``.

    Raises
    ------
    UsageError
        If the folder's run is in another database than `url`.
    """
    note = folder / RUN_FILE
    if note.is_file():
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            place = Place(str(known["database"]), str(known["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{note} does not say where the run is recorded. Give a new folder for --out.") from error
        if url is not None and _public(url) != place.url:
            raise UsageError(
                f"{folder} holds a run in another database: {place.url}. Leave --database out, or give a new folder."
            )
        return Place(url or place.url, place.run)
    if url is None:
        return Place(None, LOCAL)
    if (folder / RUN_DATABASE).exists():
        raise UsageError(f"{folder} holds a run in its own {RUN_DATABASE}. Leave --database out, or give a new folder.")
    place = Place(url, secrets.token_hex(8))
    write_text(note, json.dumps({"schema_version": 1, "id": place.run, "database": _public(url)}, indent=2) + "\n")
    return place


def connect(folder: Path, place: Place) -> sql.Engine:
    """Return an engine for the database of a run, which is not reached before its first use.

    Raises
    ------
    UsageError
        If the URL makes no sense, or its driver is not installed.
    """
    url = sql.URL.create("sqlite", database=str(folder / RUN_DATABASE)) if place.url is None else _url(place.url)
    try:
        if url.get_backend_name() == "sqlite":
            engine = sql.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
            sql.event.listen(engine, "connect", _write_ahead)
            return engine
        return sql.create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise UsageError(
            f'--database {_public(str(place.url))} needs {error.name}: pip install "inspection-suite[postgres]".'
        ) from error
    except sql.exc.ArgumentError as error:
        raise UsageError(f"--database takes a URL such as postgresql://user@host/name. Got {place.url!r}.") from error


def _url(text: str) -> sql.URL:
    try:
        url = sql.make_url(text)
    except sql.exc.ArgumentError as error:
        raise UsageError(f"--database takes a URL such as postgresql://user@host/name. Got {text!r}.") from error
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _public(text: str) -> str:
    url = _url(text)
    plain = sql.URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    return plain.render_as_string(hide_password=False)


def _write_ahead(connection: Any, _: object) -> None:
    """Set up a connection to SQLite: readers never wait, and a killed process loses nothing that was committed.

    With ``synchronous=normal`` a power cut may undo the last commits, never tear the file; these inputs are done again.
    """
    cursor = connection.cursor()
    cursor.execute("pragma journal_mode=wal")
    cursor.execute("pragma synchronous=normal")
    cursor.close()
