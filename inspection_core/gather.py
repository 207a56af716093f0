"""Hand every good image to a fitter, plain and in the turns under which good images still look good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inspection_core import device as devices
from inspection_core.card import ModelCard, Preparation
from inspection_core.engine import plan
from inspection_core.io.raster import read_raster
from inspection_core.io.stream import read_ahead
from inspection_core.models import FittedPredictor, Fitter
from inspection_core.prepare import Prepared, prepare, source_box
from inspection_core.survey import Survey, spread
from inspection_core.tiling import Window

if TYPE_CHECKING:
    import torch

TURN_TESTS = 4
"""Good images that turns are tried on."""

TURN_WINDOWS = 4
"""Windows of each that turns are tried on, where it is a large one of many."""

Turn = Callable[["torch.Tensor"], "torch.Tensor"]

TURNS: Mapping[str, Turn] = {
    "mirrored left-right": lambda t: t.flip(-1),
    "mirrored up-down": lambda t: t.flip(-2),
    "turned by 180": lambda t: t.flip(-1, -2),
    "turned by 90": lambda t: t.transpose(-1, -2).flip(-1),
    "turned by 270": lambda t: t.transpose(-1, -2).flip(-2),
}
"""Exact turns of an array ``(C, h, w)``."""

TURN_TOLERANCE = 1.1
"""A turned image is taken for a good one if its patches are no more than this factor farther from the good ones."""


def collect(
    survey: Survey, card: ModelCard, fitter: Fitter, progress: Callable[[str, int, int], None]
) -> tuple[str, ...]:
    """Hand every window of every good image to the fitter, plain and turned; return the names of the turns."""
    _take_in(survey, card, fitter, [lambda t: t], lambda done: progress("features", done, len(survey.paths)))
    accepted = _turns_that_help(survey, card, fitter)
    if accepted:
        turns = [TURNS[name] for name in accepted]
        _take_in(survey, card, fitter, turns, lambda done: progress("turned copies", done, len(survey.paths)))
    return tuple(accepted)


def _take_in(
    survey: Survey, card: ModelCard, fitter: Fitter, turns: Sequence[Turn], progress: Callable[[int], None]
) -> None:
    """Hand every window of every image to the fitter in these turns: in order, though several are described at once."""

    def described(window: _Window) -> tuple[_Window, Any]:
        return window, fitter.describe(window.pixels)

    with _one_core_each(fitter):
        windows = _every_window(survey, card, fitter, turns)
        for window, patches in read_ahead(windows, described, fitter.lanes, fitter.lanes):
            fitter.add(window.image, patches, window.origins)
            if window.last:
                progress(window.image + 1)


def _one_core_each(fitter: Fitter) -> AbstractContextManager[None]:
    """Let each call of a fitter with several lanes have one core: two would wait for each other after every step."""
    return devices.torch_threads(1) if fitter.lanes > 1 else nullcontext()


class _Window(NamedTuple):
    """One window: pixels ``(1, C, h, w)``, origins ``(1, h', w', 4)``, and whether it is the last of its image."""

    image: int
    pixels: torch.Tensor
    origins: torch.Tensor
    last: bool


def _every_window(survey: Survey, card: ModelCard, fitter: Fitter, turns: Sequence[Turn]) -> Iterator[_Window]:
    for i, image in enumerate(read_ahead(survey.paths, read_raster)):
        prepared = prepare(image, card)
        upright, places = prepared.pixels, _origins(prepared, fitter.stride, fitter.offset)
        for turn in turns:
            pixels, origins = turn(upright), turn(places.permute(2, 0, 1)).permute(1, 2, 0)
            windows = _windows(pixels, card.preparation)
            for window in windows:
                cells = tuple(slice(s.start // fitter.stride, s.stop // fitter.stride) for s in window)
                last = turn is turns[-1] and window is windows[-1]
                yield _Window(i, pixels[(slice(None), *window)][None], origins[cells][None], last)


def _turns_that_help(survey: Survey, card: ModelCard, fitter: Fitter) -> list[str]:
    """Return the turns under which good images still look good.

    The yardstick is how far a good image lies from the others; for a lone image, how far it lies from itself moved by
    half a cell. A turn that goes much beyond that would teach the model that wrongly placed parts are good.
    """
    import torch

    def distance(predictor: FittedPredictor, parts: Sequence[torch.Tensor]) -> float:
        with torch.inference_mode():
            return float(torch.stack([predictor(part[None]).map.mean() for part in parts]).mean())

    n = len(survey.paths)
    if n >= 2 * TURN_TESTS:
        tested = spread(range(n), TURN_TESTS)
        groups = [(tested, spread([i for i in range(n) if i not in tested], 5 * TURN_TESTS))]
    else:
        groups = [([i], [j for j in range(n) if j != i] or [i]) for i in range(n)]
    ratios: dict[str, list[float]] = {name: [] for name in TURNS}
    for tested, others in groups:
        with _one_core_each(fitter):
            predictor = fitter.build(others, survey.names)
        for i in tested:
            pixels = prepare(read_raster(survey.paths[i]), card).pixels
            half = fitter.stride // 2
            moved = pixels if n > 1 else torch.roll(pixels, (half, half), dims=(1, 2))
            windows = spread(_windows(pixels, card.preparation), TURN_WINDOWS)
            plain = distance(predictor, [moved[(slice(None), *w)] for w in windows])
            for name, turn in TURNS.items():  # windows are turned, not the image: the same places are compared
                turned = distance(predictor, [turn(pixels[(slice(None), *w)]) for w in windows])
                ratios[name].append(turned / max(plain, 1e-6))
    return [name for name, values in ratios.items() if np.mean(values) <= TURN_TOLERANCE]


def _windows(pixels: torch.Tensor, preparation: Preparation) -> list[Window]:
    shape = (int(pixels.shape[1]), int(pixels.shape[2]))
    return list(plan(shape, preparation.tile, preparation.overlap, preparation.multiple))


def _origins(prepared: Prepared, stride: int, offset: float) -> torch.Tensor:
    """Return ``(h', w', 4)``: centre y, x and height, width of each cell in the source's pixels."""
    import torch

    rows, columns = (np.arange(n // stride) for n in prepared.shape)
    (y, x), size = source_box((rows, columns), prepared.shape, prepared.source, stride, offset)
    grid = np.stack(
        [*np.meshgrid(y, x, indexing="ij"), *(np.full((len(rows), len(columns)), s) for s in size)], axis=-1
    )
    return torch.from_numpy(grid.astype(np.float32))
