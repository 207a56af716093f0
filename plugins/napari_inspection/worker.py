"""Work off the main thread: started, watched, cancelled from the main thread; its end comes back to it.

Only the main thread touches layers and widgets. A `Job` lives there; what the work says travels to it as Qt signals.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QThreadPool, QTimer, Signal

from inspection_core.errors import CancelledError, InspectionError
from inspection_core.progress import Watch, watched
from napari_inspection.llvm import keep_compiler_out

log = logging.getLogger(__name__)
PAUSE = 0.05
"""Seconds between two steps that are told, at least."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_running: set[Job] = set()
_ended: deque[Job] = deque(maxlen=16)
"""Jobs that ended lately: the thread may still hold one for a moment, and a QObject must not die in a thread."""


class Job(QObject):
    """One piece of work, off the main thread.

    Parameters
    ----------
    work
        Called in a thread. It may call `inspection_core.progress.tick`, and does so through every prediction.
    done
        Called in the main thread with what `work` returns.
    failed
        Called in the main thread with one line for the user; an empty line where the user cancelled.
    progress
        Called in the main thread with the steps done, their total, and the estimated seconds left (None at first).
    """

    _done = Signal(object)
    _failed = Signal(str)
    _progress = Signal(int, int)

    def __init__(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[str], None],
        progress: Callable[[int, int, float | None], None] = lambda done, total, left: None,
    ) -> None:
        super().__init__()
        self._work = work
        self._callbacks = (done, failed, progress)
        self._cancel = threading.Event()
        self._started = time.monotonic()
        self._last = 0.0
        self._held: tuple[int, int] | None = None
        self.finished = False
        self._done.connect(self._on_done)
        self._failed.connect(self._on_failed)
        self._progress.connect(self._on_progress)

    def start(self, pool: QThreadPool | None = None) -> Job:
        """Start in a thread of the pool; the job keeps itself alive until its end."""
        keep_compiler_out()
        _running.add(self)
        (pool or QThreadPool.globalInstance()).start(self._run)
        return self

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancel.set()

    @property
    def cancelling(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancel.is_set()

    def report(self, done: int, total: int) -> None:
        """Say how far the work is; from any thread, and not more than some twenty times a second."""
        now = time.monotonic()
        if now - self._last >= PAUSE or done == total:
            self._last, self._held = now, None
            self._progress.emit(done, total)
        else:
            self._held = done, total

    def _run(self) -> None:
        with suppress(RuntimeError):  # Qt's word for a job whose window is gone
            self._work_and_tell()

    def _work_and_tell(self) -> None:
        try:
            with watched(Watch(self.report, self._cancel.is_set)):
                result = self._work()
        except CancelledError:
            self._failed.emit("")
        except BaseException as error:  # noqa: BLE001 - whatever it is, the widget must work on
            self._failed.emit(explain(error))
        else:
            self._failed.emit("") if self._cancel.is_set() else self._done.emit(result)

    def _on_done(self, result: Any) -> None:
        self._end()
        self._callbacks[0](result)

    def _on_failed(self, line: str) -> None:
        self._end()
        self._callbacks[1](line)

    def _on_progress(self, done: int, total: int) -> None:
        if self.finished:
            return
        # What was held back soon after this may be the last for long: the next step can take minutes.
        QTimer.singleShot(round(1000 * PAUSE) + 10, self._tell_held)
        self._tell(done, total)

    def _tell_held(self) -> None:
        held, self._held = self._held, None
        if held is not None and not self.finished:
            self._tell(*held)

    def _tell(self, done: int, total: int) -> None:
        spent = time.monotonic() - self._started
        left = spent / done * (total - done) if done else None
        self._callbacks[2](done, total, left)

    def _end(self) -> None:
        self.finished = True
        _ended.append(self)
        _running.discard(self)


def explain(error: BaseException) -> str:
    """Return one line for the user: what happened, and what to do next.

    An error that nobody foresaw is named by its kind and place alone: its text may hold what a file's header says.
    """
    if isinstance(error, InspectionError):
        return str(error)
    from inspection_core.device import is_out_of_memory

    if is_out_of_memory(error):
        return "Memory ran out. Close other programs or large layers, then run again."
    if isinstance(error, OSError):
        return _trouble_with_a_file(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno}" if frames else "unknown place"
    log.error("unforeseen %s in %s", type(error).__name__, place)
    return (
        f"An unforeseen error stopped this ({type(error).__name__} in {place}). Nothing was changed; please report it."
    )


def _trouble_with_a_file(error: OSError) -> str:
    name = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, str | bytes) else ""
    what = name or "The file or folder"
    if error.errno in FULL or "requested and" in str(error):  # numpy's word for it
        return "The disk is full. Make room or choose another folder, then try again."
    if error.errno in FORBIDDEN:
        return f"{what} may not be written to, or read. Choose another folder, or ask for the right to it."
    if error.errno in IN_THE_WAY:
        return f"{what} is in the way: a file where a folder is needed, or a folder for a file. Choose another folder."
    return f"{error.strerror or 'A file cannot be read or written'}. Check the folder and the disk, then try again."


def wait_for_all(milliseconds: int = 10_000) -> None:
    """Cancel what runs and wait for its threads; for closing."""
    for job in tuple(_running):
        job.cancel()
    QThreadPool.globalInstance().waitForDone(milliseconds)
