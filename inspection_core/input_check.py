"""Whether an input looks like those that a model was made from.

A few dozen figures describe the network's input of one study: brightness inside and around the foreground, how the
channels go together, texture, and the shape of the foreground. Their Mahalanobis distance to the studies of training
is compared with a threshold that a stated share of such studies would exceed: each was measured against the others,
in folds, so none vouches for itself. The figures are computed after normalisation, so another intensity scale is no
reason to warn.

References
----------
O. Ledoit and M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate Analysis
88, 2004; K. Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import InputCheck
from inspection_core.errors import UsageError
from inspection_core.geometry import FloatArray
from inspection_core.normalise import Voxels, volume_of

PLANES, SIDE = 24, 96
"""Planes, and rows and columns of each, that are looked at, at most, evenly spaced."""
INSIDE, OVERALL = (10, 50, 90), (50, 99)
"""Percentiles of each channel inside the foreground, and over everything."""
MOST = 20.0
"""Figures are taken as no further from 0 than this; normalised inputs have values of about 1."""
SHOWN = 2
"""Features that a warning names."""


def input_features(pixels: Voxels, shape: Sequence[int]) -> dict[str, float]:
    """Describe a network's input.

    Parameters
    ----------
    pixels
        ``(C, h, w)`` or ``(C, d, h, w)``: the voxels of `inspection_core.prepare.Prepared`.
    shape
        Spatial shape without what was padded at the ends.

    Returns
    -------
    dict
        Name, in words for a user, to a finite number. The names depend on the number of channels alone.
    """
    sample = sample_of(pixels, shape)
    channels = len(sample)
    mean, inside = sample.mean(axis=0), foreground(sample)
    found: dict[str, float] = {}
    centred = []
    for k, channel in enumerate(sample, start=1):
        found |= {name.format(k): value for name, value in own_figures(channel, inside).items()}
        values = channel[inside] if inside.any() else channel.ravel()
        centred.append((values - values.mean()) / (float(values.std()) or 1.0))
    for a in range(channels):
        for b in range(a + 1, channels):
            found[f"likeness of channels {a + 1} and {b + 1}"] = float((centred[a] * centred[b]).mean())
    found |= _shape_of(inside, mean, shape)
    return bounded(found)


def own_figures(channel: FloatArray, inside: NDArray[np.bool_]) -> dict[str, float]:
    """Describe one channel ``(d, h, w)`` by itself; the names have a place for its number."""
    values = channel[inside] if inside.any() else channel.ravel()
    scale = float(values.std()) or 1.0
    found: dict[str, float] = {}
    for q, v in zip(INSIDE, np.percentile(values, INSIDE), strict=True):
        found[f"brightness of channel {{}} inside, {q}th percentile"] = float(v)
    for q, v in zip(OVERALL, np.percentile(channel, OVERALL), strict=True):
        found[f"brightness of channel {{}}, {q}th percentile"] = float(v)
    steps = [np.abs(np.diff(channel, axis=a)).mean() for a in (1, 2) if channel.shape[a] > 1]
    found["texture of channel {}"] = float(np.mean(steps) / scale) if steps else 0.0
    return found


def bounded(found: Mapping[str, float]) -> dict[str, float]:
    """Return figures as finite numbers, no further than `MOST` from 0."""
    return {name: float(np.clip(np.nan_to_num(value), -MOST, MOST)) for name, value in found.items()}


def sample_of(pixels: Voxels, shape: Sequence[int]) -> FloatArray:
    """Return up to `PLANES` x `SIDE` x `SIDE` voxels a channel, each the mean of its surroundings in the plane."""
    import torch.nn.functional as F

    volume = volume_of(pixels)
    depth, height, width = shape if len(shape) == 3 else (1, *shape)
    planes = np.unique(np.linspace(0, depth - 1, min(depth, PLANES)).round().astype(int)).tolist()
    size = (min(SIDE, height), min(SIDE, width))
    parts = F.interpolate(volume[:, planes, :height, :width].float(), size=size, mode="area")
    return np.asarray(parts.numpy(), dtype=np.float64)


def foreground(sample: FloatArray) -> NDArray[np.bool_]:
    """Return where the mean of all channels is bright, bool ``(d, h, w)``."""
    mean = sample.mean(axis=0)
    return np.asarray(mean > _otsu(mean))


def _otsu(values: FloatArray) -> float:
    import skimage.filters

    otsu: Any = skimage.filters.threshold_otsu
    low, high = np.percentile(values, (0.5, 99.5))
    return float(otsu(np.clip(values, low, high).ravel())) if high > low else float(high)


def _shape_of(inside: NDArray[np.bool_], mean: FloatArray, shape: Sequence[int]) -> dict[str, float]:
    """Return figures of the foreground's outline, as seen along the first axis, and of its symmetry."""
    from scipy.ndimage import binary_fill_holes

    seen = binary_fill_holes(inside.mean(axis=0) > 0.25)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        rows, columns, seen = np.arange(seen.shape[0]), np.arange(seen.shape[1]), np.ones_like(seen)
    high, wide = (1 + rows[-1] - rows[0]) / seen.shape[0], (1 + columns[-1] - columns[0]) / seen.shape[1]
    picture = mean.mean(axis=0)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edge = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
    return {
        "share of foreground": float(inside.mean()),
        "filling of its box": float(box.mean()),
        "height of the foreground": high,
        "width of the foreground": wide,
        "height to width": math.log(high * shape[-2] / (wide * shape[-1])),
        "foreground at the border": float(edge.mean()),
        "likeness of left and right": _correlation(picture, picture[:, ::-1]),
        "likeness of top and bottom": _correlation(picture, picture[::-1]),
    }


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else 0.0


