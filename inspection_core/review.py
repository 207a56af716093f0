"""A prediction under review: the one thing in the suite that changes.

The list of corrections only grows. What counts now is their replay on the prediction; an undo is an entry of its own
that takes the last one out of the replay, so the list stays a complete audit trail: who, when, what changed.

A reviewer works on findings, not on classes: the array under review holds finding *numbers*, and each number has a
`Mark`, its class and what was said about it. The label mask follows from both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, UsageError
from inspection_core.geometry import readonly
from inspection_core.prediction import Prediction
from inspection_core.regions import MAX_NUMBER, number_regions

Status = Literal["open", "accepted", "rejected"]
Action = Literal[
    "paint", "grow", "shrink", "level", "seeds", "interpolate", "islands", "holes", "smooth", "merge", "split",
    "delete", "accept", "reject", "reopen", "relabel", "undo", "redo",
]  # fmt: skip
ACTIONS: tuple[str, ...] = Action.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Mark:
    """What is known of a finding besides its voxels.

    Parameters
    ----------
    label
        Class name.
    status
        What the reviewer said.
    edited
        Whether a person drew or changed its outline, so that the model's figures no longer hold for it.
    """

    label: str
    status: Status = "open"
    edited: bool = False


@dataclass(frozen=True, eq=False)
class Correction:
    """One entry of the audit trail.

    Parameters
    ----------
    action
        What was done.
    author
        Who did it.
    start
        First index of the block that changed, in index order; empty for actions that change no voxel.
    after
        uint16 finding numbers of that block after the change; None for actions that change no voxel.
    marks
        Marks that the action sets, by finding number.
    note
        Free text.
    time
        When, with time zone; now if not given.
    """

    action: Action
    author: str
    start: tuple[int, ...] = ()
    after: NDArray[np.uint16] | None = None
    marks: Mapping[int, Mark] = field(default_factory=dict)
    note: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if not self.author:
            raise UsageError("A correction names its author. Got an empty name.")
        if self.action not in ACTIONS:
            raise UsageError(f"An action is one of {', '.join(ACTIONS)}. Got {self.action!r}.")
        if (self.after is None) != (self.start == ()):
            raise UsageError("A correction that changes voxels has both `start` and `after`; any other has neither.")
        if self.after is not None:
            after = np.asarray(self.after)
            if after.dtype.kind not in "uib" or (after.size and not 0 <= after.min() <= after.max() <= MAX_NUMBER):
                raise UsageError(f"Finding numbers are whole, from 0 to {MAX_NUMBER}. Got {_range(after)}.")
            # A copy: viewers paint in place, and the trail must not change under them.
            object.__setattr__(self, "after", readonly(np.array(after, dtype=np.uint16)))
        object.__setattr__(self, "marks", MappingProxyType(dict(self.marks)))


@dataclass(frozen=True)
class Entry:
    """A correction as the audit trail tells it.

    Parameters
    ----------
    number
        From 1, in the order of the log.
    correction
        What was done.
    voxels
        How many voxels it changed.
    findings
        Numbers of the findings that it touched.
    """

    number: int
    correction: Correction
    voxels: int
    findings: tuple[int, ...]


@dataclass(eq=False)
class _Done:
    """An active correction, with what was there before it."""

    correction: Correction
    before: NDArray[np.uint16] | None
    marks: dict[int, Mark | None]


class Review:
    """A prediction and the corrections made to it.

    Parameters
    ----------
    prediction
        What the model said.
    corrections
        Earlier entries, oldest first, when a review is continued.
    classes
        The model's class names, label 1 first. Without them only the names that the findings carry are known.

    Raises
    ------
    UsageError
        If the prediction has more regions than can be numbered.
    """

    def __init__(
        self, prediction: Prediction, corrections: Sequence[Correction] = (), classes: Sequence[str] = ()
    ) -> None:
        self.prediction = prediction
        self._regions, numbers = number_regions(prediction.mask, prediction.findings, prediction.geometry.voxel_size)
        self._marks = {n: Mark(label) for n, (_, label) in numbers.items()}
        self._values = {name: k for k, name in enumerate(classes, start=1)}
        for value, label in numbers.values():
            self._values.setdefault(label, value)
        self._highest = max(numbers, default=0)
        self._log: list[Entry] = []
        self._done: list[_Done] = []
        self._undone: list[Correction] = []
        for correction in corrections:
            self.add(correction)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The whole audit trail, oldest first."""
        return tuple(entry.correction for entry in self._log)

    @property
    def log(self) -> tuple[Entry, ...]:
        """The audit trail with what each entry changed."""
        return tuple(self._log)

    @property
    def active(self) -> tuple[Correction, ...]:
        """The corrections that count now: neither undone nor an undo."""
        return tuple(done.correction for done in self._done)

    @property
    def undoable(self) -> Correction | None:
        """What an undo would take back."""
        return self._done[-1].correction if self._done else None

    @property
    def redoable(self) -> Correction | None:
        """What a redo would bring back."""
        return self._undone[-1] if self._undone else None

    @property
    def regions(self) -> NDArray[np.uint16]:
        """Finding numbers on the prediction's grid, 0 for background; a view that refuses writing."""
        return readonly(self._regions)

    @property
    def marks(self) -> Mapping[int, Mark]:
        """Marks of all findings, also of those that have no voxel left."""
        return dict(self._marks)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by their value in the mask."""
        return tuple(sorted(self._values, key=lambda name: self._values[name]))

    @property
    def next_number(self) -> int:
        """A number that no finding of this review ever had."""
        return self._highest + 1

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The corrected label mask, a new array; rejected findings are background."""
        values = np.zeros(self._highest + 1, np.uint8)
        for number, mark in self._marks.items():
            values[number] = 0 if mark.status == "rejected" else self._values[mark.label]
        return np.asarray(values[self._regions])

    def add(self, correction: Correction) -> tuple[int, ...]:
        """Append an entry; an undo or redo acts on what came before.

        Returns
        -------
        tuple of int
            Numbers of the findings that changed.

        Raises
        ------
        GeometryError
            If the block lies outside the mask.
        UsageError
            If there is nothing to undo or redo, a number has no mark, or there are too many classes.
        """
        if correction.action == "undo":
            if not self._done:
                raise UsageError("There is no correction to undo.")
            done = self._done.pop()
            voxels, touched = self._restore(done)
            self._undone.append(done.correction)
        elif correction.action == "redo":
            if not self._undone:
                raise UsageError("There is no correction to redo.")
            again = self._undone.pop()
            voxels, touched = self._apply(again)
        else:
            self._check(correction)
            voxels, touched = self._apply(correction)
            self._undone.clear()
        self._log.append(Entry(len(self._log) + 1, correction, voxels, touched))
        return touched

    def undo(self, author: str) -> tuple[int, ...]:
        """Take the last active correction out of the replay, and log who did; return the findings that changed."""
        return self.add(Correction("undo", author))

    def redo(self, author: str) -> tuple[int, ...]:
        """Bring back what the last undo took out; return the findings that changed."""
        return self.add(Correction("redo", author))

    def judge(self, action: Literal["accept", "reject", "reopen"], author: str, numbers: Sequence[int]) -> Correction:
        """Return the correction that gives findings a status; it is not added yet."""
        status: Status = {"accept": "accepted", "reject": "rejected", "reopen": "open"}[action]  # type: ignore[assignment]
        return Correction(action, author, marks={n: replace(self.mark(n), status=status) for n in numbers})

    def relabel(self, author: str, numbers: Sequence[int], label: str) -> Correction:
        """Return the correction that gives findings a class; it is not added yet."""
        return Correction("relabel", author, marks={n: replace(self.mark(n), label=label) for n in numbers})

    def block(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.uint16]:
        """Return a copy of the finding numbers in a half-open box."""
        return np.array(self._regions[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])

    def change(
        self,
        action: Action,
        author: str,
        start: Sequence[int],
        after: NDArray[Any],
        *,
        label: str | None = None,
        note: str = "",
    ) -> Correction:
        """Return the correction that puts finding numbers into a block; it is not added yet.

        Numbers that are new get the class `label`, the first one if not given. Findings whose voxels change are marked
        as edited.
        """
        after = np.asarray(after)
        stop = tuple(a + n for a, n in zip(start, after.shape, strict=True))
        before = self.block(start, stop)
        differs = before != after if before.shape == after.shape else np.ones(after.shape, bool)
        touched = set(np.unique(after[differs]).tolist())
        if before.shape == after.shape:
            touched |= set(np.unique(before[differs]).tolist())
        label = label or (self.classes[0] if self._values else "finding")
        marks = {
            int(n): replace(self._marks[n], edited=True) if n in self._marks else Mark(label, edited=True)
            for n in sorted(touched - {0})
        }
        return Correction(action, author, tuple(int(a) for a in start), after, marks, note)

    def mark(self, number: int) -> Mark:
        """Return what is known of one finding.

        Raises
        ------
        UsageError
            If there is none of that number.
        """
        if number not in self._marks:
            raise UsageError(f"There is no finding {number} among the {len(self._marks)}.")
        return self._marks[number]

    def _apply(self, correction: Correction) -> tuple[int, tuple[int, ...]]:
        marks = {int(n): self._marks.get(int(n)) for n in correction.marks}
        before = None
        voxels = 0
        touched = set(marks)
        if correction.after is not None:
            block = _block(correction.start, correction.after.shape)
            before = np.array(self._regions[block])
            voxels, changed = _difference(before, correction.after)
            touched |= changed
            self._regions[block] = correction.after
        for number, mark in correction.marks.items():
            self._marks[int(number)] = mark
            self._highest = max(self._highest, int(number))
            self._values.setdefault(mark.label, max(self._values.values(), default=0) + 1)
        self._done.append(_Done(correction, before, marks))
        return voxels, tuple(sorted(touched - {0}))

    def _restore(self, done: _Done) -> tuple[int, tuple[int, ...]]:
        voxels = 0
        touched = set(done.marks)
        if done.before is not None:
            block = _block(done.correction.start, done.before.shape)
            voxels, changed = _difference(np.asarray(self._regions[block]), done.before)
            touched |= changed
            self._regions[block] = done.before
        for number, mark in done.marks.items():
            if mark is None:
                self._marks.pop(number, None)
            else:
                self._marks[number] = mark
        return voxels, tuple(sorted(touched - {0}))

    def _check(self, correction: Correction) -> None:
        labels = {mark.label for mark in correction.marks.values()}
        if len(labels | set(self._values)) > np.iinfo(np.uint8).max:
            raise UsageError("A mask has at most 255 classes; use one of those that are there.")
        if correction.after is None:
            return
        shape = self.prediction.geometry.shape
        start, size = correction.start, correction.after.shape
        if (
            len(start) != len(shape)
            or len(size) != len(shape)
            or any(a < 0 or a + n > s for a, n, s in zip(start, size, shape, strict=True))
        ):
            raise GeometryError(
                f"A correction lies inside the mask of shape {shape}. Got a block of shape {size} at {start}."
            )
        known = {0, *self._marks, *(int(n) for n in correction.marks)}
        if unknown := sorted(set(np.unique(correction.after).tolist()) - known):
            raise UsageError(f"A correction that makes a finding gives its mark. Got finding {unknown[0]} without one.")


def _difference(before: NDArray[np.uint16], after: NDArray[np.uint16]) -> tuple[int, set[int]]:
    """Return how many voxels differ, and the numbers in them."""
    differs = before != after
    count = int(differs.sum())
    if not count:
        return 0, set()
    return count, set(np.unique(before[differs]).tolist()) | set(np.unique(after[differs]).tolist())


def _range(values: NDArray[Any]) -> str:
    return f"{values.dtype} from {values.min()} to {values.max()}" if values.size else f"none, of {values.dtype}"


def _block(start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
