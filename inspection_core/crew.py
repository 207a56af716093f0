"""A few threads that share out the pieces of a large array among them.

torch's own threads wait for each other after every step, which for pieces that fit in a cache takes longer than the
step. Here each thread takes a piece through all its steps, and then the next one that is left. What is made of a piece
does not depend on who made it, so results are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from inspection_core import device as devices

T = TypeVar("T")

MOST = 4
"""Threads of a crew at most: what they do is bound by memory, which more of them would only wait for."""


class Crew:
    """Threads for one piece of work; leave it as a context, and they end.

    Parameters
    ----------
    count
        Threads, the caller's own among them. With one, all is done there.
    """

    def __init__(self, count: int = 1) -> None:
        self._helpers = min(count, MOST) - 1
        self._pool: ThreadPoolExecutor | None = None
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        if self._helpers > 0:
            start = self._ends.enter_context(devices.single_threads())
            self._pool = ThreadPoolExecutor(self._helpers, "crew", start)
            self._ends.callback(self._pool.shutdown, cancel_futures=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()
        self._pool = None

    def share(self, work: Callable[[T], object], pieces: Iterable[T]) -> None:
        """Call `work` with every piece, in any order, and return when all are done; the first error is raised."""
        left = list(pieces)
        if self._pool is None or len(left) < 2:
            for piece in left:
                work(piece)
            return
        line = iter(left)  # shared: each takes the next
        helpers = [self._pool.submit(_in_turn, work, line) for _ in range(min(self._helpers, len(left) - 1))]
        try:
            _take(work, line)
        finally:
            errors = [error for helper in helpers if (error := helper.exception()) is not None]
        if errors:
            raise errors[0]


def _in_turn(work: Callable[[T], object], line: Iterator[T]) -> None:
    import torch

    with torch.inference_mode():  # is set for each thread
        _take(work, line)


def _take(work: Callable[[T], object], line: Iterator[T]) -> None:
    try:
        for piece in line:
            work(piece)
    finally:
        for _ in line:  # after an error nobody begins another
            pass