def fit_input_check(
    studies: Sequence[Mapping[str, float]], false_alarms: float = 0.05, folds: int = 10, seed: int = 0
) -> InputCheck:
    """Fit an input check on the studies of training.

    Parameters
    ----------
    studies
        `input_features` of each, one a patient.
    false_alarms
        Share of studies like these that may be called unlike, in (0, 1). With n studies a threshold is set where
        ``1 / (n + 1)`` is not above it, by the conformal rule: the k-th largest of the cross-fitted distances.
    folds
        Each study is measured against those of the other folds.
    seed
        Of the folds.

    Returns
    -------
    InputCheck
        For the card. Its threshold is infinite, so that nothing is ever called unlike, with too few studies.

    Raises
    ------
    UsageError
        If the studies have different features, or there are fewer than three.
    """
    if len(studies) < 3 or any(list(s) != list(studies[0]) for s in studies):
        raise UsageError(
            f"An input check is fitted on three studies or more, of one number of channels. Got {len(studies)}."
        )
    if not 0 < false_alarms < 1:
        raise UsageError(f"The share of false alarms is between 0 and 1. Got {false_alarms}.")
    names = tuple(studies[0])
    rows = np.array([[s[name] for name in names] for s in studies], dtype=np.float64)
    centre, whitening = moments(rows)
    threshold, rate = conformal(cross_distances(rows, folds, seed), false_alarms)
    return InputCheck(
        features=names,
        centre=tuple(_short(v) for v in centre),
        whitening=tuple(tuple(_short(v) for v in row) for row in whitening),
        threshold=threshold,
        false_alarms=rate,
        images=len(rows),
    )


def cross_distances(rows: FloatArray, folds: int = 10, seed: int = 0) -> FloatArray:
    """Return each row's distance to the rows of the other folds."""
    fold = folds_of(len(rows), folds, seed)
    out = np.empty(len(rows))
    for k in range(int(fold.max()) + 1):
        centre, whitening = moments(rows[fold != k])
        out[fold == k] = np.linalg.norm((rows[fold == k] - centre) @ whitening, axis=1)
    return out


def folds_of(count: int, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the number of each study's fold."""
    return np.asarray(np.random.default_rng(seed).permutation(count) % min(folds, count))


def conformal(figures: FloatArray, false_alarms: float) -> tuple[float, float]:
    """Return the threshold that so many studies like these exceed at most, and the share that this really is.

    With n figures, each measured without its own study, it is the k-th largest of them, ``k <= rate * (n + 1)``;
    infinite, at a share of 0, where that is less than one.
    """
    k = math.floor(false_alarms * (len(figures) + 1) + 1e-9)
    return (float(np.sort(figures)[-k]), k / (len(figures) + 1)) if k >= 1 else (math.inf, 0.0)


def moments(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the inverse square root of the covariance, shrunk as Ledoit and Wolf do."""
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.maximum(scale, 1e-3)  # a figure that never varied in training still has a width
    x = (rows - centre) / scale
    n, p = x.shape
    sample = x.T @ x / n
    level = np.trace(sample) / p
    spread = float(((sample - level * np.eye(p)) ** 2).sum())
    noise = float(((x**2).T @ (x**2)).sum() / n - (sample**2).sum()) / n
    share = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    values, vectors = np.linalg.eigh((1 - share) * sample + share * level * np.eye(p))
    root = (vectors / np.sqrt(np.maximum(values, 1e-4))) @ vectors.T
    return centre, np.asarray(root / scale[:, None])


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def distance(features: Mapping[str, float], check: InputCheck) -> float:
    """Return how far an input lies from those of training; infinite where it has other features."""
    if set(features) != set(check.features):
        return math.inf
    row = np.array([features[name] for name in check.features])
    return float(np.linalg.norm((row - np.array(check.centre)) @ np.array(check.whitening)))


def check_input(pixels: Voxels, shape: Sequence[int], check: InputCheck) -> tuple[str, ...]:
    """Say whether an input is unlike those that the model was made from.

    Parameters
    ----------
    pixels, shape
        As for `input_features`.
    check
        Of the card.

    Returns
    -------
    tuple
        One warning, with the features that are furthest off; nothing where the input is like them, or where the card
        has no check.
    """
    if not check.features or math.isinf(check.threshold):
        return ()
    features = input_features(pixels, shape)
    if set(features) != set(check.features):
        return ("the card's input check is for another number of channels: not checked",)
    far = distance(features, check)
    if far <= check.threshold:
        return ()
    share = np.array([features[n] for n in check.features]) - np.array(check.centre)
    pull = np.abs(share @ np.array(check.whitening))
    names = [check.features[i] for i in np.argsort(-pull)[:SHOWN]]
    words = (
        f"unlike the {check.images} studies that the model was made from: distance {far:.3g}, where no more than "
        f"{100 * check.false_alarms:.2g} in 100 of such studies are beyond {check.threshold:.3g}; most of all in "
        f"{' and '.join(names)}. Results and confidences may mean nothing"
    )
    return (words,)
