"""What a score is worth, from good images alone.

Split-conformal calibration: the model scores good images that it did not see, and a new score is placed among them.
If a new good image is exchangeable with those, its p-value is at most a in at most a share a of cases, whatever the
distribution of the scores. From n good images nothing below 1 / (n + 1) can be claimed.

References
----------
V. Vovk, A. Gammerman and G. Shafer, Algorithmic Learning in a Random World, 2005; S. Bates et al., Testing for
outliers with conformal p-values, Annals of Statistics 51, 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from inspection_core.errors import ModelError, UsageError
from inspection_core.geometry import FloatArray

FEW = 10
"""Below this many good images, a score above all of them is no ground for a share of good parts."""


def p_values(scores: ArrayLike, calibration: ArrayLike) -> FloatArray:
    """Return ``(1 + number of calibration scores at or above s) / (n + 1)`` for every score s.

    A tie counts as at or above, so equal scores never make a part look odder than it is.

    Parameters
    ----------
    scores
        Any shape; higher is odder.
    calibration
        ``(n,)`` scores of good images, ascending, n at least 1.

    Returns
    -------
    FloatArray
        Of the shape of `scores`, from 1 / (n + 1) to 1.

    Raises
    ------
    UsageError
        If there is no calibration score, or they do not ascend.
    ModelError
        If a score is NaN.
    """
    known = np.asarray(calibration, dtype=np.float64)
    if known.ndim != 1 or known.size == 0:
        raise UsageError(
            f"A p-value needs a list of scores of good images. Got shape {known.shape}; "
            "calibrate the model with `inspection fit` first."
        )
    if not (np.diff(known) >= 0).all() or np.isnan(known[-1]):  # NaN fails the comparison, but for a lone one
        raise UsageError("Calibration scores ascend, without NaN. Got others; sort them first.")
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        raise ModelError("A p-value needs a score. Got NaN; check the image and the model's weights for NaN.")
    at_or_above = known.size - np.searchsorted(known, values, side="left")
    return np.asarray((1 + at_or_above) / (known.size + 1))


def p_value(score: float, calibration: ArrayLike) -> float:
    """Return the p-value of one score; see `p_values`."""
    return float(p_values(score, calibration))


def describe_p_value(p: float, n: int, noun: str = "good parts") -> str:
    """Say in plain words what a p-value from `n` good images means.

    The words claim no more than the calibration supports: at the floor, 1 / (n + 1), they say "fewer than 1 in n".

    Parameters
    ----------
    p
        From `p_values`, or 1 where `n` is 0.
    n
        Number of calibration scores.
    noun
        What is inspected, in the plural.

    Raises
    ------
    UsageError
        If `n` good images cannot yield such a p-value.
    """
    if n < 0 or not (1 - 1e-9) / (n + 1) <= p <= 1:
        raise UsageError(f"A p-value from n images lies between 1 / (n + 1) and 1. Got p = {p} from n = {n}.")
    if n == 0:
        return f"not calibrated: how many {noun} look this odd is unknown"
    if p < 1.5 / (n + 1):  # the floor: no good image scored as high
        if n < FEW:
            return f"odder than all {noun} seen, but they were too few to say more ({n})"
        return f"fewer than 1 in {n:,} {noun} look this odd"
    if p == 1:
        return f"all {noun} seen look at least this odd"
    if p > 0.2:  # "1 in 2" would be too coarse for 0.4
        return f"about {100 * p:.0f} in 100 {noun} look at least this odd"
    return f"about 1 in {round(1 / p):,} {noun} look at least this odd"
