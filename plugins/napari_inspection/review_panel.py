"""Going through the findings: the table, the verdicts, what is left, and what is written at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QGroupBox, QLabel, QLineEdit, QVBoxLayout, QWidget

from inspection_core.errors import InspectionError
from napari_inspection import comparing, saving, store, tools
from napari_inspection.findings_table import FILTERS, FindingsTable
from napari_inspection.session import Session
from napari_inspection.widgets import Undoing, button, row, text
from napari_inspection.worker import explain

EMPTY = "No findings yet. Open a scan or an image, choose a model in Run, and press Run."
NONE_FOUND = "The model found nothing here. Paint in Correct what it missed."
ALL = "all classes"


class ReviewPanel(Undoing, QWidget):
    """Table, verdicts, history, saving."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.hint = text(EMPTY)
        self.table = FindingsTable()
        self.filter = QComboBox()
        self.filter.addItems(FILTERS)
        self.filter.setToolTip("Show only findings of one state")
        self.filter.setAccessibleName("Findings of one state")
        self.classes = QComboBox()
        self.classes.setToolTip("Show only findings of one class")
        self.classes.setAccessibleName("Findings of one class")
        self.classes.addItem(ALL)
        self.count = text(small=True)
        self.label = QComboBox()
        self.label.setToolTip("Class to give to the selected findings, and to new ones")
        self.label.setEditable(True)
        self.label.setAccessibleName("Class to give")
        self.go_on = QCheckBox("go on")
        self.go_on.setToolTip("After Accept and Reject, jump to the most doubtful finding that is left")
        self.go_on.setChecked(True)
        self.colours = QComboBox()
        self.colours.addItems(["status", "class", "finding"])
        self.colours.setToolTip("What colours mean")
        self.colours.setAccessibleName("Colour by")
        self.filled = QCheckBox("filled")
        self.filled.setToolTip("Fill findings with colour in place of their outlines")
        self.reviewer = QLineEdit(store.user())
        self.reviewer.setToolTip("Your name in the audit trail; each reviewer's corrections are kept apart")
        self.reviewer.setAccessibleName("Reviewer")
        self.reviewer.editingFinished.connect(self._on_reviewer)

        self.buttons = {
            "Accept": button("Accept", "The finding is right", lambda: self.judge("accept"), key="A"),
            "Reject": button("Reject", "It is none; results leave it out", lambda: self.judge("reject"), key="R"),
            "Reopen": button("Reopen", "Neither yet", lambda: self.judge("reopen"), key="U"),
            "Next uncertain": button("Next uncertain", "Jump to the most doubtful one left", self.next, key="N"),
            "Merge": button("Merge", "Make one finding of those selected", self.merge, key="G"),
            "Split": button("Split", "Cut the finding at its waist, or into its parts", self.split, key="T"),
            "Relabel": button("Relabel", "Give the selected findings the class beside", self.relabel, key="Q"),
        }
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addWidget(self.hint)
        layout.addLayout(row(self.filter, self.classes, 1))
        layout.addWidget(self.table, 1)
        self.table.setMinimumHeight(160)
        layout.addWidget(self.count)
        b = self.buttons
        layout.addLayout(row(b["Accept"], b["Reject"], b["Reopen"], 1, self.go_on))
        layout.addLayout(row(b["Next uncertain"], b["Merge"], b["Split"], 1))
        layout.addLayout(row(b["Relabel"], self.label, 1))
        layout.addLayout(
            row(
                *self.undo_buttons(),
                1,
                QLabel("Colour by"),
                self.colours,
                self.filled,
            )
        )
        self.ending = QGroupBox("Reviewer and results")
        ending = QVBoxLayout(self.ending)
        self.save_button = button(
            "Save results …", "Write what is reviewed, and check that it reads back", self.ask_save
        )
        self.trail_button = button("Audit trail …", "Write every correction as CSV or JSON", self.ask_trail)
        self.other = QComboBox()
        self.other.setAccessibleName("Compare with")
        self.other.setToolTip("The model's result, another reviewer, or a mask such as ground truth")
        self.compare_button = button(
            "Compare", "Measure how far both agree, and colour where they differ", self.compare
        )
        ending.addLayout(row(QLabel("Reviewer"), self.reviewer))
        ending.addLayout(row(self.save_button, self.trail_button, 1))
        ending.addLayout(row(QLabel("Compare with"), self.other, self.compare_button, 1))
        layout.addWidget(self.ending)

        self.table.selectionModel().selectionChanged.connect(lambda *_: self._on_selection())
        self.table.clicked.connect(lambda *_: self._jump())
        self.filter.currentTextChanged.connect(lambda *_: self._filter())
        self.classes.currentTextChanged.connect(lambda *_: self._filter())
        self.colours.currentTextChanged.connect(self._recolour)
        self.filled.toggled.connect(self._fill)
        self.label.currentTextChanged.connect(self._on_label)
        session.reviewing.connect(self._on_desk)
        session.changed.connect(self._on_change)
        self._on_desk(None)

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what each key does."""
        return {
            "A": lambda: self.judge("accept"),
            "R": lambda: self.judge("reject"),
            "U": lambda: self.judge("reopen"),
            "N": self.next,
            "G": self.merge,
            "T": self.split,
            "Q": self.relabel,
            "J": lambda: self.move(1),
            "K": lambda: self.move(-1),
        }

    # What buttons and keys do -----------------------------------------------------------------------------------------

    def judge(self, action: str) -> None:
        """Accept, reject or reopen the selected findings."""
        desk, numbers = self.session.desk, self.table.selected()
        if desk is None or not numbers:
            self.session.say("error", "Select a finding first." if desk is not None else EMPTY)
            return
        self.session.say("info", "")
        desk.judge(action, numbers)
        if self.go_on.isChecked() and action != "reopen":
            self.next()

    def next(self, *, centre: bool = True) -> None:
        """Jump to the most doubtful finding that is left."""
        desk = self.session.desk
        number = desk.next_uncertain() if desk is not None else 0
        if number:
            self.go_to(number, centre=centre)
        else:
            self.session.say("info", "Every finding has a verdict." if desk is not None and desk.marks else EMPTY)

    def move(self, by: int) -> None:
        """Jump to the finding below or above in the table."""
        shown = self.table.shown()
        if not shown:
            return
        chosen = self.table.selected()
        at = shown.index(chosen[0]) + by if chosen and chosen[0] in shown else 0
        self.go_to(shown[int(np.clip(at, 0, len(shown) - 1))])

    def go_to(self, number: int, *, centre: bool = True) -> None:
        """Select a finding, show its slice, and centre the picture on it."""
        if self.table.findings.row_of(number) is None:
            return
        if number not in self.table.shown():
            self.filter.setCurrentText("all")
            self.classes.setCurrentText(ALL)
        self.table.pick([number])
        self._jump(centre=centre)

    def merge(self) -> None:
        """Make one finding of those selected."""
        desk = self.session.desk
        if desk is not None:
            numbers = self.table.selected()
            desk.merge(sorted(numbers))
            if len(numbers) > 1:
                self.table.pick([min(numbers)])

    def split(self) -> None:
        """Cut the selected finding."""
        desk, numbers = self.session.desk, self.table.selected()
        if desk is None or len(numbers) != 1:
            self.session.say("error", "Select one finding to split.")
            return
        try:
            tools.split(desk, numbers[0])
        except InspectionError as error:
            self.session.say("error", str(error))

    def relabel(self) -> None:
        """Give the selected findings the class in the box."""
        desk, numbers, label = self.session.desk, self.table.selected(), self.label.currentText().strip()
        if desk is None or not numbers or not label:
            self.session.say("error", "Select a finding and choose its class first.")
            return
        desk.relabel(numbers, label)

    # Saving -----------------------------------------------------------------------------------------------------------

    def ask_save(self) -> None:
        """Let the user choose a folder, and save there."""
        name = QFileDialog.getExistingDirectory(self, "Folder for the results")
        if name:
            self.save(Path(name))

    def save(self, folder: Path) -> None:
        """Write the results into a folder, off the main thread."""
        desk = self.session.desk
        if desk is None:
            return
        job = saving.plan(desk, folder)
        self.session.start("Saving", lambda: saving.save(job), lambda line: self.session.say("info", line))

    def ask_trail(self) -> None:
        """Let the user choose a file, and write the audit trail."""
        name, _ = QFileDialog.getSaveFileName(self, "Audit trail", "audit_trail.csv", "CSV (*.csv);;JSON (*.json)")
        if name:
            self.write_trail(Path(name))

    def write_trail(self, path: Path) -> None:
        """Write the audit trail."""
        from inspection_core.io.review_store import write_trail

        desk = self.session.desk
        if desk is None:
            return
        try:
            write_trail(path, desk.review)
        except (InspectionError, OSError) as error:
            self.session.say("error", explain(error))
        else:
            self.session.say("info", f"Audit trail: {len(desk.review.log)} entries in {path.name}.")

    def compare(self) -> None:
        """Measure the correction against what is chosen, and show where they differ."""
        choice = self.other.currentText()
        if choice == comparing.FILE:
            name, _ = QFileDialog.getOpenFileName(self, "A mask on the same grid, or a DICOM SEG or RTSTRUCT")
            if name:
                self.compare_with(name)
        elif choice:
            self.compare_with(choice)

    def compare_with(self, other: str) -> None:
        """Compare with the model, another reviewer or a mask file, off the main thread."""
        desk = self.session.desk
        if desk is None:
            return
        self.session.flush()
        self.session.start("Comparing", lambda: comparing.compare(desk, other), self._on_comparison)

    def _on_comparison(self, result: comparing.Comparison) -> None:
        self.session.show_overlap(result.overlap, result.names)
        self.session.say("info", result.line)

    # What the session says --------------------------------------------------------------------------------------------

    def _on_desk(self, desk: Any) -> None:
        self.table.findings.fill(desk)
        some = desk is not None and bool(desk.marks)
        self.hint.setText(EMPTY if desk is None else NONE_FOUND)
        self.hint.setVisible(not some)
        self.ending.setEnabled(desk is not None)
        for made in self.buttons.values():
            made.setEnabled(desk is not None)
        names = list(desk.review.classes) if desk is not None else []
        for box, first in ((self.classes, [ALL]), (self.label, [])):
            box.blockSignals(True)
            box.clear()
            box.addItems([*first, *names])
            box.blockSignals(False)
        self.filter.setCurrentText("all")
        self._filter()
        if desk is not None:
            desk.label = self.label.currentText() or None
            others = [name for name in desk.store.reviewers() if name != desk.reviewer]
            self.other.clear()
            truth = [comparing.TRUTH] if comparing.truth_of(desk.case) is not None else []
            self.other.addItems([*truth, comparing.MODEL, *others, comparing.FILE])
            self._recolour(self.colours.currentText())
            self._fill(self.filled.isChecked())
            if some:
                self.next(centre=False)  # all of the picture is in view
        self._count()

    def _on_change(self, touched: Any) -> None:
        chosen = self.table.selected()
        reset = self.table.findings.update(tuple(touched))
        desk = self.session.desk
        if desk is not None:
            self.hint.setVisible(not desk.marks)
            if reset:
                self.table.pick([n for n in chosen if n in desk.findings])
        self._count()

    def _count(self) -> None:
        desk = self.session.desk
        if desk is None or not desk.marks:
            self.count.setText("")
            return
        marks = list(desk.marks.values())
        accepted = sum(m.status == "accepted" for m in marks)
        rejected = sum(m.status == "rejected" for m in marks)
        self.count.setText(
            f"{desk.left} of {len(marks)} left, {accepted} accepted, {rejected} rejected. "
            f"{len(desk.review.log)} log entries. * changed by hand"
        )

    def _on_selection(self) -> None:
        numbers = self.table.selected()
        self.session.select(numbers[0] if numbers else 0)

    def _jump(self, *, centre: bool = True) -> None:
        """Show the slice of the selected finding, and centre the picture on it."""
        desk, numbers = self.session.desk, self.table.selected()
        if desk is None or not numbers:
            return
        viewer = self.session.viewer
        point = desk.centre(numbers[0])
        n = viewer.dims.ndim
        whole = np.array(viewer.dims.point)
        whole[n - len(point) :] = point
        viewer.dims.point = tuple(float(v) for v in whole)
        if centre:
            viewer.scene.camera.center = tuple(float(whole[a]) for a in viewer.dims.displayed[-3:])

    def _filter(self) -> None:
        label = self.classes.currentText()
        self.table.rows.want(self.filter.currentText(), "" if label == ALL else label)

    def _recolour(self, by: str) -> None:
        if self.session.desk is not None and self.session.desk.labels is not None:
            self.session.desk.recolour(by)

    def _fill(self, on: bool) -> None:
        if self.session.desk is not None and self.session.desk.labels is not None:
            self.session.desk.filled = on
            self.session.desk.outline()
            self.session.desk.labels.opacity = 0.45 if on else 0.9

    def _on_label(self, name: str) -> None:
        if self.session.desk is not None:
            self.session.desk.label = name.strip() or None

    def _on_reviewer(self) -> None:
        name = self.reviewer.text().strip()
        if not name or name == store.user():
            self.reviewer.setText(store.user())
            return
        store.set_setting("reviewer", name)
        desk = self.session.desk
        if desk is not None:
            self.session.resume(desk.folder, name)
