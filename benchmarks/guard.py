"""A guard against slowness that trusts no clock: counts, bytes, and ratios to a reference measured in the same run.

    python benchmarks/guard.py             compares with what is expected below; status 1 where more is done
    python benchmarks/guard.py --rounds 60 the same, with more rounds for the ratios

Counts are the same on every machine: floating-point operations of a network, and calls of it. Bytes are the most that
Python and NumPy hold at a time beyond what they held before (tracemalloc). A ratio is the least CPU time of a piece of
work over the least of a reference that does what cannot be spared, in turns, one thread: a search over its matrix
product, reading a JPEG over decoding it, a volume over its network's calls. Where a figure became much better, lower
what is expected.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, render, table, write_json, write_textures

EXPECTED = {
    "GFLOP of the network, fast, 256 x 256": 0.642,
    "GFLOP of the networks, accurate, 320 x 320": 1.653,
    "network calls, fast, 8 images through screen": 8,
    "network calls, a volume of 96 x 144 x 144": 4,
    "bytes a pixel, predict, fast, 1,024 x 1,024": 5.3,
    "bytes a voxel, predict, a volume of 96 x 144 x 144": 5.3,
    "bytes a pixel, reading a grey JPEG of 1,024 x 1,024": 1.27,
    "time of a search of 1,024 patches over its matrix product": 2.7,  # the product is a third of it; 0066
    "time of network and search in one call over the network": 1.37,
    "time of reading a JPEG of 1,024 x 1,024 over Pillow": 1.05,
    "time of a volume over its network's calls": 1.4,
}
"""What each figure was when it was last looked at."""
ALLOWED = {"GFLOP": 1.01, "network": 1.0, "bytes": 1.1, "time": 1.3}
"""Times as much as expected that is let through, by the first word."""
VOLUME = (96, 144, 144)


def figures_of(folder: Path, rounds: int) -> dict[str, float]:
    """Return every figure by its name."""
    from inspection_core.learn import fit

    write_textures(folder / "good", 12)
    fit(folder / "good", folder / "model", preset="fast", device="cpu")
    return {**operations(), **screened(folder), **volumes(folder, rounds), **searched(rounds), **read(folder, rounds)}


def operations() -> dict[str, float]:
    """Count the operations of the backbone for an image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from inspection_core.learn import PRESETS
    from inspection_core.models.backbone import Backbone, load_weights
    from inspection_core.models.views import Describer, View

    found = {}
    for name, what in (("fast", "network, fast, 256 x 256"), ("accurate", "networks, accurate, 320 x 320")):
        preset = PRESETS[name]
        describer = Describer(
            Backbone(preset.backbone, load_weights(preset.backbone)), [View(*v) for v in preset.settings["views"]]
        )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            list(describer(torch.rand((1, 1, preset.size, preset.size))))
        found[f"GFLOP of the {what}"] = counter.get_total_flops() / 1e9
    return found


def screened(folder: Path) -> dict[str, float]:
    """Count the calls of a screening's network, and the bytes of one image."""
    from inspection_core.engine import Engine
    from inspection_core.infer import predict
    from inspection_core.io.raster import read_raster
    from inspection_core.screen import screen

    model = Engine("cpu").load(folder / "model")
    write_textures(folder / "images", 8, first=100)
    write_textures(folder / "large", 1, (1024, 1024))
    calls = calls_of(lambda: screen(folder / "images", model, folder / "run"))
    image = read_raster(next((folder / "large").iterdir()))
    held = most_bytes(lambda: predict(image, model))
    return {
        "network calls, fast, 8 images through screen": len(calls),
        "bytes a pixel, predict, fast, 1,024 x 1,024": held / 1024**2,
    }


