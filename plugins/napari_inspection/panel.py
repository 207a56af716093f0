"""The panel beside the picture: open, run, review, correct, each a tab; messages and progress above and below."""

from __future__ import annotations

import sys
from typing import Any

import napari
import qtpy
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QKeySequence, QShortcut
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_inspection import canvas, docking, engines, layers
from napari_inspection.edit_panel import EditPanel
from napari_inspection.open_panel import OpenPanel
from napari_inspection.review_panel import ReviewPanel
from napari_inspection.run_panel import RunPanel
from napari_inspection.session import Session
from napari_inspection.view_panel import ViewPanel
from napari_inspection.widgets import MessageBar, button, order_tabs, qt_trouble, row, text

MOVING = ("PageDown", "PageUp", "Shift-Up", "Shift-Down")
"""Keys that a table or a list needs for itself where it has the focus; in the picture they are the panel's."""
IDLE = "Research use only, not for diagnosis."


class InspectionPanel(QWidget):
    """Everything that the suite does in a viewer.

    Parameters
    ----------
    viewer
        The viewer that it is docked in; napari passes it.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._docked = self.released = False
        super().__init__()
        viewer = docking.real(viewer)
        self.viewer = viewer
        self.session = Session(viewer)
        docking.register(viewer, self)
        canvas.tidy_in_own_context(viewer.layers, viewer.window._qt_viewer.canvas)
        # A window that is closed takes its docks away without a word to them.
        self.destroyed.connect(self.session.abandon)
        QApplication.instance().aboutToQuit.connect(self.session.abandon)
        self.setObjectName("inspection-panel")
        self.setMinimumWidth(340)
        self.setAcceptDrops(True)

        self.banner = text(IDLE)
        self.banner.setStyleSheet("font-weight: bold;")
        self.messages = MessageBar()
        self.tabs = QTabWidget()
        self.opening = OpenPanel(self.session)
        self.running = RunPanel(self.session)
        self.review = ReviewPanel(self.session)
        self.edit = EditPanel(self.session)
        self.view = ViewPanel(self.session)
        for name, tip, widget in (
            ("Open", "Choose what to look at", self.opening),
            ("Run", "Choose a model and run it", self.running),
            ("Review", "Go through the findings", self.review),
            ("Correct", "Change outlines", self.edit),
            ("View", "Windows, directions, distances", self.view),
        ):
            order_tabs(widget)
            index = self.tabs.addTab(_scrolling(widget), name)
            self.tabs.setTabToolTip(index, tip)
        self.what = QLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setMaximumHeight(10)
        self.stop = button("Cancel", "Stop what is running", self.session.cancel, key="Shift+Escape")
        self.progress = QWidget()
        lines = QVBoxLayout(self.progress)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.addLayout(row(self.what, 1, self.stop))
        lines.addWidget(self.bar)
        self.progress.hide()

        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)
        for widget in (self.banner, self.messages):
            layout.addWidget(widget)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.progress)

        self.session.said.connect(self.messages.say)
        self.session.offered.connect(self.messages.offer)
        self.session.working.connect(self._show_progress)
        self.session.reviewing.connect(self._on_result)
        self.session.opened.connect(self._on_case)
        self.shortcuts: dict[str, QShortcut] = {}
        """The same keys where the focus is in the panel: its table would take letters for a search."""
        self._bind_keys()
        viewer.layers.events.inserted.connect(self._on_layers)
        if trouble := qt_trouble(qtpy.API_NAME, qtpy.PYSIDE_VERSION, sys.version_info[:2]):
            self.messages.say("error", trouble)
        there = [layer.metadata[layers.KEY] for layer in viewer.layers if layers.KEY in layer.metadata]
        if there:  # opened before the panel was
            self.session.take(there[-1])

    def show_tab(self, name: str) -> None:
        """Bring a tab to the front."""
        for index in range(self.tabs.count()):
            if self.tabs.tabText(index) == name:
                self.tabs.setCurrentIndex(index)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802 - Qt's name
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Look at what was dropped."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if paths:
            self.session.list(paths)

    def event(self, event: QEvent) -> bool:
        """Notice when the dock is taken away: then nothing here may listen to the viewer any more."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parentWidget() is None and self._docked:
                self.release()
            self._docked = self.parentWidget() is not None
        return super().event(event)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Write what is left, and stop what runs."""
        self.release()
        super().closeEvent(event)

    def release(self) -> None:
        """Stop what runs, write what is left, and let go of the viewer."""
        if self.released:
            return
        self.released = True
        self.session.close()
        self.view.release()
        self.viewer.layers.events.inserted.disconnect(self._on_layers)
        for key in self._keys:
            self.viewer.bind_key(key, None, overwrite=True)

    def _on_layers(self, event: Any = None) -> None:
        """Take what was opened past the panel, by drag and drop or from a script, as the current case."""
        if self.session.case is None and event is not None:
            case = event.value.metadata.get(layers.KEY)
            if case is not None:
                self.session.take(case)

    def _on_case(self, _: Any) -> None:
        """Go on to Run, unless there is a list to choose from."""
        listing = self.session.listing
        if self.tabs.currentIndex() == 0 and (listing is None or len(listing.inputs) <= 1):
            self.show_tab("Run")

    def _on_result(self, desk: Any) -> None:
        if desk is None:
            self.banner.setText(IDLE)
            return
        self.banner.setText(layers.describe(desk.review.prediction))
        if desk.opened.screened is None or self.tabs.currentIndex() != 0:  # else the user goes through the list
            self.show_tab("Review")

    def _show_progress(self, name: str, done: int, total: int, left: float | None) -> None:
        self.progress.setVisible(bool(name))
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        rest = f", about {engines.duration(left)} left" if left is not None else ""
        self.what.setText(f"{name} …{rest}" if name else "")

    def _bind_keys(self) -> None:
        keys = {
            **self.review.keys(),
            **self.edit.keys(),
            **self.view.keys(),
            "Control-Enter": self.running.start,
            "Control-Z": self.review.undo,
            "Control-Shift-Z": self.review.redo,
            "Shift-Escape": self.session.cancel,
            "PageDown": lambda: self.opening.step(1),
            "PageUp": lambda: self.opening.step(-1),
        }
        for key, function in keys.items():
            self.viewer.bind_key(key, lambda _, f=function: f(), overwrite=True)
            if key in MOVING:
                continue
            named = key.replace("Control", "Ctrl").replace("Enter", "Return").replace("-", "+")
            short = QShortcut(QKeySequence(named), self)
            short.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            short.activated.connect(function)
            self.shortcuts[key] = short
        self._keys = tuple(keys)
        self.view.panel_keys = keys


def _scrolling(widget: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(widget)
    return area
