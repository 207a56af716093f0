"""Reading ahead: files are decoded in threads while the network works on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from inspection_core import device as devices
from inspection_core.errors import InspectionError
from inspection_core.image import Image
from inspection_core.io.raster import read_raster

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], depth: int = 4, threads: int | None = None
) -> Iterator[Result]:
    """Yield ``read(item)`` in the order of `items`, with up to `depth` of them under way; memory stays bounded.

    Where no number of `threads` is given, there is one for each core.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads or devices.threads()) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def image_or_error(path: Path) -> Image | InspectionError:
    """Read an image; a user's error is returned, not raised, so that one bad file never stops a batch."""
    try:
        return read_raster(path)
    except InspectionError as error:
        return error
