"""A prediction under review: the one thing in the suite that changes.

The list of corrections only grows. The current mask is their replay on the predicted mask; undo appends an entry that
takes the last one out of the replay, so the list stays a complete audit trail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError, UsageError
from inspection_core.geometry import readonly
from inspection_core.prediction import Prediction

Action = Literal["paint", "accept", "reject", "relabel", "undo", "redo"]


@dataclass(frozen=True, eq=False)
class Correction:
    """One entry of the audit trail.

    Parameters
    ----------
    action
        What was done.
    author
        Who did it.
    time
        When, with time zone; now if not given.
    start
        First index of the block that changed, in index order; empty for actions that change no voxel.
    after
        uint8 labels of that block after the change; None for actions that change no voxel.
    finding_id
        The finding that was judged, for accept, reject and relabel.
    note
        Free text.
    """

    action: Action
    author: str
    start: tuple[int, ...] = ()
    after: NDArray[np.uint8] | None = None
    finding_id: int | None = None
    note: str = ""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        if not self.author:
            raise UsageError("A correction names its author. Got an empty name.")
        if (self.after is None) != (self.start == ()):
            raise UsageError("A correction that changes voxels has both `start` and `after`; any other has neither.")
        if self.after is not None:
            after = np.asarray(self.after)
            if after.dtype.kind not in "uib" or (after.size and not 0 <= after.min() <= after.max() <= 255):
                raise UsageError(f"Labels are whole numbers from 0 to 255. Got {_range(after)}.")
            # A copy: viewers paint in place, and the trail must not change under them.
            object.__setattr__(self, "after", readonly(np.array(after, dtype=np.uint8)))


class Review:
    """A prediction and the corrections made to it.

    Parameters
    ----------
    prediction
        What the model said.
    corrections
        Earlier entries, oldest first, when a review is continued.
    """

    def __init__(self, prediction: Prediction, corrections: Sequence[Correction] = ()) -> None:
        self.prediction = prediction
        self._log: list[Correction] = []
        self._done: list[Correction] = []
        self._undone: list[Correction] = []
        for correction in corrections:
            self.add(correction)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The whole audit trail, oldest first."""
        return tuple(self._log)

    @property
    def active(self) -> tuple[Correction, ...]:
        """The corrections that count now: neither undone nor an undo."""
        return tuple(self._done)

    def add(self, correction: Correction) -> None:
        """Append an entry; an undo or redo acts on what came before.

        Raises
        ------
        GeometryError
            If the block lies outside the mask.
        UsageError
            If there is nothing to undo or redo.
        """
        if correction.action == "undo":
            if not self._done:
                raise UsageError("There is no correction to undo.")
            self._undone.append(self._done.pop())
        elif correction.action == "redo":
            if not self._undone:
                raise UsageError("There is no correction to redo.")
            self._done.append(self._undone.pop())
        else:
            self._check(correction)
            self._done.append(correction)
            self._undone.clear()
        self._log.append(correction)

    def undo(self, author: str) -> None:
        """Take the last active correction out of the replay, and log who did."""
        self.add(Correction("undo", author))

    def redo(self, author: str) -> None:
        """Bring back what the last undo took out."""
        self.add(Correction("redo", author))

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The corrected label mask, a new array."""
        mask = np.array(self.prediction.mask)
        for correction in self._done:
            if correction.after is not None:
                mask[_block(correction.start, correction.after.shape)] = correction.after
        return mask

    def _check(self, correction: Correction) -> None:
        if correction.after is None:
            return
        shape = self.prediction.geometry.shape
        start, size = correction.start, correction.after.shape
        if len(start) != len(shape) or len(size) != len(shape) or any(
            a < 0 or a + n > s for a, n, s in zip(start, size, shape, strict=True)
        ):
            raise GeometryError(
                f"A correction lies inside the mask of shape {shape}. Got a block of shape {size} at {start}."
            )


def _range(values: NDArray[Any]) -> str:
    return f"{values.dtype} from {values.min()} to {values.max()}" if values.size else f"none, of {values.dtype}"


def _block(start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
