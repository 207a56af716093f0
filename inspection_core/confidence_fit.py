"""Fit the numbers of `inspection_core.confidence` on patients that the network did not see.

Voxels: a temperature, by the least cross-entropy in and around the tumour. Findings: a logistic regression with a small
penalty, chosen with its features by cross-validation over patients, never over findings, since those of one patient
are alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspection_core.card import FindingCalibration
from inspection_core.confidence import FLOOR, feature_rows, probabilities
from inspection_core.errors import UsageError
from inspection_core.geometry import FloatArray
from inspection_core.lesions import RADIUS, near
from inspection_core.prediction import Finding

TEMPERATURES = (0.05, 20.0)
"""Between these a temperature is looked for."""
PENALTIES = (0.1, 1.0, 10.0)
"""Weights of the squared coefficients, of standardised features, that are tried."""
FEW = 10
"""Fewest true and fewest false findings to fit a regression on."""


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the temperature with the least cross-entropy.

    Parameters
    ----------
    probabilities
        ``(n, 1 + K)`` as the network gives them at a temperature of 1; or logits: rows that do not sum to 1.
    labels
        ``(n,)`` class numbers, 0 for the background.
    weights
        ``(n,)`` what each voxel stands for; `VoxelSample` gives them.

    Returns
    -------
    float
        Between `TEMPERATURES`.

    Raises
    ------
    UsageError
        If there is no voxel, or only one class: then every temperature fits, or none does.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    given, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels).astype(np.int64)
    if given.ndim != 2 or truth.shape != given.shape[:1] or len(np.unique(truth)) < 2:
        raise UsageError(
            "A temperature is fitted on (n, 1 + K) probabilities with a label each, of two classes or more. "
            f"Got the shapes {given.shape} and {truth.shape}."
        )
    share = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = given.sum(axis=1)
    logits = np.log(np.maximum(given, FLOOR)) if given.min() >= 0 and np.abs(sums - 1).max() < 0.01 else given
    own = logits[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(share @ (logsumexp(logits * scale, axis=1) - own * scale) / share.sum())

    low, high = map(math.log, TEMPERATURES)
    found: Any = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(f"{math.exp(found.x):.5g}")


class VoxelSample:
    """Voxels in and around the tumours of many patients, drawn at random so that memory stays bounded.

    Parameters
    ----------
    most
        Voxels kept of each patient.
    seed
        Of the draw.
    radius
        Voxels around reference and predicted tumour that are drawn from; see `inspection_core.lesions.near`.
    """

    def __init__(self, most: int = 20_000, seed: int = 0, radius: int = RADIUS) -> None:
        self._most, self._radius = most, radius
        self._rng = np.random.default_rng(seed)
        self._rows: list[tuple[FloatArray, NDArray[np.int64], FloatArray]] = []

    def add(self, foreground: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> None:
        """Add a patient.

        Parameters
        ----------
        foreground
            ``(K, *spatial)`` probabilities of the classes without the background, at a temperature of 1.
        reference
            Class numbers on the same grid.
        """
        foreground = np.asarray(foreground, dtype=np.float32)
        background = 1 - foreground.sum(axis=0)
        places = np.flatnonzero(near((reference > 0) | (foreground.max(axis=0) > background), self._radius))
        drawn = self._rng.permutation(places)[: self._most]
        if not drawn.size:
            return
        rows = np.stack([background.ravel()[drawn], *(f.ravel()[drawn] for f in foreground)], axis=1)
        share = np.full(drawn.size, places.size / drawn.size)
        self._rows.append((rows.clip(0, 1).astype(np.float64), reference.ravel()[drawn].astype(np.int64), share))

    def fit(self) -> float:
        """Return the temperature of all patients added; see `fit_temperature`."""
        if not self._rows:
            raise UsageError("A temperature is fitted on patients with a tumour. Got none.")
        rows, labels, share = (np.concatenate(part) for part in zip(*self._rows, strict=True))
        return fit_temperature(rows / rows.sum(axis=1, keepdims=True), labels, share)


@dataclass(frozen=True, eq=False)
class LabelledFindings:
    """The findings of one patient, and which of them are lesions.

    Parameters
    ----------
    patient
        Whose they are; folds keep patients together.
    findings
        Of a prediction at the card's temperature.
    true
        ``(len(findings),)``; see `inspection_core.lesions.compare`.
    cells
        Voxels of the network's input in one unit of `Finding.size`.
    """

    patient: str
    findings: tuple[Finding, ...]
    true: NDArray[np.bool_]
    cells: float = 1.0


@dataclass(frozen=True, eq=False)
class FittedFindings:
    """A calibration, and how good it was on patients that it was not fitted on.

    Parameters
    ----------
    calibration
        For the card, fitted on all; without features where there were too few findings.
    confidence
        ``(n,)`` of every finding in order, from the fold that left its patient out.
    true
        ``(n,)`` whether it is a lesion.
    patients
        ``(n,)`` whose it is.
    penalty
        That was chosen.
    reason
        Why there is no calibration; empty where there is one.
    """

    calibration: FindingCalibration
    confidence: FloatArray
    true: NDArray[np.bool_]
    patients: NDArray[np.str_]
    penalty: float = 0.0
    reason: str = ""

    @property
    def brier(self) -> float:
        """Mean squared error of the cross-fitted confidences."""
        return float(np.mean((self.confidence - self.true) ** 2)) if self.true.size else math.nan

    @property
    def base_brier(self) -> float:
        """What saying the share of true findings of all of them would give."""
        return float(self.true.mean() * (1 - self.true.mean())) if self.true.size else math.nan


def fit_findings(
    patients: Sequence[LabelledFindings], features: Sequence[str] | None = None, folds: int = 10, seed: int = 0
) -> FittedFindings:
    """Fit the probability that a finding is a lesion.

    Parameters
    ----------
    patients
        That the network did not see.
    features
        Of `inspection_core.confidence.FEATURES`. If not given, the set with the least cross-validated log loss is
        taken, and a smaller one where it is no worse than that by more than a standard error over patients.
    folds
        Of patients, for the choice of features and penalty and for the cross-fitted confidences.
    seed
        Of the folds.

    Raises
    ------
    UsageError
        If no patient is given.
    """
    if not patients:
        raise UsageError("A calibration of findings is fitted on patients. Got none.")
    some = [f for p in patients for f in p.findings]
    names = np.array([p.patient for p in patients for _ in p.findings], dtype=np.str_)
    true = np.concatenate([np.asarray(p.true, dtype=bool) for p in patients])
    n, k = true.size, int(true.sum())
    if min(k, n - k) < FEW:
        why = f"{k} true and {n - k} false findings are too few to fit a probability on: {FEW} of each are needed"
        return FittedFindings(FindingCalibration(), np.array([f.mean for f in some]), true, names, reason=why)
    known = ("mean", "peak", "size", *(("spread",) if all(f.spread is not None for f in some) else ()))
    sets = [tuple(features)] if features is not None else [
        c for size in range(1, len(known) + 1) for c in itertools.combinations(known, size)
    ]  # fmt: skip
    fold = _folds(names, folds, seed)
    tried = []
    for chosen in sets:
        rows = np.concatenate([feature_rows(p.findings, chosen, p.cells) for p in patients])
        for penalty in PENALTIES:
            confidence = np.empty(n)
            for f in range(int(fold.max()) + 1):
                fitted = _regression(rows[fold != f], true[fold != f], chosen, penalty)
                confidence[fold == f] = probabilities(rows[fold == f], fitted)
            losses = -np.log(np.clip(np.where(true, confidence, 1 - confidence), 1e-6, 1))
            tried.append((losses, chosen, penalty, confidence, rows))
    best = min(tried, key=lambda t: t[0].mean())
    slack = _standard_error(best[0], names) if features is None else 0.0
    fitting = [t for t in tried if t[0].mean() <= best[0].mean() + slack]
    losses, chosen, penalty, confidence, rows = min(fitting, key=lambda t: (len(t[1]), t[0].mean()))
    calibration = replace(_regression(rows, true, chosen, penalty), patients=len(patients))
    return FittedFindings(calibration, confidence, true, names, penalty)


def _folds(names: NDArray[np.str_], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each finding; those of a patient are in one."""
    distinct, number = np.unique(names, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    return np.asarray(order[number] % max(2, min(folds, len(distinct))), dtype=np.int64)


def _standard_error(losses: FloatArray, names: NDArray[np.str_]) -> float:
    """Return the standard error of the mean loss, with patients as what is drawn."""
    _, number = np.unique(names, return_inverse=True)
    sums = np.bincount(number, losses - losses.mean())
    return float(np.sqrt((sums**2).sum()) / losses.size)


def _regression(
    rows: FloatArray, true: NDArray[np.bool_], features: Sequence[str], penalty: float
) -> FindingCalibration:
    """Fit weights on standardised features, with a penalty on their squares but not on the bias."""
    from scipy.optimize import minimize
    from scipy.special import expit

    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    x = np.column_stack([(rows - centre) / scale, np.ones(len(rows))])
    sign = np.where(true, 1.0, -1.0)

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (x @ w)
        gradient = -(x * (sign * expit(-margin))[:, None]).sum(axis=0)
        gradient[:-1] += penalty * w[:-1]
        return float(np.logaddexp(0, -margin).sum() + penalty / 2 * w[:-1] @ w[:-1]), gradient

    found: Any = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    weights = found.x[:-1] / scale
    bias = float(found.x[-1] - weights @ centre)
    return FindingCalibration(
        tuple(features), tuple(float(f"{w:.6g}") for w in weights), float(f"{bias:.6g}"), len(true), int(true.sum())
    )
