"""How good a segmentation is, and what its confidence is worth: figures of one study, and of many together.

Empty cases are defined, not skipped. Dice and surface Dice are 1 where prediction and reference are both empty and 0
where one of them is. The Hausdorff distance is 0 where both are empty and not defined (None) where one is: means leave
it out and say over how many cases they were taken.

Distances are in the grid's unit through its spacing, from MONAI; in voxels where no spacing is known. Figures over
studies come with intervals from a bootstrap over patients, since voxels and lesions of one patient are alike.

References
----------
L. Maier-Hein et al., Metrics reloaded, Nature Methods 21, 2024; S. Nikolov et al., Clinically applicable segmentation,
JMIR 23, 2021, for surface Dice; J. Bland and D. Altman, Lancet 327, 1986; C. Guo et al., ICML 2017, for the
calibration error.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspection_core.errors import GeometryError
from inspection_core.geometry import FloatArray
from inspection_core.metrics import Interval

VOXEL_BINS = 15
FINDING_BINS = 10
"""Most bins of equal mass for findings; fewer where they would hold less than `LEAST` each."""
LEAST = 5
FALSE_ALARMS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False findings a study at which FROC is read, as in LUNA16."""
RESAMPLES = 2000
LEVEL = 0.95


# One study ----------------------------------------------------------------------------------------------------------


def dice(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Return the volumetric Dice of two masks; both empty 1, one empty 0.

    Raises
    ------
    GeometryError
        If they differ in shape.
    """
    if predicted.shape != reference.shape:
        raise GeometryError(f"Two masks of one grid are compared. Got {predicted.shape} and {reference.shape}.")
    total = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / total if total else 1.0


def surface_figures(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float | None, float]:
    """Return HD95 and surface Dice of two masks.

    Parameters
    ----------
    predicted, reference
        On one grid, ``(z, y, x)`` or ``(y, x)``.
    spacing
        Of each axis; distances have its unit.
    tolerance
        Distance up to which a voxel of one surface lies on the other.

    Returns
    -------
    hd95
        The larger of the two 95th percentiles of the distances from one surface to the other; None where one is empty.
    surface_dice
        Share of the voxels of both surfaces that lie within the tolerance.
    """
    if not predicted.any() or not reference.any():
        same = not predicted.any() and not reference.any()
        return (0.0, 1.0) if same else (None, 0.0)
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    box = _around(predicted | reference)
    a, b = (torch.from_numpy(np.ascontiguousarray(m[box]))[None, None].float() for m in (predicted, reference))
    step = [float(s) for s in spacing]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of an argument that it gives itself
        far = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=step)
        near = compute_surface_dice(a, b, class_thresholds=[tolerance], include_background=True, spacing=step)
    return float(far), float(near)


def _around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the box around a mask with one voxel more on each side, where there is one."""
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, int(line[0]) - 1), int(line[-1]) + 2))
    return tuple(box)


