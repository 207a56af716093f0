"""Screening: a whole folder through one model, resumable, every input accounted for once.

Reading, the network, finishing and recording overlap for different inputs; see `inspection_core.pipeline`. A bad file
becomes a row with its reason and never stops the batch. Running the same command again continues where it stopped,
however it stopped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from inspection_core import pipeline
from inspection_core.engine import Model, width
from inspection_core.infer import Clock
from inspection_core.inspector import FATAL, SUSPECT, Inspector, Moves, Task, given_up
from inspection_core.io.store import Row, RunStore
from inspection_core.session import (
    Listing,
    Options,
    Progress,
    Record,
    Session,
    Work,
    below,
    diagram,
    list_folder,
    session,
    telling,
    unchanged,
)
from inspection_core.tables import COLUMNS
from inspection_core.threshold import cuts

__all__ = ["COLUMNS", "Screening", "screen"]

MARKED = 8
"""Inputs that are marked as in work together."""


@dataclass(frozen=True)
class Screening:
    """Outcome of a run.

    Parameters
    ----------
    folder
        The run's folder.
    database
        Its database, if not in that folder.
    counts
        Inputs by outcome: ``OK``, ``REVIEW``, ``NG``, ``failed``.
    failures
        Path and reason of inputs that failed.
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
    database: str | None
    counts: dict[str, int]
    failures: tuple[tuple[str, str], ...]
    new: int
    seconds: float
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """One row for each input, ordered by path, read from the database; of a large run these are many."""
        with RunStore(self.folder, self.database) as store:
            return tuple(store.rows())


def screen(
    source: Path,
    model: Model,
    run: Path,
    *,
    paths: Sequence[Path] | None = None,
    truth: Callable[[str], str | None] = lambda path: None,
    notes: Sequence[str] = (),
    metrics: Callable[[Sequence[Row]], dict[str, Any] | None] | None = None,
    title: str = "",
    command: str = "",
    progress: Progress = lambda done, total: None,
    options: Options | None = None,
    elsewhere: Work | None = None,
) -> Screening:
    """Put all images and scans below a folder through a model.

    Parameters
    ----------
    source
        Folder, searched to any depth.
    model
        From the `load` of an `inspection_core.engine.InferenceEngine`.
    run
        Folder for the results; continued if it holds a run of the same model.
    paths
        Images, scan files, and folders and archives of scans below `source` to take; all, if not given.
    truth
        Gives the known label of an image by its relative path, for the report.
    notes, title, command
        For the report.
    metrics
        Figures for the report, from all rows.
    progress
        Called with the number of inputs done and their total.
    options
        Formats, pictures, database, and choices about reading scans.
    elsewhere
        Does the work in place of this process; see `inspection_core.cluster`.

    Raises
    ------
    UsageError
        If there is nothing to do, `run` holds a run of something else, or another process works on it.
    ReadError
        If the folder is gone while the run is on.
    OSError
        If the run's folder cannot be written.
    """
    source, run = Path(source).absolute(), Path(run)
    options = options or Options()
    listing = list_folder(source, run, model.card, options, paths)
    clock = Clock()
    with session(source, run, model, options) as work:
        done = _do(work, listing, progress, elsewhere)
        clock.lap("inference")
        store = work.store
        told = telling(
            model.card,
            title or source.name,
            command,
            notes=tuple(notes),
            metrics=metrics(list(store.rows())) if metrics else None,
            reliability=diagram(model),
        )
        outputs = work.write(told, truth)
        return Screening(
            folder=run,
            database=options.database,
            counts=store.counts(),
            failures=tuple((row.path, row.error or "") for row in store.rows(status="failed")),
            new=done,
            seconds=clock.laps["inference"],
            outputs=outputs,
            warnings=cuts(model.card.policy, model.card.calibration).warnings,
        )


def _do(work: Session, listing: Listing, progress: Progress, elsewhere: Work | None) -> int:
    """Do what is left of a listing; return how many inputs that were."""
    store, total = work.store, len(listing)
    known = store.known()
    names = listing.names()
    gone = {path: k for path, k in known.items() if path not in names and not below(listing.locked, path)}
    moves = Moves((k.content, path) for path, k in gone.items() if k.settled and k.content)
    left = array("L")
    for number in range(total - len(listing.refused)):
        name, item = listing[number]
        if not unchanged(item, known.get(name)):
            left.append(number)
    store.note({"inputs": str(total), "finished": ""})
    store.put(*(Row(name, "", "failed", error=reason) for name, reason in listing.refused.items()))
    done = total - len(left)
    progress(done, total)

    def more(count: int) -> None:
        nonlocal done
        for _ in range(count):
            done += 1
            progress(done, total)

    record = work.recorder(more)

    def tasks() -> Iterator[Task]:
        for number in left:
            name, item = listing[number]
            yield Task(name, item, known.get(name))

    if elsewhere is not None:
        elsewhere(work, tasks(), record)
    else:
        _here(work, work.inspector(total, moves), tasks, record, depth=1 if listing.scans else None)
    # Last of all: until here, a row whose file is gone might have been that of a moved one.
    store.forget(names | {path for path in known if below(listing.locked, path)})
    return len(left)


def _here(
    work: Session, inspector: Inspector, tasks: Callable[[], Iterator[Task]], record: Record, depth: int | None
) -> None:
    """Do tasks in this process; those that it died with before come last, and by themselves.

    With a `depth` of one, few volumes are held at a time.
    """
    store = work.store
    deaths = store.deaths()
    suspects = {name for name, death in deaths.items() if death.times >= SUSPECT}
    stages = inspector.stages(record)
    batch, lanes = width(work.model)
    pipeline.run(
        _marked(store, (task for task in tasks() if task.name not in suspects)),
        stages,
        batch=batch,
        depth=depth,
        lanes=lanes,
    )
    if not suspects:
        return
    for task in tasks():
        if task.name not in suspects:
            continue
        if deaths[task.name].alone >= FATAL:
            record([given_up(task, deaths[task.name].times)])
        else:
            pipeline.run(_marked(store, [task]), stages, batch=batch)


def _marked(store: RunStore, tasks: Iterable[Task]) -> Iterator[Task]:
    """Yield tasks, a few at a time marked as in work."""
    waiting = iter(tasks)
    while part := list(islice(waiting, MARKED)):
        store.begin([task.name for task in part])
        yield from part
