"""A real napari viewer, one a process: starting one takes seconds. It needs a display; `make test` brings Xvfb."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

try:
    from qtpy.QtCore import QCoreApplication, QPoint, Qt
except ImportError:  # the tests here are skipped by name then
    QCoreApplication = QPoint = Qt = None

WAIT = 300_000
"""Milliseconds that something may take on a busy machine before a test gives up on it."""


def pytest_collection_modifyitems(items):
    """napari, npe2 and pydantic warn about each other; the suite's own code is watched by all other tests."""
    for item in items:
        if "/plugins/" in item.path.as_posix():
            for kind in ("DeprecationWarning", "FutureWarning", "UserWarning", "ResourceWarning", "RuntimeWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of its own for each test's settings, models and reviews."""
    folder = tmp_path / "home"
    monkeypatch.setenv("INSPECTION_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def napari(tmp_path_factory):
    """napari with settings of its own."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        pytest.skip("needs a display; run it under xvfb-run")
    pytest.importorskip("PySide6", reason="needs the extra [viewer]")
    os.environ["NAPARI_CONFIG"] = str(tmp_path_factory.mktemp("napari") / "settings.yaml")
    return pytest.importorskip("napari", reason="needs the extra [viewer]")


@pytest.fixture(scope="session")
def qapp(napari, qapp):
    """Qt's application, only where there is a display: without one it would end the whole process."""
    return qapp


@pytest.fixture(scope="session")
def shared(napari, qapp, tmp_path_factory):
    """One viewer with our panel, docked as the Plugins menu does it; making them takes seconds."""
    os.environ["INSPECTION_HOME"] = str(tmp_path_factory.mktemp("first_home"))
    viewer = napari.Viewer(show=False)  # see docs/decisions/0044 for why the window is never shown
    viewer.window.resize(1280, 800)
    _, panel = viewer.window.add_plugin_dock_widget("inspection-suite", "Inspection")
    yield viewer, panel
    panel.release()
    viewer.close()


@pytest.fixture
def panel(shared, home):
    """The panel, as if it had just been opened."""
    from inspection_core.inputs import Listing
    from napari_inspection import store
    from napari_inspection.worker import wait_for_all

    viewer, panel = shared
    session = panel.session
    panel.running.picker.refresh()
    panel.review.reviewer.setText(store.user())
    yield panel
    session.cancel()
    wait_for_all()
    if session.job is not None:
        deadline = time.monotonic() + 60
        while not session.job.finished and time.monotonic() < deadline:
            QCoreApplication.processEvents()
    session.leave()
    session.keep_layers = False
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    viewer.dims.order = tuple(range(viewer.dims.ndim))
    viewer.scene.camera.orientation2d = ("down", "right")
    session.show_listing(Listing())
    session.listing = None
    session.opened.emit(None)
    panel.opening._speak({})
    panel.opening.filter.setCurrentText("all")
    panel.running.fit.folder.clear()
    panel.messages.say("info", "")
    panel.show_tab("Open")


@pytest.fixture
def viewer(shared):
    """The panel's viewer."""
    return shared[0]


@pytest.fixture
def until(qtbot):
    """Wait until something is true, letting Qt work."""

    def wait(condition, milliseconds=WAIT):
        qtbot.waitUntil(condition, timeout=milliseconds)

    return wait


@pytest.fixture
def second_waits(monkeypatch):
    """A screening reads its second input only once `go` is set; `reached` is set there, and `read` names the inputs."""
    from inspection_core import device, inspector

    # Of two readers the one with the second input may come first, and the first one's result would wait for it.
    monkeypatch.setattr(device, "threads", lambda: 1)
    held = SimpleNamespace(read=[], reached=threading.Event(), go=threading.Event())
    real = inspector.open_input

    def slow(item, *rest):
        held.read.append(item.files[0].name)
        if len(held.read) > 1:
            held.reached.set()
            held.go.wait(60)
        return real(item, *rest)

    monkeypatch.setattr(inspector, "open_input", slow)
    return held


@pytest.fixture
def phantom_file(tmp_path):
    """A small phantom as NIfTI."""
    from inspection_core.io.nifti import write_nifti
    from inspection_core.phantom_ct import make_phantom

    path = tmp_path / "phantom.nii.gz"
    write_nifti(path, make_phantom((24, 60, 56), (7.0, 3.5, 3.5)).image)
    return path


@pytest.fixture
def reviewed(panel, until, phantom_file):
    """A phantom that was opened and run: the panel with its findings."""
    from napari_inspection.samples import model_of_phantom

    model_of_phantom()
    panel.running.picker.refresh()
    panel.session.list([phantom_file])
    until(lambda: panel.session.case is not None)
    panel.running.run.click()
    until(lambda: panel.session.desk is not None)
    return panel


@pytest.fixture
def grey_model(panel):
    """A model that finds what is bright in grey pictures, chosen in the panel."""
    from inspection_core.card import ModelCard, Policy, Preparation
    from inspection_core.models.intensity_band import make
    from napari_inspection import store

    card = ModelCard(
        "bright-parts", "1", "intensity-band", "segmentation", ("grey",), "1 - P(background)", classes=("bright",),
        preparation=Preparation(view="slices", normalise="window", window=(0.0, 255.0), multiple=8, tile=32),
        policy=Policy(kind="band", low=0.3, high=0.7),
    )  # fmt: skip
    make(store.models_folder() / "bright-parts", card, ((0.5, 2.0),))
    panel.running.picker.refresh()
    panel.running.picker.box.setCurrentText("bright-parts 1")
    return panel


@pytest.fixture
def stroke(qtbot):
    """Press, drag and release the left mouse button on the canvas, through points ``(y, x)`` of the plane shown."""

    def draw(viewer, points):
        native = viewer.window._qt_viewer.canvas.native
        camera = viewer.scene.camera

        def pixel(point):
            down, across = (np.asarray(point) - np.array(camera.center)[-2:]) * camera.zoom
            return QPoint(round(native.width() / 2 + across), round(native.height() / 2 + down))

        left = Qt.MouseButton.LeftButton
        qtbot.mousePress(native, left, pos=pixel(points[0]))
        for point in points[1:]:
            qtbot.mouseMove(native, pixel(point))
        qtbot.mouseRelease(native, left, pos=pixel(points[-1]))

    return draw
