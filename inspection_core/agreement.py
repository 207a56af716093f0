"""Two masks of one case side by side: two reviewers, or a prediction and its correction, or either and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError
from inspection_core.review import Mark, Review


@dataclass(frozen=True)
class Pair:
    """A finding of the first and the one of the second that it shares most with; None where it has no partner.

    Parameters
    ----------
    first, second
        Numbers.
    dice
        Of their voxels; 0 without a partner.
    same_label, same_status
        Whether both say the same; False without a partner.
    """

    first: int | None
    second: int | None
    dice: float
    same_label: bool = False
    same_status: bool = False


@dataclass(frozen=True)
class Agreement:
    """How far two agree.

    Parameters
    ----------
    dice
        Of all that is not background, in [0, 1]; 1 where both are empty.
    per_class
        Dice of each class that one of them has.
    pairs
        Every finding of either, those with a partner first.
    """

    dice: float
    per_class: Mapping[str, float]
    pairs: tuple[Pair, ...]

    @property
    def matched(self) -> int:
        """How many findings have a partner."""
        return sum(p.first is not None and p.second is not None for p in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "dice": self.dice,
            "per_class": dict(self.per_class),
            "findings": [
                {"first": p.first, "second": p.second, "dice": p.dice, "same_label": p.same_label,
                 "same_status": p.same_status}
                for p in self.pairs
            ],
        }  # fmt: skip


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return twice the shared voxels over the sum of both (Dice 1945); 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def compare_reviews(first: Review, second: Review) -> Agreement:
    """Compare two reviews of one case; findings that one rejects are not there for the masks, but are still paired.

    Raises
    ------
    GeometryError
        If they lie on different grids.
    """
    if first.prediction.geometry.shape != second.prediction.geometry.shape:
        raise GeometryError(
            f"Reviews of one case lie on one grid. Got shapes {first.prediction.geometry.shape} and "
            f"{second.prediction.geometry.shape}."
        )
    masks = first.mask, second.mask
    names = sorted({*first.classes, *second.classes})
    per_class = {}
    for name in names:
        one, two = (
            mask == review.classes.index(name) + 1 if name in review.classes else np.zeros(mask.shape, bool)
            for mask, review in zip(masks, (first, second), strict=True)
        )
        if one.any() or two.any():
            per_class[name] = dice(one, two)
    pairs = pair_findings(first.regions, second.regions, first.marks, second.marks)
    return Agreement(dice(masks[0] > 0, masks[1] > 0), per_class, pairs)


def pair_findings(
    first: NDArray[np.integer[Any]],
    second: NDArray[np.integer[Any]],
    first_marks: Mapping[int, Mark],
    second_marks: Mapping[int, Mark],
) -> tuple[Pair, ...]:
    """Pair the findings of two numbered arrays, one to one, the largest overlaps first."""
    sizes = [np.bincount(a.ravel()) for a in (first, second)]
    both = (first > 0) & (second > 0)
    places, counts = np.unique(np.stack([first[both], second[both]]), axis=1, return_counts=True)
    scored = []
    for (a, b), shared in zip(places.T.tolist(), counts.tolist(), strict=True):
        scored.append((2 * shared / int(sizes[0][a] + sizes[1][b]), int(a), int(b)))
    left = [_there(sizes[0]), _there(sizes[1])]
    pairs: list[Pair] = []
    for value, a, b in sorted(scored, key=lambda s: (-s[0], s[1], s[2])):
        if a in left[0] and b in left[1]:
            left[0].remove(a)
            left[1].remove(b)
            one, two = first_marks.get(a), second_marks.get(b)
            known = one is not None and two is not None
            pairs.append(
                Pair(
                    a,
                    b,
                    value,
                    known and one.label == two.label,  # type: ignore[union-attr]
                    known and one.status == two.status,  # type: ignore[union-attr]
                )
            )
    pairs.sort(key=lambda p: p.first or 0)
    return (*pairs, *(Pair(a, None, 0.0) for a in left[0]), *(Pair(None, b, 0.0) for b in left[1]))


def _there(sizes: Sequence[int] | NDArray[np.integer[Any]]) -> list[int]:
    return [n for n in range(1, len(sizes)) if sizes[n]]
