"""What one viewer is about: what was listed and opened, what a model said of it, and the review of that.

A `Session` is the only one that adds, changes and removes layers, and it does so in the main thread. Widgets ask it to
do things and listen to its signals; they hold no state of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal

from inspection_core.errors import InspectionError
from napari_inspection import cases, engines, files, keep, layers, store
from napari_inspection.desk import Desk
from napari_inspection.jobs import Jobs
from napari_inspection.layers import Case
from napari_inspection.worker import explain

if TYPE_CHECKING:
    from filelock import FileLock

    from inspection_core.inputs import Input, Listing


class Session(Jobs):
    """The state of one viewer.

    Parameters
    ----------
    viewer
        napari's viewer.
    """

    listed = Signal(object)
    """What was found under a path: a `Listing`."""
    opened = Signal(object)
    """The case now shown, or None."""
    reviewing = Signal(object)
    """The `Desk` of a new or continued review, or None."""
    changed = Signal(object)
    """Numbers of the findings that a correction, an undo or a redo touched."""
    selected = Signal(int)
    """The finding that is being looked at; 0 for none."""
    offered = Signal(str, object)
    """One line, and ``[(button, function), ...]`` to choose from."""
    unreadable = Signal(object, str)
    """An input that could not be opened, and the line that says why."""
    ran = Signal(object)
    """A model was run: what it said, as `keep.Predicted`."""
    screened = Signal(object, object)
    """Results of a screening, also while it runs: rows by the label of their input; and what verdicts are called."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.listing: Listing | None = None
        self.channels: tuple[str, ...] = ()
        self.case: Case | None = None
        self.desk: Desk | None = None
        self.results: dict[str, keep.Screened] = {}
        """What the last screening kept, by the label of the input."""
        self.keep_layers = False
        self._removing = False
        self._gone: list[Any] = []
        self._lock: FileLock | None = None
        self._claimed: tuple[Path, str] | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._look_for_layers)
        viewer.layers.events.removed.connect(self._on_removed)
        self._writer = ThreadPoolExecutor(1, "autosave")

    # Opening ---------------------------------------------------------------------------------------------------------

    def list(self, paths: Sequence[Path]) -> None:
        """Look what is under paths; one input alone is opened at once."""
        wanted = [Path(p).absolute() for p in paths]

        def done(listing: Listing) -> None:
            if not listing.inputs:
                self.say("error", files.refusal(listing, wanted))
            self.show_listing(listing)

        self.start("Looking", lambda: files.list_paths(wanted), done)

    def show_listing(self, listing: Listing, channels: Sequence[str] = (), *, open_alone: bool = True) -> None:
        """Take a listing as what there is to choose from.

        Parameters
        ----------
        listing
            What was found.
        channels
            Of the model that studies of several sequences were put together for.
        open_alone
            Open one input alone at once.
        """
        self.listing, self.channels = listing, tuple(channels)
        self.listed.emit(listing)
        if open_alone and len(listing.inputs) == 1:
            self.open(listing.inputs[0])

    def open(self, item: Input) -> None:
        """Read an input and show it, with its findings where it was screened."""
        channels, me = self.channels, store.user()
        screened = self.results.get(files.label_of(item.label))

        def work() -> tuple[Case, keep.Opened | None, str]:
            case = files.open_case(item, channels)
            try:
                return case, keep.stored(case, screened, me) if screened is not None else None, ""
            except InspectionError as error:  # the image can be looked at all the same
                return case, None, str(error)

        def done(what: tuple[Case, keep.Opened | None, str]) -> None:
            case, found, trouble = what
            self.show(case)
            if found is not None:
                self._sit_down(found)
                self._offer_anew(len(found.review.log))
            elif trouble:
                self.say("error", trouble)

        self.start(f"Opening {files.title(item)}", work, done, failed=lambda line: self.unreadable.emit(item, line))

    def show(self, case: Case) -> None:
        """Show a case in place of the one before, and say what is odd about it."""
        self.leave()
        self.case = case  # before its layers come, or the panel would take them for somebody else's
        for data, meta, kind in layers.image_layers(case):
            self.viewer.add_layer(_layer(data, meta, kind))
        self.viewer.reset_view()
        self.take(case)

    def take(self, case: Case) -> None:
        """Make a case whose layers are there already the current one."""
        self.case = case
        notes = list(case.image.notes)
        if case.frame.oblique:
            notes.append("taken obliquely: shown in its own planes, positions in the patient are true")
        self.opened.emit(case)
        self.say("info", "; ".join(notes) if notes else "")
        waiting = keep.unfinished(case)
        if waiting:
            found = waiting[0]
            self.offered.emit(
                f"A review of this case by {found.reviewer}: {found.count} corrections, model {found.model}.",
                [("Continue it", lambda: self.resume(found.folder, found.reviewer))],
            )

    def current_case(self) -> Case | None:
        """Return the case to work on: that of the selected image layer, the open one, or the topmost image.

        None where there is none, or where the selected image cannot be worked on: another one is not taken for it.
        """
        active = self.viewer.layers.selection.active
        if type(active).__name__ == "Image":
            chosen = cases.case_of(active)
        else:
            found = (cases.case_of(layer) for layer in reversed(self.viewer.layers))
            chosen = self.case or next((c for c in found if c is not None), None)
        if chosen is not None and chosen is not self.case:
            self._clear_results()
            self.take(chosen)
        return chosen

    # Running ---------------------------------------------------------------------------------------------------------

    def run(self, model: Path | str, place: engines.Place = engines.HERE) -> None:
        """Run a model on the current case: one of this machine by its folder, one of a server by its id."""
        case = self.current_case()
        if case is None:
            active = self.viewer.layers.selection.active
            self.say("error", cases.why_not(active) or "There is nothing to run on. Open a scan or an image first.")
            return
        listing, me = self.listing, store.user()

        def work() -> Any:
            result = keep.predicted(case, listing, model, place)
            already = keep.corrections_in(result.folder, me)
            return result, already, keep.opened(result, me)

        def done(what: tuple[keep.Predicted, int, keep.Opened]) -> None:
            result, already, opened = what
            if self.case is not case:  # it was closed, or another one opened
                opened.store.close()
                self.say("info", f"{case.name} was closed while the model ran. Open it and run again.")
                return
            if result.case is not self.case:
                self.show(result.case) if result.case is not case else self.take(result.case)
            voxels = result.prediction.score.size
            engines.remember_speed(result.prediction.model_id, result.seconds, voxels, place)
            self.ran.emit(result)
            self._sit_down(opened)
            self._offer_anew(already)

        self.start(f"Running {Path(model).name}", work, done, alone=True)

    def resume(self, folder: Path, reviewer: str) -> None:
        """Go on with a review that is kept, without running the model again."""
        case = self.case
        if case is not None:
            self.start("Opening the review", lambda: keep.resumed(case, folder, reviewer), self._sit_down)

    def begin_anew(self) -> None:
        """Drop the corrections to the current result."""
        if self.desk is not None:
            self.flush()
            before = self.desk.opened

            def done(opened: keep.Opened) -> None:
                self._clear_results(keep_claim=True)  # or what was done before would be taken along
                self._sit_down(opened)

            self.start("Beginning anew", lambda: keep.anew(before), done)

    # Reviewing -------------------------------------------------------------------------------------------------------

    def _sit_down(self, opened: keep.Opened) -> None:
        """Show a result, and be ready to correct it.

        Raises
        ------
        UsageError
            If this reviewer's log is open in another window.
        """
        which = (opened.folder, opened.reviewer)
        if which != self._claimed:
            try:
                lock = keep.claim(*which)
            except InspectionError:
                opened.store.close()
                raise
            self._clear_results()
            self._lock, self._claimed = lock, which
        else:
            for correction in self.desk.review.corrections[len(opened.review.log) :] if self.desk is not None else ():
                opened.review.add(correction)  # done after the log was read
            self._clear_results(keep_claim=True)
        self.desk = desk = Desk(opened)
        desk.add_layers(self.viewer)
        desk.painted.connect(self._after)
        desk.failed.connect(lambda line: self.say("error", line))
        if desk.review.prediction.warnings:
            self.say("info", "; ".join(desk.review.prediction.warnings[:3]))
        self.reviewing.emit(desk)

    def _offer_anew(self, already: int) -> None:
        """Say that a review goes on where one stood, if it had entries."""
        if already:
            self.offered.emit(
                f"Your earlier review of this result was continued: {already} corrections.",
                [("Begin anew", self.begin_anew)],
            )

    def _after(self, corrections: Any, touched: Any) -> None:
        """Keep what was done, and tell the widgets."""
        desk = self.desk
        if desk is None:
            return
        screened = desk.opened.screened
        if screened is not None and corrections and len(desk.review.log) == len(corrections):
            self._writer.submit(screened.note, True).add_done_callback(self._kept)
        for correction in corrections:
            future = self._writer.submit(desk.store.put, desk.reviewer, correction)
            future.add_done_callback(self._kept)
        self.changed.emit(touched)

    def _kept(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self.said.emit("error", f"Autosave failed: {explain(error)}")

    def flush(self) -> None:
        """Wait until everything done so far is on disk."""
        self._writer.submit(lambda: None).result()

    def select(self, number: int) -> None:
        """Look at a finding."""
        if self.desk is not None:
            self.desk.select(number)
            self.selected.emit(number)

    def show_overlap(self, overlap: Any, names: tuple[str, str]) -> None:
        """Show where two masks agree and differ, in place of an earlier comparison."""
        if self.case is None:
            return
        for layer in [ly for ly in self.viewer.layers if ly.name == "comparison"]:
            self.viewer.layers.remove(layer)
        self.viewer.add_layer(_layer(*layers.overlap_layer(self.case, overlap, names)))
        if self.desk is not None:
            self.viewer.layers.selection.active = self.desk.labels

    # Inside ----------------------------------------------------------------------------------------------------------

    def _clear_results(self, *, keep_claim: bool = False) -> None:
        desk, self.desk = self.desk, None
        if desk is not None:
            self.flush()
            self._remove(desk.shown)
            desk.leave()
            self.reviewing.emit(None)
        if self._lock is not None and not keep_claim:
            self._lock.release()
            self._lock, self._claimed = None, None

    def _remove(self, gone: Sequence[Any]) -> None:
        """Take layers away, all at once: napari tidies up after each time, which takes a third of a second."""
        gone = [layer for layer in gone if layer in self.viewer.layers]
        if not gone:
            return
        self._removing = True
        try:
            with self.viewer.layers.batched_update():
                for layer in gone:
                    self.viewer.layers.remove(layer)
        finally:
            self._removing = False

    def _on_removed(self, event: Any) -> None:
        """Notice when the user takes layers away; looked at once all that go together are gone."""
        if not self._removing:
            self._gone.append(event.value)
            self._soon.start()

    def _look_for_layers(self) -> None:
        """Close what has no layer any more: a case without its image, a review without its findings."""
        gone, self._gone = self._gone, []
        case, desk = self.case, self.desk
        if self._closed or case is None:
            return
        if any(cases.is_image(ly, case) for ly in gone) and not any(
            cases.is_image(ly, case) for ly in self.viewer.layers
        ):
            self.leave()
            self.opened.emit(None)
        elif desk is not None and desk.labels in gone and desk.labels not in self.viewer.layers:
            self._clear_results()
            self.offered.emit(
                "The findings were closed with their layer. The review is kept.",
                [("Show it again", lambda: self.resume(desk.folder, desk.reviewer))],
            )

    def leave(self) -> None:
        """Take the case and its results away, before another one is shown."""
        case = self.case
        if case is not None and not self.keep_layers:
            self._remove([ly for ly in self.viewer.layers if ly.metadata.get(layers.KEY) is case])
        self._clear_results()
        self.case = None

    def close(self) -> None:
        """Stop what runs, take results away, and write what is left."""
        if self._closed:
            return
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self._clear_results()
        self.abandon()

    def abandon(self) -> None:
        """Stop what runs, and write what is left, where the window is gone: nothing of it is touched any more."""
        if self._closed:
            return
        self._closed = True
        self.cancel()
        self.pause()
        self._soon.stop()
        self._writer.shutdown(wait=True)
        if self.desk is not None:
            with suppress(RuntimeError):  # Qt's word for timers that are gone, where the whole process ends
                self.desk.leave()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _layer(data: Any, meta: dict[str, Any], kind: str) -> Any:
    from napari.layers import Layer

    return Layer.create(data, meta, kind)
