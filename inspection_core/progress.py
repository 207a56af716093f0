"""Watching a long computation from outside: how far it is, and asking it to stop.

Whoever wants to watch opens `watched` around the call; whoever works calls `tick` between its steps. Nothing in between
passes anything on, and a computation that nobody watches pays one look at a context variable. The watch belongs to the
thread (and to the context) that opened it, so two predictions at once have one each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from inspection_core.errors import CancelledError


@dataclass
class Watch:
    """Who watches.

    Parameters
    ----------
    report
        Called with the number of steps done and their total.
    cancelled
        Says whether the work is no longer wanted.
    coarse
        Whether someone counts larger steps, so that the finer ones inside them are not reported.
    """

    report: Callable[[int, int], None]
    cancelled: Callable[[], bool]
    coarse: bool = False


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Let `watch` see all steps of the block, in this thread."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def tick(done: int, total: int, *, coarse: bool = False) -> None:
    """Say that `done` of `total` steps are finished.

    Parameters
    ----------
    done, total
        Steps.
    coarse
        Count images, say, and no longer the windows of each: from then on, plain ticks only ask for cancelling.

    Raises
    ------
    CancelledError
        If the one who watches no longer wants the result.
    """
    watch = _watch.get()
    if watch is None:
        return
    if watch.cancelled():
        raise CancelledError("Cancelled. Nothing was changed.")
    watch.coarse = watch.coarse or coarse
    if coarse or not watch.coarse:
        watch.report(done, total)
