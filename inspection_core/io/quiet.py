"""Readers that warn and log by quoting odd values, patient names included, are kept from it here."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pydicom import config

LOGGERS = ("pydicom", "highdicom", "nibabel.global")
_lock = threading.Lock()
_inside = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def quiet() -> Iterator[None]:
    """Read without warnings, log lines, or refusal of odd values; several threads may be inside at once.

    Warning filters, loggers and pydicom's settings belong to the process, so the first to enter sets them and the last
    to leave puts them back.
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _enter()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                while _undo:
                    _undo.pop()()


def _enter() -> None:
    filters: warnings.catch_warnings[None] = warnings.catch_warnings()
    filters.__enter__()
    warnings.simplefilter("ignore")
    _undo.append(lambda: filters.__exit__(None, None, None))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        _undo.append(lambda logger=logger, level=logger.level: logger.setLevel(level))  # type: ignore[misc]
        logger.setLevel(logging.CRITICAL + 1)
    settings = config.settings
    reading = settings.reading_validation_mode
    _undo.append(lambda: setattr(settings, "reading_validation_mode", reading))
    settings.reading_validation_mode = config.IGNORE
