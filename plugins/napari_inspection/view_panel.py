"""How the picture is looked at: windows, directions, distances, and where the mouse is in the patient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QGroupBox, QLabel, QVBoxLayout, QWidget

from napari_inspection import cases, layers
from napari_inspection.medical import linked, orientation, windows
from napari_inspection.session import Session
from napari_inspection.widgets import button, row, text

OWN, FULL = "the file's own", "whole range"
RULER = "distance"
MOST_DECIMALS = 9
"""Of the boxes of a window: one of a float image may be tiny."""


class ViewPanel(QWidget):
    """Windows, views, letters, ruler."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.letters = orientation.Letters(session.viewer)
        self.panel_keys: dict[str, Callable[[], object]] = {}
        """Of the whole panel, for views that are added."""
        self.preset = QComboBox()
        self.preset.setAccessibleName("Window preset")
        self.preset.setToolTip("Which values become black and white; presets are for CT")
        self.window_centre, self.window_width = QDoubleSpinBox(), QDoubleSpinBox()
        for box, tip in ((self.window_centre, "Middle of the window"), (self.window_width, "Width of the window")):
            box.setToolTip(tip)
            box.setAccessibleName(tip)
            box.valueChanged.connect(lambda *_: self._apply())
        window = QGroupBox("Window")
        inside = QVBoxLayout(window)
        inside.addLayout(row(self.preset, 1))
        inside.addLayout(row(QLabel("centre"), self.window_centre, QLabel("width"), self.window_width, 1))
        inside.addWidget(text("Drag with the right mouse button: up and down is the centre, left and right the width.",
                              small=True))  # fmt: skip
        self.views = QGroupBox("Direction")
        buttons = [
            button(name, f"Look along the patient: {name.lower()}", lambda n=name: self.look(n))
            for name in orientation.VIEWS
        ]
        self.linked: linked.LinkedViews | None = None
        self._dock: Any = None
        self.link = button(
            "Linked views", "Show the two other directions below, with a crosshair in all three", self.toggle_linked,
            key="Shift+X",
        )  # fmt: skip
        self.link.setCheckable(True)
        lines = QVBoxLayout(self.views)
        lines.addLayout(row(*buttons, 1))
        lines.addLayout(row(self.link, 1))
        lines.addWidget(
            text(
                "Linked: a click puts the crosshair there, Shift and drag moves it, H takes it to the mouse.",
                small=True,
            )
        )
        self.place = text(small=True)
        lines.addWidget(self.place)
        ruler = QGroupBox("Distance")
        lines = QVBoxLayout(ruler)
        self.distance = text("Click Measure, then two points in the picture.")
        lines.addLayout(row(button("Measure", "Draw a line; its length follows", self.measure, key="Shift+M"), 1))
        lines.addWidget(self.distance)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        for widget in (window, self.views, ruler):
            layout.addWidget(widget)
        layout.addStretch(1)
        self.preset.activated.connect(lambda *_: self.use(self.preset.currentText()))
        session.opened.connect(self._on_case)
        viewer = session.viewer
        viewer.mouse_drag_callbacks.append(self._drag)
        viewer.cursor.events.position.connect(self._where)
        self._on_case(None)

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what each key does."""
        return {"Shift-M": self.measure, "Shift-X": self.toggle_linked, "H": self.to_mouse}

    def toggle_linked(self) -> None:
        """Show the other two directions too, or no longer."""
        if self.linked is not None:
            self._close_linked()
        elif self.session.case is None or self.session.case.frame.geometry.ndim != 3:
            self.session.say("error", "Linked views are for volumes. Open a scan first.")
        else:
            viewer = self.session.viewer
            self.linked = linked.LinkedViews(self.session, self.panel_keys)
            self._dock = viewer.window.add_dock_widget(self.linked, name=linked.NAME, area="bottom")
            self._dock.visibilityChanged.connect(self._on_dock)
        self.link.setChecked(self.linked is not None)

    def to_mouse(self) -> None:
        """Put the crosshair where the mouse is."""
        if self.linked is not None:
            self.linked.to_mouse()

    def _on_dock(self, shown: bool) -> None:
        """Let go when the dock's own button closed it; a tab in front of it, or a minimised window, is no closing."""
        if not shown and self._dock is not None and self._dock.isHidden():
            self._close_linked()

    def _close_linked(self) -> None:
        view, dock, self.linked, self._dock = self.linked, self._dock, None, None
        if view is None:
            return
        dock.visibilityChanged.disconnect(self._on_dock)
        view.release()
        self.session.viewer.window.remove_dock_widget(dock)
        self.link.setChecked(False)

    def look(self, view: str) -> None:
        """Show the volume from another side."""
        orientation.look(self.session.viewer, view)

    def use(self, preset: str) -> None:
        """Set a window preset."""
        case = self.session.case
        if case is None:
            return
        if preset == OWN:
            found = layers.own_window(case)
        elif preset == FULL:
            found = layers.extremes(case.image.array)
        else:
            found = windows.limits(*windows.PRESETS[preset])
        if found is not None and found[1] > found[0]:
            self.set_window(*found)

    def set_window(self, low: float, high: float) -> None:
        """Show values from `low` to `high`."""
        for layer in self._images():
            low_end, high_end = layer.contrast_limits_range
            layer.contrast_limits_range = (min(low, low_end), max(high, high_end))
            layer.contrast_limits = (low, high)
        width = high - low
        decimals = int(np.clip(2 - np.floor(np.log10(width)), 1, MOST_DECIMALS))
        # The boxes are as wide as their largest value.
        largest = max(1e6 if decimals == 1 else 1e3, 10 * max(abs(low), abs(high)))
        for box, value in ((self.window_centre, (low + high) / 2), (self.window_width, width)):
            box.blockSignals(True)
            box.setDecimals(decimals)
            box.setRange(10.0**-decimals if box is self.window_width else -largest, largest)
            box.setSingleStep(max(width / 100, 10.0**-decimals))
            box.setValue(value)
            box.blockSignals(False)

    def measure(self) -> None:
        """Draw a line, and show its length."""
        viewer, case = self.session.viewer, self.session.current_case()
        if case is None:
            self.session.say("error", "Open something to measure in first.")
            return
        layer = next((ly for ly in viewer.layers if ly.name == RULER), None)
        if layer is None:
            layer = viewer.add_shapes(
                ndim=case.frame.geometry.ndim, name=RULER, edge_color="#f0e442", edge_width=1,
                metadata={layers.KEY: case}, **case.frame.kwargs(),
            )  # fmt: skip
            layer.events.data.connect(lambda *_: self._show_distance(layer))
            layer.events.set_data.connect(lambda *_: self._show_distance(layer))
        viewer.layers.selection.active = layer
        layer.mode = "add_line"

    def _show_distance(self, layer: Any) -> None:
        if not len(layer.data):
            self.distance.setText("Click Measure, then two points in the picture.")
            return
        line = np.asarray(layer.data[-1], dtype=float)
        steps = (line[-1] - line[0]) * np.asarray(layer.scale)
        unit = str(layer.units[0])
        unit = {"millimeter": "mm", "pixel": "px"}.get(unit, unit)
        self.distance.setText(f"{np.linalg.norm(steps):.4g} {unit}")

    def _images(self) -> list[Any]:
        """Return the image layers of the current case, without score maps and colour pictures."""
        case = self.session.case
        return [ly for ly in self.session.viewer.layers if case and cases.is_image(ly, case) and not ly.rgb]

    def _apply(self) -> None:
        self.set_window(*windows.limits(self.window_centre.value(), self.window_width.value()))

    def _on_case(self, case: Any) -> None:
        self.letters.show(case)
        self.preset.clear()
        ct = case is not None and case.opened.dicom is not None and case.opened.dicom.units == "HU"
        ct = ct or (case is not None and case.image.channels == ("CT",))
        own = [OWN] if case is not None and layers.own_window(case) is not None else []
        self.preset.addItems([*own, FULL, *(windows.PRESETS if ct else ())])
        self.views.setEnabled(case is not None and case.frame.geometry.ndim == 3)
        if self.linked is not None and case is not None:
            self.linked.follow()
        images = self._images() if case is not None else []
        if images:
            self.set_window(*(float(v) for v in images[0].contrast_limits))
        self._where()

    def release(self) -> None:
        """Let go of the viewer."""
        self._close_linked()
        viewer = self.session.viewer
        viewer.cursor.events.position.disconnect(self._where)
        if self._drag in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._drag)
        self.letters.release()

    def _where(self, event: Any = None) -> None:
        """Say where the mouse is: in the patient's coordinates, and which voxel."""
        case = self.session.case
        if case is None:
            self.place.setText("")
            return
        n = case.frame.geometry.ndim
        world = np.asarray(self.session.viewer.cursor.position, dtype=float)[-n:]
        if world.size < n:
            return
        here = ", ".join(f"{v:.1f}" for v in case.frame.patient(world))
        unit = case.frame.geometry.unit
        frame = "patient, L P S" if n == 3 and unit == "mm" else "image"
        self.place.setText(f"Mouse at {here} {unit} ({frame})")

    def _drag(self, viewer: Any, event: Any) -> Any:
        """Change the window with the right mouse button."""
        if event.button != 2 or not self._images():
            return
        layer = self._images()[0]
        low, high = (float(v) for v in layer.contrast_limits)
        start = np.array(event.pos, dtype=float)
        centre, width = (low + high) / 2, high - low
        speed = width / 200
        yield
        while event.type == "mouse_move":
            across, down = np.array(event.pos, dtype=float) - start
            self.set_window(*windows.limits(centre + down * speed, max(width + across * speed, width / 100)))
            event.handled = True
            yield
