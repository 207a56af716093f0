"""The findings as a table: sorted by doubt, filtered, fast with a thousand of them."""

from __future__ import annotations

from functools import cache
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_inspection.desk import Desk
from napari_inspection.looks import COLOURS
from napari_inspection.widgets import ARROW_ABOVE

SORT = int(Qt.ItemDataRole.UserRole)
FILTERS = ("all", "to do", "accepted", "rejected", "changed")
STATUS = {"open": "to do", "accepted": "accepted", "rejected": "rejected"}
DIGITS = 3


class Findings(QAbstractTableModel):
    """The findings of a desk, one a row."""

    COLUMNS = ("No.", "Class", "Status", "Doubt", "Size", "Long", "Short")
    TIPS = (
        "Number of the finding, as in the picture; * where it was changed by hand",
        "Class of the finding",
        "What was said about it",
        "1 minus the model's confidence; the most doubtful are worth the first look",
        "Volume or area",
        "Longest diameter in a slice",
        "Largest extent at right angles to it",
    )

    def __init__(self) -> None:
        super().__init__()
        self.desk: Desk | None = None
        self.numbers: list[int] = []
        self._row: dict[int, int] = {}

    def fill(self, desk: Desk | None) -> None:
        """Take the findings of a desk."""
        self.beginResetModel()
        self.desk = desk
        self._read()
        self.endResetModel()

    def update(self, touched: tuple[int, ...]) -> bool:
        """Show what changed; say whether rows came or went, which drops the selection."""
        if self.desk is None:
            return False
        if list(self.desk.marks) != self.numbers:
            self.beginResetModel()
            self._read()
            self.endResetModel()
            return True
        for number in touched:
            at = self._row.get(number)
            if at is not None:
                self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.COLUMNS) - 1))
        return False

    def row_of(self, number: int) -> int | None:
        """Return the row of a finding."""
        return self._row.get(number)

    def states(self, at: int) -> set[str]:
        """Return the filters that a row passes."""
        if self.desk is None:
            return set()
        mark = self.desk.review.mark(self.numbers[at])
        return {"all", STATUS[mark.status]} | ({"changed"} if mark.edited else set())

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Return how many rows there are."""
        return 0 if parent.isValid() else len(self.numbers)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Return how many columns there are."""
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's title, or what it means."""
        if orientation == Qt.Orientation.Horizontal:
            if role == Qt.ItemDataRole.DisplayRole:
                unit = f"\n{self.desk.case.image.geometry.unit}" if self.desk is not None and section > 4 else ""
                return self.COLUMNS[section] + unit
            if role == Qt.ItemDataRole.ToolTipRole:
                return self.TIPS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell shows, or sorts by."""
        desk = self.desk
        if desk is None:
            return None
        number, column = self.numbers[index.row()], index.column()
        mark = desk.review.mark(number)
        if role == Qt.ItemDataRole.DisplayRole:
            return self._words(desk, number, column)
        if role == SORT:
            return self._value(desk, number, column)
        if role == Qt.ItemDataRole.DecorationRole and column == 2 and mark.status != "rejected":
            return _swatch(COLOURS[mark.status])  # coloured words cannot be read in a light theme
        if role == Qt.ItemDataRole.ToolTipRole:
            return self.tip(desk, number)
        if role == Qt.ItemDataRole.TextAlignmentRole and column not in (1, 2):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    @staticmethod
    def tip(desk: Desk, number: int) -> str:
        """Return all that is known of a finding, as one text."""
        finding, mark = desk.findings[number], desk.review.mark(number)
        where = ", ".join(f"{v:.1f}" for v in finding.centroid_world)
        lines = [
            f"Finding {number}, {mark.label}, {STATUS[mark.status]}{', changed by a person' if mark.edited else ''}",
            f"middle at {where} {desk.case.image.geometry.unit}",
        ]
        origin = desk.origin.get(number)
        if origin is not None:
            kind = "calibrated" if origin.calibrated else "not calibrated"
            lines.append(f"the model's confidence {origin.confidence:.3f}, {kind}")
            if origin.p_value is not None:
                lines.append(f"p-value {origin.p_value:.3g}")
        return "\n".join(lines)

    def _words(self, desk: Desk, number: int, column: int) -> str:
        finding, mark = desk.findings[number], desk.review.mark(number)
        if column == 0:
            return f"{number}*" if mark.edited else str(number)
        if column == 1:
            return mark.label
        if column == 2:
            return STATUS[mark.status]
        if column == 3:
            return f"{desk.doubt(number):.2f}" if number in desk.origin else "drawn"
        if column == 4:
            return size(finding.size, finding.size_unit)
        return f"{finding.long_axis if column == 5 else finding.short_axis:.{DIGITS}g}"

    def _value(self, desk: Desk, number: int, column: int) -> Any:
        finding, mark = desk.findings[number], desk.review.mark(number)
        return (
            number, mark.label, mark.status, desk.doubt(number), finding.size, finding.long_axis, finding.short_axis
        )[column]  # fmt: skip

    def _read(self) -> None:
        self.numbers = list(self.desk.marks) if self.desk is not None else []
        self._row = {n: k for k, n in enumerate(self.numbers)}


@cache
def _swatch(colour: str) -> QPixmap:
    """Return a small square of a colour."""
    made = QPixmap(8, 8)
    made.fill(QColor(colour))
    return made


class Filtered(QSortFilterProxyModel):
    """The findings that pass the filter."""

    wanted, label = "all", ""

    def filterAcceptsRow(self, row: int, parent: QModelIndex) -> bool:  # noqa: N802 - Qt's name
        """Say whether a row is shown."""
        model = self.sourceModel()
        if self.wanted not in model.states(row):
            return False
        return not self.label or model.desk.review.mark(model.numbers[row]).label == self.label

    def want(self, name: str, label: str = "") -> None:
        """Show only findings of one state, and of one class if given."""
        self.wanted, self.label = name, label
        self.invalidate()


class FindingsTable(QTableView):
    """The table with its model; its rows are finding numbers to everyone else."""

    def __init__(self) -> None:
        super().__init__()
        self.findings = Findings()
        self.rows = Filtered()
        self.rows.setSourceModel(self.findings)
        self.rows.setSortRole(SORT)
        self.setModel(self.rows)
        self.setSortingEnabled(True)
        self.sortByColumn(3, Qt.SortOrder.DescendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setAccessibleName("Findings")
        self.setToolTip("The most doubtful first; click to look at one, select several with Ctrl")
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(24)
        for column, width in enumerate((30, 52, 80, 48, 62, 40, 40)):
            self.horizontalHeader().resizeSection(column, width)
        self.horizontalHeader().setStyleSheet(ARROW_ABOVE)
        self.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)

    def selected(self) -> list[int]:
        """Return the numbers of the selected findings, as they are sorted."""
        rows = sorted({index.row() for index in self.selectionModel().selectedRows()})
        return [self.number(row) for row in rows]

    def number(self, row: int) -> int:
        """Return the finding in a row as shown."""
        return self.findings.numbers[self.rows.mapToSource(self.rows.index(row, 0)).row()]

    def shown(self) -> list[int]:
        """Return all findings shown, in order."""
        return [self.number(row) for row in range(self.rows.rowCount())]

    def pick(self, numbers: list[int]) -> None:
        """Select findings."""
        from qtpy.QtCore import QItemSelection, QItemSelectionModel

        wanted = QItemSelection()
        first = None
        for number in numbers:
            source = self.findings.row_of(number)
            index = self.rows.mapFromSource(self.findings.index(source, 0)) if source is not None else QModelIndex()
            if index.isValid():
                first = first or index
                wanted.select(index, index)
        flags = QItemSelectionModel.SelectionFlag
        if first is not None:
            self.selectionModel().setCurrentIndex(first, flags.NoUpdate)
            self.scrollTo(first)
        self.selectionModel().select(wanted, flags.ClearAndSelect | flags.Rows)


def size(value: float, unit: str) -> str:
    """Return a size for people: millilitres for what is large."""
    if unit == "mm3" and value >= 1000:
        return f"{value / 1000:.{DIGITS}g} ml"
    if unit in ("px", "vox") and value >= 10_000:
        return f"{value / 1000:.0f}k {unit}"
    words = {"mm3": "mm³", "mm2": "mm²", "px": "px", "vox": "vox"}
    return f"{value:.{DIGITS}g} {words.get(unit, unit)}" if value < 1000 else f"{value:.0f} {words.get(unit, unit)}"
