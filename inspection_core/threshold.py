"""From scores to verdicts: the cuts that follow from a card's policy and calibration.

A false-alarm rate is certified where the conformal guarantee holds for it: with n scores of good images, the rates
k / (n + 1). The cut for k is the k-th largest of them, so that ``score > cut`` says the same as ``p-value <= rate``.

A rate below 1 / (n + 1) cannot be certified. Then the smallest reachable one, 1 / (n + 1), decides what is no longer
OK; such scores go to REVIEW, and become NG only beyond an exponential tail fitted to the largest good scores, which
is an extrapolation and is called one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inspection_core.card import Calibration, Policy
from inspection_core.errors import ModelError
from inspection_core.geometry import FloatArray
from inspection_core.prediction import Verdict

TAIL_SCORES = 5
"""Scores that an exponential tail is fitted to at least, and the fewest good images to extrapolate from."""


@dataclass(frozen=True)
class Cuts:
    """Where verdicts change: NG above `ng`, REVIEW above `review` up to `ng`, OK up to `review`.

    Parameters
    ----------
    ng, review
        Image scores, ``review <= ng``. ``ng`` is infinite where no score can be called NG, and ``review`` minus
        infinite where none can be called OK.
    certified_rate
        Share of good images for which exchangeability guarantees a bound: those called NG, or, where that rate is
        above `asked_rate`, those that leave OK for want of a finer one. None for a band of scores.
    asked_rate
        Share of good images that may be called NG, as the policy asks. None for a band of scores.
    warnings
        What the calibration cannot support, in plain words for the user.
    """

    ng: float
    review: float
    certified_rate: float | None
    asked_rate: float | None
    warnings: tuple[str, ...] = ()


def cuts(policy: Policy, calibration: Calibration) -> Cuts:
    """Return the cuts on image scores that a policy asks for and a calibration supports.

    Without calibration scores a p-value policy sends every image to REVIEW, and says so.
    """
    if policy.kind == "band":
        # REVIEW begins at `low` itself; the float just below it keeps one rule, score > cut, for all policies.
        return Cuts(policy.high, math.nextafter(policy.low, -math.inf), None, None)
    return _conformal(policy, calibration.scores)


def map_cuts(policy: Policy, calibration: Calibration) -> tuple[float, float]:
    """Return ``(low, high)`` for outlining findings in a score map: extent above `low`, peak above `high`.

    A region is worth a finding where its peak alone would send a good image to REVIEW: `high` is the policy's review
    cut on the peaks of good images. Its outline is drawn at the calibration's `pixel_low`. Without calibration
    both are infinite, so nothing is outlined; for a band of scores `high` is the band's `low`.
    """
    if policy.kind == "band":
        high = cuts(policy, calibration).review
    elif calibration.peaks:
        high = _conformal(policy, calibration.peaks).review
    else:
        return math.inf, math.inf
    return (min(calibration.pixel_low, high) if calibration.peaks else high), high


def verdict(score: float, cuts: Cuts) -> Verdict:
    """Return the verdict on an image of this score.

    Raises
    ------
    ModelError
        If the score is not finite: such an image was not inspected, and must not pass as OK.
    """
    if not math.isfinite(score):
        raise ModelError(
            f"An image score is a finite number. Got {score}; check the image and the model's weights for NaN."
        )
    if score > cuts.ng:
        return "NG"
    return "REVIEW" if score > cuts.review else "OK"


def _conformal(policy: Policy, scores: tuple[float, ...]) -> Cuts:
    known = np.sort(np.asarray(scores, dtype=np.float64))
    n, asked = known.size, policy.max_false_alarms
    if n == 0:
        note = (
            "The model is uncalibrated: it holds no scores of good images, so every image goes to REVIEW. "
            "Calibrate it with `inspection fit` on good images."
        )
        return Cuts(math.inf, -math.inf, 1.0, asked, (note,))
    review = _kth_largest(known, max(1, _reachable(policy.review, n)))
    k = _reachable(asked, n)
    if k >= 1:
        return Cuts(_kth_largest(known, k), review, k / (n + 1), asked)

    certified, largest = 1 / (n + 1), float(known[-1])
    note = (
        f"A false-alarm rate of {asked:g} cannot be certified from {n} good images; the smallest certified rate is "
        f"{certified:#.3g}. Scores above {largest:.4g} are at that rate"
    )
    tail = _tail_cut(known, asked)
    ng = max(tail, largest)
    if tail == math.inf:
        note += " and go to REVIEW: these images are too few or too alike to extrapolate from, so none is NG."
    elif tail > largest:
        note += f"; those up to {ng:.4g} go to REVIEW, and NG beyond rests on an extrapolation."
    else:
        note += "; that they are NG rests on an extrapolation."
    note += f" {math.ceil(1 / asked) - 1:,} good images would certify {asked:g}."
    return Cuts(ng, review, certified, asked, (note,))


def _reachable(rate: float, n: int) -> int:
    """Return the largest k with ``k / (n + 1) <= rate``, compared as floats just as p-values are."""
    k = math.floor(rate * (n + 1))  # 0.29 * 100 is 28.999...; so look one step to either side
    if (k + 1) / (n + 1) <= rate:
        return k + 1
    return k if k / (n + 1) <= rate else k - 1


def _kth_largest(ascending: FloatArray, k: int) -> float:
    """Return the k-th largest; minus infinity for k = n + 1, as every p-value is at most 1."""
    return float(ascending[-k]) if k <= ascending.size else -math.inf


def _tail_cut(ascending: FloatArray, rate: float) -> float:
    """Return the score that a share `rate` of good images exceeds if their tail is exponential, or infinity.

    With m excesses of mean e over the (m + 1)-th largest score u, and a new score beyond u with probability
    (m + 1) / (n + 1), an exponential excess x has ``P(x > e * t) = (1 + t / m) ** -m`` (an F(2, 2m) ratio). Unlike
    plugging e in as if it were known, this pays for the few scores that it rests on.
    """
    n = ascending.size
    if n < TAIL_SCORES:
        return math.inf
    m = min(max(TAIL_SCORES, math.ceil(math.sqrt(n))), n - 1)
    start = float(ascending[-m - 1])
    mean_excess = float((ascending[-m:] - start).mean())
    if mean_excess <= 0:
        return math.inf
    factor = (m + 1) / ((n + 1) * rate)
    return float(start + mean_excess * m * (factor ** (1 / m) - 1))
