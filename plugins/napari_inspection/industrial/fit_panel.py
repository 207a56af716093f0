"""Fitting an anomaly model to good images, and screening a folder with it; the threshold moves over stored results."""

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

from napari_inspection import engines, store
from napari_inspection.industrial.histogram import Histogram
from napari_inspection.session import Session
from napari_inspection.widgets import button, row, text

if TYPE_CHECKING:
    from napari_inspection.model_picker import ModelPicker

SCREENING = "Screening"
HELP = "Choose a folder of good images. The model learns what they look like and finds what differs."


class FitPanel(QGroupBox):
    """Good images, Fit, Screen, the histogram of scores with the threshold."""

    def __init__(self, session: Session, picker: ModelPicker) -> None:
        super().__init__("Learn from good images, screen a folder")
        self.session, self.picker = session, picker
        self.folder = QLineEdit()
        self.folder.setPlaceholderText("folder of good images")
        self.folder.setToolTip("train/good of an MVTec-style folder, or any folder of good images")
        self.name = QLineEdit("my-model")
        self.name.setToolTip("Name of the new model")
        self.preset = QComboBox()
        self.preset.addItems(["fast", "accurate"])
        self.preset.setToolTip("Fast is for a first try; accurate takes a few times longer")
        self.rate = QDoubleSpinBox()
        self.rate.setRange(0.1, 50.0)
        self.rate.setValue(5.0)
        self.rate.setSuffix(" %")
        self.rate.setToolTip("Share of good parts that may be called NG")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, 500)
        self.slider.setValue(50)
        self.slider.setToolTip("Move the threshold; verdicts in the list follow at once")
        self.slider.setAccessibleName("Share of good parts that may be called NG")
        self.slider.valueChanged.connect(lambda value: self.rate.setValue(value / 10))
        self.rate.valueChanged.connect(self._follow)
        self.fit_button = button("Fit", "Make a model from the good images", self.fit)
        self.screen_button = button("Screen list", "Run the chosen model on all that is listed in Open", self.screen)
        self.pause_button = button("Pause", "Stop after the image at hand; Screen goes on from there", session.cancel)
        self.report_button = button("Report", "Open the report of the last screening", self.open_report)
        self.histogram = Histogram()
        self.verdicts = text(small=True)
        layout = QVBoxLayout(self)
        layout.addWidget(text(HELP, small=True))
        layout.addLayout(row(self.folder, button("Choose …", "Choose the folder of good images", self.ask)))
        layout.addLayout(row(QLabel("Name"), self.name, self.preset, self.fit_button))
        layout.addLayout(row(self.screen_button, self.pause_button, self.report_button, 1))
        layout.addLayout(row(QLabel("Good parts called NG, at most"), self.rate, 1))
        layout.addWidget(self.slider)
        layout.addWidget(self.histogram)
        layout.addWidget(self.verdicts)
        self.rows: list[Any] = []
        self.report: Path | None = None
        self._run: Path | None = None
        self._root = Path()
        self._looked = 0.0
        self.rate.valueChanged.connect(lambda *_: self._judge())
        picker.chosen.connect(lambda *_: self._judge())
        session.listed.connect(lambda *_: self._forget())
        session.working.connect(self._on_work)
        self._forget()

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
            self.session.say("info", " ".join([words, *fitted.warnings[:1]]))

        self.session.start("Fitting", work, done)

    def screen(self) -> None:
        """Run the chosen model on everything listed; what was done before is not done again."""
        from inspection_core.inputs import Listing

        listing, model, place = self.session.listing, self.picker.model, self.picker.place
        if model is None or not isinstance(listing, Listing) or not listing.inputs:
            self.session.say("error", "Open a folder of images and choose a model first.")
            return
        pictures = [i for i in listing.inputs if i.kind == "picture"]
        if not pictures:
            self.session.say("error", "Screening is for folders of images. For scans, run the model on each.")
            return
        paths = [i.files[0].absolute() for i in pictures]
        root = _common(paths)
        run = store.home() / "runs" / _run_name(root, f"{place.url} {model}".strip())

        def work() -> Any:
            from inspection_core.progress import tick
            from inspection_core.screen import screen

            def progress(done: int, total: int) -> None:
                tick(done, total, coarse=True)

            loaded = engines.engine(place).load(model)
            return screen(root, loaded, run, paths=paths, progress=progress, title=root.name)

        def done(screening: Any) -> None:
            self.report = run / "report.html"
            self.rows = list(screening.rows)
            self._judge()
            counts = screening.counts
            self.session.say(
                "info",
                f"{counts['OK']} OK, {counts['REVIEW']} REVIEW, {counts['NG']} NG, {counts['failed']} failed. "
                "The list in Open is filled; sort it by score.",
            )

        self._run, self._root = run, root
        self.session.start(SCREENING, work, done)

    def open_report(self) -> None:
        """Open the report in the browser."""
        from qtpy.QtCore import QUrl
        from qtpy.QtGui import QDesktopServices

        if self.report is not None and self.report.is_file():
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.report)))
        else:
            self.session.say("error", "There is no report yet. Screen a folder first.")

    def _follow(self, rate: float) -> None:
        """Put the slider where the number is."""
        self.slider.blockSignals(True)
        self.slider.setValue(round(rate * 10))
        self.slider.blockSignals(False)

    def _on_work(self, name: str, *_: Any) -> None:
        """Fill the list while a screening runs, once a second."""
        if name != SCREENING or self._run is None or time.monotonic() - self._looked < 1:
            return
        from inspection_core.io.store import RUN_DATABASE, RunStore

        self._looked = time.monotonic()
        if (self._run / RUN_DATABASE).is_file():
            try:
                with RunStore(self._run) as kept:
                    self.rows = list(kept.rows())
            except OSError:  # it is being written to; the next look will do
                return
            self._judge()

    def _judge(self) -> None:
        """Give every stored score its verdict at the rate chosen; no image is looked at again."""
        from napari_inspection.industrial.verdicts import judge

        card = self.picker.card
        self.report_button.setEnabled(self.report is not None)
        if card is None or card.task != "anomaly" or not card.calibration.scores:
            self.histogram.clear()
            self.verdicts.setText("")
            return
        judged = judge(card, self.rate.value() / 100, self.rows)
        self.histogram.show_scores(card.calibration.scores, judged.scores, judged.review, judged.ng)
        self.verdicts.setText(judged.words)
        if judged.rows:
            self.session.screened.emit({(self._root / path).as_posix(): row for path, row in judged.rows.items()})

    def _forget(self) -> None:
        self.rows, self.report = [], None
        self._judge()


def _common(paths: list[Path]) -> Path:
    import os

    return Path(os.path.commonpath([p.parent for p in paths]))


def _run_name(root: Path, model: str) -> str:
    import hashlib

    return f"{root.name}_{hashlib.sha256(f'{root} {model}'.encode()).hexdigest()[:10]}"
