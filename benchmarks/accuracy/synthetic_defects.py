"""Compare settings of `patch-memory` on good images alone: defects are drawn on half of them, by this script.

The first half of a set's ``train/good`` makes a memory. The second half is scored as it is and with drawn defects, and
the image AUROC between the two is the figure. No test image is read, so defaults can be chosen by it, and the test
images are left to measure what was chosen::

    python benchmarks/accuracy/synthetic_defects.py --set SET [--set ...] [--views 320,10,3 256,4,4] [--json RESULT]

A view is the side of an image in pixels, the standard deviation of the blur that is subtracted, and the gain; several
make one model. Defects are spots, scratches, stains, transplants and blurred places, from a seed, of sizes that follow
the image's. They are small or faint on purpose: where every setting finds everything, nothing is learnt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from inspection_core import device as devices
from inspection_core.card import ModelCard, Preparation
from inspection_core.engine import LoadedModel
from inspection_core.gather import collect
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import measure, top_mean
from inspection_core.io.raster import list_images, read_raster
from inspection_core.models.backbone import Backbone, load_weights
from inspection_core.models.patch_memory import PatchMemoryFitter
from inspection_core.survey import Survey, good_folder, look

BACKBONE = "tf_efficientnet_lite0"
TOPS = (0.001, 0.01, 0.03, 0.05)
"""Shares of the score map's cells that an image's score is the mean of."""

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


def compare(folder: Path, views: list[tuple[float, float, float]], memory: int, one_scale: bool) -> dict[str, Any]:
    """Return the figures of one setting on one set."""
    start = time.perf_counter()
    root = good_folder(folder)
    survey = look(root, list_images(root))
    half = len(survey.paths) // 2
    side = max(v[0] for v in views)
    smallest, median, largest = survey.sides
    size = {"scale": side / median} if one_scale else {"side": side, "scales": (side / largest, side / smallest)}
    card = ModelCard(
        "compared", "1", "patch-memory", "anomaly", survey.channels, "distance",
        preparation=Preparation(window=survey.window, dtype=survey.dtype, short_side=0, **size),
        parameters={"top": TOPS[0]},
    )  # fmt: skip
    settings = {
        "views": [(s / side, blur, gain, True) for s, blur, gain in views],
        "memory": memory, "share": 0.1, "dim": 0, "smoothing": 1.0,
    }  # fmt: skip
    on = devices.choose("auto")
    fitter = PatchMemoryFitter(Backbone(BACKBONE, load_weights(BACKBONE)), settings, half, on, 0)
    first = part(survey, slice(None, half))
    turns = collect(first, card, fitter, lambda *_: None)
    model = LoadedModel(card, folder, fitter.build(range(half), first.names), on)
    maps: dict[int, list[Plane]] = {0: [], 1: []}
    for number, path in enumerate(survey.paths[half:]):
        image = read_raster(path)
        maps[0].append(measure(image, model).grid.score)
        if number % 2 == 0:
            maps[1] += [measure(copy, model).grid.score for copy in damaged(image, half + number)]
    truth = [label for label, some in maps.items() for _ in some]
    auroc = {
        str(top): round(float(roc_auc_score(truth, [top_mean(m, top) for some in maps.values() for m in some])), 4)
        for top in TOPS
    }
    return {
        "set": folder.name, "views": views, "memory": memory, "one_scale": one_scale, "turns": turns, "auroc": auroc,
        "good": len(maps[0]), "drawn": len(maps[1]), "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def main() -> None:
    """Compare what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", type=Path, action="append", required=True, help="MVTec-style folder")
    parser.add_argument("--views", nargs="+", default=["320,10,3", "256,4,4"], help="side,blur,gain each")
    parser.add_argument("--memory", type=int, default=8192, help="most references a view")
    parser.add_argument("--one-scale", action="store_true", help="one scale for all images, in place of one area")
    parser.add_argument("--json", type=Path, help="append a line for each set here")
    options = parser.parse_args()
    views = [(float(s), float(b), float(g)) for s, b, g in (v.split(",") for v in options.views)]
    for folder in options.sets:
        result = compare(folder.resolve(), views, options.memory, options.one_scale)
        print(result["set"], options.views, result["auroc"], f"{result['seconds']} s", flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
