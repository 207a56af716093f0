"""The smart tools on a desk's findings: each cuts a block around the finding, and leaves the work to the core."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inspection_core import edit
from inspection_core.errors import UsageError
from inspection_core.review import Action
from napari_inspection.desk import Desk

MARGIN = 12
"""Of a block around a finding, in smallest voxel sides: as far as one use of a tool reaches."""
FAR = 40
"""Of the block that seeds grow in."""


class Block:
    """A block around one finding, and what the tools need of it.

    Parameters
    ----------
    desk, number
        Whose finding.
    margin
        In smallest voxel sides.

    Raises
    ------
    UsageError
        If there is no such finding.
    """

    def __init__(self, desk: Desk, number: int, margin: float = MARGIN) -> None:
        finding = desk.findings.get(number)
        if finding is None:
            raise UsageError("Select a finding in the table first, or paint a new one.")
        geometry = desk.review.prediction.geometry
        self.number = number
        self.spacing = geometry.spacing
        self.start, self.stop = edit.widened(
            finding.start, finding.stop, geometry.shape, self.spacing, margin * min(self.spacing)
        )
        self.slices = tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        numbers = desk.review.regions[self.slices]
        self.mask: NDArray[np.bool_] = numbers == number
        self.others: NDArray[np.bool_] = (numbers != 0) & ~self.mask
        self.score = np.asarray(desk.review.prediction.score[self.slices], dtype=np.float32)
        self.image = desk.case.image.array[(0, *self.slices)]


def grow(desk: Desk, number: int) -> None:
    """Let a finding grow into the highest scores around it."""
    block = Block(desk, number)
    desk.replace("grow", number, block.start, edit.grown(block.mask, block.score, ~block.others))


def shrink(desk: Desk, number: int) -> None:
    """Take the lowest scores off a finding's rim."""
    block = Block(desk, number, 0)
    desk.replace("shrink", number, block.start, edit.shrunk(block.mask, block.score))


def seeds(desk: Desk, number: int, method: str) -> None:
    """Grow a finding from its voxels as seeds, by the picture; other findings are seeds of what it is not."""
    block = Block(desk, number, FAR)
    inside = edit.from_seeds(block.image, block.mask, block.others, block.spacing, method=method)
    desk.replace("seeds", number, block.start, inside & ~block.others, note=method)


def interpolate(desk: Desk, number: int) -> None:
    """Fill the slices between those on which a finding is painted."""
    block = Block(desk, number, 0)
    if block.mask.ndim == 2:
        raise UsageError("Interpolating fills slices of a volume; this is a picture.")
    desk.replace("interpolate", number, block.start, edit.between_slices(block.mask))


def islands(desk: Desk, number: int) -> None:
    """Keep the largest part of a finding."""
    _plain(desk, number, "islands", lambda b: edit.without_islands(b.mask))


def holes(desk: Desk, number: int) -> None:
    """Fill the holes of a finding, slice by slice too."""
    _plain(desk, number, "holes", lambda b: edit.filled(b.mask, 0))


def smooth(desk: Desk, number: int) -> None:
    """Even a finding's outline."""
    block = Block(desk, number, 4)
    radius = 1.2 * sorted(block.spacing)[len(block.spacing) // 2]
    desk.replace("smooth", number, block.start, edit.smoothed(block.mask, block.spacing, radius))


def delete(desk: Desk, number: int) -> None:
    """Take all voxels of a finding away."""
    block = Block(desk, number, 0)
    desk.replace("delete", number, block.start, np.zeros(block.mask.shape, bool))


def split(desk: Desk, number: int) -> None:
    """Cut a finding at its waist, or into its parts; new parts get numbers of their own."""
    block = Block(desk, number, 0)
    parts = edit.split(block.mask, block.spacing)
    after = desk.review.block(block.start, block.stop)
    fresh = desk.review.next_number
    for part in range(2, int(parts.max()) + 1):
        after[parts == part] = fresh + part - 2
    before, desk.label = desk.label, desk.review.mark(number).label
    try:
        desk.change("split", block.start, after)
    finally:
        desk.label = before


def _plain(desk: Desk, number: int, action: Action, tool: Callable[[Block], NDArray[np.bool_]]) -> None:
    block = Block(desk, number, 0)
    desk.replace(action, number, block.start, tool(block))


class Level:
    """The threshold of one finding: a preview while the slider moves, one step of the history when it is let go.

    Parameters
    ----------
    desk, number
        Whose finding.
    """

    STEPS = 200

    def __init__(self, desk: Desk, number: int) -> None:
        self.desk = desk
        self.block = Block(desk, number, 2 * MARGIN)
        outside = self.block.score[~self.block.others]
        self.low = float(outside.min())
        self.high = float(self.block.score[self.block.mask].max())

    @property
    def position(self) -> int:
        """Where the slider is for the finding as it is."""
        if self.high <= self.low:
            return 0
        level = edit.level_of(self.block.mask, self.block.score)
        return int(np.clip(round((level - self.low) / (self.high - self.low) * self.STEPS), 0, self.STEPS))

    def score(self, position: int) -> float:
        """Return the score at a position of the slider."""
        return self.low + (self.high - self.low) * position / self.STEPS

    def mask(self, position: int) -> NDArray[np.bool_]:
        """Return the finding at a position of the slider."""
        score = np.where(self.block.others, -np.inf, self.block.score)
        return edit.at_level(self.block.mask, score, self.score(position))

    def preview(self, position: int) -> None:
        """Show it, without a step in the history."""
        after = self.desk.review.block(self.block.start, self.block.stop)
        after[after == self.block.number] = 0
        after[self.mask(position) & (after == 0)] = self.block.number
        self.desk.canvas[self.block.slices] = after
        self.desk.labels.refresh()

    def commit(self, position: int) -> None:
        """Make it one step of the history."""
        note = f"score {self.score(position):.4g}"
        self.desk.replace("level", self.block.number, self.block.start, self.mask(position), note)
