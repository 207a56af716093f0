"""How time and memory grow: with the number of images, their size, the references of the memory, and a volume's size.

    python benchmarks/scaling.py                       all four, a few minutes
    python benchmarks/scaling.py --axes references     one of them

Every point is a process of its own. Time is that of `screen`, files to results, or of `predict`; the model is loaded,
and of images has seen one before. Memory is the highest resident memory of the process, libraries included. Images are
brushed metal, 256 x 256 where their size is not what changes, and the model is of the preset fast. References beyond
those of the fit are the same again with noise: how they lie does not change what a search costs. Volumes are a ball,
int16, with the network, the windows and the overlap of `sliding_window.py`: random weights, but a bias that finds
nothing, since what findings cost depends on their shape.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    arguments,
    in_process,
    machine,
    measured,
    peak_bytes,
    plot,
    render,
    spread,
    table,
    write_json,
    write_textures,
)

COUNTS = (50, 200, 800)
SIDES = (256, 512, 1024, 2048, 4096)
REFERENCES = (1024, 4096, 16384, 65536)
VOLUMES = ((64, 128, 128), (96, 192, 192), (144, 256, 256), (200, 384, 384), (300, 512, 512))
CLASSES = 3
GOOD, FEW, SOME = 20, 6, 40
"""Images of the fit, of a run where their size changes, and of one where the references do."""
AXES = {
    "images": "images of 256 x 256",
    "size": f"side of the image in pixels, {FEW} images",
    "references": f"references in the memory, {SOME} images of 256 x 256",
    "volume": "million voxels",
}
CAPTIONS = {
    "images": "Number of images",
    "size": "Size of an image",
    "references": "References in the memory",
    "volume": "Size of a volume",
}
KEYS = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "resident_mib": "peak resident memory, MiB"}


# Models --------------------------------------------------------------------------------------------------------------


def with_card(model: Path, out: Path, change: Callable[[Any], Any]) -> Path:
    """Copy a model with another card."""
    from inspection_core.card import CARD_NAME, ModelCard
    from inspection_core.io.atomic import write_text

    shutil.copytree(model, out)
    write_text(out / CARD_NAME, change(ModelCard.load(out)).to_toml())
    return out


def whole(card):
    """See an image of any size at 256 x 256 pixels."""
    return replace(card, preparation=replace(card.preparation, scales=(1e-3, 4.0)))


def full(card):
    """See an image pixel by pixel."""
    return replace(card, preparation=replace(card.preparation, side=0.0, scales=(0.0, math.inf), scale=1.0))


def with_references(model: Path, out: Path, count: int) -> Path:
    """Write a model with `count` references, its own again and again with noise."""
    import torch

    from inspection_core.card import ModelCard
    from inspection_core.models import weights

    card = ModelCard.load(model)
    tensors = weights.load(model, card)
    own = len(tensors["memory.0"])
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(own, (count,), generator=generator)
    for name in ("memory.0", "density.0", "origins"):
        tensors[name] = tensors[name][some]
    tensors["memory.0"] = tensors["memory.0"] + 0.01 * torch.randn(tensors["memory.0"].shape, generator=generator)
    weights.save(out, replace(card, parameters={**card.parameters, "references": count}), tensors)
    return out


def still_network(scratch: Path) -> Path:
    """Write a model of `sliding_window.py` that finds nothing, and return its folder."""
    from sliding_window import make_model

    from inspection_core.card import ModelCard
    from inspection_core.models import weights

    card = make_model(scratch / "unet", 1, CLASSES)
    stored = weights.load(scratch / "unet", card)
    tensors = {name: tensor for name, tensor in stored.items() if not name.startswith("graph.")}  # another network's
    last = max(name for name, tensor in tensors.items() if tensor.shape == (CLASSES,))
    tensors[last][0] += 100
    weights.save(scratch / "still", ModelCard.load(scratch / "unet"), tensors)
    return scratch / "still"


# Points, each in a process of its own --------------------------------------------------------------------------------


def screen_here(model: str, folder: str, device: str) -> Callable[[], Any]:
    """Return the work of screening a folder."""
    from inspection_core.engine import Engine
    from inspection_core.infer import predict
    from inspection_core.io.raster import list_images, read_raster
    from inspection_core.screen import screen
    from inspection_core.session import Options

    loaded = Engine(device).load(model)
    predict(read_raster(list_images(Path(folder))[0]), loaded)

    def work() -> None:
        with tempfile.TemporaryDirectory() as run:
            screen(Path(folder), loaded, Path(run), options=Options(pictures="none"))

    return work


def volume_here(model: str, shape: str, device: str) -> Callable[[], Any]:
    """Return the work of `predict` on a volume."""
    from inspection_core.engine import Engine
    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.infer import predict

    sides = tuple(json.loads(shape))
    array = np.zeros((1, *sides), np.int16)
    y, x = np.linspace(-1, 1, sides[1])[:, None], np.linspace(-1, 1, sides[2])
    for plane, z in zip(array[0], np.linspace(-1, 1, sides[0]), strict=True):
        plane[y**2 + x**2 + z**2 < 0.6] = 1
    image = Image(array, Geometry.from_spacing(sides, (1.0, 1.0, 1.0)), ("c0",))
    loaded = Engine(device).load(model)
    return lambda: predict(image, loaded)


def measure_here(kind: str, model: str, what: str, device: str) -> None:
    """Measure one point in this process; print it as JSON."""
    work = (volume_here if kind == "volume" else screen_here)(model, what, device)
    found, figures = measured(work)
    if kind == "volume":
        figures["findings"] = len(found.findings)
    print(json.dumps({**figures, "resident_mib": peak_bytes() / 2**20}))


# Axes: each yields the line, the place on it, and what is measured there ---------------------------------------------


def images(scratch: Path, model: Path):
    for count in COUNTS:
        write_textures(scratch / f"{count}", count, first=1000)
        yield "preset fast", count, ("screen", model, scratch / f"{count}")


def size(scratch: Path, model: Path):
    ways = {"seen at 256 x 256": whole, "seen pixel by pixel": full}
    models = {name: with_card(model, scratch / f"{way.__name__}", way) for name, way in ways.items()}
    for side in SIDES:
        folder = scratch / f"{side}"
        write_textures(folder, 1, (side, side), first=1000)
        from PIL import Image

        (first,) = folder.iterdir()
        pixels = np.asarray(Image.open(first))
        for k in range(1, FEW):  # textures of this size take seconds to make, and turned ones cost as much to look at
            Image.fromarray(np.roll(pixels, k, axis=0)).save(folder / f"{k}.png")
        for name, own in models.items():
            yield name, side, ("screen", own, folder)
        shutil.rmtree(folder)


def references(scratch: Path, model: Path):
    write_textures(scratch / "some", SOME, first=1000)
    for count in REFERENCES:
        own = with_references(model, scratch / f"{count}", count)
        yield "preset fast", count, ("screen", own, scratch / "some")


def volume(scratch: Path, model: Path):
    network = still_network(scratch)
    for shape in VOLUMES:
        yield f"UNet, {CLASSES} classes", math.prod(shape) / 1e6, ("volume", network, json.dumps(shape))


def result_table(axis: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an axis's table."""
    lines = len({point["line"] for point in points}) > 1
    rows = []
    for point in points:
        place = f"{point['at']:,.1f}" if axis == "volume" else f"{point['at']:,}"
        if failed := next((run["error"] for run in point["runs"] if "error" in run), None):
            cells = [f"failed: {failed[:80]}", "", ""]
        else:
            forms = (".2f", ".2f", ",.0f")
            cells = [spread([r[k] for r in point["runs"]], form) for k, form in zip(KEYS, forms, strict=True)]
        rows.append([*([point["line"]] if lines else []), place, *cells])
    return table(CAPTIONS[axis], [*([""] if lines else []), AXES[axis], *KEYS.values()], rows)


