"""How long people wait before anything happens: whole processes, from their start to their end.

    python benchmarks/start.py

Rows: Python alone; ``--help``; ``predict`` on one image of 256 x 256 with a model of the preset fast, fitted before;
``import napari_inspection``, and that with its panel's module where Qt is installed. A round takes each in turn.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, arguments, machine, render, spread, table, write_json

LIMITS = {"help": 0.3, "predict": 3.0, "plugin": 1.0}
TITLES = {
    "python": "python -c pass",
    "help": "inspection --help",
    "predict": "inspection predict, one image",
    "plugin": "import napari_inspection",
}


def commands(folder, device):
    """Return what is run, by its name; a model is fitted and an image written for `predict`."""
    from PIL import Image

    from inspection_core.learn import fit

    good = folder / "good"
    good.mkdir()
    rng = np.random.default_rng(0)
    for k in range(20):
        Image.fromarray(rng.integers(100, 150, (256, 256), dtype=np.uint8)).save(good / f"{k}.png")
    fit(good, folder / "model", preset="fast", device=device)
    run = [sys.executable, "-m", "inspection_core"]
    image, out = str(good / "0.png"), str(folder / "out")
    return {
        "python": [sys.executable, "-c", "pass"],
        "help": [*run, "--help"],
        "predict": [*run, "predict", image, "--model", str(folder / "model"), "--out", out, "--device", device],
        "plugin": [sys.executable, "-c", "import napari_inspection"],
    }


def timed(command):
    """Return wall and CPU seconds of a process."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), *(p for p in sys.path[1:] if p)])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return {"seconds": wall, "cpu_seconds": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime}


def main():
    parser = arguments("start", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    facts = machine(("inspection-suite", "torch", "typer", "napari"), options.device)
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        todo = commands(Path(folder), options.device)
        runs = {name: [] for name in todo}
        for command in todo.values():
            timed(command)  # files into the system's cache, and modules compiled
        for _ in range(options.rounds):
            for name, command in todo.items():
                runs[name].append(timed(command))
    rows = []
    for name, taken in runs.items():
        failed = next((r["error"] for r in taken if "error" in r), None)
        if failed:
            rows.append([TITLES[name], f"failed: {failed[:80]}", "", ""])
            continue
        cells = [spread([r[key] for r in taken]) for key in ("seconds", "cpu_seconds")]
        rows.append([TITLES[name], *cells, LIMITS.get(name, "")])
    result = write_json(options.out, facts, [table("", ["process", "seconds", "CPU seconds", "aim"], rows)], runs)
    print(render(result))
    return 1 if any("error" in r for taken in runs.values() for r in taken) else 0


if __name__ == "__main__":
    sys.exit(main())
