"""Layers that go in a window that is shown: napari alone ends the process there, under software OpenGL."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import canvas

SHOWN = """
import faulthandler, sys, time
faulthandler.enable()
import napari, numpy as np
from qtpy.QtCore import QCoreApplication

def look(seconds=0.5):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QCoreApplication.processEvents()
        time.sleep(0.01)

viewer = napari.Viewer(show=True)
viewer.window.resize(900, 700)
_, panel = viewer.window.add_plugin_dock_widget("inspection-suite", "Inspection")
views = [viewer]
if sys.argv[1] == "linked":
    from napari_inspection.medical.linked import View
    view = View(print)
    view.resize(400, 400)
    view.show()
    views = [view.model]
look()
for side in (1, 300, 1, 300):
    for model in views:
        model.layers.clear()  # and the next picture is drawn at once, as when one goes through a list
        model.add_image(np.random.rand(side, side))
        look()
        model.add_labels(np.ones((side, side), np.uint8)).contour = 1
        model.add_points(np.zeros((1, 2)), size=1e-3)
        model.reset_view()
        look()
viewer.close()
print("went on")
"""


@pytest.mark.parametrize("where", ["main", "linked"])
def test_layers_that_go_are_tidied_up_in_their_own_context(napari, where):
    """In a process of its own: what fails here is a segmentation fault in the next picture that is drawn."""
    environment = {**os.environ, "LIBGL_ALWAYS_SOFTWARE": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOWN, where],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[:2000]
    assert "went on" in ended.stdout


def test_a_canvas_whose_window_is_gone_is_let_be(napari):
    """Its layers may be cleared later than that."""
    from napari.components import ViewerModel

    def gone():
        raise RuntimeError("Internal C++ object already deleted")  # what PySide6 says

    model = ViewerModel()
    layer = model.add_points([[0, 0]])
    canvas.tidy_in_own_context(model.layers, SimpleNamespace(native=SimpleNamespace(isValid=gone)))
    model.layers.remove(layer)
    assert list(model.layers) == []
