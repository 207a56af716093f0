"""What a stroke costs in the viewer, beside napari alone: ``xvfb-run -a python benchmarks/viewer_stroke.py``.

A volume of 300 x 512 x 512 voxels with findings is painted on in two viewers of one process, in turns: a plain napari
with an image and a Labels layer of the same arrays, and one with the panel, where a stroke is a step of the review,
measured, listed and kept. A stroke goes from press to release through ten points, with napari's own mouse code.
The suite's promise is at most 20 ms more than napari's own.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import no_viewer

SHAPE = (300, 512, 512)
STROKES, POINTS = 30, 10
PROMISE = 20.0


def volume():
    """An image with 60 balls, and a prediction that found them."""
    from inspection_core.findings import find_labelled
    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.prediction import Prediction

    generator = np.random.default_rng(0)
    geometry = Geometry.from_spacing(SHAPE, (1.0, 0.7, 0.7))
    array = generator.integers(0, 80, (1, *SHAPE), dtype=np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    ball = np.linalg.norm(np.indices((25,) * 3) - 12, axis=0) <= 11
    for z, y, x in generator.integers(15, np.array(SHAPE) - 45, (60, 3)):
        mask[z : z + 25, y : y + 25, x : x + 25] |= ball.astype(np.uint8)
    score = np.where(mask > 0, np.float16(0.9), np.float16(0.1))
    mask, findings = find_labelled(mask, score, geometry, ("lesion",))
    image = Image(array, geometry, ("CT",))
    prediction = Prediction(geometry, score, mask, findings, 0.9, None, "NG", 0.5, "made-up", "1", "0" * 64, "cpu")
    return image, prediction


class Event:
    """What napari's mouse callbacks look at."""

    def __init__(self, kind: str, position: np.ndarray, layer) -> None:
        self.type, self.button, self.modifiers, self.handled = kind, 1, (), False
        self.position = tuple(position)
        self.dims_displayed, self.view_direction = [1, 2], None
        self.pos = position[-2:]


def stroke(layer, world) -> tuple[float, float]:
    """Paint through points; return CPU milliseconds: of the code from press to release, and with all repaints."""
    from napari.layers.labels._labels_mouse_bindings import draw
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    event = Event("mouse_press", world[0], layer)
    begun = time.process_time()
    code = 0.0
    steps = draw(layer, event)
    for at, point in enumerate([*world, world[-1]]):
        event.type = "mouse_press" if at == 0 else "mouse_release" if at == len(world) else "mouse_move"
        event.position = tuple(point)
        before = time.process_time()
        next(steps, None)
        code += time.process_time() - before
        QApplication.processEvents()
    return 1000 * code, 1000 * (time.process_time() - begun)


def main() -> int:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["INSPECTION_HOME"], os.environ["NAPARI_CONFIG"] = f"{name}/home", f"{name}/settings.yaml"
        if why := no_viewer():
            sys.stdout.write(f"Left out: {why}.\n")
            return 0
        import napari

        from inspection_core.inputs import Opened
        from inspection_core.io.review_store import open_review
        from napari_inspection import keep
        from napari_inspection.layers import make_case

        image, prediction = volume()
        plain = napari.Viewer(show=True)
        scale = image.geometry.spacing
        plain.add_image(image.array[0], scale=scale, contrast_limits=(0, 80))
        own = plain.add_labels(np.array(prediction.mask, dtype=np.uint16), scale=scale)
        suite = napari.Viewer(show=True)
        _, panel = suite.window.add_plugin_dock_widget("inspection-suite", "Inspection")
        case = make_case(Opened(image), "made-up")
        panel.session.show(case)
        kept, review = open_review(Path(name) / "review", "benchmark", (prediction, ("lesion",)))
        panel.session._sit_down(keep.Opened(case, review, kept, Path(name) / "review", "benchmark"))
        ours = panel.session.desk.labels
        for layer in (own, ours):
            layer.brush_size, layer.selected_label, layer.mode = 10, 1, "paint"
        times = {"napari": [], "suite": [], "suite, linked views": []}
        generator = np.random.default_rng(1)

        def measure(names) -> None:
            for k in range(STROKES + 2):
                start = generator.uniform(40, 300, 2)
                line = start + np.linspace(0, 1, POINTS)[:, None] * generator.uniform(-40, 40, 2)
                for name, layer, viewer in names:
                    z = float(viewer.dims.point[0])
                    world = np.column_stack([np.full(POINTS, z), line * scale[1:]])
                    spent = stroke(layer, world)
                    if k >= 2:
                        times[name].append(spent)

        measure([("napari", own, plain), ("suite", ours, suite)])
        panel.view.toggle_linked()
        measure([("napari", own, plain), ("suite, linked views", ours, suite)])
        panel.session.flush()
        kept_strokes = len(panel.session.desk.review.log)
        write = sys.stdout.write
        write(f"{SHAPE} voxels, {POINTS} points a stroke, {STROKES} strokes in turns; load {os.getloadavg()[0]:.1f}\n")
        write("medians in ms of CPU: the code from press to release, and with all repaints\n")
        for label, spent in times.items():
            code, whole = (statistics.median(t[i] for t in spent) for i in (0, 1))
            write(f"{label:22} {code:7.1f} {whole:7.1f}\n")
        worst = 0.0
        for label in ("suite", "suite, linked views"):
            beside = times["napari"][:STROKES] if label == "suite" else times["napari"][STROKES:]
            more = [statistics.median(b[i] - a[i] for a, b in zip(beside, times[label], strict=True)) for i in (0, 1)]
            worst = max(worst, more[0])
            write(f"{label}: {more[0]:+.1f} and {more[1]:+.1f} to napari's stroke beside it\n")
        write(f"Promised are {PROMISE:.0f} at most. Strokes in the log: {kept_strokes}\n")
        panel.session.close()
        suite.close()
        plain.close()
        return int(worst > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
