"""Runs as a whole: which there are, how they stand, and how two of them differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from inspection_core.card import ModelCard
from inspection_core.errors import InspectionError, UsageError
from inspection_core.io.database import RUN_DATABASE, RUN_FILE
from inspection_core.io.store import Row, RunStore

DEPTH = 3
"""Levels of folders below which runs are looked for."""

SHOWN = 1000
"""Most differing images that a comparison names."""


@contextmanager
def opened(run: Path, database: str | None = None) -> Iterator[RunStore]:
    """Open the run in a folder for reading.

    Raises
    ------
    UsageError
        If there is none.
    """
    if not is_run(run):
        raise UsageError(f"{run} holds no run. Give the folder that was --out of inspection screen.")
    with RunStore(run, database) as store:
        yield store


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return (folder / RUN_DATABASE).is_file() or (folder / RUN_FILE).is_file()


def card_of(store: RunStore, run: Path) -> ModelCard:
    """Return the card of the model that a run was made with.

    Raises
    ------
    UsageError
        If the run holds none.
    """
    text = store.facts().get("card")
    if text is None:
        raise UsageError(f"{run} holds no model card; it was never begun. Run inspection screen first.")
    return ModelCard.from_toml(text, f"the card in {run}")


@dataclass(frozen=True)
class Summary:
    """How a run stands.

    Parameters
    ----------
    folder
        Of the run.
    model
        Id and version.
    source
        Folder that is screened.
    inputs
        How many there are, or None where nobody listed them yet.
    counts
        Inputs by outcome.
    started, finished
        When, in UTC; `finished` is empty for a run that is not.
    state
        ``"finished"``, ``"running"``, or ``"stopped"``: the same command goes on with it.
    """

    folder: str
    model: str
    source: str
    inputs: int | None
    counts: dict[str, int]
    started: str
    finished: str
    state: str


def summary(run: Path, database: str | None = None) -> Summary:
    """Return how a run stands."""
    with opened(run, database) as store:
        told, counts, running = store.facts(), store.counts(), store.held()
    return Summary(
        folder=str(run),
        model=" ".join(told.get("model", "").split(" ")[:2]),
        source=told.get("folder", ""),
        inputs=int(told["inputs"]) if "inputs" in told else None,
        counts=counts,
        started=told.get("started", ""),
        finished=told.get("finished", ""),
        state="running" if running else "finished" if told.get("finished") else "stopped",
    )


def list_runs(folder: Path, database: str | None = None) -> tuple[list[Summary], list[str]]:
    """Return the runs in a folder and up to three levels below it, and what is wrong with others."""
    found: list[Summary] = []
    wrong: list[str] = []
    top = len(folder.parts)
    for root, folders, _ in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if len(here.parts) - top < DEPTH else []
        if not is_run(here):
            continue
        folders[:] = []
        try:
            found.append(summary(here, database if (here / RUN_FILE).is_file() else None))
        except (InspectionError, OSError) as error:
            wrong.append(f"{here}: {error}")
    return found, wrong


@dataclass
class Comparison:
    """How two runs differ.

    Parameters
    ----------
    changes
        ``(verdict in the first, in the second) -> number``.
    only_first, only_second
        Number of inputs that one of them has alone.
    different
        Path, verdicts and scores of images that differ, the first thousand.
    n_different
        How many differ in verdict, score, number of findings or content.
    largest
        Largest difference of scores.
    notes
        What makes them hard to compare.
    """

    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    only_first: int = 0
    only_second: int = 0
    different: list[dict[str, Any]] = field(default_factory=list)
    n_different: int = 0
    largest: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether all inputs are in both, with equal results bit for bit; times aside."""
        return not (self.only_first or self.only_second or self.n_different)


def compare(first: Path, second: Path, database: str | None = None) -> Comparison:
    """Compare two runs, input by input.

    Parameters
    ----------
    first, second
        Folders of runs.
    database
        URL, for runs that are in one.

    Raises
    ------
    UsageError
        If one is no run.
    """
    result = Comparison()
    with opened(first, _url(first, database)) as a, opened(second, _url(second, database)) as b:
        told = a.facts(), b.facts()
        for key in ("model", "model card", "folder"):
            if told[0].get(key) != told[1].get(key):
                result.notes.append(f"they have another {key}: {told[0].get(key)} and {told[1].get(key)}")
        for old, new in _pairs(a.rows(), b.rows()):
            _count(result, old, new)
    return result


def _url(run: Path, database: str | None) -> str | None:
    return database if (run / RUN_FILE).is_file() else None


def _pairs(first: Iterator[Row], second: Iterator[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Merge two sequences of rows in the order of their paths' bytes."""
    a, b = next(first, None), next(second, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.path.encode() < b.path.encode()):
            yield a, None
            a = next(first, None)
        elif a is None or b.path.encode() < a.path.encode():
            yield None, b
            b = next(second, None)
        else:
            yield a, b
            a, b = next(first, None), next(second, None)


def _count(result: Comparison, old: Row | None, new: Row | None) -> None:
    if old is None:
        result.only_second += 1
        return
    if new is None:
        result.only_first += 1
        return
    result.changes[old.verdict or "failed", new.verdict or "failed"] += 1
    if old.score is not None and new.score is not None:
        result.largest = max(result.largest, abs(old.score - new.score))
    if _result(old) == _result(new):
        return
    result.n_different += 1
    if len(result.different) < SHOWN:
        result.different.append(
            {"path": old.path, "verdicts": [old.verdict, new.verdict], "scores": [old.score, new.score]}
        )


def _result(row: Row) -> tuple[Any, ...]:
    findings = row.details.get("findings", [])
    return (row.status, row.score, row.p_value, row.verdict, row.n_findings, row.content, findings)


def first_rows(store: RunStore, wants: Any, limit: int) -> list[Row]:
    """Return the first rows that a filter wants."""
    return list(islice((row for row in store.rows() if wants(row)), limit))