def plots(axis: str, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an axis's plots, of time and of memory."""
    made = []
    for name, key in (("time", "cpu_seconds"), ("memory", "resident_mib")):
        series: dict[str, list[tuple[float, float]]] = {}
        for point in points:
            values = [run[key] for run in point["runs"] if key in run]
            if values:
                series.setdefault(point["line"], []).append((point["at"], float(np.median(values))))
        made.append(plot(f"scaling-{axis}-{name}", AXES[axis], KEYS[key], series, from_zero=name == "memory"))
    return made


def growth(axis: str, points: list[dict[str, Any]]) -> list[str]:
    """Say in a sentence for each line how CPU time and memory grow from its first point to its last."""
    notes = []
    for line in dict.fromkeys(point["line"] for point in points):
        own = [point for point in points if point["line"] == line and all("error" not in run for run in point["runs"])]
        if len(own) < 2:
            continue
        cpu, mib = (
            [float(np.median([run[key] for run in point["runs"]])) for point in own]
            for key in ("cpu_seconds", "resident_mib")
        )
        more = own[-1]["at"] - own[0]["at"]
        each, held = (cpu[-1] - cpu[0]) / more, (mib[-1] - mib[0]) * 2**20 / more
        said = {
            "images": f"one image more takes {1e3 * each:.1f} ms of CPU, tables and report included, and all of them "
            f"{mib[-1] - mib[0]:,.0f} MiB",
            "volume": f"a million voxels more take {each:.2f} s of CPU, and a voxel more {held / 1e6:.1f} bytes",
        }.get(axis, f"{cpu[-1] / cpu[0]:.1f} times the CPU time, and {mib[-1] - mib[0]:,.0f} MiB more")
        ends = (f"{own[k]['at']:,.{1 if axis == 'volume' else 0}f}" for k in (0, -1))
        notes.append(f"{CAPTIONS[axis]}, {line}, from {' to '.join(ends)}: {said}.")
    return notes


def main() -> int:
    """Measure every point of every axis."""
    if sys.argv[1:2] == ["--measure"]:
        measure_here(*sys.argv[2:])
        return 0
    parser = arguments("scaling", __doc__)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=1, help="processes of each point")
    options = parser.parse_args()
    from inspection_core.learn import fit

    facts = machine(("inspection-suite", "torch", "openvino", "numpy", "pillow"), options.device)
    ways: dict[str, Callable[[Path, Path], Any]] = {
        "images": images, "size": size, "references": references, "volume": volume
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        write_textures(Path(folder) / "good", GOOD)
        model = Path(folder) / "model"
        fit(Path(folder) / "good", model, preset="fast", device=options.device)
        for axis in options.axes:
            scratch = Path(folder) / axis
            scratch.mkdir()
            points = found.setdefault(axis, [])
            for line, at, what in ways[axis](scratch, model):
                runs = [in_process(__file__, "--measure", *what, options.device) for _ in range(options.rounds)]
                points.append({"line": line, "at": at, "runs": runs})
                print(f"  {axis} {points[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(scratch)
            tables = [result_table(axis, points) for axis, points in found.items()]
            drawn = [one for axis, points in found.items() for one in plots(axis, points)]
            notes = [one for axis, points in found.items() for one in growth(axis, points)]
            result = write_json(options.out, facts, tables, found, notes, drawn)  # of a run that is cut short, so much
    print(render(result))
    return 1 if any("error" in r for points in found.values() for p in points for r in p["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
