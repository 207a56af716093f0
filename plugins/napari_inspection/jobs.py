"""One thing at a time off the main thread, and a screening behind it; and what widgets are told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from inspection_core.errors import InspectionError
from napari_inspection.worker import Job, explain

CANCELLED = "Cancelled. Nothing was changed."
NOTHING = ("", 0, 0, None)
"""For `Jobs.working`: nothing runs."""


class Jobs(QObject):
    """What runs for one viewer. Widgets listen to its signals."""

    said = Signal(str, str)
    """Kind (``info``, ``error``) and one line."""
    working = Signal(str, int, int, object)
    """What is being done, steps done, their total, seconds left; an empty name when it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.job: Job | None = None
        """What was started last."""
        self.behind: Job | None = None
        """A screening: while it runs, rows of its list can be looked at and reviewed."""
        self._steps: tuple[str, int, int, float | None] = NOTHING
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs, but perhaps a screening."""
        return self.job is None or self.job is self.behind or self.job.finished

    @property
    def screening(self) -> bool:
        """Whether a screening runs."""
        return self.behind is not None and not self.behind.finished

    def say_busy(self) -> None:
        """Tell the user that one thing runs at a time."""
        self.say("error", "Something else is still running. Wait for it, or cancel it first.")

    def say(self, kind: str, line: str) -> None:
        """Tell the user one line; an empty one clears the last."""
        self.said.emit(kind, line)

    def start(
        self,
        name: str,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        cancelled: str = CANCELLED,
        *,
        failed: Callable[[str], None] = lambda line: None,
        behind: bool = False,
        alone: bool = False,
    ) -> None:
        """Do something off the main thread, and its end in it; one thing at a time, and a screening behind it.

        Parameters
        ----------
        name
            What the user reads while it runs.
        work, done
            As for `napari_inspection.worker.Job`.
        cancelled
            What the user reads where it was cancelled.
        failed
            Called with the line that the user reads where it failed.
        behind
            It is a screening: others may be started while it runs.
        alone
            It may not be started while a screening runs.
        """
        if not self.idle or (self.screening and (behind or alone)):
            self.say_busy()
            return

        def ended() -> None:
            if self.idle:
                self.working.emit(*(self._steps if self.screening else NOTHING))

        def finish(result: Any) -> None:
            if self._closed:
                return
            ended()
            try:
                done(result)
            except InspectionError as error:
                self.say("error", str(error))
            except Exception as error:
                self.say("error", explain(error))
                raise  # a fault of ours, which a terminal and the tests should see too

        def fail(line: str) -> None:
            if self._closed:
                return
            ended()
            if line:
                failed(line)
            self.say("error" if line else "info", line or cancelled)

        def progress(steps: int, total: int, left: float | None) -> None:
            if self._closed:
                return
            if behind:
                self._steps = (name, steps, total, left)
            if not behind or self.idle:
                self.working.emit(name, steps, total, left)

        self.say("info", "")
        self.job = Job(work, finish, fail, progress)
        if behind:
            self.behind, self._steps = self.job, (name, 0, 0, None)
        self.working.emit(name, 0, 0, None)
        self.job.start()

    def cancel(self) -> None:
        """Ask what runs to stop; a screening only if nothing else does."""
        if not self.idle and self.job is not None:
            self.job.cancel()
        else:
            self.pause()

    def pause(self) -> None:
        """Ask a screening to stop after what is at hand."""
        if self.behind is not None:
            self.behind.cancel()
