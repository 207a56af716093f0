"""Fitting an anomaly model to good images, and its threshold, which moves over stored results."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGroupBox,
    QLabel,
    QLineEdit,
    QSlider,
    QVBoxLayout,
)

from napari_inspection import store
from napari_inspection.industrial.histogram import Histogram
from napari_inspection.session import Session
from napari_inspection.widgets import button, row, text

if TYPE_CHECKING:
    from napari_inspection.screen_panel import ScreenPanel

HELP = "Choose a folder of good images. The model learns what they look like and finds what differs."


class FitPanel(QGroupBox):
    """Good images, Fit, the histogram of scores with the threshold.

    Parameters
    ----------
    session
        Runs the fit.
    screening
        Whose scores are judged.
    """

    def __init__(self, session: Session, screening: ScreenPanel) -> None:
        super().__init__("Learn from good images")
        self.session, self.screening, self.picker = session, screening, screening.picker
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("folder of good images")
        self.folder.setAccessibleName("Folder of good images")
        self.folder.setToolTip("train/good of an MVTec-style folder, or any folder of good images")
        self.name = QLineEdit("my-model")
        self.name.setAccessibleName("Name of the new model")
        self.name.setToolTip("Name of the new model")
        self.preset = QComboBox()
        self.preset.addItems(["fast", "accurate"])
        self.preset.setAccessibleName("Preset")
        self.preset.setToolTip("Fast is for a first try; accurate takes a few times longer")
        self.rate = QDoubleSpinBox()
        self.rate.setRange(0.1, 50.0)
        self.rate.setValue(5.0)
        self.rate.setSuffix(" %")
        self.rate.setAccessibleName("Good parts called NG, per cent")
        self.rate.setToolTip("Share of good parts that may be called NG")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, 500)
        self.slider.setValue(50)
        self.slider.setToolTip("Move the threshold; verdicts in the list follow at once")
        self.slider.setAccessibleName("Share of good parts that may be called NG")
        self.slider.valueChanged.connect(lambda value: self.rate.setValue(value / 10))
        self.rate.valueChanged.connect(self._follow)
        self.fit_button = button("Fit", "Make a model from the good images", self.fit)
        self.histogram = Histogram()
        self.verdicts = text(small=True)
        layout = QVBoxLayout(self)
        layout.addWidget(text(HELP, small=True))
        layout.addLayout(row(self.folder, button("Choose …", "Choose the folder of good images", self.ask)))
        layout.addLayout(row(QLabel("Name"), self.name, self.preset, self.fit_button))
        layout.addLayout(row(QLabel("Good parts called NG, at most"), self.rate, 1))
        layout.addWidget(self.slider)
        layout.addWidget(self.histogram)
        layout.addWidget(self.verdicts)
        self.rate.valueChanged.connect(lambda *_: self._judge())
        self.picker.chosen.connect(lambda *_: self._judge())
        screening.updated.connect(self._judge)
        self._judge()

    def ask(self) -> None:
        """Let the user choose the folder of good images."""
        name = QFileDialog.getExistingDirectory(self, "Folder of good images")
        if name:
            self.folder.setText(name)

    def fit(self) -> None:
        """Fit a model, off the main thread."""
        folder = Path(self.folder.text().strip())
        if not self.folder.text().strip() or not folder.is_dir():
            self.session.say("error", "Choose a folder of good images first.")
            return
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in self.name.text().strip()) or "my-model"
        out = store.models_folder() / name
        if out.exists():
            out = store.models_folder() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        preset, rate = self.preset.currentText(), self.rate.value() / 100

        def work() -> Any:
            from inspection_core.learn import fit
            from inspection_core.progress import tick

            stages = {"reading": 0, "features": 1, "turned copies": 2, "cross-fit": 3}

            def progress(stage: str, done: int, total: int) -> None:
                tick(100 * stages.get(stage, 3) + 100 * done // max(1, total), 100 * len(stages), coarse=True)

            return fit(folder, out, preset=preset, max_false_alarms=rate, progress=progress)

        def done(fitted: Any) -> None:
            self.picker.refresh(prefer=fitted.folder.resolve())
            words = f"Model {fitted.card.id} is ready."
            if fitted.suspects:
                words += f" Look at these good images, they are unlike the others: {', '.join(fitted.suspects[:3])}."
            told = [w for w in fitted.warnings if not w.startswith("look at these good images")]
            self.session.say("info", " ".join([words, *told[:1]]))

        self.session.start("Fitting", work, done)

    def _follow(self, rate: float) -> None:
        """Put the slider where the number is."""
        self.slider.blockSignals(True)
        self.slider.setValue(round(rate * 10))
        self.slider.blockSignals(False)

    def _judge(self) -> None:
        """Give every stored score its verdict at the rate chosen; no image is looked at again."""
        from napari_inspection.industrial.verdicts import judge

        card = self.picker.card
        if card is None or card.task != "anomaly" or not card.calibration.scores:
            self.histogram.clear()
            self.verdicts.setText("")
            return
        judged = judge(card, self.rate.value() / 100, self.screening.rows)
        self.histogram.show_scores(card.calibration.scores, judged.scores, judged.review, judged.ng)
        self.verdicts.setText(judged.words)
        if judged.rows:
            self.screening.tell(judged.rows.values())
