"""Running a model on everything that is listed, images or scans, with the list filling as results come."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGroupBox, QVBoxLayout

from napari_inspection import engines, store
from napari_inspection.model_picker import ModelPicker
from napari_inspection.session import Session
from napari_inspection.widgets import button, row, text

if TYPE_CHECKING:
    from inspection_core.card import ModelCard
    from inspection_core.inputs import Listing
    from inspection_core.io.store import Row

SCREENING = "Screening"
NOTHING = "Open a folder of images or scans, and choose a model first."
PAUSED = "Paused. What is done is kept; Screen list goes on from there."
LOOK = 1.0
"""Seconds between two looks at what a screening has done."""


class ScreenPanel(QGroupBox):
    """Screen, Pause, Report, and the counts.

    Parameters
    ----------
    session
        Runs the screening, and tells the list of its results.
    picker
        Of the model, and where it runs.
    """

    updated = Signal()
    """There are other rows."""

    def __init__(self, session: Session, picker: ModelPicker) -> None:
        super().__init__("Screen all that is listed")
        self.session, self.picker = session, picker
        self.screen_button = button("Screen list", "Run the chosen model on all that is listed in Open", self.screen)
        self.pause_button = button(
            "Pause", "Stop after what is at hand; Screen list goes on from there", session.cancel
        )
        self.report_button = button("Report", "Open the report of the last screening", self.open_report)
        self.counts = text(small=True)
        layout = QVBoxLayout(self)
        layout.addLayout(row(self.screen_button, self.pause_button, self.report_button, 1))
        layout.addWidget(self.counts)
        self.rows: list[Row] = []
        self.report: Path | None = None
        self._run: Path | None = None
        self._root = Path()
        self._looked = 0.0
        self._task = "anomaly"
        session.listed.connect(lambda *_: self._forget())
        session.working.connect(self._on_work)
        self._forget()

    def screen(self) -> None:
        """Run the chosen model on everything listed; what was done before is not done again."""
        listing, model, card = self.session.listing, self.picker.model, self.picker.card
        if model is None or card is None or listing is None or not listing.inputs:
            self.session.say("error", NOTHING)
            return
        if not self.session.idle:
            self.session.say_busy()
            return
        listing = self._as_studies(listing, card)
        if listing is None:
            return
        root, paths = _sources(listing)
        place, name = self.picker.place, Path(str(model)).name
        run = store.home() / "runs" / _run_name(root, f"{place.url} {model}".strip())

        def work() -> Any:
            from inspection_core.progress import tick
            from inspection_core.screen import screen

            def progress(done: int, total: int) -> None:
                tick(done, total, coarse=True)

            loaded = engines.engine(place).load(model)
            return screen(root, loaded, run, paths=paths, progress=progress, title=f"{root.name}, {name}")

        def done(screening: Any) -> None:
            self.report = run / "report.html"
            self._take(list(screening.rows))
            self.session.say("info", f"{self.counts.text()} The list in Open is filled; sort it by score.")

        self._run, self._root, self._task = run, root, card.task
        self.session.start(SCREENING, work, done, PAUSED)

    def open_report(self) -> None:
        """Open the report in the browser."""
        from qtpy.QtCore import QUrl
        from qtpy.QtGui import QDesktopServices

        if self.report is not None and self.report.is_file():
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.report)))
        else:
            self.session.say("error", "There is no report yet. Screen a folder first.")

    def tell(self, rows: Iterable[Row]) -> None:
        """Tell the list of results, judged anew perhaps, and count them."""
        rows = list(rows)
        words = engines.wording(self._task)
        found = [row.verdict if row.status == "done" else "failed" for row in rows]
        counts = ", ".join(f"{found.count(v)} {words.get(v, v)}" for v in ("OK", "REVIEW", "NG", "failed"))
        self.counts.setText(f"{counts}." if rows else "Nothing was screened yet.")
        if rows:
            self.session.screened.emit({(self._root / row.path).as_posix(): row for row in rows}, words)

    def _take(self, rows: list[Row]) -> None:
        self.rows = rows
        self.report_button.setEnabled(self.report is not None)
        self.tell(rows)
        self.updated.emit()

    def _on_work(self, name: str, *_: Any) -> None:
        """Fill the list while a screening runs, once a second."""
        self.pause_button.setEnabled(name == SCREENING)
        if name != SCREENING or self._run is None or time.monotonic() - self._looked < LOOK:
            return
        from inspection_core.io.store import RUN_DATABASE, RunStore

        self._looked = time.monotonic()
        if (self._run / RUN_DATABASE).is_file():
            try:
                with RunStore(self._run) as kept:
                    rows = list(kept.rows())
            except OSError:  # it is being written to; the next look will do
                return
            self._take(rows)

    def _forget(self) -> None:
        self.report = None
        self.pause_button.setEnabled(False)
        self._take([])

    def _as_studies(self, listing: Listing, card: ModelCard) -> Listing | None:
        """Put the sequences of each study together, where the model takes several; the list shows the studies then."""
        from inspection_core.errors import InspectionError
        from inspection_core.studies import for_channels

        together = any(item.parts or len(item.files) > 1 for item in listing.inputs)
        if len(card.channels) == 1 or together or all(item.kind == "picture" for item in listing.inputs):
            return listing
        try:
            studies = for_channels(listing, card.channels)
        except InspectionError as error:
            self.session.say("error", str(error))
            return None
        if not studies.inputs:
            self.session.say("error", studies.refused[0][1] if studies.refused else NOTHING)
            return None
        self.session.show_listing(studies, card.channels, open_alone=False)
        return studies


def _sources(listing: Listing) -> tuple[Path, list[Path] | None]:
    """Return the folder that results are named from, and what to take below it; None is all of it."""
    if all(item.kind == "picture" for item in listing.inputs):  # a folder may hold more than was listed
        paths = [item.files[0].absolute() for item in listing.inputs]
    else:
        given = sorted({item.given.absolute() for item in listing.inputs})
        if len(given) == 1 and given[0].is_dir():
            return given[0], None
        paths = given
    return Path(os.path.commonpath([p.parent for p in paths])), paths


def _run_name(root: Path, model: str) -> str:
    return f"{root.name}_{hashlib.sha256(f'{root} {model}'.encode()).hexdigest()[:10]}"
