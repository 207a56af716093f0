"""Memory of a screening from 100 to 100,000 images: resident memory is sampled as images are recorded.

    python benchmarks/screening/memory.py --images 100000

The images are small and made on the spot; the model marks bright pixels, so that the machinery is measured and not a
network. The run has the outputs of any other: database, tables, report. Flat means that between the first thousand
images and the last, resident memory stays within 10 % of what it was after the first thousand.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np
from faults import cheap_model

from inspection_core.engine import Engine
from inspection_core.io.atomic import write_text
from inspection_core.screen import screen
from inspection_core.session import Options

EVERY = 250
"""Images between two samples."""


def images(folder: Path, count: int, seed: int) -> None:
    """Write small grey PNGs; one in twenty has a bright square."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 180, (24, 24)).astype(np.uint8)
        if i % 20 == 0:
            pixels[4:12, 4:12] = 250
        path.write_bytes(imagecodecs.png_encode(pixels, level=1))


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most so far, which never sinks
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str]) -> int:
    """Measure; return 0 if memory is flat."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=1000, help="Images after which memory must be flat.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="Folder to work in; a temporary one without it.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    work = given.work or Path(tempfile.mkdtemp(prefix="memory-"))
    images(work / "images", given.images, given.seed)
    model = Engine("cpu").load(cheap_model(work / "model"))
    samples: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        if done % EVERY == 0:
            samples.append((done, resident()))
            if done % 10_000 == 0:
                print(f"{done:,} of {total:,}: {samples[-1][1] / 1e6:.0f} MB", flush=True)

    began = time.perf_counter()
    done = screen(work / "images", model, work / "run", progress=progress, options=Options(pictures="none"))
    seconds = time.perf_counter() - began
    end = resident()
    base = next(memory for count, memory in samples if count >= given.first)
    most = max([memory for count, memory in samples if count >= given.first])
    result = {
        "images": given.images,
        "counts": done.counts,
        "seconds": round(seconds, 1),
        "megabytes": {
            "after_first_thousand": round(base / 1e6, 1),
            "most_later": round(most / 1e6, 1),
            "after_tables_and_report": round(end / 1e6, 1),
        },
        "growth": round(most / base - 1, 4),
        "samples": [[count, round(memory / 1e6, 1)] for count, memory in samples[:: max(1, len(samples) // 100)]],
    }
    print(json.dumps({k: v for k, v in result.items() if k != "samples"}, indent=2))
    if given.json:
        write_text(given.json, json.dumps(result, indent=2) + "\n")
    if given.work is None:
        shutil.rmtree(work)
    return 0 if result["growth"] <= 0.10 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