# Calibration --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of about one probability.

    Parameters
    ----------
    count
        How many there are.
    predicted
        Their mean probability.
    observed
        Share of them that came true.
    """

    count: int
    predicted: float
    observed: float


class VoxelReliability:
    """Probabilities of voxels in bins of equal width, added study by study: no array is kept.

    Parameters
    ----------
    bins
        Of equal width over 0 to 1.
    """

    def __init__(self, bins: int = VOXEL_BINS) -> None:
        self._sums = np.zeros((3, bins))

    def add(self, probability: NDArray[np.floating[Any]], true: NDArray[np.bool_]) -> None:
        """Add voxels: the probability of not being background, and whether they are not, as 1-D arrays."""
        bins = self._sums.shape[1]
        p = np.asarray(probability, dtype=np.float64)
        place = np.minimum((p * bins).astype(np.int64), bins - 1)
        for row, weight in enumerate((None, p, true)):
            self._sums[row] += np.bincount(place, weight, minlength=bins)

    def table(self) -> tuple[ReliabilityBin, ...]:
        """Return the bins that hold anything."""
        return tuple(ReliabilityBin(int(n), float(p / n), float(t / n)) for n, p, t in self._sums.T if n)

    def error(self) -> float | None:
        """Return the expected calibration error; None without a voxel."""
        return expected_error(self.table())


def expected_error(table: Sequence[ReliabilityBin]) -> float | None:
    """Return the mean distance of predicted and observed over bins, by their counts."""
    total = sum(b.count for b in table)
    return sum(b.count * abs(b.predicted - b.observed) for b in table) / total if total else None


def equal_mass(confidence: ArrayLike, true: ArrayLike, bins: int = FINDING_BINS) -> tuple[ReliabilityBin, ...]:
    """Return bins of one count each, or nearly, by rising confidence; ties may fall on either side of an edge."""
    p, hit = np.asarray(confidence, dtype=np.float64), np.asarray(true, dtype=bool)
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, max(1, min(bins, p.size // LEAST)))
    return tuple(
        ReliabilityBin(part.size, float(p[part].mean()), float(hit[part].mean())) for part in parts if part.size
    )


@dataclass(frozen=True)
class FindingCalibrationFigures:
    """What the confidence of findings was worth.

    Parameters
    ----------
    n, n_true
        Findings, and those that are lesions.
    brier, base_brier
        Mean squared error of the confidence, and of saying for each the share of true ones among all of these.
    in_the_large, in_the_large_interval
        Mean confidence minus the share of true ones, with its bootstrap interval by patient.
    ece
        Expected calibration error in bins of equal mass.
    table
        These bins.
    """

    n: int
    n_true: int
    brier: float | None
    base_brier: float | None
    in_the_large: float | None
    in_the_large_interval: Interval | None
    ece: float | None
    table: tuple[ReliabilityBin, ...]


def finding_calibration(
    confidence: Sequence[ArrayLike], true: Sequence[ArrayLike], seed: int = 0
) -> FindingCalibrationFigures:
    """Return what the confidence of findings was worth.

    Parameters
    ----------
    confidence, true
        An array for each patient, of its findings: their confidence, and whether each is a lesion.
    seed
        Of the bootstrap.
    """
    p = np.concatenate([np.asarray(c, dtype=np.float64).ravel() for c in confidence] or [np.zeros(0)])
    hit = np.concatenate([np.asarray(t, dtype=bool).ravel() for t in true] or [np.zeros(0, bool)])
    if not p.size:
        return FindingCalibrationFigures(0, 0, None, None, None, None, None, ())
    rate = float(hit.mean())
    off = np.array([float(np.sum(c) - np.sum(t)) for c, t in zip(confidence, true, strict=True)])
    count = np.array([np.size(t) for t in true])

    def excess(drawn: NDArray[np.integer[Any]]) -> FloatArray:
        return np.asarray(off[drawn].sum(axis=1) / np.maximum(count[drawn].sum(axis=1), 1))

    table = equal_mass(p, hit)
    return FindingCalibrationFigures(
        n=int(p.size),
        n_true=int(hit.sum()),
        brier=float(((p - hit) ** 2).mean()),
        base_brier=rate * (1 - rate),
        in_the_large=float(p.mean() - rate),
        in_the_large_interval=bootstrap(len(count), excess, seed),
        ece=expected_error(table),
        table=table,
    )


# Many studies -------------------------------------------------------------------------------------------------------


def bootstrap(
    patients: int, statistic: Callable[[NDArray[np.integer[Any]]], FloatArray], seed: int = 0, level: float = LEVEL
) -> Interval | None:
    """Return the percentile bootstrap interval of a statistic, with patients as what is drawn.

    Parameters
    ----------
    patients
        How many there are; with fewer than two the answer is None.
    statistic
        From ``(times, patients)`` drawn indices to ``(times,)`` values.
    seed
        Same seed, same interval.
    level
        Confidence.
    """
    if patients < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, patients, (RESAMPLES, patients))
    low, high = np.quantile(statistic(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def mean_and_median(values: ArrayLike, seed: int = 0) -> tuple[float, Interval | None, float, Interval | None]:
    """Return mean and median of a figure over patients, each with its bootstrap interval."""
    v = np.asarray(values, dtype=np.float64)
    mean = bootstrap(v.size, lambda drawn: np.asarray(v[drawn].mean(axis=1)), seed)
    median = bootstrap(v.size, lambda drawn: np.asarray(np.median(v[drawn], axis=1)), seed)
    return float(v.mean()), mean, float(np.median(v)), median


@dataclass(frozen=True)
class Froc:
    """Share of lesions found against false findings a study, over all cuts of the confidence.

    Parameters
    ----------
    false_alarms
        False findings a study, `FALSE_ALARMS`.
    sensitivity
        Share of the reference lesions found with at most so many.
    score
        Mean of these sensitivities; None without a reference lesion.
    cuts, curve
        Confidences, falling, and for each ``(false findings a study, sensitivity)``.
    """

    false_alarms: tuple[float, ...]
    sensitivity: tuple[float, ...]
    score: float | None
    cuts: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()


def froc(reach: ArrayLike, false_confidence: ArrayLike, studies: int) -> Froc:
    """Return the free-response curve.

    Parameters
    ----------
    reach
        ``(R,)`` of all reference lesions: the confidence at which each is found; see `inspection_core.lesions.compare`.
    false_confidence
        ``(F,)`` confidences of all findings that are no lesion.
    studies
        How many were looked at.
    """
    lesions, alarms = np.asarray(reach, dtype=np.float64), np.asarray(false_confidence, dtype=np.float64)
    if not lesions.size or studies < 1:
        return Froc(FALSE_ALARMS, (), None)
    cuts = np.unique(np.concatenate([lesions[np.isfinite(lesions)], alarms]))[::-1]
    rates = np.array([(alarms >= c).sum() / studies for c in cuts])
    shares = np.array([(lesions >= c).mean() for c in cuts])
    read = tuple(float(shares[rates <= limit].max(initial=0.0)) for limit in FALSE_ALARMS)
    curve = tuple((float(r), float(s)) for r, s in zip(rates, shares, strict=True))
    return Froc(FALSE_ALARMS, read, float(np.mean(read)), tuple(float(c) for c in cuts), curve)


@dataclass(frozen=True)
class BlandAltman:
    """Predicted minus reference volumes over studies.

    Parameters
    ----------
    n
        Studies.
    bias
        Mean difference.
    low, high
        Limits of agreement, 1.96 standard deviations to either side; None with one study.
    """

    n: int
    bias: float
    low: float | None
    high: float | None


def bland_altman(predicted: ArrayLike, reference: ArrayLike) -> BlandAltman | None:
    """Return bias and limits of agreement of volumes, in their unit; None without a study."""
    difference = np.asarray(predicted, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if not difference.size:
        return None
    bias = float(difference.mean())
    if difference.size < 2:
        return BlandAltman(1, bias, None, None)
    reach = 1.96 * float(difference.std(ddof=1))
    return BlandAltman(int(difference.size), bias, bias - reach, bias + reach)


def mean_of(values: Sequence[float | None]) -> tuple[float | None, int]:
    """Return the mean of what is defined, and how many that is."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return (float(np.mean(known)) if known else None), len(known)
