"""A model whose batches are filled by several requests at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inspection_core.device import Device
from inspection_core.engine import Grid, LoadedModel

if TYPE_CHECKING:
    import torch


class _Job:
    """One prepared image, and what became of it."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.result: tuple[Grid, Device] | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


@dataclass(eq=False)
class SharedModel(LoadedModel):
    """A loaded model that threads share: while one batch is in the network, those who wait form the next.

    Nobody waits for company: an image that finds the network idle goes alone and at once. So the batches grow with the
    load, up to the places that the device's batches have; these are of a fixed shape anyway, so that company changes
    nothing (``docs/decisions/0004-fixed-batches.md``). On a CPU a batch has one place.

    Parameters
    ----------
    watch
        Called with the number of images of each run.
    """

    watch: Callable[[int], None] = lambda count: None
    _waiting: deque[_Job] = field(default_factory=deque)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, model: LoadedModel, most_voxels: int, watch: Callable[[int], None] = lambda count: None) -> SharedModel:
        """Return a model, shared; `most_voxels` bounds the network's input."""
        return cls(model.card, model.folder, model.predictor, model.device, most_voxels, watch=watch)

    def run(self, pixels: torch.Tensor) -> tuple[Grid, Device]:
        """Send prepared pixels through the network, together with those of others who wait; as for `LoadedModel`."""
        job = _Job(pixels)
        self._waiting.append(job)
        while not job.done:
            with self._turn:  # whoever has the turn does the work of all who wait, the first first
                if not job.done:
                    self._run_some([self._waiting.popleft() for _ in range(min(len(self._waiting), self._places))])
        if job.error is not None:
            raise job.error
        assert job.result is not None  # noqa: S101 - for mypy
        return job.result

    @property
    def _places(self) -> int:
        return self.device.batch if self.card.preparation.view == "image" else 1

    def _run_some(self, jobs: list[_Job]) -> None:
        self.watch(len(jobs))
        try:
            results = self.run_many([job.pixels for job in jobs])
        except Exception as error:  # noqa: BLE001 - it belongs to the thread whose image it was
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:  # one bad image is no reason to refuse its neighbours
                self._run_some([job])
        else:
            for job, result in zip(jobs, results, strict=True):
                job.result = result
