"""How long napari takes to its first window with the panel, and without. Needs the extra ``[viewer]`` and a display.

    xvfb-run -a python benchmarks/viewer_start.py

Each start is a process of its own, in turns. It ends when the window
is painted and every tab of the panel can be used. The suite's promise is that the panel adds less than a second.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from common import arguments, left_out, machine, no_viewer, render, spread, table, write_json

PROMISE = 1.0
TITLES = {"napari": "napari", "panel": "napari with the panel"}
CODE = """
import resource, sys, time
import napari
viewer = napari.Viewer(show=True)
if sys.argv[1] == "panel":
    viewer.window.add_plugin_dock_widget("inspection-suite", "Inspection")
from qtpy.QtWidgets import QApplication
QApplication.processEvents()
spent = resource.getrusage(resource.RUSAGE_SELF)
print(time.time() - float(sys.argv[2]), spent.ru_utime + spent.ru_stime)
"""


def start(kind: str, settings: str) -> dict[str, float]:
    """Return seconds of wall and CPU of one start."""
    environment = {**os.environ, "NAPARI_CONFIG": settings, "INSPECTION_HOME": settings + ".home"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, kind, str(time.time())],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    wall, cpu = done.stdout.split()[-2:]
    return {"seconds": float(wall), "cpu_seconds": float(cpu)}


def main() -> int:
    """Measure; 1 where the panel adds more than is promised."""
    parser = arguments("viewer_start", __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if why := no_viewer():
        return left_out(why)
    facts = machine(("inspection-suite", "napari", "PySide6-Essentials"))
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in TITLES}
    with tempfile.TemporaryDirectory(prefix="viewer-") as name:
        for turn in range(options.rounds + 1):
            for kind, found in runs.items():
                spent = start(kind, f"{name}/settings.yaml")
                if turn:  # the first fills the system's cache
                    found.append(spent)
    keys = ("seconds", "cpu_seconds")
    rows = [[TITLES[kind], *(spread([one[key] for one in found]) for key in keys)] for kind, found in runs.items()]
    more = {k: [p[k] - n[k] for n, p in zip(runs["napari"], runs["panel"], strict=True)] for k in keys}
    rows.append(["what the panel adds, within a round", *(spread(more[key]) for key in keys)])
    columns = ["process start to first window", "seconds", "CPU seconds"]
    result = write_json(
        options.out, facts, [table("", columns, rows)], runs, [f"Promised: the panel adds less than {PROMISE:.0f} s."]
    )
    print(render(result))
    return int(statistics.median(more["cpu_seconds"]) > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
