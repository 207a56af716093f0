"""Stopping a training in good order: what asks for it is noted, and heeded between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what services, containers and queues of clusters stop a program with."""


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Note the first `SIGNALS` in place of stopping at once, so that the step at hand can be finished and kept.

    A second one stops at once. In another thread than the main one, which alone may take signals, nothing changes.

    Yields
    ------
    Callable
        Whether the program was asked to stop.
    """
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
