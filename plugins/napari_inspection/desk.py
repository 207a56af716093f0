"""One result under review: its layers, its findings as they are now, and the one history that all changes go through.

napari's Labels layer has an undo of its own that knows strokes alone. Here its `undo` and `redo` are the review's, so
Ctrl+Z takes back the last thing that was done, be it a stroke, a smart tool or a verdict, whoever is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from inspection_core.errors import InspectionError
from inspection_core.findings import find_numbered
from inspection_core.prediction import Finding
from inspection_core.review import Action, Correction, Mark
from napari_inspection import layers, looks, strokes
from napari_inspection.keep import Opened, scale_of

CALM = 150
"""Milliseconds after the last stroke before figures and texts follow: a large finding takes longer than its stroke."""


class Desk(QObject):
    """A review with its layers.

    Parameters
    ----------
    opened
        The review, from `napari_inspection.keep`.
    """

    painted = Signal(object, object)
    """Corrections that were just added, and the numbers of the findings they touched."""
    failed = Signal(str)

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened
        self.case, self.review, self.store = opened.case, opened.review, opened.store
        self.folder, self.reviewer = opened.folder, opened.reviewer
        self.canvas: NDArray[np.uint16] = np.array(self.review.regions)
        """What the user paints on, in the core's order; the layer shows a view of it."""
        self.origin = {f.id: f for f in self.review.prediction.findings}
        self.findings: dict[int, Finding] = dict(self.origin)
        self.selection = 0
        self.colour_by = "status"
        self.label: str | None = None
        self.labels: Any = None
        self.score: Any = None
        self.texts: Any = None
        self._calm = QTimer(self)
        self._calm.setSingleShot(True)
        self._calm.setInterval(CALM)
        self._calm.timeout.connect(self.settle)
        self._stale: set[int] = set()
        self._camera: Any = None
        self._still = QTimer(self)
        self._still.setSingleShot(True)
        self._still.setInterval(CALM)
        self._still.timeout.connect(self.outline)
        self.filled = False
        self._measure_all({n for entry in self.review.log for n in entry.findings})

    # Layers ----------------------------------------------------------------------------------------------------------

    def add_layers(self, viewer: Any) -> None:
        """Show score, findings and their texts."""
        from napari.layers import Layer

        case, prediction = self.case, self.review.prediction
        self.score = viewer.add_layer(Layer.create(*layers.score_layer(case, prediction, scale_of(self.folder))))
        self.labels = viewer.add_layer(Layer.create(*layers.labels_layer(case, self.canvas)))
        self.texts = viewer.add_layer(Layer.create(*layers.texts_layer(case, *self._texts())))
        self.labels.events.paint.connect(self.on_paint)
        self.labels.events.data.connect(self._on_data)
        self.labels.undo, self.labels.redo = self.undo, self.redo
        self._camera = viewer.scene.camera
        self._camera.events.zoom.connect(self._zoomed)
        self.outline()
        self.labels.brush_size = 6
        self._colour()
        viewer.layers.selection.active = self.labels

    @property
    def shown(self) -> tuple[Any, ...]:
        """Its layers."""
        return tuple(layer for layer in (self.score, self.labels, self.texts) if layer is not None)

    def leave(self) -> None:
        """Let go of the files, once the layers are gone."""
        self._calm.stop()
        self._still.stop()
        if self._camera is not None:
            self._camera.events.zoom.disconnect(self._zoomed)
        self.store.close()

    # Findings --------------------------------------------------------------------------------------------------------

    @property
    def marks(self) -> dict[int, Mark]:
        """Marks of the findings that have a voxel."""
        known = self.review.marks
        return {n: known[n] for n in sorted(self.findings) if n in known}

    def doubt(self, number: int) -> float:
        """Return how doubtful a finding is, from 0 to 1: what the model was not sure of."""
        origin = self.origin.get(number)
        return 1 - origin.confidence if origin is not None else 0.0

    @property
    def left(self) -> int:
        """How many findings wait for a verdict."""
        return sum(mark.status == "open" for mark in self.marks.values())

    def next_uncertain(self) -> int:
        """Return the most doubtful finding that waits for a verdict, 0 if none does."""
        waiting = [n for n, mark in self.marks.items() if mark.status == "open" and n != self.selection]
        if not waiting and self.selection in self.marks and self.marks[self.selection].status == "open":
            return self.selection
        return max(waiting, key=lambda n: (self.doubt(n), -n), default=0)

    def centre(self, number: int) -> NDArray[np.float64]:
        """Return napari's world point of a finding: its middle, in a slice that shows it."""
        finding = self.findings[number]
        index = np.array(finding.centroid_index)
        near = np.clip(np.rint(index).astype(int), finding.start, np.array(finding.stop) - 1)
        if self.canvas[tuple(near)] != number:  # a ring has its middle elsewhere
            block = self.canvas[_box(finding)] == number
            inside = np.argwhere(block) + np.array(finding.start)
            near = inside[np.linalg.norm(inside - index, axis=1).argmin()]
        return self.case.frame.world(near.astype(float))

    def select(self, number: int) -> None:
        """Look at a finding: colour it, and paint with its number."""
        before, self.selection = self.selection, number if number in self.findings else 0
        if self.labels is not None and (before != self.selection or self.selection):
            if self.selection:
                self.labels.selected_label = self.selection
            if before != self.selection:
                self._colour()

    # Changes ---------------------------------------------------------------------------------------------------------

    def judge(self, action: Any, numbers: Sequence[int]) -> None:
        """Accept, reject or reopen findings."""
        if numbers:
            self.do(self.review.judge(action, self.reviewer, [n for n in numbers if n in self.findings]))

    def relabel(self, numbers: Sequence[int], label: str) -> None:
        """Give findings another class."""
        if numbers:
            self.do(self.review.relabel(self.reviewer, numbers, label))

    def merge(self, numbers: Sequence[int]) -> None:
        """Make one finding of several: the first of them, which need not touch."""
        wanted = [n for n in numbers if n in self.findings]
        if len(wanted) < 2:
            self.failed.emit("Merging needs two findings or more: select them in the table with Ctrl.")
            return
        start = np.min([self.findings[n].start for n in wanted], axis=0)
        stop = np.max([self.findings[n].stop for n in wanted], axis=0)
        after = self.review.block(start, stop)
        after[np.isin(after, wanted)] = wanted[0]
        self.change("merge", start, after)
        self.select(wanted[0])

    def replace(
        self, action: Action, number: int, start: Sequence[int], inside: NDArray[np.bool_], note: str = ""
    ) -> None:
        """Make a finding exactly `inside` within a block; it takes nothing from other findings."""
        stop = tuple(a + n for a, n in zip(start, inside.shape, strict=True))
        after = self.review.block(start, stop)
        after[after == number] = 0
        after[inside & (after == 0)] = number
        self.change(action, start, after, note)

    def change(self, action: Action, start: Sequence[int], after: NDArray[Any], note: str = "") -> None:
        """Put numbers into a block, as one step of the history."""
        self.do(self.review.change(action, self.reviewer, [int(s) for s in start], after, label=self.label, note=note))

    def do(self, correction: Correction) -> None:
        """Add a correction, show it, and keep it."""
        try:
            touched = self.review.add(correction)
        except InspectionError as error:
            self.failed.emit(str(error))
            return
        self._show(correction)
        self._done([correction], touched, correction)

    def undo(self) -> None:
        """Take the last change back."""
        self._step("undo", self.review.undoable)

    def redo(self) -> None:
        """Bring the last undone change back."""
        self._step("redo", self.review.redoable)

    def _step(self, action: Any, about: Correction | None) -> None:
        if about is None:
            self.failed.emit(f"There is nothing to {action}.")
            return
        touched = self.review.add(Correction(action, self.reviewer))
        self._show(about)
        self._done([self.review.corrections[-1]], touched, about)

    def on_paint(self, event: Any) -> None:
        """Take a stroke of napari's, a polygon or a fill, into the history."""
        found = strokes.painted(event.value, np.asarray(self.labels.data))
        if found is None:
            return
        start, stop, after = self._in_core(found)
        correction = self.review.change("paint", self.reviewer, start, after, label=self.label)
        if not correction.marks:
            return
        touched = self.review.add(correction)
        self._stale |= set(touched)
        fresh = {n for n in touched if n not in self.findings}
        self._measure(fresh, correction)  # all of a new finding lies in its first stroke
        for number in set(touched) - fresh:
            old = self.findings[number]
            low, high = np.minimum(old.start, start), np.maximum(old.stop, stop)
            self.findings[number] = replace(old, start=tuple(int(v) for v in low), stop=tuple(int(v) for v in high))
        self._calm.start()
        self.painted.emit([correction], tuple(fresh))

    def _on_data(self, event: Any = None) -> None:
        """Take an array that somebody put into the layer as one change, and show the review's own again.

        Other plugins write their results so. Left there, strokes would be drawn on what the review does not have.
        """
        given = np.asarray(self.labels.data)
        if np.shares_memory(given, self.canvas):
            return
        shown = self.case.frame.show(self.canvas)
        self.labels.data = shown
        if given.shape != shown.shape or given.min() < 0 or given.max() > np.iinfo(self.canvas.dtype).max:
            self.failed.emit("Something put other data into the findings' layer. They do not fit, and were put back.")
            return
        found = strokes.replaced(shown, given.astype(shown.dtype))
        if found is not None:
            start, _, after = self._in_core(found)
            self.change("paint", start, after, "written into the layer from elsewhere")

    def _in_core(self, found: strokes.Block) -> tuple[tuple[int, ...], tuple[int, ...], NDArray[Any]]:
        """Return the box of the core's array that a block of the shown one is, and the block in the core's order."""
        low, block = found
        start, stop = self.case.frame.box(low, tuple(a + n for a, n in zip(low, block.shape, strict=True)))
        return start, stop, self.case.frame.unshow(block)

    def settle(self) -> None:
        """Measure what strokes changed, and let the texts follow; called when no stroke came for a moment."""
        stale, self._stale = self._stale, set()
        if stale:
            self._measure(stale, None)
            self.painted.emit([], tuple(sorted(stale)))
        self._refresh_texts()

    def _show(self, about: Correction) -> None:
        """Copy the block that a change was about from the review to what is shown."""
        if about.after is not None:
            block = tuple(slice(a, a + n) for a, n in zip(about.start, about.after.shape, strict=True))
            self.canvas[block] = self.review.regions[block]
            self.labels.refresh()

    def _done(self, corrections: list[Correction], touched: tuple[int, ...], about: Correction) -> None:
        self._measure(set(touched) | self._stale, about)
        self._stale = set()
        if self.selection and self.selection not in self.findings:
            self.selection = 0
        if any(c.action != "paint" for c in corrections):
            self._colour()
        self._calm.start()
        self.painted.emit(corrections, touched)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _measure_all(self, edited: set[int]) -> None:
        """Measure what an earlier sitting changed, and what the model left unnumbered, in one go."""
        marks = self.review.marks
        wanted = {n: marks[n].label for n in marks if n in edited or n not in self.origin}
        if not wanted and not edited:
            return
        prediction = self.review.prediction
        found = find_numbered(self.review.regions, prediction.score, prediction.geometry, wanted)
        for number in edited:
            self.findings.pop(number, None)
        for finding in found:
            origin = self.origin.get(finding.id)
            self.findings[finding.id] = replace(finding, confidence=origin.confidence if origin is not None else 0.0)

    def _measure(self, numbers: set[int], about: Correction | None) -> None:
        """Measure findings again, in their boxes and in the block that a correction was about."""
        known = self.review.marks
        for number in numbers:
            old = self.findings.get(number)
            mark = known.get(number)
            if mark is None:
                self.findings.pop(number, None)
                continue
            if about is not None and about.after is None and old is not None and number not in self._stale:
                self.findings[number] = replace(old, label=mark.label)
                continue
            boxes = [(old.start, old.stop)] if old is not None else []
            if about is not None and about.after is not None:
                boxes.append((about.start, tuple(a + n for a, n in zip(about.start, about.after.shape, strict=True))))
            if not boxes:
                continue
            start = tuple(int(v) for v in np.min([b[0] for b in boxes], axis=0))
            stop = tuple(int(v) for v in np.max([b[1] for b in boxes], axis=0))
            block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            part = self.review.prediction.geometry.cropped(start, [b - a for a, b in zip(start, stop, strict=True)])
            score = self.review.prediction.score[block]
            measured = find_numbered(self.review.regions[block], score, part, {number: mark.label})
            if not measured:
                self.findings.pop(number, None)
                continue
            origin = self.origin.get(number)
            confidence = origin.confidence if origin is not None else 0.0
            self.findings[number] = _moved(measured[0], start, confidence)

    def _colour(self) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        bright = layers.is_bright(self.case)
        colours = looks.colours(self.review.marks, self.review.classes, self.colour_by, self.selection, bright=bright)
        self.labels.colormap = DirectLabelColormap(color_dict=colours)

    def recolour(self, by: str) -> None:
        """Colour findings by ``status``, ``class`` or ``finding``."""
        self.colour_by = by
        self._colour()

    def outline(self) -> None:
        """Draw findings as outlines that are as wide on the screen at every zoom, or fill them."""
        if self.labels is not None:
            width = 0 if self.filled else layers.outline_width(float(self._camera.zoom), self.case.frame)
            if self.labels.contour != width:
                self.labels.contour = width

    def _zoomed(self, event: Any = None) -> None:
        self._still.start()

    def _texts(self) -> tuple[NDArray[np.float64], list[str]]:
        return looks.texts(self.case.frame, self.marks, self.findings, self.origin)

    def _refresh_texts(self) -> None:
        if self.texts is None:
            return
        places, words = self._texts()
        points, meta, _ = layers.texts_layer(self.case, places, words)
        if np.array_equal(points, self.texts.data) and list(self.texts.features.get("text", [])) == words:
            return
        self.texts.data = points
        self.texts.features = meta["features"]
        self.texts.refresh_text()


def _box(finding: Finding) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(finding.start, finding.stop, strict=True))


def _moved(finding: Finding, start: Sequence[int], confidence: float) -> Finding:
    return replace(
        finding,
        start=tuple(a + b for a, b in zip(finding.start, start, strict=True)),
        stop=tuple(a + b for a, b in zip(finding.stop, start, strict=True)),
        centroid_index=tuple(a + b for a, b in zip(finding.centroid_index, start, strict=True)),
        confidence=confidence,
    )
