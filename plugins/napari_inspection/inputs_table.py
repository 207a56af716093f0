"""What can be looked at, as rows of a table: its picture, its name, what was found in it, and what is odd about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt

from napari_inspection import files
from napari_inspection.thumbnails import Thumbnails

if TYPE_CHECKING:
    from inspection_core.inputs import Input, Listing
    from inspection_core.io.store import Row

SORT = int(Qt.ItemDataRole.UserRole)
SIDE = 48
"""Of a thumbnail, in pixels."""


class Inputs(QAbstractTableModel):
    """What was found, one row an input or a refusal."""

    COLUMNS = ("", "Name", "Verdict", "Score", "What it is")

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Input] = []
        self.refused: list[tuple[str, str]] = []
        self.results: dict[int, Row] = {}
        self.corrected: set[int] = set()
        self.trouble: dict[int, str] = {}
        """Why rows could not be opened when that was last tried."""
        self.wording: Mapping[str, str] = {}
        self.pictures = Thumbnails(SIDE)
        self.pictures.ready.connect(self._on_picture)

    def fill(self, listing: Listing) -> None:
        """Take a listing."""
        self.beginResetModel()
        self.items, self.refused = list(listing.inputs), list(listing.refused)
        self.results, self.corrected, self.trouble = {}, set(), {}
        self.pictures.clear()
        self.endResetModel()

    def put(self, at: int, result: Row) -> None:
        """Take the result of one input."""
        self.results[at] = result
        self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.COLUMNS) - 1))

    def show_results(self) -> None:
        """Show results that were put in several at once."""
        if self.items:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.items) - 1, len(self.COLUMNS) - 1))

    def mark_corrected(self, at: int) -> None:
        """Say that a person corrected the result of an input."""
        if at not in self.corrected:
            self.corrected.add(at)
            self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.COLUMNS) - 1))

    def put_trouble(self, at: int, line: str) -> None:
        """Say why an input could not be opened; an empty line where it could."""
        if line != self.trouble.get(at, ""):
            self.trouble.pop(at, None)
            if line:
                self.trouble[at] = line
            self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.COLUMNS) - 1))

    def state(self, at: int) -> set[str]:
        """Return the filters that a row passes."""
        if at >= len(self.items):
            return {"all", "failed"}
        result = self.results.get(at)
        states = {"all"} | ({"corrected"} if at in self.corrected else set())
        if at in self.trouble:
            return states | {"failed"}
        if result is None:
            return states | {"not run yet"}
        return states | {result.verdict or "failed"}

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Return how many rows there are."""
        return 0 if parent.isValid() else len(self.items) + len(self.refused)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's name and default
        """Return how many columns there are."""
        return 0 if parent.isValid() else len(self.COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's title."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return self.COLUMNS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell shows."""
        at, column = index.row(), index.column()
        if role == Qt.ItemDataRole.DecorationRole and column == 0 and at < len(self.items):
            return self.pictures.icon(at, self.items[at])
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return self._words(at, column)
        if role == SORT:
            result = self.results.get(at)
            if column == 3:
                return -1e300 if result is None or result.score is None else float(result.score)
            return at if column == 0 else self._words(at, column)
        return None

    def _words(self, at: int, column: int) -> str:
        if at >= len(self.items):
            label, reason = self.refused[at - len(self.items)]
            return ("", Path(label).name, "refused", "", reason)[column]
        item, result = self.items[at], self.results.get(at)
        if column == 1:
            place = files.where(item)
            return f"{files.title(item)}\n{place}" if place else files.title(item)
        if column == 2 and at in self.trouble:
            return "failed"
        if column == 2 and result is not None:
            word = self.wording.get(result.verdict or "", result.verdict or "failed")
            return f"{word}, corrected" if at in self.corrected else word
        if column == 3 and result is not None and result.score is not None:
            return f"{result.score:.3g}"
        if column == 4:
            error = self.trouble.get(at) or (result.error if result is not None else "")
            return _without_path(error, item) if error else files.verdict(item)
        return ""

    def _on_picture(self, at: int) -> None:
        self.dataChanged.emit(self.index(at, 0), self.index(at, 0), [Qt.ItemDataRole.DecorationRole])


def _without_path(line: str, item: Input) -> str:
    """Return why an input cannot be read, without its path in front: the row has its name, and little room."""
    return line.removeprefix(str(item.files[0])).strip()


class Filtered(QSortFilterProxyModel):
    """The rows that pass the filter."""

    wanted = "all"

    def filterAcceptsRow(self, row: int, parent: QModelIndex) -> bool:  # noqa: N802 - Qt's name
        """Say whether a row is shown."""
        return self.wanted in self.sourceModel().state(row)

    def want(self, name: str) -> None:
        """Show only rows of one state."""
        self.wanted = name
        self.invalidate()
