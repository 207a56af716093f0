"""What one viewer is about: what was listed and opened, what a model said of it, and the review of that.

A `Session` is the only one that adds, changes and removes layers, and it does so in the main thread. Widgets ask it to
do things and listen to its signals; they hold no state of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from inspection_core.errors import InspectionError
from napari_inspection import engines, files, keep, layers, store
from napari_inspection.desk import Desk
from napari_inspection.layers import Case
from napari_inspection.worker import Job, explain

if TYPE_CHECKING:
    from inspection_core.inputs import Input, Listing


CANCELLED = "Cancelled. Nothing was changed."


class Session(QObject):
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
    said = Signal(str, str)
    """Kind (``info``, ``error``) and one line."""
    offered = Signal(str, object)
    """One line, and ``[(button, function), ...]`` to choose from."""
    working = Signal(str, int, int, object)
    """What is being done, steps done, their total, seconds left; an empty name when it ended."""
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
        self.job: Job | None = None
        self.keep_layers = False
        self._closed = False
        self._writer = ThreadPoolExecutor(1, "autosave")

    # Opening ---------------------------------------------------------------------------------------------------------

    def list(self, paths: Sequence[Path]) -> None:
        """Look what is under paths; one input alone is opened at once."""
        wanted = [Path(p).absolute() for p in paths]

        def done(listing: Listing) -> None:
            if not listing.inputs:
                self.say("error", files.refusal(listing, wanted))
            self.show_listing(listing)

        self._start("Looking", lambda: files.list_paths(wanted), done)

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
        """Read an input and show it."""
        channels = self.channels
        self._start(f"Opening {files.title(item)}", lambda: files.open_case(item, channels), self.show)

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
        """Return the case to work on: that of the selected image layer, the open one, or the topmost image."""
        active = self.viewer.layers.selection.active
        chosen = active.metadata.get(layers.KEY) if type(active).__name__ == "Image" else None
        if chosen is not None and chosen is not self.case:
            self._clear_results()
            self.take(chosen)
        if self.case is None:
            found = (layers.case_of(layer) for layer in (active, *reversed(self.viewer.layers)) if layer is not None)
            case = next((c for c in found if c is not None), None)
            if case is not None:
                self.take(case)
        return self.case

    # Running ---------------------------------------------------------------------------------------------------------

    def run(self, model: Path | str, place: engines.Place = engines.HERE) -> None:
        """Run a model on the current case: one of this machine by its folder, one of a server by its id."""
        case = self.current_case()
        if case is None:
            self.say("error", "There is nothing to run on. Open a scan or an image first.")
            return
        listing, me = self.listing, store.user()

        def work() -> Any:
            result = keep.predicted(case, listing, model, place)
            already = keep.corrections_in(result.folder, me)
            return result, already, keep.opened(result, me)

        def done(what: tuple[keep.Predicted, int, keep.Opened]) -> None:
            result, already, opened = what
            if result.case is not self.case:
                self.show(result.case) if result.case is not case else self.take(result.case)
            voxels = result.prediction.score.size
            engines.remember_speed(result.prediction.model_id, result.seconds, voxels, place)
            self.ran.emit(result)
            self._sit_down(opened)
            if already:
                self.offered.emit(
                    f"Your earlier review of this result was continued: {already} corrections.",
                    [("Begin anew", self.begin_anew)],
                )

        self._start(f"Running {Path(model).name}", work, done)

    def resume(self, folder: Path, reviewer: str) -> None:
        """Go on with a review that is kept, without running the model again."""
        case = self.case
        if case is not None:
            self._start("Opening the review", lambda: keep.resumed(case, folder, reviewer), self._sit_down)

    def begin_anew(self) -> None:
        """Drop the corrections to the current result."""
        if self.desk is not None:
            self.flush()
            before = self.desk.opened
            self._start("Beginning anew", lambda: keep.anew(before), self._sit_down)

    def cancel(self) -> None:
        """Ask the job that runs to stop."""
        if self.job is not None:
            self.job.cancel()

    # Reviewing -------------------------------------------------------------------------------------------------------

    def _sit_down(self, opened: keep.Opened) -> None:
        """Show a result, and be ready to correct it."""
        self._clear_results()
        self.desk = desk = Desk(opened)
        desk.add_layers(self.viewer)
        desk.painted.connect(self._after)
        desk.failed.connect(lambda line: self.say("error", line))
        for warning in desk.review.prediction.warnings[:3]:
            self.say("info", warning)
        self.reviewing.emit(desk)

    def _after(self, corrections: Any, touched: Any) -> None:
        """Keep what was done, and tell the widgets."""
        desk = self.desk
        if desk is None:
            return
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

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return self.job is None or self.job.finished

    def say_busy(self) -> None:
        """Tell the user that one thing runs at a time."""
        self.say("error", "Something else is still running. Wait for it, or cancel it first.")

    def say(self, kind: str, line: str) -> None:
        """Tell the user one line; an empty one clears the last."""
        self.said.emit(kind, line)

    def _start(self, name: str, work: Any, done: Any, cancelled: str = CANCELLED) -> None:
        if not self.idle:
            self.say_busy()
            return

        def finish(result: Any) -> None:
            if self._closed:
                return
            self.working.emit("", 0, 0, None)
            try:
                done(result)
            except InspectionError as error:
                self.say("error", str(error))

        def fail(line: str) -> None:
            if self._closed:
                return
            self.working.emit("", 0, 0, None)
            self.say("error" if line else "info", line or cancelled)

        def progress(steps: int, total: int, left: float | None) -> None:
            if self._closed:
                return
            self.working.emit(name, steps, total, left)

        self.say("info", "")
        self.working.emit(name, 0, 0, None)
        self.job = Job(work, finish, fail, progress).start()

    def start(self, name: str, work: Any, done: Any, cancelled: str = CANCELLED) -> None:
        """Do something off the main thread, and its end in it; one thing at a time.

        Parameters
        ----------
        name
            What the user reads while it runs.
        work, done
            As for `napari_inspection.worker.Job`.
        cancelled
            What the user reads where it was cancelled.
        """
        self._start(name, work, done, cancelled)

    def _clear_results(self) -> None:
        if self.desk is not None:
            self.flush()
            self.desk.leave(self.viewer)
            self.desk = None
            self.reviewing.emit(None)

    def leave(self) -> None:
        """Take the case and its results away, before another one is shown."""
        self._clear_results()
        if self.case is not None and not self.keep_layers:
            with self.viewer.layers.batched_update():
                for layer in [ly for ly in self.viewer.layers if ly.metadata.get(layers.KEY) is self.case]:
                    self.viewer.layers.remove(layer)
        self.case = None

    def close(self) -> None:
        """Stop what runs, and write what is left."""
        if self._closed:
            return
        self._closed = True
        self.cancel()
        self._clear_results()
        self._writer.shutdown(wait=True)


def _layer(data: Any, meta: dict[str, Any], kind: str) -> Any:
    from napari.layers import Layer

    return Layer.create(data, meta, kind)
