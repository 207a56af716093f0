"""Compare settings of `patch-memory` on good images alone: defects are drawn on half of them, by this script.

One half of a set's ``train/good`` makes a memory. The other half is scored as it is and, every second image, with
three drawn defects; the image AUROC between the two is the figure. With ``--swap`` the halves change roles too, with
several numbers for ``--draw`` defects are drawn as often, and the figure is the mean of all. No test image is read, so
defaults can be chosen by it, and the test images are left to measure what was chosen::

    python benchmarks/accuracy/synthetic_defects.py --set SET [--set ...] [--models 320:10:3+256:4:4 320:4:4] --json F
    python benchmarks/accuracy/synthetic_defects.py --read F [F ...]

A model is one or more views joined by ``+``. A view is the side of an image in pixels, the standard deviation of the
blur that is subtracted, and the gain (a fourth number 0 leaves the border out of averages). All models of a call are
computed from images of the largest side asked for. ``--memory``, ``--share``, ``--neighbours`` and ``--top`` take
several values, and every combination is compared with the first of each.

Defects are spots, scratches, stains, transplants and blurred places, from a seed, of sizes that follow the image's.
They are small or faint on purpose: where every setting finds everything, nothing is learnt. The interval of a
difference is that of 2,000 bootstrap samples of the images, each with what was drawn on it in all draws, and says how
far chance may have chosen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from inspection_core import device as devices
from inspection_core.card import ModelCard, Preparation
from inspection_core.gather import collect
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import top_mean
from inspection_core.io.raster import list_images, read_raster
from inspection_core.models.backbone import Backbone, load_weights
from inspection_core.models.patch_memory import NEIGHBOURS, PatchMemory, PatchMemoryFitter, _to_grid
from inspection_core.models.views import blurred
from inspection_core.prepare import prepare
from inspection_core.survey import Survey, good_folder, look

BACKBONE = "tf_efficientnet_lite0"
SMOOTHING = 1.0
RESAMPLES = 2000

ViewSpec = tuple[float, float, float, bool]
"""Side, blur, gain, and whether the border counts."""

Plane = NDArray[np.float64]


def spot(h: int, w: int, rng: np.random.Generator, radius: float, edge: float) -> Plane:
    """Return a ragged ellipse at a random place, 0 outside and 1 inside; `edge` is the width of its border."""
    y, x = rng.uniform(0.1, 0.9) * h, rng.uniform(0.1, 0.9) * w
    rows, columns = np.mgrid[:h, :w]
    angle, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1)
    u = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    v = (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
    ragged = gaussian_filter(rng.standard_normal((h, w)), max(1, radius / 3))
    distance = np.hypot(u / radius, v / (radius * flat)) + 0.25 * ragged / (ragged.std() + 1e-9)
    return 1 / (1 + np.exp(np.clip((distance - 1) / edge, -50, 50)))


def scratch(h: int, w: int, rng: np.random.Generator, length: float, width: float) -> Plane:
    """Return a line that wanders, 1 at its middle."""
    y, x, angle = rng.uniform(0.15, 0.85) * h, rng.uniform(0.15, 0.85) * w, rng.uniform(0, 2 * np.pi)
    line = np.zeros((h, w))
    for _ in range(int(length)):
        angle += rng.normal(0, 0.15)
        y, x = y + np.sin(angle), x + np.cos(angle)
        if not (1 <= y < h - 1 and 1 <= x < w - 1):
            break
        line[int(y), int(x)] = 1
    line = gaussian_filter(line, width)
    return line / (line.max() + 1e-9)


def damage(picture: Plane, kind: int, rng: np.random.Generator) -> Plane:
    """Draw a defect of one of five kinds on ``(C, h, w)`` in 0 to 1; lengths are hundredths of the image's side."""
    _, h, w = picture.shape
    unit = np.sqrt(h * w) / 100
    strength = 2.5 * rng.uniform(0.4, 1.2) * max(float(picture.std()), 0.04)
    sign = rng.choice([-1, 1])
    if kind == 0:
        result = picture + sign * strength * spot(h, w, rng, rng.uniform(1, 4) * unit, 0.2)
    elif kind == 1:
        result = picture - strength * scratch(h, w, rng, rng.uniform(8, 40) * unit, rng.uniform(0.25, 0.6) * unit)
    elif kind == 2:
        result = picture + 0.5 * sign * strength * spot(h, w, rng, rng.uniform(15, 35) * unit, 0.4)
    elif kind == 3:
        inside = spot(h, w, rng, rng.uniform(4, 10) * unit, 0.1)
        other = np.roll(picture, (rng.integers(h // 5, 4 * h // 5), rng.integers(w // 5, 4 * w // 5)), (1, 2))
        result = picture * (1 - inside) + (other[:, ::-1, ::-1] if rng.random() < 0.5 else other) * inside
    else:
        inside = spot(h, w, rng, rng.uniform(4, 12) * unit, 0.1)
        result = picture * (1 - inside) + np.stack([gaussian_filter(c, unit) for c in picture]) * inside
    return np.clip(result, 0, 1)


def damaged(image: Image, number: int) -> Iterator[Image]:
    """Yield three damaged copies of an 8-bit image, each with another kind of defect."""
    rng = np.random.default_rng(1000 + number)
    picture = image.array.astype(np.float64) / 255
    for turn in range(3):
        pixels = np.round(damage(picture, (number + 2 * turn) % 5, rng) * 255).astype(np.uint8)
        yield replace(image, array=pixels, geometry=Geometry.pixels(pixels.shape[1:]))


def part(survey: Survey, chosen: slice) -> Survey:
    """Return a survey of some of the images."""
    return replace(survey, paths=survey.paths[chosen], names=survey.names[chosen])


@dataclass(frozen=True)
class Half:
    """Memories of one half of a set, by their size, share and neighbours, to score the other half with.

    `good` keeps the scores of images as they are, so that another draw need not compute them again.
    """

    folder: Path
    held_out: int | None
    turns: tuple[str, ...]
    card: ModelCard
    views: list[ViewSpec]
    memories: dict[tuple[int, float, int], PatchMemory]
    unknown: Survey
    first: int
    good: dict[int, dict[Any, float]] = field(default_factory=dict)


def remember(
    folder: Path, held_out: int | None, models: Sequence[tuple[ViewSpec, ...]], asked: argparse.Namespace
) -> Half:
    """Make the memories of one half of a set; `held_out` is the number of the other one. None makes them of all."""
    root = good_folder(folder)
    survey = look(root, list_images(root))
    half = len(survey.paths) // 2
    first, second = part(survey, slice(None, half)), part(survey, slice(half, None))
    known, unknown = (first, second) if held_out else (second, first)
    if held_out is None:
        known, unknown = survey, part(survey, slice(0))
    views = list(dict.fromkeys(v for views in models for v in views))
    side = max(v[0] for v in views)
    smallest, largest = survey.sides
    size: dict[str, Any] = {"side": side, "scales": (side / largest, side / smallest)}
    if asked.one_scale:
        size = {"scale": side / np.median([math.sqrt(math.prod(read_raster(p).geometry.shape)) for p in survey.paths])}
    card = ModelCard(
        "compared", "1", "patch-memory", "anomaly", survey.channels, "distance",
        preparation=Preparation(window=survey.window, dtype=survey.dtype, short_side=0, **size),
    )  # fmt: skip
    settings = {
        "views": [(s / side, blur, gain, border) for s, blur, gain, border in views],
        "memory": asked.memory[0], "share": asked.share[0], "dim": 0, "smoothing": SMOOTHING,
    }  # fmt: skip
    on = devices.choose("auto")
    fitter = PatchMemoryFitter(Backbone(BACKBONE, load_weights(BACKBONE)), settings, len(known.paths), on, asked.seed)
    turns = collect(known, card, fitter, lambda *_: None)
    memories = {}
    for memory, share, neighbours in itertools.product(asked.memory, asked.share, asked.neighbours):
        fitter.memory, fitter.share, fitter.neighbours = memory, share, neighbours
        memories[memory, share, neighbours] = fitter.build(range(len(known.paths)), known.names)
    return Half(folder, held_out, turns, card, views, memories, unknown, half * (held_out or 0))


def score(
    half: Half, models: Sequence[tuple[ViewSpec, ...]], draw: int, asked: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the scores of each combination on the half that its memories do not know, with defects of one draw.

    Views are independent but for the choice of turned copies, which all of them make together: so each is scored once
    for all models that have it, and a model's map is the sum of its views', smoothed, as `PatchMemory` makes it.
    """
    settings = list(itertools.product(half.memories, models, asked.top))
    sources: list[tuple[int, bool]] = []
    scores: dict[Any, list[float]] = {setting: [] for setting in settings}
    for number, path in enumerate(half.unknown.paths):
        image = read_raster(path)
        if number not in half.good:
            half.good[number] = dict(zip(settings, image_scores(half, image, settings), strict=True))
        drawn = damaged(image, 1000 * draw + half.first + number) if number % 2 == 0 else ()
        found = (dict(zip(settings, image_scores(half, copy, settings), strict=True)) for copy in drawn)
        for copy_number, by_setting in enumerate((half.good[number], *found)):
            sources.append((number, copy_number > 0))
            for setting, value in by_setting.items():
                scores[setting].append(round(value, 6))
    for key, model_views, top in settings:
        yield {
            "set": half.folder.name, "held_out": half.held_out, "draw": draw, "seed": asked.seed,
            "setting": [spell(model_views), *key, top], "one_scale": asked.one_scale, "turns": half.turns,
            "source": [n for n, _ in sources], "drawn": [d for _, d in sources], "score": scores[key, model_views, top],
        }  # fmt: skip


def image_scores(half: Half, image: Image, settings: Sequence[tuple[Any, ...]]) -> Iterator[float]:
    """Yield the score of an image for each setting: memory, views and share of the cells."""
    some = next(iter(half.memories.values()))
    batch = prepare(image, half.card).pixels[None].to(some.memories[0].vectors.device)
    grid = [n // some.stride for n in batch.shape[-2:]]
    maps = {}  # by memory and view
    with torch.inference_mode():
        for i, (patches, shape) in enumerate(some.describer(batch)):
            searched: dict[Any, Any] = {}  # settings that differ in their neighbours alone share the references
            for (memory, share, neighbours), model in half.memories.items():
                if (memory, share) not in searched:
                    searched[memory, share] = model.memories[i].search(patches)
                distance, nearest = searched[memory, share]
                lone = (distance[:, 0] * model.densities[i][nearest[:, 0]]).view(1, *shape)
                maps[(memory, share, neighbours), half.views[i]] = _to_grid(lone, grid).cpu()
    smoothed: dict[Any, NDArray[np.float32]] = {}
    for key, views, top in settings:
        if (key, views) not in smoothed:
            summed = torch.stack([maps[key, v] for v in views]).sum(dim=0)
            smoothed[key, views] = blurred(summed[:, None], SMOOTHING).numpy()
        yield top_mean(smoothed[key, views], top)


def spell(views: Sequence[ViewSpec]) -> str:
    """Return a model as the command line has it."""
    return "+".join(f"{s:g}:{blur:g}:{gain:g}{'' if border else ':0'}" for s, blur, gain, border in views)


def parse(model: str) -> tuple[ViewSpec, ...]:
    """Return the views of a model that the command line names."""
    views = []
    for view in model.split("+"):
        side, blur, gain, *border = (float(v) for v in view.split(":"))
        views.append((side, blur, gain, not border or border[0] != 0))
    return tuple(views)


def resampled(row: dict[str, Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the AUROC of a row, then of `RESAMPLES` bootstrap samples of its images with what was drawn on them."""
    scores, drawn, source = np.array(row["score"]), np.array(row["drawn"]), np.array(row["source"])
    images = source.max() + 1
    counts = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)
    weights = np.vstack([np.ones(images), counts])[:, source]
    above = scores[drawn][:, None] - scores[~drawn][None]
    wins = (above > 0) + 0.5 * (above == 0)
    bad, good = weights[:, drawn], weights[:, ~drawn]
    return np.einsum("bd,dg,bg->b", bad, wins, good, optimize=True) / (bad.sum(axis=1) * good.sum(axis=1))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line for each setting: AUROC of each set, their mean, and the difference from the first with 95 %."""
    sets = list(dict.fromkeys(r["set"] for r in rows))
    curves: dict[tuple[Any, ...], dict[str, dict[Any, NDArray[np.float64]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        # The same samples for all settings, so that differences are paired, and for all draws: an image is drawn with
        # everything that was made of it.
        rng = np.random.default_rng([sets.index(row["set"]), row["held_out"]])
        part_of = (row["held_out"], row["draw"], row["seed"])
        curves[tuple(row["setting"])][row["set"]][part_of] = resampled(row, rng)
    lines = [" | ".join(["model", "memory", "share", "neighbours", "top", *sets, "mean", "difference"])]
    base: NDArray[np.float64] | None = None
    for setting, by_set in curves.items():
        means = [np.mean(list(by_set[name].values()), axis=0) for name in sets]
        mean = np.mean(means, axis=0)
        base = mean if base is None else base
        low, high = np.quantile((mean - base)[1:], (0.025, 0.975))
        cells = [f"{m[0]:.4f}" for m in (*means, mean)]
        lines.append(" | ".join([*map(str, setting), *cells, f"{mean[0] - base[0]:+.4f} ({low:+.4f} to {high:+.4f})"]))
    return "\n".join(lines)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", type=Path, action="append", default=[], help="MVTec-style folder")
    parser.add_argument("--models", nargs="+", default=["320:10:3+256:4:4"], help="views joined by +")
    parser.add_argument("--memory", type=int, nargs="+", default=[8192], help="most references a view")
    parser.add_argument("--share", type=float, nargs="+", default=[0.1], help="most references, of all patches")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[NEIGHBOURS], help="for the local density")
    parser.add_argument("--top", type=float, nargs="+", default=[0.03, 0.001, 0.01, 0.05], help="share of the cells")
    parser.add_argument("--one-scale", action="store_true", help="one scale for all images, in place of one area")
    parser.add_argument("--swap", action="store_true", help="let the halves change roles too")
    parser.add_argument("--draw", type=int, nargs="+", default=[0], help="numbers of random draws of the defects")
    parser.add_argument("--seed", type=int, default=0, help="of the memory's random choices")
    parser.add_argument("--json", type=Path, help="append scores here, a line each")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="take scores from these files")
    chosen = parser.parse_args(arguments)
    if arguments is None and not chosen.sets and not chosen.read:
        parser.error("give --set or --read")
    return chosen


def kept(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows that `keep` wrote."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def keep(file: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a file, a line each, where one was named."""
    if file is not None:
        with file.open("a") as target:
            target.writelines(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    """Compare what the command line asks for."""
    asked = options()
    models = [parse(m) for m in asked.models]
    rows = kept(asked.read)
    halves: dict[tuple[Path, int], Half] = {}
    # Draw by draw: what is stopped early has some draws of everything.
    for draw, held_out, folder in itertools.product(asked.draw, (1, 0) if asked.swap else (1,), asked.sets):
        start = time.perf_counter()
        if (folder, held_out) not in halves:
            halves[folder, held_out] = remember(folder.resolve(), held_out, models, asked)
        half = halves[folder, held_out]
        new = list(score(half, models, draw, asked))
        rows += new
        seconds = time.perf_counter() - start
        print(f"{folder.name}, half {held_out}, draw {draw}: {seconds:.0f} s, turns {half.turns}", flush=True)
        keep(asked.json, new)
    print(table(rows))


if __name__ == "__main__":
    main()
