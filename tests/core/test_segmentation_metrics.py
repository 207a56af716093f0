"""Figures of segmentations, against definitions written out and against MONAI's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from inspection_core.errors import GeometryError
from inspection_core.segmentation_metrics import (
    ReliabilityBin,
    VoxelReliability,
    bland_altman,
    bootstrap,
    dice,
    equal_mass,
    expected_error,
    finding_calibration,
    froc,
    mean_and_median,
    mean_of,
    surface_figures,
)


def box(*spans, shape=(12, 20, 20)):
    out = np.zeros(shape, bool)
    out[tuple(slice(a, b) for a, b in spans)] = True
    return out


FULL, EMPTY = box((2, 8), (4, 14), (4, 14)), box((0, 0))

# name: (predicted, reference, Dice, HD95, surface Dice)
CASES = {
    "the same": (FULL, FULL, 1, 0, 1),
    "both empty": (EMPTY, EMPTY, 1, 0, 1),
    "nothing predicted": (EMPTY, FULL, 0, None, 0),
    "nothing there": (FULL, EMPTY, 0, None, 0),
    "far apart": (box((2, 4), (0, 2), (0, 2)), box((2, 4), (0, 2), (15, 17)), 0, 15, 0),
    "at the border": (box((0, 12), (0, 20), (0, 20)), box((0, 12), (0, 20), (0, 20)), 1, 0, 1),
}


@pytest.mark.parametrize(("predicted", "reference", "overlap", "far", "near"), CASES.values(), ids=CASES)
def test_one_study(predicted, reference, overlap, far, near):
    assert dice(predicted, reference) == overlap
    hd95, surface = surface_figures(predicted, reference, (1, 1, 1), 1)
    assert (hd95, surface) == (far if far is None else pytest.approx(far), pytest.approx(near))


def slow_surfaces(a, b, spacing):
    """Distances from each surface to the other, every voxel on its own."""
    edges = [np.argwhere(m & ~ndimage.binary_erosion(m)) * spacing for m in (a, b)]
    apart = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    return apart.min(axis=1), apart.min(axis=0)


def test_surfaces_in_millimetres():
    rng = np.random.default_rng(0)
    a, b = (ndimage.gaussian_filter(rng.normal(size=(9, 14, 15)), 2) > 0.02 for _ in range(2))
    spacing = (3.0, 0.5, 0.7)
    there, back = slow_surfaces(a, b, spacing)
    hd95, surface = surface_figures(a, b, spacing, 1.0)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert surface == pytest.approx(((there <= 1).sum() + (back <= 1).sum()) / (there.size + back.size), rel=1e-5)


def test_masks_of_different_grids():
    with pytest.raises(GeometryError, match=r"Two masks of one grid are compared\. Got \(12, 20, 20\) and \(2, 2\)"):
        dice(FULL, np.zeros((2, 2), bool))


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(0, 1, width=32)), st.integers(0, 99))
def test_voxels_in_parts_and_at_once(p, seed):
    true = np.random.default_rng(seed).random(p.size) < p
    parts, whole = VoxelReliability(), VoxelReliability()
    for piece in np.array_split(np.arange(p.size), 4):
        parts.add(p[piece], true[piece])
    whole.add(p, true)
    assert parts.error() == pytest.approx(whole.error())
    place = np.minimum((p.astype(float) * 15).astype(int), 14)
    slow = sum(abs(p[place == k].astype(float).sum() - true[place == k].sum()) for k in range(15)) / p.size
    assert whole.error() == pytest.approx(slow, abs=1e-6)
    assert sum(b.count for b in whole.table()) == p.size


def test_without_anything():
    assert VoxelReliability().error() is None
    assert expected_error(()) is None
    assert finding_calibration([], []).brier is None
    assert finding_calibration([[]], [[]]).n == 0
    assert froc([], [0.5], 3).score is None
    assert bland_altman([], []) is None
    assert bootstrap(1, lambda drawn: drawn.mean(axis=1)) is None
    assert mean_of([None]) == (None, 0)


def test_bins_of_equal_mass():
    bins = equal_mass(np.linspace(0, 1, 40), np.arange(40) % 2)
    assert [b.count for b in bins] == [5] * 8
    assert sorted(b.predicted for b in bins) == [b.predicted for b in bins]
    assert equal_mass([0.4], [1]) == (ReliabilityBin(1, 0.4, 1.0),)
    assert expected_error(equal_mass([0.4], [1])) == pytest.approx(0.6)


def test_findings_of_a_right_and_of_a_boastful_model():
    rng = np.random.default_rng(1)
    p = [rng.uniform(0, 1, rng.integers(0, 6)) for _ in range(80)]
    true = [rng.random(q.size) < q for q in p]
    right = finding_calibration(p, true)
    assert right.brier < right.base_brier
    assert right.in_the_large_interval.low < 0 < right.in_the_large_interval.high
    assert right.ece < 0.15
    boast = finding_calibration([q**0.2 for q in p], true)
    assert boast.in_the_large_interval.low > 0
    assert boast.ece > right.ece
    assert (right.n, right.n_true) == (sum(q.size for q in p), sum(int(t.sum()) for t in true))


def test_froc():
    curve = froc(reach=[0.9, 0.6, -np.inf, 0.2], false_confidence=[0.8, 0.3, 0.25, 0.1], studies=2)
    assert dict(zip(curve.cuts, curve.curve, strict=True)) == {
        0.9: (0, 0.25), 0.8: (0.5, 0.25), 0.6: (0.5, 0.5), 0.3: (1, 0.5), 0.25: (1.5, 0.5), 0.2: (1.5, 0.75),
        0.1: (2, 0.75),
    }  # fmt: skip
    assert curve.sensitivity == (0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75)
    assert curve.score == pytest.approx(np.mean(curve.sensitivity))


def test_intervals_are_the_same_for_a_seed_and_hold_the_mean():
    values = np.random.default_rng(2).beta(8, 2, 40)
    mean, around, median, about = mean_and_median(values, 3)
    assert (mean, median) == (values.mean(), np.median(values))
    assert around.low < mean < around.high
    assert about.low <= median <= about.high
    assert mean_and_median(values, 3) == mean_and_median(values, 3)
    error = values.std(ddof=1) / np.sqrt(40)
    assert around.high - around.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_volumes():
    agreement = bland_altman([10, 22, 30], [12, 20, 27])
    assert (agreement.n, agreement.bias) == (3, 1)
    assert agreement.high - agreement.bias == pytest.approx(1.96 * np.std([-2, 2, 3], ddof=1))
    assert bland_altman([3], [1]).low is None
