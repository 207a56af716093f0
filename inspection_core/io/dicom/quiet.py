"""pydicom warns about odd values by quoting them, patient names included; here nothing is quoted."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config

_lock = threading.Lock()
_depth = 0
_before: tuple[warnings.catch_warnings[None], int, int] | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Read DICOM without warnings and without refusing odd values; several threads may be inside at once.

    Warning filters and pydicom's settings belong to the process, so the first to enter sets them and the last to leave
    puts them back.
    """
    global _depth, _before
    settings = config.settings
    with _lock:
        _depth += 1
        if _depth == 1:
            filters: warnings.catch_warnings[None] = warnings.catch_warnings()
            filters.__enter__()
            warnings.simplefilter("ignore")
            _before = (filters, settings.reading_validation_mode, settings.writing_validation_mode)
            settings.reading_validation_mode = config.IGNORE
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _before is not None:
                filters, settings.reading_validation_mode, settings.writing_validation_mode = _before
                filters.__exit__(None, None, None)
                _before = None
