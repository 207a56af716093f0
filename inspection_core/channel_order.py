"""Whether the channels of an input are in the order of those that a model was made from.

Each channel of a study is described by a few figures: its brightness inside and around the foreground, its texture, and
how bright it is from the foreground's edge inwards, where T1, FLAIR and T2 differ most. From the studies of training
comes one mean a channel and one covariance for all (linear discriminant analysis, the covariance shrunk as for the
input check). An input is suspect where another order of its channels fits these better than the order that it came in,
by more than a stated share of the studies of training would show: each of them was measured by the others, in folds.

Two channels that are copies of each other fit in either order, so a stand-in for a missing one is no reason to warn.

References
----------
R. A. Fisher, The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, 1936; for the covariance and
the threshold see `inspection_core.input_check`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from inspection_core.card import ChannelOrder
from inspection_core.errors import UsageError
from inspection_core.geometry import FloatArray
from inspection_core.input_check import bounded, conformal, folds_of, foreground, moments, own_figures, sample_of
from inspection_core.normalise import Voxels

DEPTHS = (0.0, 0.02, 0.04, 0.08, 0.15, 1.0)
"""Below the foreground's edge, in shares of the sides of what is looked at: the ends of five bands."""


def channel_features(pixels: Voxels, shape: Sequence[int]) -> tuple[dict[str, float], ...]:
    """Describe each channel of a network's input.

    Parameters
    ----------
    pixels, shape
        As for `inspection_core.input_check.input_features`.

    Returns
    -------
    tuple of dict
        One a channel, in order: name of a figure to a finite number. The names are the same for all.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    sample = sample_of(pixels, shape)
    bright = foreground(sample)
    inside = np.stack([binary_fill_holes(plane) for plane in bright])
    step = [1 / n for n in sample.shape[2:]]
    # A border of background: a foreground that reaches the picture's edge has its own edge there.
    depth = np.stack([distance_transform_edt(np.pad(p, 1), sampling=step)[1:-1, 1:-1] for p in inside])
    found = []
    for channel in sample:
        figures = {name.replace(" of channel {}", ""): value for name, value in own_figures(channel, bright).items()}
        values = channel[inside] if inside.any() else channel.ravel()
        mean, scale = float(values.mean()), float(values.std()) or 1.0
        for low, high in pairwise(DEPTHS):
            band = channel[(depth > low) & (depth <= high)]
            value = (float(band.mean()) - mean) / scale if band.size else 0.0
            figures[f"brightness from {low:g} to {high:g} below the edge"] = value
        found.append(bounded(figures))
    return tuple(found)


def fit_channel_order(
    studies: Sequence[Sequence[Mapping[str, float]]], false_alarms: float = 0.05, folds: int = 10, seed: int = 0
) -> ChannelOrder:
    """Fit the check on the studies of training.

    Parameters
    ----------
    studies
        `channel_features` of each, one a patient. Studies in which a channel was filled with a copy of another may be
        among them.
    false_alarms, folds, seed
        As for `inspection_core.input_check.fit_input_check`.

    Returns
    -------
    ChannelOrder
        For the card; without features, so that nothing is ever said, for studies of one channel. Its threshold is
        infinite with too few studies.

    Raises
    ------
    UsageError
        If the studies have different channels, or there are fewer than three.
    """
    if len(studies) < 3 or any(len(s) != len(studies[0]) for s in studies):
        raise UsageError(
            f"The order of channels is fitted on three studies or more with the same ones. Got {len(studies)}."
        )
    if not 0 < false_alarms < 1:
        raise UsageError(f"The share of false alarms is between 0 and 1. Got {false_alarms}.")
    if len(studies[0]) < 2:
        return ChannelOrder()
    names = tuple(studies[0][0])
    rows = np.array([[[channel[n] for n in names] for channel in study] for study in studies], dtype=np.float64)
    margins = np.empty(len(rows))
    fold = folds_of(len(rows), folds, seed)
    for k in range(int(fold.max()) + 1):
        weights = _weights(rows[fold != k])
        margins[fold == k] = [_better(row, weights)[0] for row in rows[fold == k]]
    threshold, rate = conformal(margins, false_alarms)
    weights = _weights(rows)
    return ChannelOrder(
        features=names,
        weights=tuple(tuple(float(f"{v:.6g}") for v in row) for row in weights),
        threshold=threshold,
        false_alarms=rate,
        images=len(rows),
    )


def _weights(rows: FloatArray) -> FloatArray:
    """Return ``(C, n)``: what each feature speaks for each channel, from rows ``(N, C, n)``.

    The constant terms of the discriminants are left out: their sum is the same for every order.
    """
    means = rows.mean(axis=0)
    _, whitening = moments((rows - means).reshape(-1, rows.shape[2]))
    return np.asarray(means @ whitening @ whitening.T)


def _better(row: FloatArray, weights: FloatArray) -> tuple[float, tuple[int, ...]]:
    """Return by how much the best order of channels is better than the one given, and for each what it looks like."""
    from scipy.optimize import linear_sum_assignment

    fits = row @ weights.T  # channel given x channel of training
    _, like = linear_sum_assignment(-fits)
    return float(fits[np.arange(len(row)), like].sum() - np.trace(fits)), tuple(int(k) for k in like)


def look_alike(study: Sequence[Mapping[str, float]], check: ChannelOrder) -> tuple[float, tuple[int, ...]]:
    """Return by how much the best order of a study's channels is better than the given one, and what each looks like.

    Parameters
    ----------
    study
        `channel_features`.
    check
        Fitted, for as many channels and the same figures.

    Returns
    -------
    float, tuple of int
        To be compared with the check's threshold, 0 or more; and for each channel the number of the one of training.
    """
    rows = np.array([[figures[name] for name in check.features] for figures in study])
    return _better(rows, np.array(check.weights))


def check_order(pixels: Voxels, shape: Sequence[int], check: ChannelOrder, channels: Sequence[str]) -> tuple[str, ...]:
    """Say whether the channels of an input look exchanged.

    Parameters
    ----------
    pixels, shape
        As for `channel_features`.
    check
        Of the card.
    channels
        Names of the model's channels, in order.

    Returns
    -------
    tuple
        One warning that says which channel looks like which; nothing where their order fits, or where the card has no
        check.
    """
    if not check.features or math.isinf(check.threshold) or len(check.weights) != len(pixels):
        return ()
    described = channel_features(pixels, shape)
    if set(described[0]) != set(check.features):
        return ("the card's check of the order of channels is for other figures: not checked",)
    margin, like = look_alike(described, check)
    if margin <= check.threshold:
        return ()
    odd = [f"{channels[k]} looks like {channels[other]}" for k, other in enumerate(like) if k != other]
    words = (
        f"channels look exchanged: {', '.join(odd)}. No more than {100 * check.false_alarms:.2g} in 100 of the "
        f"{check.images} studies that the model was made from do. Check which is which; results may mean nothing"
    )
    return (words,)
