"""Verdicts on scores that are there already, at another rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inspection_core.card import ModelCard
from inspection_core.learn import REVIEW_FACTOR
from inspection_core.threshold import cuts, verdict

if TYPE_CHECKING:
    from inspection_core.io.store import Row


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows by path with their new verdicts, the scores, both cuts, and what to tell the user."""

    rows: dict[str, Row]
    scores: tuple[float, ...]
    review: float
    ng: float
    words: str


def judge(card: ModelCard, rate: float, rows: Sequence[Row]) -> Judged:
    """Give stored scores the verdicts of a rate: the share of good parts that may be called NG.

    Parameters
    ----------
    card
        Of an anomaly model with calibration scores.
    rate
        In (0, 1); the share that may leave OK is twice that, as where models are fitted.
    rows
        Of a screening.
    """
    policy = replace(card.policy, max_false_alarms=rate, review=min(1.0, REVIEW_FACTOR * rate))
    cut = cuts(policy, card.calibration)
    out: dict[str, Row] = {}
    for row in rows:
        out[row.path] = row if row.score is None else replace(row, verdict=verdict(row.score, cut))
    words = [f"REVIEW above a score of {cut.review:.4g}, NG above {cut.ng:.4g}."]
    words += list(cut.warnings)
    return Judged(out, tuple(r.score for r in rows if r.score is not None), cut.review, cut.ng, " ".join(words))
