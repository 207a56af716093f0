"""How long napari takes to its first window with the panel, and without.

``xvfb-run -a python benchmarks/viewer_start.py``. Each start is a process of its own, in turns. It ends when the window
is painted and every tab of the panel can be used. The suite's promise is that the panel adds less than a second.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from common import no_viewer

STARTS = 5
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


def start(kind: str, settings: str) -> tuple[float, float]:
    """Return seconds of wall and CPU of one start."""
    import time

    environment = {**os.environ, "NAPARI_CONFIG": settings, "INSPECTION_HOME": settings + ".home"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, kind, str(time.time())],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    wall, cpu = done.stdout.split()[-2:]
    return float(wall), float(cpu)


def main() -> int:
    """Measure, and print medians."""
    if why := no_viewer():
        sys.stdout.write(f"Left out: {why}.\n")
        return 0
    with tempfile.TemporaryDirectory() as name:
        times: dict[str, list[tuple[float, float]]] = {"napari": [], "panel": []}
        for turn in range(STARTS + 1):
            for kind, found in times.items():
                spent = start(kind, f"{name}/settings.yaml")
                if turn:  # the first fills the system's cache
                    found.append(spent)
    figures = {kind: [statistics.median(t[i] for t in found) for i in (0, 1)] for kind, found in times.items()}
    for kind, (wall, cpu) in figures.items():
        sys.stdout.write(f"{kind:8} {wall:6.2f} s wall {cpu:6.2f} s CPU to the first window\n")
    more = [figures["panel"][i] - figures["napari"][i] for i in (0, 1)]
    sys.stdout.write(f"the panel adds {more[0]:.2f} s wall, {more[1]:.2f} s CPU; load {os.getloadavg()[0]:.1f}\n")
    return int(more[1] > 1)


if __name__ == "__main__":
    sys.exit(main())
