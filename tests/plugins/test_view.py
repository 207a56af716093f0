"""Looking: letters that are true from every side, windows, distances."""

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.inputs import Opened
from napari_inspection import layers
from napari_inspection.medical import windows


@pytest.fixture
def scan(panel):
    geometry = Geometry.from_spacing((6, 20, 24), (5.0, 1.0, 2.0), origin=(-10, -20, -30))
    values = np.linspace(-1000, 1000, 6 * 20 * 24).reshape(1, 6, 20, 24).astype(np.int16)
    panel.session.show(layers.make_case(Opened(Image(values, geometry, ("CT",))), "scan"))
    return panel


@pytest.mark.parametrize(
    ("view", "want"),
    [
        ("Axial", {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        ("Coronal", {"left": "R", "right": "L", "top": "S", "bottom": "I"}),
        ("Sagittal", {"left": "A", "right": "P", "top": "S", "bottom": "I"}),
    ],
)
def test_letters_from_every_side(scan, view, want):
    scan.view.look(view)
    assert scan.view.letters.texts() == want
    shown = {edge: scan.viewer.canvas.overlays[f"inspection_letter_{edge}"] for edge in want}
    assert {edge: overlay.text for edge, overlay in shown.items()} == want
    assert all(overlay.visible for overlay in shown.values())


def test_scans_lie_on_black_in_either_theme(scan):
    assert scan.viewer.canvas.background_color[:3].tolist() == [0, 0, 0]
    scan.session.show(layers.make_case(Opened(Image(np.zeros((1, 9, 9)), Geometry.pixels((9, 9)), ("grey",))), "part"))
    assert scan.viewer.canvas.background_color_override is None


def test_no_letters_where_nobody_knows(scan):
    scan.viewer.dims.ndisplay = 3
    assert set(scan.view.letters.texts().values()) == {""}
    scan.viewer.dims.ndisplay = 2
    scan.session.show(layers.make_case(Opened(Image(np.zeros((1, 9, 9)), Geometry.pixels((9, 9)), ("grey",))), "part"))
    assert set(scan.view.letters.texts().values()) == {""}


@pytest.mark.parametrize("name", windows.PRESETS)
def test_presets_by_hand(scan, name):
    scan.view.use(name)
    centre, width = windows.PRESETS[name]
    layer = scan.viewer.layers["scan"]
    assert layer.contrast_limits == [centre - width / 2, centre + width / 2]
    assert (scan.view.window_centre.value(), scan.view.window_width.value()) == (centre, width)


def test_presets_are_for_ct_alone(scan):
    assert scan.view.preset.findText("Lung") >= 0
    scan.session.show(layers.make_case(Opened(Image(np.zeros((1, 9, 9)), Geometry.pixels((9, 9)), ("grey",))), "part"))
    assert scan.view.preset.findText("Lung") < 0


def test_the_right_mouse_button_drags_the_window_and_moves_no_picture(scan, qtbot):
    scan.view.use("Soft tissue")  # 40 and 400: two a pixel
    native, camera = scan.viewer.window._qt_viewer.canvas.native, scan.viewer.scene.camera
    before = (camera.center, camera.zoom)
    start = native.rect().center()
    qtbot.mousePress(native, Qt.MouseButton.RightButton, pos=start)
    QApplication.sendEvent(native, mouse_move(start + QPoint(30, -10), Qt.MouseButton.RightButton))
    qtbot.mouseRelease(native, Qt.MouseButton.RightButton, pos=start + QPoint(30, -10))
    assert (scan.view.window_centre.value(), scan.view.window_width.value()) == (20, 460)
    assert scan.viewer.layers["scan"].contrast_limits == [-210, 250]
    assert (camera.center, camera.zoom) == before


def mouse_move(place, button):
    """A move with a button held, which Qt's own test functions do not send."""
    here = QPointF(place)
    return QMouseEvent(QEvent.Type.MouseMove, here, here, button, button, Qt.KeyboardModifier.NoModifier)


def test_a_distance_is_in_millimetres(scan):
    scan.view.measure()
    ruler = scan.viewer.layers["distance"]
    assert scan.viewer.layers.selection.active == ruler
    assert str(ruler.mode) == "add_line"
    ruler.add_lines([[[0, 0, 0], [0, 3, 2]]])
    assert scan.view.distance.text() == "5 mm"  # 3 rows of 1 mm, 2 columns of 2 mm


def test_where_the_mouse_is_in_the_patient(scan):
    scan.viewer.cursor.position = (-30.0, -15.0, -4.0)
    assert scan.view.place.text() == "Mouse at -4.0, -15.0, -30.0 mm (patient, L P S)"
