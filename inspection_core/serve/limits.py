"""What a server refuses, and how it says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from inspection_core import device as devices
from inspection_core.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Parameters
    ----------
    max_bytes
        Of one upload.
    held_bytes
        Of all uploads that are on their way, waiting or in work.
    max_pixels
        Pixels or voxels of an image, all channels together; of a compressed file, known before it is decoded.
    max_input
        Voxels of a network's input after resizing, all channels together, 4 bytes each.
    queue
        Requests that may wait beside those in work.
    workers
        Requests in work at once: decoding and measuring overlap with the network, which takes one batch at a time.
        0 takes the number of cores, and on a GPU at least a batch.
    rate
        Requests a second of one client, on the average; `burst` at once.
    connections
        Open connections.
    upload_seconds, wait_seconds, send_seconds
        Longest time for an upload, for waiting, and for a client to take a piece of the answer.
    header_seconds
        Longest time for a request's first lines.
    """

    max_bytes: int = 256 << 20
    held_bytes: int = 1 << 30
    max_pixels: int = 100_000_000
    max_input: int = 1 << 28
    queue: int = 64
    workers: int = 0
    rate: float = 100.0
    burst: int = 200
    connections: int = 1000
    upload_seconds: float = 60.0
    wait_seconds: float = 30.0
    send_seconds: float = 60.0
    header_seconds: float = 15.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("queue", "workers") else 1e-3 if isinstance(value, float) else 1
            if not least <= value < float("inf"):
                raise UsageError(f"{name} of a server is at least {least:g}. Got {value}.")
        if self.held_bytes < self.max_bytes:
            raise UsageError(
                f"held_bytes of a server is at least max_bytes, {self.max_bytes}, or no such upload could ever be "
                f"taken. Got {self.held_bytes}."
            )

    def workers_on(self, device: devices.Device) -> int:
        """Return the number of requests in work at once on a device."""
        return self.workers or max(devices.threads(), device.batch if device.batch > 1 else 1)


class RefusalError(Exception):
    """A request is not answered as asked.

    Parameters
    ----------
    status
        HTTP status.
    reason
        One word for metrics and programs.
    message
        One line for people; holds nothing of what was sent.
    retry_after
        Seconds after which to try again, where that makes sense.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
