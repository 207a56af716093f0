"""A confidence that means something: tempered voxel probabilities, and the probability that a finding is a lesion.

Both are fitted on patients that the network did not see (`inspection_core.confidence_fit`) and stand on the card as
plain numbers. Without them probabilities stay as the network gives them, and a finding's confidence is the mean
probability inside, called uncalibrated.

References
----------
C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, for temperature scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inspection_core.card import FindingCalibration
from inspection_core.errors import ModelError
from inspection_core.geometry import FloatArray
from inspection_core.prediction import Finding

if TYPE_CHECKING:
    import torch

FLOOR = 1e-7
"""Least probability whose logarithm is taken."""
EDGE = 1e-4
"""Mean and peak are taken as no nearer to 0 and 1 than this: float16 maps tell no more."""


def temper(probabilities: torch.Tensor, temperature: float, classes: int) -> torch.Tensor:
    """Divide the logits of class probabilities by a temperature.

    Parameters
    ----------
    probabilities
        ``(B, classes + n, *grid)``: probabilities that sum to 1 over the first `classes` channels, and n others.
    temperature
        Above 1 makes them less certain, below 1 more; 1 changes nothing, bit for bit. The order of the classes stays.
    classes
        With the background.

    Returns
    -------
    torch.Tensor
        Of the same shape; channels beyond `classes` as they were.
    """
    if temperature == 1:
        return probabilities
    import torch

    tempered = (probabilities[:, :classes].float().clamp_min(FLOOR).log() / temperature).softmax(dim=1)
    rest = probabilities[:, classes:]
    return torch.cat([tempered, rest.float()], dim=1) if rest.shape[1] else tempered


def _logit(p: float) -> float:
    p = min(max(p, EDGE), 1 - EDGE)
    return math.log(p / (1 - p))


def _spread(finding: Finding) -> float:
    if finding.spread is None:
        raise ModelError(
            "The card's calibration of findings looks at the spread of the network's members, and this network gives "
            "none: it has one member and no flips. Fit the calibration again."
        )
    return finding.spread


FEATURES: Mapping[str, Callable[[Finding, float], float]] = {
    "mean": lambda finding, _: _logit(finding.mean),
    "peak": lambda finding, _: _logit(finding.peak),
    "size": lambda finding, cells: math.log(max(finding.size * cells, 1e-3)),
    "spread": lambda finding, _: _spread(finding),
}
"""What the probability of a finding may be made of: the log-odds of the mean and of the peak probability, the
logarithm of the size in voxels of the network's input, which is the same for thick and for thin slices of a model with
a spacing, and the mean disagreement of members and flips."""


def feature_rows(findings: Sequence[Finding], features: Sequence[str], cells: float) -> FloatArray:
    """Return the features of findings.

    Parameters
    ----------
    findings
        Of one prediction.
    features
        Names, of `FEATURES`.
    cells
        Voxels of the network's input in one unit of `Finding.size`.

    Returns
    -------
    FloatArray
        ``(len(findings), len(features))``.

    Raises
    ------
    ModelError
        If a feature is unknown, or the network does not give it.
    """
    if unknown := [name for name in features if name not in FEATURES]:
        raise ModelError(f"A finding's features are {', '.join(FEATURES)}. Got {unknown[0]!r} on the card.")
    rows = [[FEATURES[name](finding, cells) for name in features] for finding in findings]
    return np.asarray(rows, dtype=np.float64).reshape(len(findings), len(features))


def with_confidence(findings: Sequence[Finding], calibration: FindingCalibration, cells: float) -> tuple[Finding, ...]:
    """Return findings with their calibrated probability of being a true lesion; as they are without a calibration.

    `cells` is as for `feature_rows`. Ids and order stay.
    """
    if not calibration.features:
        return tuple(findings)
    rows = feature_rows(findings, calibration.features, cells)
    chance = probabilities(rows, calibration)
    return tuple(replace(f, confidence=float(p), calibrated=True) for f, p in zip(findings, chance, strict=True))


def probabilities(rows: FloatArray, calibration: FindingCalibration) -> FloatArray:
    """Return the probability of a true lesion for each row of `feature_rows`."""
    from scipy.special import expit

    return np.asarray(expit(rows @ np.asarray(calibration.weights) + calibration.bias))
