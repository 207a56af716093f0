"""How many at once, how fast, and how much: a bounded queue that refuses with a reason instead of growing.

All of it belongs to the event loop's thread, so there are no locks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from inspection_core.serve.limits import Limits, RefusalError

LONGEST = 30
"""Seconds after which a refused client is told to come again, at most."""


class Gate:
    """Admission to a server.

    Parameters
    ----------
    limits
        How much is taken.
    workers
        Requests in work at once.
    clock
        Seconds, for the rate.
    """

    def __init__(self, limits: Limits, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.workers = workers
        self.places = 0
        self.running = 0
        self.held = 0
        self.stopping = False
        self.seconds = 1.0
        """Moving average of the time that a request is in work."""
        self._turns = asyncio.Semaphore(workers)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    @property
    def waiting(self) -> int:
        """Requests that are admitted and not in work: on their way, waiting, or being answered."""
        return self.places - self.running

    def why_not_ready(self) -> str | None:
        """Return why the next request would be refused, or None."""
        if self.stopping:
            return "stopping"
        return "busy" if self.places >= self.workers + self.limits.queue else None

    def count(self, client: str) -> None:
        """Count a request of a client against its rate; a bucket that fills with `rate` up to `burst`.

        Raises
        ------
        RefusalError
            With 429, if it comes too fast.
        """
        rate, burst, now = self.limits.rate, float(self.limits.burst), self._clock()
        level, at = self._buckets.get(client, (burst, now))
        level = min(burst, level + (now - at) * rate)
        if level < 1:
            self._buckets[client] = (level, now)
            raise RefusalError(
                429,
                "rate",
                f"A client may ask {rate:g} times a second. Wait, and ask again.",
                min(LONGEST, math.ceil((1 - level) / rate)),
            )
        self._buckets[client] = (level - 1, now)

    def place(self) -> Place:
        """Take a place; whoever gets one gives it back.

        Raises
        ------
        RefusalError
            With 503, if all are taken.
        """
        if self.stopping:
            raise RefusalError(503, "stopping", "The server is stopping. Ask again.", 5)
        if self.places >= self.workers + self.limits.queue:
            raise RefusalError(
                503, "queue", f"{self.places} requests are before this one. Wait, and ask again.", self._when()
            )
        return Place(self)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a worker, and keep it inside the block.

        Raises
        ------
        RefusalError
            With 503, if none gets free in time.
        """
        try:
            await asyncio.wait_for(self._turns.acquire(), self.limits.wait_seconds)
        except TimeoutError:
            raise RefusalError(
                503,
                "wait",
                f"No worker got free in {self.limits.wait_seconds:g} s. Wait, and ask again.",
                self._when(),
            ) from None
        self.running += 1
        start = self._clock()
        try:
            yield
        finally:
            self.seconds += 0.1 * (self._clock() - start - self.seconds)
            self.running -= 1
            self._turns.release()

    def _when(self) -> int:
        """Return the seconds after which a place may be free."""
        return max(1, min(LONGEST, math.ceil(self.seconds * self.places / self.workers / 2)))


class Place:
    """A request's place in the queue, with the bytes that it holds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = 0
        self._open = True
        gate.places += 1

    def hold(self, count: int) -> None:
        """Count bytes that are about to be held.

        Raises
        ------
        RefusalError
            With 413 if one upload is too large, with 503 if all together are.
        """
        limits = self._gate.limits
        if self._held + count > limits.max_bytes:
            raise too_large(limits)
        if self._gate.held + count > limits.held_bytes:
            raise RefusalError(
                503, "memory", "The uploads in work fill the server's memory. Wait, and ask again.", self._gate._when()
            )
        self._held += count
        self._gate.held += count

    def answer(self, count: int) -> None:
        """Count an answer in place of its upload; new uploads are refused while slow clients leave theirs lying."""
        self._gate.held += count - self._held
        self._held = count

    def give_back(self) -> None:
        """Give the place back; a second time does nothing."""
        if self._open:
            self._open = False
            self._gate.places -= 1
            self._gate.held -= self._held


def too_large(limits: Limits) -> RefusalError:
    """Return the refusal of an upload that is too large."""
    return RefusalError(413, "size", f"An upload is up to {limits.max_bytes} bytes. Cut the image into parts.")
