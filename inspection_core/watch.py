"""A folder that is watched: each image is done as soon as its file is complete, and its result is told to others.

A file is complete when it was closed after writing, when it was moved or renamed into the folder, or, where the system
tells neither (network drives), when its size and time have rested for a while.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inspection_core import pipeline
from inspection_core.engine import Model, width
from inspection_core.inspector import MASKS, RESULTS, REVIEWS, Task, Touched
from inspection_core.io.identity import UNREADABLE, fingerprint
from inspection_core.io.raster import RASTER_SUFFIXES, list_images
from inspection_core.io.store import Row
from inspection_core.pictures import PICTURES
from inspection_core.publish import Publisher, Sink
from inspection_core.session import Options, name_of, picture, session, telling
from inspection_core.tables import message

TICK = 0.02
"""Seconds between looks at what has come."""

LOOK = 5.0
"""Seconds between looks at the whole folder, for files that the system did not tell of."""

BEHIND = 2.0
"""Seconds that the oldest image may wait before it is said by how much the work lags."""

KEPT = 100_000
"""Latencies that the figures are made from: the last so many."""


@dataclass
class Pace:
    """How the work keeps up.

    Parameters
    ----------
    latencies
        Seconds from a file's completion to its recorded verdict.
    done
        Images so far.
    waiting
        Images that are complete and have no verdict, and since when each.
    working
        Those of them that are in work.
    most, longest
        Most images that waited at a time, and longest wait in seconds.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    done: int = 0
    waiting: dict[str, float] = field(default_factory=dict)
    working: set[str] = field(default_factory=set)
    most: int = 0
    longest: float = 0.0

    def arrived(self, name: str, when: float) -> None:
        """Note that an image is complete."""
        self.waiting.setdefault(name, when)
        self.most = max(self.most, len(self.waiting))

    def begun(self, name: str) -> None:
        """Note that an image is in work."""
        self.working.add(name)

    def dropped(self, name: str) -> None:
        """Note that an image needs no verdict, or no second one."""
        if name not in self.working:
            self.waiting.pop(name, None)

    def finished(self, names: Sequence[str]) -> None:
        """Note that images have their verdict."""
        now = time.time()
        for name in names:
            self.working.discard(name)
            took = now - self.waiting.pop(name, now)
            self.latencies.append(took)
            self.longest = max(self.longest, took)
        self.done += len(names)
        if len(self.latencies) > 2 * KEPT:
            del self.latencies[:-KEPT]

    def lag(self) -> tuple[int, float]:
        """Return how many images wait, and seconds since the oldest was complete."""
        oldest = next(iter(list(self.waiting.values())), None)
        return len(self.waiting), 0.0 if oldest is None else time.time() - oldest

    def figures(self) -> dict[str, Any]:
        """Return latencies in seconds, and how far the work fell behind."""
        values = np.asarray(self.latencies)[-KEPT:]
        parts = {"p50": 50, "p95": 95, "p99": 99}
        latency = {key: round(float(np.percentile(values, q)), 4) for key, q in parts.items()} if values.size else {}
        return {"latency": latency, "longest": round(self.longest, 4), "most_waiting": self.most}


@dataclass(frozen=True)
class Watched:
    """Outcome of a watch.

    Parameters
    ----------
    done
        Images done by this call.
    counts
        All images of the run by outcome.
    outputs
        Files written at its end.
    figures
        Latency from a file's completion to its recorded verdict, in seconds, and how far the work fell behind.
    unsent
        Messages that wait for a receiver, by receiver; the next call sends them.
    """

    done: int
    counts: dict[str, int]
    outputs: tuple[Path, ...]
    figures: dict[str, Any]
    unsent: dict[str, int]


class Arrivals:
    """Images of a folder, each once it is complete.

    Parameters
    ----------
    folder
        Searched to any depth.
    skip
        Folders in it that are left out.
    is_known
        Tells by name and fingerprint whether an image is done already and its file unchanged.
    arrived
        Told the name of an image that is complete, and since when.
    settle
        Seconds that size and time must rest where the system does not tell that a file was closed.
    look
        Seconds between looks at the whole folder.
    events
        Whether to take the system's word that a file was closed or moved.
    """

    def __init__(
        self,
        folder: Path,
        skip: Sequence[Path],
        is_known: Callable[[str, str], bool],
        arrived: Callable[[str, float], None],
        *,
        settle: float,
        look: float = LOOK,
        events: bool = True,
    ) -> None:
        self.folder = folder
        self.skip = tuple(skip)
        self.is_known = is_known
        self.settle = settle
        self.look = look
        self.complete: deque[Path] = deque()
        self.arrived = arrived
        self._queued: set[Path] = set()
        self._resting: dict[Path, tuple[str, float]] = {}
        self._next_look = 0.0
        self._observer = self._observe() if events else None

    def close(self) -> None:
        """Stop listening."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()

    def poll(self) -> None:
        """Look at the folder, where it is time, and at files that rest."""
        now = time.monotonic()
        if now >= self._next_look:
            self._look()
            took = time.monotonic() - now
            self._next_look = time.monotonic() + max(self.look, 10 * took)
        for path, (mark, since) in list(self._resting.items()):
            if now - since < self.settle:
                continue
            again = fingerprint(path)
            self._resting.pop(path, None)
            if again == mark and again != UNREADABLE:
                self._take(path, time.time() - (now - since))
            elif again != UNREADABLE:
                self._resting[path] = (again, now)

    def _look(self) -> None:
        for path in list_images(self.folder, []):
            mark = fingerprint(path)
            if path in self._queued or path in self._resting or not self._wanted(path):
                continue
            if not self.is_known(self.name(path), mark):
                self._resting[path] = (mark, time.monotonic())

    def _told(self, path: Path) -> None:
        """Take the system's word that a file is complete."""
        if self._wanted(path):
            self._resting.pop(path, None)
            self._take(path, time.time())

    def _take(self, path: Path, when: float) -> None:
        if path not in self._queued:
            self._queued.add(path)
            self.arrived(self.name(path), when)
            self.complete.append(path)

    def next(self) -> Path:
        """Return the image that has been complete for longest."""
        path = self.complete.popleft()
        self._queued.discard(path)  # from here on it may come again: written anew
        return path

    def _wanted(self, path: Path) -> bool:
        relative = path.relative_to(self.folder)
        return (
            path.suffix.lower() in RASTER_SUFFIXES
            and not any(part.startswith(".") for part in relative.parts)
            and not any(path.is_relative_to(place) for place in self.skip)
        )

    def name(self, path: Path) -> str:
        """Return the name of an image in results."""
        return name_of(os.path.relpath(path, self.folder))

    def _observe(self) -> Any:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        arrivals = self

        class Handler(FileSystemEventHandler):
            def on_closed(self, event: FileSystemEvent) -> None:
                arrivals._told(Path(os.fsdecode(event.src_path)))

            def on_moved(self, event: FileSystemEvent) -> None:
                if not event.is_directory and os.fsdecode(event.dest_path).startswith(f"{arrivals.folder}{os.sep}"):
                    arrivals._told(Path(os.fsdecode(event.dest_path)))

        observer = Observer()
        try:
            observer.schedule(Handler(), str(self.folder), recursive=True)
            observer.start()
        except OSError:  # no more watches to be had; then by looking alone
            return None
        return observer


