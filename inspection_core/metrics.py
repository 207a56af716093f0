"""How good a model is: figures for images and for pixels, on arrays alone.

A score is higher where a part is odder. A figure that the data cannot give (one class only, nothing predicted) is
None, never 0 or NaN: JSON has no NaN, and 0 would be read as a bad model.

Pixel figures come from `PixelScores`, which takes one image at a time and needs no more memory for a hundred thousand
images than for a hundred. Its results are exact until it must coarsen, and then say how far off they can be.

References
----------
P. Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021, for AU-PRO, with the conventions of its
official evaluation code; C. J. Clopper and E. S. Pearson, Biometrika 26, 1934.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspection_core.errors import GeometryError, ModelError, UsageError
from inspection_core.geometry import FloatArray

PRO_LIMIT = 0.3
"""False-positive rate up to which AU-PRO is integrated, as in the literature."""
BUDGET = 1 << 20
"""Distinct scores that `PixelScores` keeps, and as many again that wait to be merged: some 300 MB at the peak."""


_Table = tuple[NDArray[np.uint32], FloatArray]
"""Distinct scores, ascending, as ``(n,)`` keys (see `_sortable`), and for each what it stands for, ``(3, n)``: number
of normal pixels, number of defect pixels, sum of region weights. Float64 counts exactly up to 2 ** 53."""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval from `low` to `high` at confidence `level`."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of whole images; positive means defective.

    Parameters
    ----------
    n_good, n_defect
        Images by ground truth.
    true_positives, false_positives, true_negatives, false_negatives
        The confusion matrix at the model's own threshold.
    auroc, average_precision
        Over all thresholds; None with one class only.
    precision, recall, f1, accuracy, false_alarm_rate
        At the model's own threshold; None where nothing was there to divide by.
    auroc_interval
        Stratified percentile bootstrap.
    precision_interval, recall_interval, accuracy_interval, false_alarm_interval
        Clopper-Pearson.
    """

    n_good: int
    n_defect: int
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    auroc: float | None
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float
    false_alarm_rate: float | None
    auroc_interval: Interval | None
    precision_interval: Interval | None
    recall_interval: Interval | None
    accuracy_interval: Interval
    false_alarm_interval: Interval | None


@dataclass(frozen=True)
class PixelMetrics:
    """Figures of pixels; positive means defective.

    Parameters
    ----------
    n_images, n_pixels, n_defect_pixels, n_regions
        What was counted; regions are 8-connected (26 in 3-D) and within one image.
    auroc
        Over all pixels of all images; None with one class only.
    au_pro
        Area under the mean per-region overlap as a function of the false-positive rate over all normal pixels, up to
        `limit` and divided by it; None without a defect region or without a normal pixel.
    limit
        False-positive rate that `au_pro` is integrated to.
    auroc_error, au_pro_error
        The exact values lie within this of those given; 0 where they are exact.
    """

    n_images: int
    n_pixels: int
    n_defect_pixels: int
    n_regions: int
    auroc: float | None
    au_pro: float | None
    limit: float
    auroc_error: float
    au_pro_error: float


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """Return the exact interval for a share, having seen `k` of `n`; from 0 to 1 where `n` is 0.

    Raises
    ------
    UsageError
        If not ``0 <= k <= n``, or the level is not between 0 and 1.
    """
    from scipy.special import betaincinv

    _check_level(level)
    if not 0 <= k <= n:
        raise UsageError(f"A share is k of n with 0 <= k <= n. Got {k} of {n}.")
    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return Interval(low, high, level)


