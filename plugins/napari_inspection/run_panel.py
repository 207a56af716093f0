"""Running a model on what is open, and on all that was listed."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_inspection import engines
from napari_inspection.industrial.fit_panel import FitPanel
from napari_inspection.model_picker import ModelPicker
from napari_inspection.screen_panel import ScreenPanel
from napari_inspection.session import Session
from napari_inspection.widgets import button, row, text


class RunPanel(QWidget):
    """Model, device, Run."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.picker = ModelPicker(session)
        self.expect = text(small=True)
        self.run = button("Run", "Run the model on what is open", self.start, key="Ctrl+Return")
        self.run.setStyleSheet("font-weight: bold; padding: 6px 18px;")
        self.screening = ScreenPanel(session, self.picker)
        self.run.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.fit = FitPanel(session, self.screening)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 6, 4, 4)
        layout.addWidget(self.picker)
        layout.addLayout(row(self.expect, self.run))
        layout.addWidget(self.screening)
        layout.addWidget(self.fit)
        layout.addStretch(1)
        self.picker.chosen.connect(lambda *_: self._show())
        session.opened.connect(self._on_case)
        session.working.connect(self._on_work)
        session.ran.connect(lambda *_: self._show())
        self._show()

    def start(self) -> None:
        """Run the chosen model on the current case."""
        model = self.picker.model
        if model is None:
            self.session.say("error", "There is no model to run. Add the folder of one, or fit one below.")
            return
        self.session.run(model, self.picker.place)

    def _on_case(self, _: Any) -> None:
        """Look for models again: a sample may have brought one; and choose one that fits."""
        self.picker.refresh()
        if self.session.case is not None:
            self.picker.choose_for(self.session.case.image)
        self._show()

    def _show(self) -> None:
        case, card = self.session.case, self.picker.card
        wrong = engines.misfit(card, case.image) if card is not None and case is not None else ""
        if card is None or wrong:
            self.expect.setText(wrong or "Choose a model.")
        elif case is None:
            self.expect.setText("Open something to run it on.")
        else:
            self.expect.setText(engines.expectation(card, case.image.array[0].size, self.picker.place))
        self.run.setEnabled(card is not None and not wrong)

    def _on_work(self, name: str, *_: Any) -> None:
        if name:
            self.run.setEnabled(False)
        else:
            self._show()