def volumes(folder: Path, rounds: int) -> dict[str, float]:
    """Count the calls, the bytes, and the time beside the network's own of a volume."""
    import json

    from scaling import still_network, volume_here

    work = volume_here(str(still_network(folder)), json.dumps(VOLUME), "cpu")
    calls = calls_of(work)
    spent: dict[str, list[float]] = {"whole": [], "network": []}
    for _ in range(max(2, rounds // 10)):
        before = time.process_time()
        inside = calls_of(work)
        spent["whole"].append(time.process_time() - before)
        spent["network"].append(sum(inside))
    held = most_bytes(work)
    voxels = float(np.prod(VOLUME))
    return {
        "network calls, a volume of 96 x 144 x 144": len(calls),
        "bytes a voxel, predict, a volume of 96 x 144 x 144": held / voxels,
        "time of a volume over its network's calls": min(
            whole / network for whole, network in zip(spent["whole"], spent["network"], strict=True)
        ),
    }


def searched(rounds: int) -> dict[str, float]:
    """Compare a search with the matrix product in it."""
    import torch

    from inspection_core.learn import PRESETS
    from inspection_core.models.nearest import BLOCKS, Memory, principal

    settings = PRESETS["fast"].settings
    vectors = torch.randn((settings["memory"], 152), generator=torch.Generator().manual_seed(0))
    memory = Memory(vectors, principal(vectors, settings["dim"]))
    patches = vectors[torch.arange(1024) % len(vectors)]
    _, few = BLOCKS["cpu"]
    left, right = torch.rand((few, settings["dim"] + 1)), torch.rand((settings["dim"] + 1, len(vectors)))

    def product() -> None:
        for _ in range(-(-1024 // few)):
            torch.mm(left, right)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = ratio(lambda: memory.search(patches), product, rounds)
    torch.set_num_threads(threads)
    return {"time of a search of 1,024 patches over its matrix product": found, **searched_in_graph(memory, rounds)}


def searched_in_graph(memory: Any, rounds: int) -> dict[str, float]:
    """Compare network and search in one call with the network alone, and with the memory's own search after it."""
    import torch

    from inspection_core.learn import PRESETS
    from inspection_core.models.backbone import Backbone, load_weights
    from inspection_core.models.compiled import OFTEN, Compiled
    from inspection_core.models.compiled_search import References, with_search
    from inspection_core.models.views import Describer, View

    preset = PRESETS["fast"]
    describer = Describer(
        Backbone(preset.backbone, load_weights(preset.backbone)), [View(*v) for v in preset.settings["views"]]
    )
    batch = torch.rand((1, 1, preset.size, preset.size))
    with torch.inference_mode():
        network = describer.model(0, batch)
    alone, both = Compiled(network), Compiled(with_search(network, [References(memory, torch.ones(len(memory)))]))
    pixels = batch.numpy()
    for one in (alone, both):
        for _ in range(OFTEN):
            one(pixels)
    return {
        "time of network and search in one call over the network": ratio(
            lambda: both(pixels), lambda: alone(pixels), rounds
        )
    }


def read(folder: Path, rounds: int) -> dict[str, float]:
    """Compare reading an image with decoding it."""
    from PIL import Image

    from inspection_core.io.raster import read_raster

    path = folder / "image.jpg"
    Image.open(next((folder / "large").iterdir())).save(path, quality=90)
    found = ratio(lambda: read_raster(path), lambda: np.asarray(Image.open(path)), rounds)
    held = most_bytes(lambda: read_raster(path)) / 1024**2
    return {
        "time of reading a JPEG of 1,024 x 1,024 over Pillow": found,
        "bytes a pixel, reading a grey JPEG of 1,024 x 1,024": held,
    }


def calls_of(work: Callable[[], Any]) -> list[float]:
    """Do the work; return the CPU seconds of each call of a network in it."""
    from inspection_core.models.compiled import Compiled

    calls: list[float] = []
    original = Compiled.__call__

    def counting(self: Any, batch: Any) -> Any:
        before = time.process_time()
        given = original(self, batch)
        calls.append(time.process_time() - before)
        return given

    Compiled.__call__ = counting
    try:
        work()
    finally:
        Compiled.__call__ = original
    return calls


def most_bytes(work: Callable[[], Any]) -> int:
    """Return the most bytes that Python and NumPy hold at a time while the work is done, beyond those before."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def ratio(work: Callable[[], Any], reference: Callable[[], Any], rounds: int) -> float:
    """Return the least CPU time of the work over the least of the reference, in turns."""
    least = [float("inf")] * 2
    for _ in range(rounds):
        for k, one in enumerate((work, reference)):
            before = time.process_time()
            one()
            least[k] = min(least[k], time.process_time() - before)
    return least[0] / least[1]


def judged(name: str, found: float) -> tuple[str, str]:
    """Return how much of a figure is let through, and whether it is "ok", "more", or "less" than two thirds."""
    most = EXPECTED[name] * ALLOWED[name.split()[0]]
    verdict = "more" if found > most else "less" if found < EXPECTED[name] * 2 / 3 else "ok"
    return f"{most:.4g}", verdict


def main() -> int:
    """Take every figure, and compare it with what is expected."""
    parser = arguments("guard", __doc__)
    parser.add_argument("--rounds", type=int, default=30, help="of the ratios")
    options = parser.parse_args()
    facts = machine(("inspection-suite", "torch", "openvino", "numpy", "pillow"))
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        found = figures_of(Path(folder), options.rounds)
    rows = [[name, f"{EXPECTED[name]:.4g}", f"{value:.4g}", *judged(name, value)] for name, value in found.items()]
    columns = ["figure", "expected", "found", "let through", ""]
    print(render(write_json(options.out, facts, [table("", columns, rows)], found)))
    return 1 if any(row[-1] == "more" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