def bootstrap_auroc(
    scores_good: ArrayLike, scores_defect: ArrayLike, seed: int, n: int = 2000, level: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of the AUROC; good and defective images are drawn apart.

    Where the two classes do not overlap every resample gives 1, and so does the interval: it then says nothing about
    the next image.

    Parameters
    ----------
    scores_good, scores_defect
        1-D. With either empty the answer is None.
    seed
        Same seed, same interval.
    n
        Resamples.
    level
        Confidence.

    Raises
    ------
    UsageError
        If a score is NaN, `n` is below 1, or the level is not between 0 and 1.
    """
    _check_level(level)
    if n < 1:
        raise UsageError(f"A bootstrap draws at least once. Got n = {n}.")
    good, defect = _scores(scores_good), _scores(scores_defect)
    if not good.size or not defect.size:
        return None
    values, rank = np.unique(np.concatenate([good, defect]), return_inverse=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, BUDGET // (good.size + defect.size))

    def resample(ranks: NDArray[np.integer[Any]], times: int) -> NDArray[np.integer[Any]]:
        drawn = ranks[rng.integers(0, ranks.size, (times, ranks.size))]
        drawn += values.size * np.arange(times)[:, None]
        return np.bincount(drawn.ravel(), minlength=times * values.size).reshape(times, values.size)

    areas = []
    for done in range(0, n, at_once):
        times = min(at_once, n - done)
        areas.append(_auroc(resample(rank[: good.size], times), resample(rank[good.size :], times)))
    low, high = np.quantile(np.concatenate(areas), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def image_metrics(labels: ArrayLike, scores: ArrayLike, predicted: ArrayLike, seed: int = 0) -> ImageMetrics:
    """Return the figures of whole images.

    Parameters
    ----------
    labels
        ``(n,)``, true or 1 where the image is defective.
    scores
        ``(n,)`` image scores.
    predicted
        ``(n,)``, true or 1 where the model calls the image defective.
    seed
        For the bootstrap.

    Raises
    ------
    UsageError
        If there is no image, the lengths differ, labels are not 0 or 1, or a score is NaN.
    """
    truth, called, s = _flags(labels, "labels"), _flags(predicted, "predictions"), _scores(scores)
    if not truth.shape == called.shape == s.shape or s.size == 0:
        raise UsageError(
            "Labels, scores and predictions have one entry for each image, at least one. "
            f"Got {truth.size}, {s.size} and {called.size}."
        )
    tp, fp = int((truth & called).sum()), int((~truth & called).sum())
    fn, tn = int((truth & ~called).sum()), int((~truth & ~called).sum())
    both = tp + fn > 0 and fp + tn > 0
    _, rank = np.unique(s, return_inverse=True)
    good, defect = np.bincount(rank, ~truth), np.bincount(rank, truth)
    return ImageMetrics(
        n_good=fp + tn,
        n_defect=tp + fn,
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        auroc=float(_auroc(good, defect)) if both else None,
        average_precision=_average_precision(good, defect) if both else None,
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_share(2 * tp, 2 * tp + fp + fn),
        accuracy=(tp + tn) / s.size,
        false_alarm_rate=_share(fp, fp + tn),
        auroc_interval=bootstrap_auroc(s[~truth], s[truth], seed),
        precision_interval=clopper_pearson(tp, tp + fp) if tp + fp else None,
        recall_interval=clopper_pearson(tp, tp + fn) if tp + fn else None,
        accuracy_interval=clopper_pearson(tp + tn, s.size),
        false_alarm_interval=clopper_pearson(fp, fp + tn) if fp + tn else None,
    )


def pixel_auroc(scores: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any] | None]) -> float | None:
    """Return the AUROC over all pixels of all images; None with one class only. See `PixelScores`."""
    return _all_pixels(scores, masks).results().auroc


def au_pro(
    scores: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any] | None], limit: float = PRO_LIMIT
) -> float | None:
    """Return AU-PRO up to a false-positive rate; None without a defect region or a normal pixel. See `PixelScores`."""
    return _all_pixels(scores, masks).results(limit).au_pro


class PixelScores:
    """Scores of pixels, added image by image, and the figures that they give.

    Kept are the distinct scores as float32, each with the number of normal pixels, the number of defect pixels, and
    the sum of 1 / (size of its region) over defect pixels, which is all that pixel AUROC and AU-PRO depend on. With
    more than `budget` distinct scores, the lowest bit of all of them is dropped, as often as it takes; neighbouring
    scores then tie, which moves a result by no more than the error that comes with it. Float16 maps never get there.
    Results do not depend on the order of the images but for the rounding of sums.

    Parameters
    ----------
    budget
        Distinct scores to keep, at least 2.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        if budget < 2:
            raise UsageError(f"At least two scores must be kept. Got a budget of {budget}.")
        self._budget = budget
        self._dropped_bits = 0
        self._n_images = self._n_regions = self._n_waiting = 0
        self._tables: list[_Table] = [(np.zeros(0, np.uint32), np.zeros((3, 0)))]  # the first is what was merged

    def add(self, score: NDArray[Any], mask: NDArray[Any] | None = None) -> None:
        """Add an image.

        Parameters
        ----------
        score
            ``(y, x)`` or ``(z, y, x)``, used as float32.
        mask
            Of the same shape, other than 0 on defects; None for a good image.

        Raises
        ------
        GeometryError
            If the shapes differ.
        ModelError
            If a score is NaN.
        """
        if mask is not None and mask.shape != score.shape:
            raise GeometryError(
                f"A mask has the shape of its score map, {score.shape}. Got shape {mask.shape}; "
                "check that mask and image belong together."
            )
        keys = _sortable(score)
        self._n_images += 1
        if mask is not None and (defect := mask != 0).any():
            weights, n_regions = _region_weights(defect)
            self._n_regions += n_regions
            inside = defect.ravel()
            self._collect(keys[inside], weights)
            keys = keys[~inside]
        self._collect(keys)

    def results(self, limit: float = PRO_LIMIT) -> PixelMetrics:
        """Return the figures of all images added so far; more may be added afterwards.

        Raises
        ------
        UsageError
            If the limit of the false-positive rate is not above 0 and at most 1.
        """
        if not 0 < limit <= 1:
            raise UsageError(f"AU-PRO is integrated up to a false-positive rate above 0 and at most 1. Got {limit}.")
        self._merge()
        normal, defect, overlap = self._tables[0][1]
        n_normal, n_defect = normal.sum(), defect.sum()
        both = n_normal > 0 and n_defect > 0
        coarse = self._dropped_bits > 0
        area = area_error = 0.0
        if both:
            rate = np.cumsum(normal[::-1]) / n_normal
            area, area_error = _area_to(rate, np.cumsum(overlap[::-1]) / self._n_regions, limit)
        return PixelMetrics(
            n_images=self._n_images,
            n_pixels=int(n_normal + n_defect),
            n_defect_pixels=int(n_defect),
            n_regions=self._n_regions,
            auroc=float(_auroc(normal, defect)) if both else None,
            au_pro=area / limit if both else None,
            limit=limit,
            auroc_error=float(normal @ defect / (2 * n_normal * n_defect)) if both and coarse else 0.0,
            au_pro_error=area_error / limit if coarse else 0.0,
        )

    def _collect(self, keys: NDArray[np.uint32], weights: FloatArray | None = None) -> None:
        """Take in normal pixels, or defect pixels with their region weights, in blocks that bound the memory."""
        for begin in range(0, keys.size, self._budget):
            block = slice(begin, begin + self._budget)
            shifted = keys[block] >> np.uint32(self._dropped_bits)
            if weights is None:
                distinct, counts = np.unique(shifted, return_counts=True)
                sums = np.stack([counts, 0 * counts, 0 * counts]).astype(np.float64)
            else:
                distinct, place = np.unique(shifted, return_inverse=True)
                counts = np.bincount(place)
                sums = np.stack([0 * counts, counts, np.bincount(place, weights[block])])
            self._tables.append((distinct, sums))
            self._n_waiting += distinct.size
            if self._n_waiting > self._budget:
                self._merge()

    def _merge(self) -> None:
        table = _merged(self._tables)
        while table[0].size > self._budget:
            self._dropped_bits += 1
            table = _merged([(table[0] >> np.uint32(1), table[1])])
        self._tables, self._n_waiting = [table], 0


def _merged(tables: Sequence[_Table]) -> _Table:
    """Return one table with each key once."""
    keys = np.concatenate([keys for keys, _ in tables])
    sums = np.concatenate([sums for _, sums in tables], axis=1)
    if keys.size == 0:
        return keys, sums
    order = np.argsort(keys, kind="stable")  # timsort: cheap on parts that ascend already
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(sums[:, order], first, axis=1)


def _sortable(score: NDArray[Any]) -> NDArray[np.uint32]:
    """Return integers that sort as the scores do: IEEE 754 bits, turned over for negative numbers."""
    values = np.asarray(score, dtype=np.float32).ravel() + np.float32(0)  # makes -0 the same as 0
    if values.size and np.isnan(values.max()):
        raise ModelError("A score map holds numbers. Got NaN; check the image and the model's weights for NaN.")
    bits = values.view(np.uint32)
    sign = np.uint32(1 << 31)
    return np.where(bits & sign, ~bits, bits | sign)


def _region_weights(defect: NDArray[np.bool_]) -> tuple[FloatArray, int]:
    """Return 1 / (size of its region) for each defect pixel in raster order, and the number of regions."""
    from scipy import ndimage

    regions, n = ndimage.label(defect, ndimage.generate_binary_structure(defect.ndim, defect.ndim))
    inside = regions[defect]
    return 1 / np.bincount(inside)[inside], int(n)


def _area_to(x: FloatArray, y: FloatArray, limit: float) -> tuple[float, float]:
    """Return the area under the polyline from (0, 0) through ``(n,)`` rising points up to `limit`, and its error.

    The exact curve rises within the box of each step, so it is off by half a box at most, or by the part below the
    limit of the box that the limit cuts.
    """
    x, y = np.append(0.0, x), np.append(0.0, y)
    end = int(np.searchsorted(x, limit, side="right"))  # first point beyond the limit
    dx, dy = np.diff(x[:end]), np.diff(y[:end])
    area, error = float(dx @ (y[: end - 1] + dy / 2)), float(dx @ dy / 2)
    if end < x.size:
        rest, rise = float(limit - x[end - 1]), float(y[end] - y[end - 1])
        area += rest * (float(y[end - 1]) + rest * rise / float(x[end] - x[end - 1]) / 2)
        error += rest * rise
    return area, error


def _auroc(good: NDArray[Any], defect: NDArray[Any]) -> FloatArray:
    """Return the area under the ROC curve from counts ``(..., n)`` at ascending scores; a tie counts one half."""
    below = np.cumsum(good, axis=-1, dtype=np.float64) - good / 2
    pairs = good.sum(axis=-1, dtype=np.float64) * defect.sum(axis=-1, dtype=np.float64)
    return np.asarray((below * defect).sum(axis=-1) / pairs)


def _average_precision(good: NDArray[Any], defect: NDArray[Any]) -> float:
    """Return the precision at each recalled defect, on average, from counts at ascending scores."""
    found, alarms = np.cumsum(defect[::-1]), np.cumsum(good[::-1])
    return float((defect[::-1] * found / (found + alarms)).sum() / found[-1])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"A confidence level is between 0 and 1, such as 0.95. Got {level}.")


def _scores(values: ArrayLike) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise UsageError(
            f"Image scores are a list of numbers without NaN. Got shape {scores.shape}; drop failed images."
        )
    return scores


def _flags(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    flags = np.asarray(values)
    if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
        raise UsageError(f"{name.capitalize()} are a list of 0 (good) and 1 (defective). Got {flags.tolist()[:5]}.")
    return flags.astype(bool)


def _all_pixels(scores: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any] | None]) -> PixelScores:
    if len(scores) != len(masks):
        raise UsageError(f"Each score map has a mask, or None. Got {len(scores)} maps and {len(masks)} masks.")
    pixels = PixelScores()
    for score, mask in zip(scores, masks, strict=True):
        pixels.add(score, mask)
    return pixels
