"""Stages that overlap: reading, the network, finishing and recording, with bounded queues between them.

Reading and finishing run in threads, several inputs at a time. The network runs in the calling thread, which is also
where Ctrl-C arrives; where several calls of it may run at once, see `inspection_core.interleave`. Recording has a
thread of its own, because its order is that of the inputs and its writes are grouped. Every queue is bounded, so memory
does not grow with the number of inputs, and a slow stage slows those before it instead of drowning.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from typing import Any, Generic, TypeVar

from inspection_core import device as devices
from inspection_core import interleave
from inspection_core.stages import GROUP, PATIENCE, PAUSE, Finished, Stages

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")


class _Stopped(Exception):  # noqa: N818 - no error: another stage has ended the work
    pass


def run(
    items: Iterable[Item],
    stages: Stages[Item, Ready, Result],
    *,
    batch: int = 1,
    depth: int | None = None,
    lanes: int = 1,
) -> None:
    """Take every item through all stages.

    Parameters
    ----------
    items
        Taken one by one by a thread; it may block, as a folder does that is watched.
    stages
        What to do.
    batch
        Places of a batch. The network takes what is ready, up to so many, and never waits for a batch to fill.
    depth
        Inputs held between two stages; by default twice the number of cores, or the batch.
    lanes
        Calls of the network that may run at once, each with one core and one input.

    Raises
    ------
    Exception
        The first error of any stage. What had been through the network before it is still finished and recorded where
        that is possible; so it is with Ctrl-C.
    """
    if lanes > 1:
        interleave.run(items, stages, depth=depth, lanes=lanes)
        return
    threads = devices.threads()
    depth = depth or max(2 * threads, batch, 2)
    flow = _Flow(stages, depth)
    with ExitStack() as stack:
        readers, finishers = (stack.enter_context(ThreadPoolExecutor(threads, name)) for name in ("read", "finish"))
        feeder = threading.Thread(target=flow.feed, args=(items, readers), name="feed", daemon=True)
        recorder = threading.Thread(target=flow.record, name="record", daemon=True)
        feeder.start()
        recorder.start()
        try:
            flow.network(finishers, batch)
        except _Stopped:
            pass
        finally:
            flow.stop_reading.set()
            for future in flow.drop():
                future.cancel()
            feeder.join(2 * PATIENCE)  # it may wait for an input that never comes
            flow.end()
            recorder.join()
    if flow.errors:
        raise flow.errors[0]


class _Flow(Generic[Item, Ready, Result]):
    """The queues of one run, and the loop of each stage."""

    def __init__(self, stages: Stages[Item, Ready, Result], depth: int) -> None:
        self.stages = stages
        self.reading: queue.Queue[Future[Ready | Finished[Result]] | None] = queue.Queue(depth)
        self.finishing: queue.Queue[Future[Result] | Finished[Result] | None] = queue.Queue(depth)
        self.stop_reading = threading.Event()
        self.broken = threading.Event()
        self.errors: list[BaseException] = []
        self.done: list[Result] = []
        """What is to be recorded; of the recording thread, as the next."""
        self.recorded = -math.inf

    def feed(self, items: Iterable[Item], readers: ThreadPoolExecutor) -> None:
        """Hand inputs to the readers, as many as the queue has room for."""
        try:
            for item in items:
                if self.stop_reading.is_set():
                    return
                self._put(self.reading, readers.submit(self.stages.read, item), self.stop_reading)
            self._put(self.reading, None, self.stop_reading)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread
            self._fail(error)

    def network(self, finishers: ThreadPoolExecutor, batch: int) -> None:
        """Send what is ready through the network, in the order of the inputs."""
        ended = False
        held: Future[Ready | Finished[Result]] | None = None
        while not ended or held is not None:
            future = held if held is not None else self._get()
            held = None
            if future is None:
                return
            group: list[Ready] = []
            used = 0
            while True:
                one = self._result(future)
                if isinstance(one, Finished):
                    self._forward(group, finishers)
                    group, used = [], 0
                    self._put(self.finishing, one, self.broken)
                else:
                    group.append(one)
                    used += self.stages.weight(one)
                if used >= batch:
                    break
                following = self._at_once()
                if following is None:
                    break
                if isinstance(following, _End):
                    ended = True
                    break
                if not following.done():
                    held = following
                    break
                future = following
            self._forward(group, finishers)

    def record(self) -> None:
        """Record results in the order of the inputs: the first at once, those that follow soon together."""
        one: Future[Result] | Finished[Result] | None = None
        try:
            while True:
                try:
                    one = self.finishing.get(timeout=self._rest())
                except queue.Empty:
                    self._record()
                    continue
                if one is None:
                    break
                result = self._made(one)  # which may record, and begin a new list
                self.done.append(result)
                if len(self.done) >= GROUP or self._rest() == 0:
                    self._record()
            self._record()
        except BaseException as error:  # noqa: BLE001 - raised anew in the calling thread
            with suppress(Exception):  # what was done before it; the first error is the one to tell
                self._record()
            self._fail(error)
            while one is not None:
                one = self.finishing.get()

    def drop(self) -> list[Future[Any]]:
        """Empty the queue of what is being read, so that nobody waits for room in it."""
        dropped: list[Future[Any]] = []
        while True:
            try:
                future = self.reading.get_nowait()
            except queue.Empty:
                return dropped
            if future is not None:
                dropped.append(future)

    def end(self) -> None:
        """Let the recorder finish what it has."""
        self.finishing.put(None)

    def _forward(self, group: Sequence[Ready], finishers: ThreadPoolExecutor) -> None:
        if group:
            for one in self.stages.infer(group):
                self._put(self.finishing, finishers.submit(self.stages.finish, one), self.broken)

    def _made(self, one: Future[Result] | Finished[Result]) -> Result:
        """Return a result, once it is there; what was done before it is not kept waiting for long."""
        if isinstance(one, Finished):
            return one.result
        if not wait([one], self._rest()).done:
            self._record()
        return one.result()

    def _rest(self) -> float | None:
        """Return for how many seconds what is done may wait for more; None where nothing waits."""
        return max(0.0, self.recorded + PAUSE - time.monotonic()) if self.done else None

    def _record(self) -> None:
        if self.done:
            self.stages.record(self.done)
            self.done, self.recorded = [], time.monotonic()

    def _fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self.broken.set()
        self.stop_reading.set()

    def _get(self) -> Future[Ready | Finished[Result]] | None:
        while True:
            if self.broken.is_set():
                raise _Stopped
            try:
                return self.reading.get(timeout=PATIENCE)
            except queue.Empty:
                continue

    def _at_once(self) -> Future[Ready | Finished[Result]] | _End | None:
        try:
            future = self.reading.get_nowait()
        except queue.Empty:
            return None
        return _End() if future is None else future

    def _result(self, future: Future[Ready | Finished[Result]]) -> Ready | Finished[Result]:
        while True:
            if self.broken.is_set():
                raise _Stopped
            try:
                return future.result(timeout=PATIENCE)
            except TimeoutError:
                if future.done():
                    return future.result()

    def _put(self, line: queue.Queue[Any], one: Any, stop: threading.Event) -> None:
        while True:
            if stop.is_set():
                raise _Stopped
            try:
                line.put(one, timeout=PATIENCE)
            except queue.Full:
                continue
            return


class _End:
    """Marks that there are no more inputs."""
