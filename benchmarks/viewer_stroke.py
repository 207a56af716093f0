"""What a stroke costs in the viewer, beside napari alone. Needs the extra ``[viewer]`` and a display.

    xvfb-run -a python benchmarks/viewer_stroke.py

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
from common import arguments, left_out, machine, no_viewer, render, spread, table, write_json

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
    """Measure; 1 where a stroke costs more than is promised."""
    parser = arguments("viewer_stroke", __doc__)
    parser.add_argument("--strokes", type=int, default=STROKES, help="of each kind")
    options = parser.parse_args()
    if why := no_viewer():
        return left_out(why)
    facts = machine(("inspection-suite", "napari", "PySide6-Essentials", "numpy"))
    with tempfile.TemporaryDirectory(prefix="viewer-") as name:
        os.environ["INSPECTION_HOME"], os.environ["NAPARI_CONFIG"] = f"{name}/home", f"{name}/settings.yaml"
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
            for k in range(options.strokes + 2):
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
        panel.session.close()
        suite.close()
        plain.close()
    beside = {"suite": times["napari"][: options.strokes], "suite, linked views": times["napari"][options.strokes :]}
    rows, worst = [], 0.0
    for label, spent in times.items():
        cells = [spread([one[i] for one in spent], ".1f") for i in (0, 1)]
        more = [[own[i] - plain[i] for plain, own in zip(beside.get(label, ()), spent, strict=False)] for i in (0, 1)]
        rows.append([label, *cells, *(spread(m, "+.1f") for m in more)])
        worst = max(worst, statistics.median(more[0]) if more[0] else 0.0)
    columns = [
        "",
        "code, ms of CPU",
        "with all repaints",
        "code, more than napari's stroke beside it",
        "with all repaints",
    ]
    title = (
        f"{' x '.join(map(str, SHAPE))} voxels, {POINTS} points a stroke, {options.strokes} strokes of each in turns"
    )
    note = f"Promised: {PROMISE:.0f} ms more at most. Strokes that the review kept: {kept_strokes}."
    print(render(write_json(options.out, facts, [table(title, columns, rows)], times, [note])))
    return int(worst > PROMISE)


if __name__ == "__main__":
    sys.exit(main())
