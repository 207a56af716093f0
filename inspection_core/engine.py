"""Loaded models, shared by everyone in the process, and the run of one prepared image through one of them.

Also the interface that everyone who predicts is written against: an `InferenceEngine` gives a `Model`, and
`inspection_core.infer.predict` takes it. Whether the network is in this process (`Engine`) or on a server
(`inspection_core.remote.RemoteEngine`) is decided in one place, `inspection_core.remote.open_engine`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core import device as devices
from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.confidence import temper
from inspection_core.crew import Crew
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.image import Image
from inspection_core.models import HOSTS, Host, Predictor, Scores, Segmented, Segmenter, function, load_predictor
from inspection_core.normalise import Voxels
from inspection_core.placement import ClassMap, Placement
from inspection_core.prediction import Prediction
from inspection_core.prepare import MAX_VOXELS, Prepared
from inspection_core.progress import tick
from inspection_core.sweep import Done, cells, sweep, sweep_blocks, walk
from inspection_core.tiling import Stitcher, Window, windows

if TYPE_CHECKING:
    import torch

EMBEDDED_CARDS = Path(__file__).parent / "models" / "cards"
"""Models that come with the package, one folder each."""

SIGNS = {"bundle": "configs/metadata.json", "nnunet": "plans.json"}
"""What a model of another maker is known by, so that a forgotten prefix is noticed."""


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

    As many calls run at once as there are `lanes`; others wait. Mostly that is one: a network's scratch memory is
    used by one thread at a time. The device says which runtime the network uses, whatever was asked for.
    """

    card: ModelCard
    folder: Path
    predictor: Predictor
    device: Device
    most_voxels: int = MAX_VOXELS
    """Of the network's input, above which an image is refused; a server sets less."""
    _lock: threading.Semaphore = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.device = replace(self.device, runtime=getattr(self.predictor, "runtime", "torch"))
        self._lock = threading.Semaphore(self.lanes)

    @property
    def lanes(self) -> int:
        """Calls that may run at once: so many as the predictor says, one where it says nothing."""
        return int(getattr(self.predictor, "lanes", 1))

    def run(self, pixels: torch.Tensor) -> tuple[Grid, Device]:
        """Send ``(C, h, w)`` prepared pixels through the network, in tiles where they are large.

        Returns
        -------
        grid, device
            The stitched result, and the rung of the memory ladder that it was made on.
        """
        return self.run_many([pixels])[0]

    def run_many(self, images: Sequence[torch.Tensor]) -> list[tuple[Grid, Device]]:
        """Send several prepared images through the network; each result is what `run` gives for it alone, to the bit.

        Windows of one size share batches. For the views "slices" and "volume" the images go one after the other:
        each of them fills batches by itself.
        """
        with self._lock:
            # What ran on a lower rung stays there until the next run, which moves it back where there is room.
            grids, rung = devices.on_ladder(self.device, lambda rung: self._run(images, rung))
        return [(grid, rung) for grid in grids]

    @property
    def spread(self) -> bool:
        """Whether the network gives the disagreement of its members as one more channel."""
        return bool(getattr(self.predictor, "spread", False))

    @property
    def steps(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Stride and offset of each axis of a volume; slices are not strided over."""
        stride, offset = self.predictor.stride, self.predictor.offset
        if self.card.preparation.view == "volume":
            return (stride,) * 3, (offset,) * 3
        return (1, stride, stride), (0.0, offset, offset)

    def run_classes(self, prepared: Prepared) -> tuple[Segmented, Device]:
        """Send a prepared image through a network that segments; return score and mask on the image's own grid.

        Returns
        -------
        segmented, device
            At the card's temperature and cut, and the rung. What the network gives is never whole in memory.

        Raises
        ------
        ModelError
            If the network gives another number of classes than the card names.
        """
        place = prepared.place

        def work(rung: Device) -> Segmented:
            how, stride, whole = self.card.preparation, self.predictor.stride, prepared.volume.shape[1:]
            with Crew(devices.blenders(rung)) as crew:
                order = walk(whole, how, stride, rung.shrink)
                found = self._class_map(cells(whole, how, stride), place, order, crew)
                self._sweep_classes(prepared.volume, rung, found.add, crew)
            return _segmented(found)

        with self._lock:
            return devices.on_ladder(self.device, work)

    def run_foreground(self, prepared: Prepared) -> tuple[NDArray[np.float16], Device]:
        """Send a prepared image through a network that segments; return all that it gives, on its own grid.

        Returns
        -------
        foreground, device
            float16 ``(K, d', h', w')`` probabilities of the card's classes without the background, at the card's
            temperature, and the rung. Where `spread` is set, the spread is one channel more, the last.

        Raises
        ------
        ModelError
            As `run_classes`.
        """

        def work(rung: Device) -> NDArray[np.float16]:
            shape = cells(prepared.volume.shape[1:], self.card.preparation, self.predictor.stride)
            out = np.zeros((len(self.card.classes) + self.spread, *shape), np.float16)

            def done(block: Window, values: NDArray[np.float32]) -> None:
                out[(slice(None), *block)] = values

            self._sweep_classes(prepared.volume, rung, done)
            return out

        with self._lock:
            return devices.on_ladder(self.device, work)

    def restore(self, foreground: NDArray[Any], place: Placement) -> Segmented:
        """Return what `run_classes` makes of what `run_foreground` gives."""
        found = self._class_map(foreground.shape[1:], place)
        found.add(tuple(slice(0, n) for n in foreground.shape[1:]), foreground)
        return _segmented(found)

    def _class_map(
        self, shape: Sequence[int], place: Placement, order: Sequence[int] = (0, 1, 2), crew: Crew | None = None
    ) -> ClassMap:
        classes, cut = len(self.card.classes), self.card.policy.voxel
        return ClassMap(classes, shape, place, *self.steps, cut, self.spread, order, crew)

    @property
    def hosted(self) -> bool:
        """Whether the model goes its own way from an image to a mask; `segment` is for such models alone."""
        return isinstance(self.predictor, Host)

    def segment(self, image: Image) -> tuple[Segmented, Device]:
        """Send an image through a model of another maker; return what it gives, and the rung that it was made on."""
        host = cast("Host", self.predictor)
        with self._lock:
            return devices.on_ladder(self.device, lambda rung: host.segment(image, rung))

    def _sweep_classes(self, volume: Voxels, device: Device, done: Done, crew: Crew | None = None) -> None:
        network = cast("Segmenter", self.predictor)
        network.to(device)
        temperature, classes = self.card.calibration.temperature, 1 + len(self.card.classes)
        logits = bool(getattr(network, "logits", False))

        def call(batch: torch.Tensor) -> torch.Tensor:
            given = network(batch)
            if not logits:
                return temper(given, temperature, classes)
            if temperature != 1:
                given[:, :classes] /= temperature
            return given

        sweep_blocks(
            call,
            volume,
            device,
            self.card.preparation,
            network.stride,
            classes + self.spread,
            done,
            classes,
            logits,
            crew,
            getattr(network, "room", None),
        )

    def _run(self, images: Sequence[torch.Tensor], device: Device) -> list[Grid]:
        self.predictor.to(device)
        preparation = self.card.preparation
        if preparation.view != "image":
            network, stride = self.predictor, self.predictor.stride
            maps = [sweep(lambda b: network(b).map[:, None], p, device, preparation, stride, 1)[0] for p in images]
            return [Grid(m, None) for m in maps]
        tile = max(preparation.multiple, preparation.tile // device.shrink)
        return run_images(self.predictor, images, device, tile, preparation.overlap, preparation.multiple)


def _segmented(found: ClassMap) -> Segmented:
    score, mask, spread = found.result()
    return Segmented(score, mask, spread=spread)


def width(model: Model) -> tuple[int, int]:
    """Return how many windows go through a model together, and how many calls at once; a server sees to both itself."""
    return (model.device.batch, model.lanes) if isinstance(model, LoadedModel) else (1, 1)


class RemoteModel(Protocol):
    """A model whose network is in another process, and which gives whole predictions."""

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    def predict(self, image: Image) -> Prediction:
        """Return what `inspection_core.infer.predict` gives where the network is, to the bit.

        Raises
        ------
        InspectionError
            As there; and `EngineError` if the other process cannot be reached, refuses, or makes no sense.
        """
        ...


Model = LoadedModel | RemoteModel
"""What `inspection_core.infer.predict` takes. Both have a `card`."""


class InferenceEngine(Protocol):
    """Where models are: in this process, or on a server."""

    def cards(self) -> tuple[ModelCard, ...]:
        """Return the cards of the models that can be had by their id."""
        ...

    def card(self, model: str | Path, *, trust: bool = False) -> ModelCard:
        """Return a model's card, which is cheap; as for `load`."""
        ...

    def load(self, model: str | Path, *, trust: bool = False) -> Model:
        """Return a model ready to predict; a second call gives the same object.

        Parameters
        ----------
        model
            An id; in this process also a model's folder, or ``prefix:PATH`` of another maker's model.
        trust
            In this process: run the code that another maker's model brings along.

        Raises
        ------
        ModelError
            If there is no such model, or it is damaged.
        EngineError
            If the server cannot be reached, or refuses.
        """
        ...


@functools.lru_cache(maxsize=64)
def plan(shape: tuple[int, int], tile: int, overlap: float, multiple: int) -> tuple[Window, ...]:
    """Return the windows of an inference image of `shape`; one window where it fits in a tile's area."""
    h, w = shape
    side = max(multiple, tile // multiple * multiple)
    size = (h, w) if h * w <= side * side else (min(h, side), min(w, side))
    return tuple(windows(shape, size, overlap, step=multiple))


def run_windows(
    predictor: Predictor, pixels: torch.Tensor, device: Device, tile: int, overlap: float, multiple: int
) -> Grid:
    """Score all windows of an image and stitch them; the nearest reference is taken from a cell's innermost window."""
    return run_images(predictor, [pixels], device, tile, overlap, multiple)[0]


def run_images(
    predictor: Predictor, images: Sequence[torch.Tensor], device: Device, tile: int, overlap: float, multiple: int
) -> list[Grid]:
    """Score the windows of several images ``(C, h, w)``, those of one size in common batches.

    A batch always has the device's number of places. So the network sees one shape, and neither the company of a window
    nor its place in the batch changes its scores.
    """
    sheets = [_Sheet(pixels, predictor.stride, tile, overlap, multiple) for pixels in images]
    by_form: dict[tuple[int, ...], list[tuple[_Sheet, Window]]] = {}
    for sheet in sheets:
        for window in sheet.todo:
            form = (len(sheet.pixels), *(s.stop - s.start for s in window))
            by_form.setdefault(form, []).append((sheet, window))
    for form, todo in by_form.items():
        for first in range(0, len(todo), device.batch):
            tick(first, len(todo))
            part = todo[first : first + device.batch]
            scores = _call(predictor, _batch(part, form, device.batch), device)
            maps = scores.map.cpu().numpy()
            references = None if scores.neighbour is None else scores.neighbour.cpu().numpy()
            for i, (sheet, window) in enumerate(part):
                sheet.add(window, maps[i], None if references is None else references[i])
    return [sheet.result() for sheet in sheets]


def _batch(part: Sequence[tuple[_Sheet, Window]], form: tuple[int, ...], places: int) -> torch.Tensor:
    """Return windows as a batch of so many places, the rest of them zeros."""
    import torch

    if places == 1:
        ((sheet, window),) = part
        return sheet.pixels[(slice(None), *window)].contiguous()[None]
    batch = torch.zeros((places, *form), dtype=torch.float32)
    for slot, (sheet, window) in zip(batch, part, strict=False):
        slot.copy_(sheet.pixels[(slice(None), *window)])
    return batch


class _Sheet:
    """One image that its windows' scores are stitched on."""

    def __init__(self, pixels: torch.Tensor, stride: int, tile: int, overlap: float, multiple: int) -> None:
        shape = (int(pixels.shape[1]), int(pixels.shape[2]))
        self.pixels = pixels
        self.todo = plan(shape, tile, overlap, multiple)
        self._stride = stride
        self._cells = tuple(n // stride for n in shape)
        self._ramp = int(tile * overlap) // stride
        self._best: NDArray[np.float64] | None = None
        self._neighbour: NDArray[np.int64] | None = None
        self._whole: Grid | None = None

    @functools.cached_property
    def _stitcher(self) -> Stitcher:
        return Stitcher(self._cells, self._ramp)

    def add(self, window: Window, scores: NDArray[Any], references: NDArray[Any] | None) -> None:
        """Take in the scores ``(h', w')`` of a window, and the nearest references where there are any."""
        if len(self.todo) == 1:  # nothing to blend: most images are one window
            self._whole = Grid(scores, references)
            return
        at = tuple(slice(s.start // self._stride, s.stop // self._stride) for s in window)
        self._stitcher.add(at, scores)
        if references is None:
            return
        if self._best is None or self._neighbour is None:
            self._best, self._neighbour = np.zeros(self._cells), np.zeros(self._cells, dtype=np.int64)
        weight = self._stitcher.weight(at)
        inner = weight > self._best[at]
        self._best[at][inner] = weight[inner]
        self._neighbour[at][inner] = references[inner]

    def result(self) -> Grid:
        """Return the whole."""
        return self._whole or Grid(self._stitcher.result(), self._neighbour)


def _call(predictor: Predictor, batch: torch.Tensor, device: Device) -> Scores:
    import torch

    where = device.torch
    if batch.device != where:
        batch = (batch.pin_memory() if where.type == "cuda" else batch).to(where, non_blocking=True)
    with torch.inference_mode(), device.autocast():
        return predictor(batch)


class Engine:
    """Models in memory, each loaded once for everyone in the process; an `InferenceEngine`.

    Parameters
    ----------
    device
        As for `inspection_core.device.choose`.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = devices.choose(device)
        self._models: dict[tuple[Path, str], LoadedModel] = {}
        self._lock = threading.Lock()

    def cards(self) -> tuple[ModelCard, ...]:
        """Return the cards of the models that come with the suite; those in folders are found by `list_models`."""
        return tuple(ModelCard.load(p.parent) for p in sorted(EMBEDDED_CARDS.glob(f"*/{CARD_NAME}")))

    def card(self, model: str | Path, *, trust: bool = False) -> ModelCard:
        """Return a model's card; of another maker's model it is made of what the model says of itself."""
        return self.load(model, trust=trust).card if host_of(model) else ModelCard.load(find(model))

    def load(self, model: str | Path, *, trust: bool = False) -> LoadedModel:
        """Return a model; a second call gives the same object.

        Parameters
        ----------
        model
            Its folder, the id of an embedded card, or ``prefix:PATH`` with a prefix of `inspection_core.models.HOSTS`.
        trust
            Run the code that a model of another maker brings along; see ``docs/add-a-model.md``.

        Raises
        ------
        ModelError
            If there is no such model, or it is damaged.
        """
        folder = find(model)
        prefix = host_of(model)
        card = None if prefix else ModelCard.load(folder)
        key = (folder, card.weights_sha256 if card else f"{prefix} {trust} {_stamp(folder)}")
        with self._lock:
            if key not in self._models:
                if card is None:
                    made, host = function(HOSTS, prefix)(folder, self.device, trust=trust)
                    self._models[key] = LoadedModel(made, folder, host, self.device)
                else:
                    predictor = load_predictor(folder, card, self.device)
                    self._models[key] = LoadedModel(card, folder, predictor, self.device)
            return self._models[key]


def host_of(model: str | Path) -> str:
    """Return the prefix of ``prefix:PATH`` where it is one of `inspection_core.models.HOSTS`, else an empty text."""
    prefix, colon, _ = str(model).partition(":")
    return prefix if colon and prefix in HOSTS and not Path(model).exists() else ""


def _stamp(path: Path) -> int:
    """Return when a file, or anything in a folder, last changed."""
    return max((p.stat().st_mtime_ns for p in (path, *path.rglob("*")) if p.exists()), default=0)


def find(model: str | Path) -> Path:
    """Return the place of a model given as a folder, as the id of an embedded card, or as ``prefix:PATH``."""
    if prefix := host_of(model):
        path = Path(str(model).removeprefix(f"{prefix}:"))
        if not path.exists():
            raise ModelError(f"{model} names a model at {path}, where nothing is. Give the path of its folder or file.")
        return path.resolve()
    path = Path(model)
    if path.is_dir():
        looks_like = next((p for p, sign in SIGNS.items() if (path / sign).is_file()), "")
        if looks_like and not (path / CARD_NAME).exists():
            raise ModelError(f"{model} has no {CARD_NAME}, but {SIGNS[looks_like]}: name it as {looks_like}:{model}.")
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
