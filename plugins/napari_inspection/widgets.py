"""Small pieces that the panels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from napari_inspection.session import Session

KINDS = {"info": "#56b4e9", "error": "#e69f00"}
"""Colour of the bar beside a message; the words say it too."""


ARROW_ABOVE = (
    "QHeaderView::up-arrow, QHeaderView::down-arrow { subcontrol-position: top center; width: 8px; height: 6px; }"
)
"""Where a table's sort arrow stands: beside its title it would cover the last letters."""


def qt_trouble(binding: str, version: str | None, python: tuple[int, int]) -> str:
    """Return what is wrong with this Qt, or an empty line.

    PySide6 6.12.0 gives back one reference to None, True or False too many with each call. Before Python 3.12, where
    these cannot die, the process ends after some thousands of calls ("deallocating None").
    """
    if binding != "PySide6" or not (version or "").startswith("6.12.") or python >= (3, 12):
        return ""
    return (
        f"PySide6 {version} ends a Python {python[0]}.{python[1]} process after a while. "
        'Save your work, and install another: pip install "PySide6-Essentials<6.12"'
    )


def button(text: str, tip: str, clicked: Callable[[], object], *, key: str = "") -> QPushButton:
    """Return a push button whose tooltip names its key."""
    made = QPushButton(text)
    made.setToolTip(f"{tip} ({key})" if key else tip)
    made.setAccessibleName(text)
    made.clicked.connect(lambda *_: clicked())
    return made


CONTROLS = (QAbstractButton, QAbstractItemView, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit, QTextBrowser)
"""What can be reached with Tab."""


def controls(layout: QLayout) -> Iterator[QWidget]:
    """Yield the controls of a layout in the order in which they are laid out."""
    for at in range(layout.count()):
        item = layout.itemAt(at)
        inner, widget = item.layout(), item.widget()
        if inner is not None:
            yield from controls(inner)
        elif isinstance(widget, CONTROLS):
            yield widget
        elif widget is not None and widget.layout() is not None:
            yield from controls(widget.layout())


def order_tabs(page: QWidget) -> None:
    """Let Tab go through a page as it is read; by itself Qt goes in the order in which controls were made."""
    found = list(controls(page.layout()))
    for before, after in pairwise(found):
        QWidget.setTabOrder(before, after)


def row(*widgets: QWidget | int) -> QHBoxLayout:
    """Return widgets side by side; a number is a stretch."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for widget in widgets:
        layout.addStretch(widget) if isinstance(widget, int) else layout.addWidget(widget)
    return layout


def text(words: str = "", *, small: bool = False) -> QLabel:
    """Return a label that wraps, and that can be selected and copied."""
    label = QLabel(words)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    if small:
        label.setStyleSheet("font-size: 11px;")
    return label


class Undoing:
    """What panels share that take changes back: those of the session, whatever made them."""

    session: Session

    def undo(self) -> None:
        """Take the last change back."""
        if self.session.desk is not None:
            self.session.desk.undo()

    def redo(self) -> None:
        """Bring the last undone change back."""
        if self.session.desk is not None:
            self.session.desk.redo()

    def undo_buttons(self) -> tuple[QPushButton, QPushButton]:
        """Return a button for each."""
        return (
            button("Undo", "Take the last change back, whatever it was", self.undo, key="Ctrl+Z"),
            button("Redo", "Bring it back", self.redo, key="Ctrl+Shift+Z"),
        )


class MessageBar(QFrame):
    """One line that stays until the next one: no dialog, nothing to click away, but buttons where there is a choice."""

    def __init__(self) -> None:
        super().__init__()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(8, 4, 4, 4)
        self.label = text()
        self._layout.addWidget(self.label)
        self._choices = QWidget()
        self._row = QHBoxLayout(self._choices)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._layout.addWidget(self._choices)
        self.kind = ""
        self.hide()

    def say(self, kind: str, line: str) -> None:
        """Show a line; an empty one hides the bar."""
        self._clear()
        self.kind = kind if line else ""
        self.label.setText(line)
        self.setStyleSheet(f"MessageBar {{ border-left: 4px solid {KINDS.get(kind, KINDS['info'])}; }}")
        self._choices.hide()
        self.setVisible(bool(line))

    def offer(self, line: str, choices: list[tuple[str, Callable[[], object]]]) -> None:
        """Show a line with buttons; pressing one takes the bar away."""
        self.say("info", line)

        def pressed(function: Callable[[], object]) -> None:
            self.say("info", "")
            function()

        for words, function in choices:
            made = QPushButton(words)
            made.clicked.connect(lambda *_, f=function: pressed(f))
            self._row.addWidget(made)
        self._row.addStretch(1)
        self._choices.show()

    def buttons(self) -> list[QPushButton]:
        """Return the buttons shown now."""
        return self._choices.findChildren(QPushButton)

    def _clear(self) -> None:
        while self._row.count():
            item = self._row.takeAt(0)
            widget = item.widget() if item is not None else None
            if widget is not None:
                widget.setParent(None)
                widget.deleteLater()
