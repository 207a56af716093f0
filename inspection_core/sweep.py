"""A network over the slices or the blocks of a volume: windows in, blended maps out, block by block.

Windows come line by line and layer by layer, and a block is finished once no window can reach it any more. So of a
large volume only what later windows still change is held; what becomes of a finished block is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import Preparation
from inspection_core.confidence import FLOOR
from inspection_core.crew import Crew
from inspection_core.device import Device, torch_threads
from inspection_core.errors import ModelError
from inspection_core.normalise import Voxels
from inspection_core.progress import tick
from inspection_core.tiling import Blend, Window, least_held, pieces, windows

if TYPE_CHECKING:
    import torch

Network = Callable[["torch.Tensor"], "torch.Tensor"]
Done = Callable[[Window, NDArray[np.float32]], None]
Room = Callable[[tuple[int, ...]], "torch.Tensor | None"]

CELL = 16
"""Side, in voxels, of the cells that background is told by."""

MANY = 8
"""Classes above which logits wait relative to the highest of their window instead of the background's. That takes one
channel more. It keeps the difference of two organs that are nearly even, which rounding would else decide."""


def sweep(
    network: Network,
    pixels: Voxels,
    device: Device,
    preparation: Preparation,
    stride: int,
    channels: int,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Put all windows of a prepared volume through a network and return the whole of what comes out.

    Parameters
    ----------
    network, pixels, device, preparation, stride, channels
        As for `sweep_blocks`; what is averaged is what the network gives.
    dtype
        Type of the result; float16 keeps probabilities to 5e-4.

    Returns
    -------
    ndarray
        ``(channels, d', h', w')``.

    Raises
    ------
    ModelError
        As `sweep_blocks`.
    """
    out = np.zeros((channels, *cells(pixels.shape[1:], preparation, stride)), dtype)

    def done(place: Window, values: NDArray[np.float32]) -> None:
        out[(slice(None), *place)] = values

    sweep_blocks(network, pixels, device, preparation, stride, channels, done)
    return out


