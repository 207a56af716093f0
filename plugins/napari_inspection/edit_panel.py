"""Correcting outlines: napari's brush, eraser, polygon and fill, and the smart tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QComboBox, QGridLayout, QGroupBox, QLabel, QSlider, QVBoxLayout, QWidget

from inspection_core.errors import InspectionError
from napari_inspection import tools
from napari_inspection.desk import Desk
from napari_inspection.findings_table import size
from napari_inspection.session import Session
from napari_inspection.widgets import Undoing, button, row, text

EMPTY = "Run a model first; then its findings can be changed here, and new ones painted."


class EditPanel(Undoing, QWidget):
    """The tools, on the finding that is selected."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.what = text(EMPTY)
        self._level: tools.Level | None = None

        paint = QGroupBox("By hand")
        grid = QGridLayout(paint)
        hand = (
            ("Brush", "Paint the selected finding", "paint", "2"),
            ("Eraser", "Take voxels away", "erase", "1"),
            ("Polygon", "Draw around a region; a right click or Enter ends it", "polygon", "3"),
            ("Fill", "Fill a connected region with one click", "fill", "4"),
            ("Move view", "Pan and zoom", "pan_zoom", "6"),
        )
        self.hand = {mode: button(name, tip, lambda m=mode: self.mode(m), key=key) for name, tip, mode, key in hand}
        for k, made in enumerate(self.hand.values()):
            grid.addWidget(made, k // 3, k % 3)
        self.new = button("New finding", "Paint a finding of its own", self.new_finding, key="Shift+N")
        grid.addWidget(self.new, 1, 2)

        self.smart = QGroupBox("Smart tools, on the selected finding")
        grid = QGridLayout(self.smart)
        entries: tuple[tuple[str, str, Callable[[Desk, int], None], str], ...] = (
            ("Grow", "Take in the highest scores around, a quarter of its size", tools.grow, "Shift+Up"),
            ("Shrink", "Take the lowest scores off its rim", tools.shrink, "Shift+Down"),
            ("Smooth", "Even its outline", tools.smooth, "Shift+S"),
            ("Fill holes", "Fill its holes, slice by slice too", tools.holes, "Shift+H"),
            ("Drop islands", "Keep its largest part only", tools.islands, "Shift+I"),
            ("Interpolate", "Fill the slices between those that you painted", tools.interpolate, "Shift+B"),
            ("Split", "Cut it at its waist, or into its parts", tools.split, "Shift+T"),
            ("Delete", "Take all of it away", tools.delete, "Shift+Delete"),
        )
        self.tools: dict[str, Any] = {}
        self._keys: dict[str, Callable[[], object]] = {}
        for k, (name, tip, tool, key) in enumerate(entries):
            made = button(name, tip, lambda t=tool: self.use(t), key=key)
            self.tools[name] = made
            grid.addWidget(made, k // 3, k % 3)
            self._keys[key.replace("+", "-")] = lambda t=tool: self.use(t)
        self.method = QComboBox()
        self.method.addItems(["geodesic", "random walker"])
        self.method.setAccessibleName("How seeds grow")
        self.method.setToolTip("Geodesic is quick; a random walker is smoother in noisy pictures")
        grow = button(
            "Grow from seeds", "Let what you painted grow to what looks like it",
            lambda: self.use(self._seeds), key="Shift+G",
        )  # fmt: skip
        self._keys |= {"Shift-N": self.new_finding, "Shift-G": lambda: self.use(self._seeds)}
        self.tools["Grow from seeds"] = grow
        grid.addWidget(grow, 3, 0, 1, 2)
        grid.addWidget(self.method, 3, 2)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, tools.Level.STEPS)
        self.slider.setToolTip("Score above which voxels belong to the selected finding")
        self.slider.setAccessibleName("Threshold of the finding")
        self.slider.sliderPressed.connect(self._begin_level)
        self.slider.valueChanged.connect(self._on_level)
        self.slider.sliderReleased.connect(self._end_level)
        self.level = QLabel("–")
        self.level.setMinimumWidth(60)
        grid.addWidget(QLabel("Threshold"), 4, 0)
        grid.addWidget(self.slider, 4, 1)
        grid.addWidget(self.level, 4, 2)

        self.measures = text()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addWidget(self.what)
        layout.addWidget(paint)
        layout.addWidget(self.smart)
        layout.addLayout(
            row(
                *self.undo_buttons(),
                1,
            )
        )
        layout.addWidget(self.measures)
        layout.addStretch(1)
        session.reviewing.connect(lambda *_: self._show())
        session.selected.connect(lambda *_: self._show())
        session.changed.connect(lambda touched: self._show() if touched else None)
        self._show()

    @property
    def number(self) -> int:
        """The finding that the tools change: the selected one, or the one that the brush paints."""
        desk = self.session.desk
        if desk is None:
            return 0
        painted = int(desk.labels.selected_label) if desk.labels is not None else 0
        return desk.selection or (painted if painted in desk.findings else 0)

    def mode(self, name: str) -> None:
        """Choose what the mouse does."""
        desk = self.session.desk
        if desk is None or desk.labels is None:
            self.session.say("error", EMPTY)
            return
        self.session.viewer.layers.selection.active = desk.labels
        if name in ("paint", "polygon", "fill") and int(desk.labels.selected_label) == 0:
            desk.labels.selected_label = desk.selection or desk.review.next_number
        desk.labels.mode = name

    def new_finding(self) -> None:
        """Paint with a number that no finding has."""
        desk = self.session.desk
        if desk is None or desk.labels is None:
            self.session.say("error", EMPTY)
            return
        desk.select(0)
        desk.labels.selected_label = desk.review.next_number
        self.mode("paint")
        self._show()

    def use(self, tool: Callable[[Desk, int], None]) -> None:
        """Use a smart tool on the selected finding."""
        desk = self.session.desk
        if desk is None:
            self.session.say("error", EMPTY)
            return
        self.session.say("info", "")
        QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
        try:
            tool(desk, self.number)
        except InspectionError as error:
            self.session.say("error", str(error))
        finally:
            QApplication.restoreOverrideCursor()

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what each key does."""
        return self._keys

    def _seeds(self, desk: Desk, number: int) -> None:
        tools.seeds(desk, number, self.method.currentText())

    def _begin_level(self) -> None:
        desk = self.session.desk
        self._level = None
        if desk is not None and self.number:
            self._level = tools.Level(desk, self.number)

    def _on_level(self, position: int) -> None:
        if self._level is not None:
            self._level.preview(position)
            self.level.setText(f"{self._level.score(position):.3g}")

    def _end_level(self) -> None:
        if self._level is not None:
            level, self._level = self._level, None
            level.commit(self.slider.value())

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Be up to date: what the slider needs is not worked out while nobody sees it."""
        super().showEvent(event)
        self._show()

    def _show(self) -> None:
        desk, number = self.session.desk, self.number
        self.setEnabled(desk is not None)
        self.smart.setEnabled(bool(number))
        if desk is None:
            self.what.setText(EMPTY)
            self.measures.setText("")
            return
        if not number:
            self.what.setText("Select a finding in the table or click New finding, then paint.")
            self.measures.setText("")
            return
        finding = desk.findings[number]
        self.what.setText(f"Finding {number}, {desk.review.mark(number).label}")
        unit = desk.case.image.geometry.unit
        self.measures.setText(
            f"Size {size(finding.size, finding.size_unit)}, long axis {finding.long_axis:.3g} {unit}, "
            f"short axis {finding.short_axis:.3g} {unit}"
        )
        if self._level is None and not self.slider.isSliderDown() and self.isVisible():
            level = tools.Level(desk, number)
            self.slider.blockSignals(True)
            self.slider.setValue(level.position)
            self.slider.blockSignals(False)
            self.level.setText(f"{level.score(level.position):.3g}")
