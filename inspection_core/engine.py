"""Loaded models, shared by everyone in the process, and the run of one prepared image through one of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core import device as devices
from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.models import Predictor, Scores, Segmenter, load_predictor
from inspection_core.sweep import sweep
from inspection_core.tiling import Stitcher, Window, windows

if TYPE_CHECKING:
    import torch

EMBEDDED_CARDS = Path(__file__).parent / "models" / "cards"
"""Models that come with the package, one folder each."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Result of a run, on the network's grid over the whole inference image.

    Parameters
    ----------
    score
        float32 ``(h', w')``, or ``(d', h', w')`` of a volume.
    neighbour
        int64 ``(h', w')``, number of the nearest reference, or None.
    """

    score: NDArray[np.float32]
    neighbour: NDArray[np.int64] | None


@dataclass(eq=False)
class LoadedModel:
    """A card with its network in memory.

    Calls are serialised: a network's scratch memory is used by one thread at a time.
    """

    card: ModelCard
    folder: Path
    predictor: Predictor
    device: Device
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, pixels: torch.Tensor) -> tuple[Grid, Device]:
        """Send ``(C, h, w)`` prepared pixels through the network, in tiles where they are large.

        Returns
        -------
        grid, device
            The stitched result, and the rung of the memory ladder that it was made on.
        """
        grids, rung = self.run_many([pixels])
        return grids[0], rung

    def run_many(self, images: Sequence[torch.Tensor]) -> tuple[list[Grid], Device]:
        """Send several prepared images through the network; windows of equal size share its batches.

        A batch has one fixed shape, whoever is in it, so each result is that of `run`.
        """
        with self._lock:
            # What ran on a lower rung stays there until the next run, which moves it back where there is room.
            return devices.on_ladder(self.device, lambda rung: self._run(images, rung))

    def run_classes(self, pixels: torch.Tensor) -> tuple[NDArray[Any], Device]:
        """Send prepared pixels ``(C, [d,] h, w)`` through a network that segments.

        Returns
        -------
        foreground, device
            float16 ``(K, d', h', w')`` probabilities of the card's classes without the background, and the rung.

        Raises
        ------
        ModelError
            If the network gives another number of classes than the card names.
        """
        with self._lock:
            return devices.on_ladder(self.device, lambda rung: self._run_classes(pixels, rung))

    def _run_classes(self, pixels: torch.Tensor, device: Device) -> NDArray[Any]:
        network = cast("Segmenter", self.predictor)
        network.to(device)
        volume = pixels if pixels.ndim == 4 else pixels[:, None]
        stitched = sweep(
            network,
            volume,
            device,
            self.card.preparation,
            network.stride,
            1 + len(self.card.classes),
            np.float16,
        )
        return stitched[1:]

    def _run(self, images: Sequence[torch.Tensor], device: Device) -> list[Grid]:
        self.predictor.to(device)
        preparation = self.card.preparation
        if preparation.view != "image":
            network, stride = self.predictor, self.predictor.stride

            def scores(batch: torch.Tensor) -> torch.Tensor:
                return network(batch).map[:, None]

            return [Grid(sweep(scores, pixels, device, preparation, stride, 1)[0], None) for pixels in images]
        return run_together(self.predictor, images, device, preparation.tile, preparation.overlap, preparation.multiple)


def plan(shape: Sequence[int], tile: int, overlap: float, multiple: int) -> list[Window]:
    """Return the windows of an inference image of `shape`; one window where it fits in a tile's area."""
    h, w = shape
    side = max(multiple, tile // multiple * multiple)
    size = (h, w) if h * w <= side * side else (min(h, side), min(w, side))
    return windows(shape, size, overlap, step=multiple)


def run_windows(
    predictor: Predictor, pixels: torch.Tensor, device: Device, tile: int, overlap: float, multiple: int
) -> Grid:
    """Score all windows of an image and stitch them."""
    return run_together(predictor, [pixels], device, tile, overlap, multiple)[0]


def run_together(
    predictor: Predictor, images: Sequence[torch.Tensor], device: Device, tile: int, overlap: float, multiple: int
) -> list[Grid]:
    """Score all windows of images and stitch them; windows of one size share batches, across images.

    A batch always holds ``device.batch`` windows, padded with zeros, so that company changes nothing.
    """
    import torch

    parts = [_Stitched(tuple(pixels.shape[1:]), predictor.stride, int(tile * overlap)) for pixels in images]
    todo: dict[tuple[int, ...], list[tuple[int, Window]]] = {}
    for i, pixels in enumerate(images):
        for window in plan(tuple(pixels.shape[1:]), tile, overlap, multiple):
            size = (pixels.shape[0], *(s.stop - s.start for s in window))
            todo.setdefault(size, []).append((i, window))
    for size, waiting in todo.items():
        for first in range(0, len(waiting), device.batch):
            part = waiting[first : first + device.batch]
            batch = torch.zeros((device.batch, *size), dtype=torch.float32)
            for slot, (i, window) in zip(batch, part, strict=False):
                slot.copy_(images[i][(slice(None), *window)])
            scores = _call(predictor, batch, device)
            maps = scores.map.cpu().numpy()
            references = None if scores.neighbour is None else scores.neighbour.cpu().numpy()
            for k, (i, window) in enumerate(part):
                parts[i].add(window, maps[k], None if references is None else references[k])
    return [part.result() for part in parts]


class _Stitched:
    """The grid of one image as its windows come in; the nearest reference is taken from a cell's innermost window."""

    def __init__(self, shape: tuple[int, ...], stride: int, overlap: int) -> None:
        self.stride = stride
        self.cells = tuple(n // stride for n in shape)
        self.stitcher = Stitcher(self.cells, overlap // stride)
        self.best: NDArray[np.float64] | None = None
        self.neighbour: NDArray[np.int64] | None = None

    def add(self, window: Window, score: NDArray[Any], references: NDArray[Any] | None) -> None:
        at = tuple(slice(s.start // self.stride, s.stop // self.stride) for s in window)
        self.stitcher.add(at, score)
        if references is None:
            return
        if self.best is None or self.neighbour is None:
            self.best, self.neighbour = np.zeros(self.cells), np.zeros(self.cells, dtype=np.int64)
        weight = self.stitcher.weight(at)
        inner = weight > self.best[at]
        self.best[at][inner] = weight[inner]
        self.neighbour[at][inner] = references[inner]

    def result(self) -> Grid:
        return Grid(self.stitcher.result(), self.neighbour)


def _call(predictor: Predictor, batch: torch.Tensor, device: Device) -> Scores:
    import torch

    if device.torch.type == "cuda":
        batch = batch.pin_memory()
    with torch.inference_mode():
        return predictor(batch.to(device.torch, non_blocking=True))


class Engine:
    """Models in memory, each loaded once for everyone in the process.

    Parameters
    ----------
    device
        As for `inspection_core.device.choose`.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = devices.choose(device)
        self._models: dict[tuple[Path, str], LoadedModel] = {}
        self._lock = threading.Lock()

    def load(self, model: str | Path) -> LoadedModel:
        """Return the model in a folder or with the id of an embedded card; a second call gives the same object.

        Raises
        ------
        ModelError
            If there is no such model, or it is damaged.
        """
        folder = find(model)
        card = ModelCard.load(folder)
        key = (folder, card.weights_sha256)
        with self._lock:
            if key not in self._models:
                self._models[key] = LoadedModel(card, folder, load_predictor(folder, card, self.device), self.device)
            return self._models[key]


def find(model: str | Path) -> Path:
    """Return the folder of a model given as a folder or as the id of an embedded card."""
    path = Path(model)
    if path.is_dir():
        return path.resolve()
    embedded = EMBEDDED_CARDS / path.name
    if str(model) == path.name and embedded.is_dir():
        return embedded
    known = sorted(p.name for p in EMBEDDED_CARDS.glob("*") if p.is_dir())
    raise ModelError(
        f"A model is a folder, or the id of one that comes with the suite ({', '.join(known) or 'none yet'}). "
        f"Got {str(model)!r}; make a model with `inspection fit`."
    )


def list_models(folder: Path) -> list[tuple[Path, ModelCard | ModelError]]:
    """Return the models that come with the suite and those in `folder` or one or two levels below it.

    A card that cannot be read is listed with its error.
    """
    places = [p.parent for p in sorted(EMBEDDED_CARDS.glob(f"*/{CARD_NAME}"))]
    for pattern in (CARD_NAME, f"*/{CARD_NAME}", f"*/*/{CARD_NAME}"):
        places += [p.parent for p in sorted(Path(folder).glob(pattern)) if p.parent not in places]
    found: list[tuple[Path, ModelCard | ModelError]] = []
    for place in places:
        try:
            found.append((place, ModelCard.load(place)))
        except ModelError as error:
            found.append((place, error))
    return found
