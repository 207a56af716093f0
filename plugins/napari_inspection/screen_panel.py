"""Running a model on everything that is listed, images or scans, with the list filling as results come."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QGroupBox, QVBoxLayout

from napari_inspection import engines, store
from napari_inspection.files import label_of
from napari_inspection.keep import Screened
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
"""Seconds between two looks at what a screening has done, at least."""
RESTS = 20
"""Times as long as a look takes, so that a long list does not slow the viewer."""


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
        self.pause_button = button("Pause", "Stop after what is at hand; Screen list goes on from there", session.pause)
        self.report_button = button("Report", "Open the report of the last screening", self.open_report)
        self.counts = text(small=True)
        layout = QVBoxLayout(self)
        layout.addLayout(row(self.screen_button, self.pause_button, self.report_button, 1))
        layout.addWidget(self.counts)
        self.rows: list[Row] = []
        self.report: Path | None = None
        self._run: Path | None = None
        self._root = Path()
        self._looked, self._rest = 0.0, LOOK
        self._watching = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._look)
        self._card: ModelCard | None = None
        session.listed.connect(lambda *_: self._forget())
        session.working.connect(self._on_work)
        self._forget()

    def screen(self) -> None:
        """Run the chosen model on everything listed; what was done before is not done again."""
        listing, model, card = self.session.listing, self.picker.model, self.picker.card
        if model is None or card is None or listing is None or not listing.inputs:
            self.session.say("error", NOTHING)
            return
        if not self.session.idle or self.session.screening:
            self.session.say_busy()
            return
        listing = self._as_studies(listing, card)
        if listing is None:
            return
        root, paths = _sources(listing)
        place, name = self.picker.place, Path(str(model)).name
        run = store.home() / "runs" / _run_name(root, place.url, str(model), card)

        def work() -> Any:
            from inspection_core.inspector import REVIEWS
            from inspection_core.progress import tick
            from inspection_core.screen import Options, screen

            here = copy_context()  # results are counted in another thread, which knows of no one who watches

            def progress(done: int, total: int) -> None:
                here.run(tick, done, total, coarse=True)

            loaded = engines.engine(place).load(model)
            kept = Options(formats=(REVIEWS,))  # a row is opened with its findings, and reviewed
            return screen(root, loaded, run, paths=paths, options=kept, progress=progress, title=f"{root.name}, {name}")

        def done(screening: Any) -> None:
            self.report = run / "report.html"
            self._take(list(screening.rows))
            self.session.say("info", f"{self.counts.text()} The list in Open is filled; sort it by score.")

        self._run, self._root, self._card, self._watching = run, root, card, True
        self.session.start(SCREENING, work, done, PAUSED, behind=True)

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
        words = engines.wording(self._card.task if self._card is not None else "anomaly")
        found = [row.verdict if row.status == "done" else "failed" for row in rows]
        counts = ", ".join(f"{found.count(v)} {words.get(v, v)}" for v in ("OK", "REVIEW", "NG", "failed"))
        self.counts.setText(f"{counts}." if rows else "Nothing was screened yet.")
        if rows:
            self.session.screened.emit({label_of(self._root / row.path): row for row in rows}, words)

    def _take(self, rows: list[Row]) -> None:
        from inspection_core.inspector import REVIEWS

        self.rows = rows
        if self._run is not None and self._card is not None:
            kept, card = self._run / REVIEWS, self._card
            self.session.results = {
                label_of(self._root / row.path): Screened(kept / row.path, row.fingerprint, card)
                for row in rows
                if row.status == "done"
            }
        self.report_button.setEnabled(self.report is not None)
        self.tell(rows)
        self.updated.emit()

    def _on_work(self, *_: Any) -> None:
        """Fill the list while a screening runs, now and then, and once more when it ended."""
        running = self.session.screening
        self.pause_button.setEnabled(running)
        if self._watching and not running:
            self._watching = False
            self._soon.stop()
            self._look()
        elif self._watching and not self._soon.isActive():
            self._soon.start(round(1000 * max(0.0, self._looked + self._rest - time.monotonic())))

    def _look(self) -> None:
        """Take what a screening has done so far."""
        from inspection_core.io.store import RUN_DATABASE, RunStore

        began = time.monotonic()
        if self._run is None or not (self._run / RUN_DATABASE).is_file():
            return
        try:
            with RunStore(self._run) as kept:
                rows = list(kept.rows())
        except OSError:  # it is being written to
            rows = None
        if rows is not None:
            self._take(rows)
        self._looked = time.monotonic()
        self._rest = max(LOOK, RESTS * (self._looked - began))
        if rows is None and self._watching:  # no other result may come for long, if the input in work is a large one
            self._soon.start(round(1000 * self._rest))

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


def _run_name(root: Path, url: str, model: str, card: ModelCard) -> str:
    """Return the folder of a run: another one for another folder, place, model, or state of the model."""
    from inspection_core.session import card_mark

    which = "\0".join((str(root), url, model, card.version, card.weights_sha256, card_mark(card)))
    return f"{root.name}_{hashlib.sha256(which.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"
