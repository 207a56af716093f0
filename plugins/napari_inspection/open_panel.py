"""Choosing what to look at: the series of a study with what is odd about each, or the parts of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHeaderView,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_inspection import engines, files
from napari_inspection.inputs_table import SIDE, SORT, Filtered, Inputs
from napari_inspection.session import Session
from napari_inspection.widgets import ARROW_ABOVE, button, row, text

if TYPE_CHECKING:
    from inspection_core.inputs import Input, Listing
    from inspection_core.io.store import Row
    from napari_inspection.keep import Predicted

EMPTY = (
    "Drop a scan, a DICOM folder, a zip, an image or a folder of images here, or choose one. "
    "File > Open Sample > Inspection Suite has something to try."
)
FILTERS = ("all", "not run yet", "OK", "REVIEW", "NG", "failed", "corrected")
NAME_WIDTH = 110


class OpenPanel(QWidget):
    """The list of what can be looked at."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.model = Inputs()
        self.rows = Filtered()
        self.rows.setSourceModel(self.model)
        self.rows.setSortRole(SORT)
        self.table = QTableView()
        self.table.setModel(self.rows)
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setIconSize(QSize(SIDE, SIDE))
        self.table.setWordWrap(True)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(SIDE + 6)
        header = self.table.horizontalHeader()
        for column, width in enumerate((SIDE + 8, NAME_WIDTH, 64, 52)):
            header.resizeSection(column, width)
        header.setSectionResizeMode(4, QHeaderView.ResizeMode.Stretch)
        header.setStyleSheet(ARROW_ABOVE)
        header.setMinimumHeight(30)
        self.table.setAccessibleName("What was found")
        self.table.setToolTip("Double click or Enter shows a row; a click on a title sorts")
        self.table.doubleClicked.connect(lambda index: self.open_row(index.row()))
        self.table.activated.connect(lambda index: self.open_row(index.row()))

        self.hint = text(EMPTY)
        self.hint.setObjectName("drop-here")
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setMinimumHeight(140)
        self.hint.setStyleSheet("#drop-here { border: 1px dashed gray; border-radius: 6px; padding: 12px; }")
        self.filter = QComboBox()
        for name in FILTERS:
            self.filter.addItem(name, name)
        self.filter.setToolTip("Show only some of the list")
        self.filter.setAccessibleName("Filter of the list")
        self.filter.currentIndexChanged.connect(lambda *_: self._filter())
        self.keep = QCheckBox("Keep open layers")
        self.keep.setToolTip("Leave the case before in the layer list when another one is opened")
        self.keep.toggled.connect(lambda on: setattr(session, "keep_layers", on))
        self.open = button("Show", "Show the selected row; so does a double click", self.open_selected, key="Enter")
        self.default = button(
            "Open scans here by default", "Let napari open DICOM, NIfTI, zips and folders with this plugin",
            self._claim,
        )  # fmt: skip
        self.count = text(small=True)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addLayout(
            row(
                button("Open file …", "Choose a scan, a zip or an image", self.ask_file),
                button("Open folder …", "Choose a study, or a folder of images", self.ask_folder),
                1,
            )
        )
        layout.addWidget(self.hint)
        layout.addWidget(self.table, 100)  # nearly all of the height, where it is shown
        self.going = QWidget()
        steps = row(
            self.open,
            button("Previous", "Show the row above", lambda: self.step(-1), key="Page Up"),
            button("Next", "Show the row below", lambda: self.step(1), key="Page Down"),
            1,
            self.filter,
        )
        self.going.setLayout(steps)
        layout.addWidget(self.going)
        layout.addWidget(self.count)
        layout.addStretch(1)
        layout.addLayout(row(self.keep, 1, self.default))
        session.listed.connect(self._on_listing)
        session.ran.connect(self._on_result)
        session.screened.connect(self._on_screened)
        session.changed.connect(self._on_change)
        session.reviewing.connect(self._on_desk)
        session.unreadable.connect(self._on_trouble)
        session.opened.connect(self._on_case)
        self._show_counts()

    def ask_file(self) -> None:
        """Let the user choose a file."""
        name, _ = QFileDialog.getOpenFileName(self, "Open a scan or an image")
        if name:
            self.session.list([Path(name)])

    def ask_folder(self) -> None:
        """Let the user choose a folder."""
        name = QFileDialog.getExistingDirectory(self, "Open a study or a folder of images")
        if name:
            self.session.list([Path(name)])

    def open_selected(self) -> None:
        """Show the selected row, or the first."""
        index = self.table.currentIndex()
        self.open_row(index.row() if index.isValid() else 0)

    def open_row(self, at: int) -> None:
        """Show a row of the table as it is sorted and filtered now."""
        if not 0 <= at < self.rows.rowCount():
            return
        self.table.selectRow(at)
        source = self.rows.mapToSource(self.rows.index(at, 0)).row()
        if source >= len(self.model.items):
            self.session.say("error", self.model.refused[source - len(self.model.items)][1])
            return
        self.session.open(self.model.items[source])

    def step(self, by: int) -> None:
        """Show the next row, or the one before."""
        index = self.table.currentIndex()
        self.open_row(index.row() + by if index.isValid() else 0)

    def place_of_case(self) -> int | None:
        """Return which input is the current case."""
        case = self.session.case
        if case is None or case.item is None:
            return None
        return next((k for k, item in enumerate(self.model.items) if item is case.item), None)

    def put_result(self, at: int, result: Row, wording: Mapping[str, str]) -> None:
        """Show the result of an input in the list."""
        self._speak(wording)
        self.model.put(at, result)
        self._show_counts()

    def _on_listing(self, listing: Listing) -> None:
        self.model.fill(listing)
        self.table.setColumnHidden(0, not listing.inputs)
        plain = all(item.kind == "picture" for item in listing.inputs) and not listing.refused
        self._show_kinds(not plain)
        several = len(listing.inputs) > 1
        self.table.setColumnHidden(2, not several and not self.model.refused)
        self.table.setColumnHidden(3, not several)
        self._show_counts()

    def _show_kinds(self, on: bool) -> None:
        """Show what each row is, or, where all are pictures, give the room to their names."""
        self.table.setColumnHidden(4, not on)
        header, modes = self.table.horizontalHeader(), QHeaderView.ResizeMode
        stretched = header.sectionResizeMode(1) == modes.Stretch
        header.setSectionResizeMode(1, modes.Interactive if on else modes.Stretch)
        if on and stretched:  # it would keep all of the room
            header.resizeSection(1, NAME_WIDTH)

    def _on_result(self, ran: Predicted) -> None:
        case, prediction = ran.case, ran.prediction
        at = next((k for k, item in enumerate(self.model.items) if item is case.item), None)
        if at is None:
            return
        from inspection_core.io.store import Row

        self.table.setColumnHidden(2, False)
        self.table.setColumnHidden(3, False)
        result = Row(
            files.title(case.item), "", "done", prediction.image_score, prediction.p_value, prediction.verdict,
            len(prediction.findings),
        )  # fmt: skip
        self.put_result(at, result, engines.wording(ran.task))

    def _on_screened(self, rows: dict[str, Row], wording: Mapping[str, str]) -> None:
        """Show the results of a screening."""
        self.table.setColumnHidden(2, False)
        self.table.setColumnHidden(3, False)
        self._speak(wording)
        places = {files.label_of(item.label): at for at, item in enumerate(self.model.items)}
        for label, result in rows.items():
            if label in places:
                self.model.results[places[label]] = result
                kept = self.session.results.get(label)
                if kept is not None and kept.corrected:
                    self.model.corrected.add(places[label])
        if any(result.error for result in rows.values()):
            self._show_kinds(True)
        self.model.show_results()
        self._show_counts()

    def _on_change(self, _: Any) -> None:
        at = self.place_of_case()
        if at is not None:
            self.model.mark_corrected(at)
            self._show_counts()

    def _on_desk(self, desk: Any) -> None:
        if desk is not None and desk.review.log:
            self._on_change(desk)

    def _on_trouble(self, item: Input, line: str) -> None:
        """Let the row say why it could not be opened."""
        at = next((k for k, one in enumerate(self.model.items) if one is item), None)
        if at is not None:
            self.table.setColumnHidden(2, False)
            self._show_kinds(True)
            self.model.put_trouble(at, line)
            self._show_counts()

    def _on_case(self, _: Any) -> None:
        at = self.place_of_case()
        if at is not None:
            self.model.put_trouble(at, "")

    def _speak(self, wording: Mapping[str, str]) -> None:
        """Call verdicts what the trade calls them, in the list and in the filter."""
        self.model.wording = wording
        for at, name in enumerate(FILTERS):
            self.filter.setItemText(at, wording.get(name, name))

    def _filter(self) -> None:
        self.rows.want(self.filter.currentData())
        self._show_counts()

    def _claim(self) -> None:
        files.open_by_default()
        self.session.say("info", "Scans, zips and folders now open here. Preferences > Plugins can change it back.")

    def _show_counts(self) -> None:
        items = self.model.items
        self.hint.setVisible(not items and not self.model.refused)
        self.table.setVisible(bool(items or self.model.refused))
        self.going.setVisible(bool(items or self.model.refused))
        words = f"{self.rows.rowCount()} of {self.model.rowCount()} shown" if items else ""
        done = [r.verdict for r in self.model.results.values()]
        if done:
            names = {v: self.model.wording.get(v, v) for v in ("OK", "REVIEW", "NG")}
            words += ": " + ", ".join(f"{done.count(v)} {name}" for v, name in names.items())
        self.count.setText(words)