def sweep_blocks(
    network: Network,
    pixels: Voxels,
    device: Device,
    preparation: Preparation,
    stride: int,
    channels: int,
    done: Done,
    classes: int = 0,
    logits: bool = False,
    crew: Crew | None = None,
    room: Room | None = None,
) -> None:
    """Put all windows of a prepared volume through a network, blend them, and hand out each block that is done.

    Parameters
    ----------
    network
        From a batch of windows to ``(B, channels, *grid)``; for slices the grid is ``(h', w')``. The batch is used
        again, and what the network returns is written over.
    pixels
        ``(C, d, h, w)``: the `volume` of what `inspection_core.prepare.prepare` gives.
    device
        Batches have its size, padded with zeros, so that company changes nothing.
    preparation
        Of the card: view, neighbours, windows and blending.
    stride
        Input voxels from one cell to the next, on every axis that the network strides over.
    channels
        What the network gives.
    done
        Called with the place of each block on the grid of cells and its float32 values, which hold until it returns.
        Blocks come in the order of `walk`.
    classes
        So many channels, the first, are the probabilities of classes, background first. They are averaged as the card
        says, and handed out without the background, which is what is left to 1. 0 for a network that gives none.
    logits
        The network gives logits in place of probabilities.
    crew
        Who blends; the caller alone if not given.
    room
        Where the network lets its batches be put; see `inspection_core.models.Segmenter`. On a GPU it is not asked.

    Raises
    ------
    ModelError
        If the network gives another number of channels, or another grid, than was said.
    """
    import torch

    crew = crew or Crew()
    flat = preparation.view != "volume"
    steps = (1, stride, stride) if flat else (stride,) * 3
    todo = volume_windows(pixels.shape[1:], preparation, stride, device.shrink)
    order = walk(pixels.shape[1:], preparation, stride, device.shrink)
    todo.sort(key=lambda window: [window[axis].start for axis in order])
    size = tuple(s.stop - s.start for s in todo[0])
    grid = tuple(n // s for n, s in zip(size, steps, strict=True))
    averaged = bool(classes) and preparation.average == "logits"
    many = averaged and classes > MANY
    dropped = int(bool(classes) and not many)
    seen = foreground(pixels) if preparation.skip_background else None

    def out(place: Window, values: torch.Tensor) -> None:
        if averaged:
            _softmax(values[: classes - dropped], crew, background=not many)
        if many:
            values = values[1:]
        array = values.cpu().numpy()
        if seen is not None:
            lines = [np.arange(s.start, s.stop) * k // CELL for s, k in zip(place, steps, strict=True)]
            array *= seen[np.ix_(*lines)]
        done(place, array)

    ramp = None if preparation.blend == "gaussian" else max(1, int(min(size[1:]) * preparation.overlap) // stride)
    on_grid = [tuple(slice(s.start // k, s.stop // k) for s, k in zip(w, steps, strict=True)) for w in todo]
    shape = cells(pixels.shape[1:], preparation, stride)
    blend = Blend(on_grid, shape, channels - dropped, ramp, out, device.torch, order, crew)
    wanted = (device.batch, channels, *(grid[1:] if flat else grid))

    def add(parts: Sequence[int], given: torch.Tensor) -> None:
        if tuple(given.shape) != wanted:
            raise ModelError(
                f"The network gives an array of shape {tuple(given.shape)} where its card needs {wanted}: compare the "
                "card's classes (and one for the background), view and stride with the network."
            )
        for k, result in zip(parts, given, strict=False):
            values = result.float()
            if averaged and not logits:
                values[:classes].clamp_min_(FLOOR).log_()
            if many:
                _less_highest(values[:classes], crew)
            elif averaged or logits:
                _less_background(values[:classes], crew)
            values = values[dropped:]
            if logits and not averaged:
                _softmax(values[: classes - 1], crew, background=True)
            blend.add(on_grid[k], values[:, None] if flat else values)

    empty = [k for k, window in enumerate(todo) if seen is not None and not seen[_cells_of(window)].any()]
    jobs = _jobs(len(todo), frozenset(empty), device.batch)
    feed = _Feed(_Layers(pixels, order[0], preparation.neighbours if flat else None), todo, device, room)
    cores = torch.get_num_threads()
    with torch.inference_mode(), torch_threads(1):
        for parts, batch in feed.batches(jobs):
            tick(parts[0], len(todo))
            if batch is None:
                for k in parts:
                    blend.add(on_grid[k], torch.zeros((channels - dropped, *grid), device=device.torch))
                continue
            with device.autocast(), torch_threads(cores):
                given = network(batch)
            feed.ahead()
            add(parts, given)
            del given  # before the network makes the next


def _less_background(values: torch.Tensor, crew: Crew) -> None:
    """Take the first channel off the others, in place: a softmax stays the same, and one channel less has to wait."""
    crew.share(lambda part: values[1:, part].sub_(values[:1, part]), pieces(values.shape[1:]))


def _less_highest(values: torch.Tensor, crew: Crew) -> None:
    """Take the highest channel of each voxel off all of them, in place."""
    crew.share(lambda part: values[:, part].sub_(values[:, part].amax(dim=0)), pieces(values.shape[1:]))


def _softmax(values: torch.Tensor, crew: Crew, background: bool) -> None:
    """Turn ``(K, *grid)`` logits into probabilities, in place; `background` adds a class that is not there, of 0."""

    def some(part: slice) -> None:
        piece = values[:, part]
        top = piece.amax(dim=0)
        if background:
            top.clamp_min_(0)
        total = piece.sub_(top).exp_().sum(dim=0)
        piece.div_(total.add_(top.neg_().exp_()) if background else total)

    crew.share(some, pieces(values.shape[1:]))


def walk(shape: Sequence[int], preparation: Preparation, stride: int = 1, shrink: int = 1) -> tuple[int, ...]:
    """Return the order of axes, the outermost first, in which the windows of a prepared volume are gone through.

    Slices are taken in their order, volumes so that the fewest sums wait for later windows.
    """
    if preparation.view != "volume":
        return (0, 1, 2)
    return least_held(volume_windows(shape, preparation, stride, shrink), shape)


def volume_windows(shape: Sequence[int], preparation: Preparation, stride: int = 1, shrink: int = 1) -> list[Window]:
    """Return the windows ``(z, y, x)`` of a prepared volume in index order; slices are one plane thick."""
    m = preparation.multiple
    side = max(m, preparation.tile // shrink // m * m)
    even = preparation.steps == "even"
    step = m if even else stride
    if preparation.view == "volume":
        return windows(shape, preparation.window_size or (side,) * 3, preparation.overlap, step, even)
    plane = windows(shape[1:], preparation.window_size or (side, side), preparation.overlap, step, even)
    return [(slice(z, z + 1), *window) for z in range(shape[0]) for window in plane]


def cells(shape: Sequence[int], preparation: Preparation, stride: int) -> tuple[int, ...]:
    """Return the grid of cells that a network gives for a volume of `shape`; slices are not strided over."""
    d, h, w = shape
    return (d // stride if preparation.view == "volume" else d, h // stride, w // stride)


def foreground(pixels: Voxels) -> NDArray[np.bool_]:
    """Return which cells of `CELL` voxels a side hold foreground, or touch one that does.

    Foreground is what is not 0 in every channel. The last cells of an axis may be cut.
    """
    import torch
    import torch.nn.functional as F

    some = torch.zeros([-(-n // CELL) for n in pixels.shape[1:]])
    for z in range(0, pixels.shape[1], CELL):
        layer = (pixels[:, z : z + CELL] != 0).flatten(0, 1).any(dim=0).float()
        some[z // CELL] = F.max_pool2d(layer[None], CELL, ceil_mode=True)[0]
    return np.asarray(F.max_pool3d(some[None], 3, stride=1, padding=1)[0].numpy() > 0)


def _cells_of(window: Window) -> Window:
    """Return the cells of `foreground` that a window of voxels touches."""
    return tuple(slice(s.start // CELL, -(-s.stop // CELL)) for s in window)


def _jobs(count: int, empty: frozenset[int], batch: int) -> list[tuple[list[int], bool]]:
    """Return the windows in order, those that are looked at in batches, and whether each of these is empty."""
    jobs: list[tuple[list[int], bool]] = []
    for k in range(count):
        skip = k in empty
        if not jobs or jobs[-1][1] != skip or (not skip and len(jobs[-1][0]) == batch):
            jobs.append(([], skip))
        jobs[-1][0].append(k)
    return jobs


class _Layers:
    """Cuts windows out of a volume. Their common layer is kept, since a scan that is normalised there and then is slow.

    Parameters
    ----------
    pixels
        ``(C, d, h, w)``.
    axis
        The outermost, along which windows with the same planes follow each other.
    neighbours
        Planes on either side that slices are seen with; None for a volume.
    """

    def __init__(self, pixels: Voxels, axis: int, neighbours: int | None) -> None:
        self._pixels, self._axis, self._neighbours = pixels, axis, neighbours
        self._line = slice(0, 0)
        self._layer: torch.Tensor | None = None

    def form(self, window: Window) -> tuple[int, ...]:
        """Return the shape of what `cut` gives."""
        channels, size = len(self._pixels), [s.stop - s.start for s in window]
        return (channels, *size) if self._neighbours is None else ((2 * self._neighbours + 1) * channels, *size[1:])

    def cut(self, window: Window) -> torch.Tensor:
        """Return a window ``(C, *size)``, or a slice ``((2 k + 1) * C, h, w)`` with the lowest plane first."""
        line = window[self._axis]
        if self._layer is None or line != self._line:
            self._layer = None  # goes before the next one comes
            at: list[Any] = [slice(None)] * 4
            at[1 + self._axis] = line if self._neighbours is None else self._planes(line.start, self._neighbours)
            self._layer, self._line = self._pixels[tuple(at)], line
        inner = (slice(None), *(slice(None) if a == self._axis else s for a, s in enumerate(window)))
        part = self._layer[inner]
        return part if self._neighbours is None else part.movedim(1, 0).reshape(-1, *part.shape[2:])

    def _planes(self, z: int, neighbours: int) -> list[int]:
        last = self._pixels.shape[1] - 1
        return [min(max(z + k, 0), last) for k in range(-neighbours, neighbours + 1)]


class _Feed:
    """Brings batches of windows to the device; on CUDA the next one is copied while the network is at work.

    There two pinned buffers are filled in turn, and copied by a stream of their own. On a CPU one is filled again and
    again; that is the network's own memory where it has `room`.
    """

    def __init__(self, layers: _Layers, todo: Sequence[Window], device: Device, room: Room | None) -> None:
        import torch

        self._layers, self._todo, self._device = layers, todo, device
        self._ahead = device.torch.type == "cuda"
        form = (device.batch, *layers.form(todo[0]))
        own = room(form) if room is not None and device.torch.type == "cpu" else None
        self._hosts = [
            torch.zeros(form, dtype=torch.float32, pin_memory=self._ahead) if own is None else own
            for _ in range(1 + self._ahead)
        ]
        self._stream = cast("Any", torch.cuda.Stream)(device.torch) if self._ahead else None
        self._copied: list[Any] = [None, None]
        self._jobs: list[tuple[list[int], bool]] = []
        self._next = 0
        self._given: torch.Tensor | None = None

    def batches(self, jobs: Sequence[tuple[list[int], bool]]) -> Iterator[tuple[list[int], torch.Tensor | None]]:
        """Yield windows with their batch, or with None where they are not looked at."""
        self._jobs = [job for job in jobs if not job[1]]
        self._next = 0
        for parts, skip in jobs:
            if skip:
                yield parts, None
                continue
            batch = self._given if self._given is not None else self._bring()
            self._given = None
            self._wait(batch)
            yield parts, batch

    def ahead(self) -> None:
        """Start on the next batch, where that goes beside the network."""
        if self._ahead and self._next < len(self._jobs):
            self._given = self._bring()

    def _bring(self) -> torch.Tensor:
        import torch

        parts, slot = self._jobs[self._next][0], self._next % len(self._hosts)
        self._next += 1
        host = self._hosts[slot]
        if self._copied[slot] is not None:
            self._copied[slot].synchronize()  # before it is filled again
        for place, k in zip(host, parts, strict=False):
            place.copy_(self._layers.cut(self._todo[k]))
        host[len(parts) :].zero_()
        if self._stream is None:
            return host.to(self._device.torch)
        with torch.cuda.stream(self._stream):
            batch = host.to(self._device.torch, non_blocking=True)
            self._copied[slot] = cast("Any", torch.cuda.Event)()
            self._copied[slot].record(self._stream)
        return batch

    def _wait(self, batch: torch.Tensor) -> None:
        import torch

        if self._stream is not None:
            now = torch.cuda.current_stream(self._device.torch)
            now.wait_stream(self._stream)
            batch.record_stream(now)