def watch(
    folder: Path,
    model: Model,
    run: Path,
    *,
    options: Options | None = None,
    sinks: Sequence[Sink] = (),
    settle: float = 0.5,
    look: float = LOOK,
    events: bool = True,
    idle: float | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda text: None,
    told: Callable[[Row], None] = lambda row: None,
    command: str = "",
) -> Watched:
    """Do each image that comes into a folder, until told to stop.

    Parameters
    ----------
    folder
        Watched to any depth; what is in it and not done is done first.
    model, run, options
        As for `inspection_core.screen.screen`.
    sinks
        Who is told of results.
    settle, look, events
        As for `Arrivals`.
    idle
        Ends when nothing has come for so many seconds; never, if not given.
    stop
        Ends when set; so does Ctrl-C.
    say
        Shows a line to the user.
    told
        Called with every row.

    Raises
    ------
    UsageError
        If `run` holds a run of something else, or another process works on it.
    """
    folder, run, stop = Path(folder).absolute(), Path(run), stop or threading.Event()
    pace = Pace()
    with session(folder, run, model, options or Options(pictures="flagged")) as work:
        store = work.store
        marks = {path: known.fingerprint for path, known in store.known().items() if known.settled}
        skip = [run.absolute() / place for place in (PICTURES, RESULTS, MASKS, REVIEWS)]
        arrivals = Arrivals(
            folder,
            skip,
            lambda name, mark: marks.get(name) == mark,
            pace.arrived,
            settle=settle,
            look=look,
            events=events,
        )
        with Publisher(store, sinks, say) as publisher:
            plain = work.recorder(
                lambda count: None, lambda row: publisher.wrap(json.dumps(message(row), allow_nan=False))
            )

            def record(results: Sequence[Row | Touched]) -> None:
                plain(results)
                publisher.wake()
                pace.finished([one.path if isinstance(one, Row) else one.name for one in results])
                for one in results:
                    marks[one.path if isinstance(one, Row) else one.name] = one.fingerprint
                    if isinstance(one, Row):
                        told(one)

            tasks = _tasks(arrivals, marks, pace, stop, idle, say)
            inspector = work.inspector(0)
            interrupted = False
            try:
                batch, lanes = width(model)
                pipeline.run(tasks, inspector.stages(record), batch=batch, lanes=lanes)
            except KeyboardInterrupt:  # the usual end of a watch
                interrupted = True
            finally:
                stop.set()
                arrivals.close()
        if interrupted:
            say("stopped; writing the tables and the report.")
        store.note({"inputs": str(sum(store.counts().values()))})
        outputs = work.write(telling(model.card, folder.name, command))
        return Watched(
            pace.done, store.counts(), outputs, pace.figures(), {k: n for k, n in publisher.left().items() if n}
        )


def _tasks(
    arrivals: Arrivals,
    marks: dict[str, str],
    pace: Pace,
    stop: threading.Event,
    idle: float | None,
    say: Callable[[str], None],
) -> Iterator[Task]:
    """Yield images as they are complete; say by how much the work lags, where it does."""
    last = said = time.monotonic()
    while not stop.is_set():
        arrivals.poll()
        if arrivals.complete:
            path = arrivals.next()
            name, mark = arrivals.name(path), fingerprint(path)
            if mark == UNREADABLE or marks.get(name) == mark:
                pace.dropped(name)  # renamed on the way, or told of twice
            else:
                marks[name] = mark
                pace.begun(name)
                yield Task(name, picture(path))
        count, seconds = pace.lag()
        if count:
            last = time.monotonic()
        if seconds > BEHIND and time.monotonic() - said > LOOK:
            say(f"behind: {count} images wait, the oldest for {seconds:.1f} s.")
            said = time.monotonic()
        if arrivals.complete:
            continue
        if idle is not None and time.monotonic() - last > idle:
            return
        stop.wait(TICK)
