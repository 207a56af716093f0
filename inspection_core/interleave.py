"""Stages of many small inputs on the cores of a processor: one thread reads and finishes, others compute.

Where a network takes some milliseconds and releases Python's lock, threads for each stage spend a fifth of the time on
handing over and on waiting for the lock. Here one thread does whatever Python does, in the order that keeps the
network busy, and the network has a thread for each core. While the network has nothing to do, or where inputs are slow
to read or to finish, helpers do that, and this one thread sees to all.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from inspection_core import device as devices
from inspection_core.stages import GROUP, PATIENCE, PAUSE, Finished, Stages

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")

AHEAD = 6
"""Inputs in work for each core, where no number is given; with fewer, the network has to wait."""

AFTER = {"item": "ready", "inferred": "done"}
"""What an input is after the stages of Python, by what it is before."""


def run(items: Iterable[Item], stages: Stages[Item, Ready, Result], *, depth: int | None, lanes: int) -> None:
    """Take every item through all stages; see `inspection_core.pipeline.run`.

    Parameters
    ----------
    items, stages
        As there.
    depth
        Inputs held besides those in the network.
    lanes
        Inputs in the network at once.
    """
    flow = _Interleaved(stages, depth + lanes if depth else AHEAD * lanes, lanes)
    with ExitStack() as stack:
        start = stack.enter_context(devices.single_threads())
        flow.network = stack.enter_context(ThreadPoolExecutor(lanes, "network", start))
        flow.helpers = stack.enter_context(ThreadPoolExecutor(lanes, "helper", start))
        feeder = threading.Thread(target=flow.feed, args=(items,), name="feed", daemon=True)
        worker = threading.Thread(target=flow.work, args=(start,), name="work")
        recorder = threading.Thread(target=flow.record, name="record")
        for thread in (feeder, worker, recorder):
            thread.start()
        try:
            while worker.is_alive():
                worker.join(PATIENCE)
        finally:  # Ctrl-C arrives here, where no stage is
            flow.stop()
            worker.join()
            recorder.join()
            feeder.join(2 * PATIENCE)  # it may wait for an input that never comes
    if flow.errors:
        raise flow.errors[0]


class _Place:
    """An input on its way.

    Attributes
    ----------
    state
        ``"item"``, ``"ready"`` or ``"inferred"``: what is in `value` and waits for its next stage; ``"busy"``: a stage
        has it, and `value` is its future; ``"done"``: the result; ``"failed"``: an error.
    """

    __slots__ = ("following", "state", "value")

    def __init__(self, item: Any) -> None:
        self.state, self.value, self.following = "item", item, ""

    def take(self) -> None:
        """Take what a stage gave, if it is there."""
        if self.state == "busy" and self.value.done():
            try:
                self.put(self.value.result(), self.following)
            except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread, when its turn comes
                self.state, self.value = "failed", error

    def put(self, given: Any, state: str) -> None:
        """Hold what a stage gave: an input that needs no network is done with being read."""
        if isinstance(given, Finished):
            state, given = "done", given.result
        self.state, self.value = state, given


class _Interleaved(Generic[Item, Ready, Result]):
    """The state of one run, and the loop of each of its threads."""

    network: ThreadPoolExecutor
    helpers: ThreadPoolExecutor

    def __init__(self, stages: Stages[Item, Ready, Result], room: int, lanes: int) -> None:
        self.stages, self.lanes = stages, lanes
        self.errors: list[BaseException] = []
        self.places: deque[_Place] = deque()
        self.waiting: deque[Item] = deque()
        self.free = threading.Semaphore(room)
        self.freed, self.few = 0, max(1, min(room // 4, room - lanes))  # every lane has an input, whatever waits
        self.fed = threading.Event()
        self.stopped = threading.Event()
        self.wake = threading.Event()
        self.takes = {"item": 0.0, "inferred": 0.0}  # seconds of the stage after that, of late
        self.done: list[Result] = []
        self.handed = -math.inf
        self.most = min(GROUP, 2 * room)
        self.recording: queue.Queue[list[Result] | None] = queue.Queue(1)

    def stop(self) -> None:
        """Begin nothing new; what has been through the network is finished."""
        self.stopped.set()
        self.wake.set()

    def fail(self, error: BaseException) -> None:
        """Stop, and remember why."""
        self.errors.append(error)
        self.stop()

    def feed(self, items: Iterable[Item]) -> None:
        """Take inputs, as many as there is room for; the iterator may block."""
        try:
            for item in items:
                while not self.free.acquire(timeout=PATIENCE):
                    if self.stopped.is_set():
                        return
                if self.stopped.is_set():
                    return
                self.waiting.append(item)
                self.wake.set()
        except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread
            self.fail(error)
        finally:
            self.fed.set()
            self.wake.set()

    def work(self, start: Callable[[], None]) -> None:
        """Do what there is to do, until all is done."""
        start()
        try:
            while self.step():
                pass
        except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread
            self.fail(error)
        finally:
            self.recording.put(self.done)
            self.recording.put(None)

    def step(self) -> bool:
        """Do one thing, or wait until there is something to do; say whether there is more to come."""
        self.wake.clear()
        fed = self.fed.is_set()  # before looking for what was fed
        stopped = self.stopped.is_set()
        if stopped:
            self.drop()
        while not stopped and self.waiting:
            self.places.append(_Place(self.waiting.popleft()))
        for place in self.places:
            place.take()
        for place in self.places:
            if place.state == "ready" and not stopped:
                self.give(self.network, self.infer, place, "inferred")
        self.collect()
        if not self.places:
            if stopped or (fed and not self.waiting):
                return False
            self.rest()
            return True
        todo = self.todo()
        while todo and not self.is_mine(todo[0]) and self.count("ready", "done") < self.lanes:
            place = todo.pop(0)
            self.give(self.helpers, partial(self.do, place.state), place, AFTER[place.state])
        if todo and self.is_mine(todo[0]):
            state = todo[0].state
            try:
                todo[0].put(self.do(state, todo[0].value), AFTER[state])
            except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread, when its turn comes
                todo[0].state, todo[0].value = "failed", error
        else:
            self.rest()
        return True

    def todo(self) -> list[_Place]:
        """Return what waits for a stage of Python, first what is most urgent."""
        finish = [place for place in self.places if place.state == "inferred"]
        read = [place for place in self.places if place.state == "item"]
        return read + finish if self.count("inferred") < self.lanes else finish + read

    def is_mine(self, place: _Place) -> bool:
        """Say whether the next stage of an input is for this thread: it is short, and the network is at work."""
        return self.count("inferred") > 0 and self.takes[place.state] < PAUSE

    def count(self, *following: str) -> int:
        """Return how many inputs other threads have that are this after it."""
        return sum(place.state == "busy" and place.following in following for place in self.places)

    def do(self, state: str, value: Any) -> Any:
        """Do a stage of Python, and keep in mind how long such a one takes."""
        begun = time.monotonic()
        given = (self.stages.read if state == "item" else self.stages.finish)(value)
        self.takes[state] += (time.monotonic() - begun - self.takes[state]) / 4
        return given

    def give(self, pool: ThreadPoolExecutor, stage: Callable[[Any], Any], place: _Place, following: str) -> None:
        """Let another thread do the next stage of an input."""
        future: Future[Any] = pool.submit(stage, place.value)
        place.state, place.value, place.following = "busy", future, following
        future.add_done_callback(lambda _: self.wake.set())

    def infer(self, ready: Ready) -> Any:
        """Send one input through the network."""
        return self.stages.infer([ready])[0]

    def collect(self) -> None:
        """Take results off, in the order of the inputs, and hand them to the recording if it is time."""
        while self.places and self.places[0].state in ("done", "failed"):
            place = self.places.popleft()
            self.freed += 1
            if place.state == "failed":
                self.drop(everything=True)
                raise place.value
            self.done.append(place.value)
        # A few at a time: each release wakes a thread, which then waits for Python's lock, and this one for it.
        if self.freed and (self.freed >= self.few or not self.places):
            self.free.release(self.freed)
            self.freed = 0
        if self.done and (self.left() <= 0 or len(self.done) >= self.most):
            self.hand()

    def hand(self) -> None:
        """Hand what is done to the recording."""
        self.recording.put(self.done)
        self.done, self.handed = [], time.monotonic()

    def left(self) -> float:
        """Return for how many seconds what is done may wait for more."""
        return self.handed + PAUSE - time.monotonic()

    def rest(self) -> None:
        """Wait until something changes."""
        if not self.done:
            self.wake.wait()
        elif not self.wake.wait(max(0.0, self.left())):
            self.hand()

    def drop(self, *, everything: bool = False) -> None:
        """Forget inputs that have not been through the network; with `everything`, all that there are."""
        self.waiting.clear()
        for place in list(self.places):
            if place.state == "busy" and (everything or place.following != "done"):
                place.value.cancel()
            through = place.state in ("inferred", "done", "failed") or (
                place.state == "busy" and place.following != "ready" and not place.value.cancelled()
            )
            if everything or not through:
                self.places.remove(place)

    def record(self) -> None:
        """Record what is handed over, in a thread of its own, since a database may be slow."""
        broken = False
        while (done := self.recording.get()) is not None:
            if not done or broken:
                continue
            try:
                self.stages.record(done)
            except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread
                broken = True
                self.fail(error)
