"""Figures against scikit-learn, against slow definitions, and against worked cases."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from sklearn import metrics as sk

from inspection_core.errors import GeometryError, ModelError, UsageError
from inspection_core.metrics import (
    Interval,
    PixelScores,
    au_pro,
    bootstrap_auroc,
    clopper_pearson,
    image_metrics,
    pixel_auroc,
)

# Few distinct values, so that ties are common; and any values at all.
TIED = st.integers(-3, 3).map(lambda i: i / 2)
ANY = st.floats(-1e6, 1e6, width=32)


@st.composite
def image_sets(draw):
    """Score maps of different shapes with masks, a good image (None) among them at times."""
    images = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
        score = draw(hnp.arrays(np.float32, shape, elements=draw(st.sampled_from([TIED, ANY]))))
        mask = draw(st.one_of(st.none(), hnp.arrays(np.bool_, shape)))
        images.append((score, mask))
    return images


def unzip(images):
    return [s for s, _ in images], [m for _, m in images]


def flat(images):
    scores = np.concatenate([s.ravel() for s, _ in images])
    return np.concatenate([np.zeros(s.size, bool) if m is None else m.ravel() for s, m in images]), scores


def slow_au_pro(images, limit):
    """The definition: one threshold at a time, the overlap of one region at a time."""
    filled = [(s, np.zeros(s.shape, bool) if m is None else m) for s, m in images]
    regions = []
    for i, (_, mask) in enumerate(filled):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labels == k + 1) for k in range(n)]
    if not regions or all(m.all() for _, m in filled):
        return None
    x, y = [0.0], [0.0]
    for threshold in sorted({v for s, _ in filled for v in s.ravel().tolist()}, reverse=True):
        called = [s >= threshold for s, _ in filled]
        normal = sum(int((~m).sum()) for _, m in filled)
        x.append(sum(int((c & ~m).sum()) for c, (_, m) in zip(called, filled, strict=True)) / normal)
        y.append(sum(called[i][r].mean() for i, r in regions) / len(regions))
    area = 0.0
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:], strict=False):
        if x0 >= limit:
            break
        end = min(x1, limit)
        if x1 > x0:
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@settings(deadline=None)
@given(image_sets())
def test_pixel_auroc_is_scikit_learns(images):
    truth, scores = flat(images)
    got = pixel_auroc(*unzip(images))
    if truth.all() or not truth.any():
        assert got is None
    else:
        assert got == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-9)


@settings(deadline=None)
@given(image_sets(), st.sampled_from([0.05, 0.3, 0.5, 1.0, 1 / 3]))
def test_au_pro_is_its_definition(images, limit):
    got, slow = au_pro(*unzip(images), limit), slow_au_pro(images, limit)
    assert (got is None) == (slow is None)
    assert got == (None if slow is None else pytest.approx(slow, abs=1e-9))


def test_au_pro_of_worked_cases():
    score = np.array([[5, 4, 0, 0], [3, 0, 0, 0], [0, 0, 2, 1]], np.float32)
    one = np.zeros((3, 4), np.uint8)
    one[0, :2] = 255
    assert au_pro([score], [one]) == 1.0
    joined = one.copy()
    joined[1, 2] = 255  # meets the first at a corner: one region, a third of it missed until everything is called
    pixels = PixelScores()
    pixels.add(score, joined)
    got = pixels.results()
    assert got.n_regions == 1
    # 2/3 up to FPR 3/9 (scores 5 and 4, then 3, 2 and 1 are false), so 2/3 all the way to 0.3.
    assert got.au_pro == pytest.approx(2 / 3)


def test_small_regions_count_as_much_as_large_ones():
    score = np.zeros((10, 10), np.float32)
    mask = np.zeros((10, 10), np.uint8)
    mask[:5, :8] = 1
    mask[9, 9] = 1
    score[:5, :8] = 1  # the large one is found, the single pixel only with everything else
    # From (0, 1/2) straight to (1, 1): 1/2 + 0.3 / 4 on average up to 0.3.
    assert au_pro([score], [mask]) == pytest.approx(0.5 + 0.3 / 4)


def test_normal_pixels_of_good_images_count():
    bad = np.array([[1, 0, 0, 0]], np.float32)
    mask = np.array([[0, 1, 0, 0]], bool)
    alone = au_pro([bad], [mask], limit=1.0)
    with_good = au_pro([bad, np.full((1, 3), -1, np.float32)], [mask, None], limit=1.0)
    assert alone == pytest.approx(0 + 2 / 3 * 0.5)
    assert with_good == pytest.approx(1 / 6 * 0 + 2 / 6 * 0.5 + 3 / 6 * 1)


def test_regions_of_volumes_touch_at_corners():
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    pixels = PixelScores()
    pixels.add(np.arange(8, dtype=np.float32).reshape(2, 2, 2), mask)
    assert pixels.results().n_regions == 1


def add_all(images, **options):
    pixels = PixelScores(**options)
    for score, mask in images:
        pixels.add(score, mask)
    return pixels


@settings(deadline=None)
@given(image_sets(), st.integers(2, 40))
def test_coarse_results_lie_within_their_error(images, budget):
    exact, coarse = add_all(images).results(), add_all(images, budget=budget).results()
    assert exact.auroc_error == exact.au_pro_error == 0
    assert coarse.n_defect_pixels == exact.n_defect_pixels
    assert coarse.n_regions == exact.n_regions
    assert (coarse.auroc is None) == (exact.auroc is None)
    if exact.auroc is not None:
        assert abs(coarse.auroc - exact.auroc) <= coarse.auroc_error + 1e-9
        assert abs(coarse.au_pro - exact.au_pro) <= coarse.au_pro_error + 1e-9
    if np.unique(flat(images)[1] + 0).size <= budget:
        assert coarse.auroc_error == coarse.au_pro_error == 0


@settings(deadline=None)
@given(image_sets(), st.integers(2, 40), st.randoms())
def test_the_order_of_images_does_not_matter(images, budget, random):
    shuffled = random.sample(images, len(images))
    first, second = add_all(images, budget=budget).results(), add_all(shuffled, budget=budget).results()
    assert dataclasses.astuple(first) == pytest.approx(dataclasses.astuple(second), nan_ok=False)


def test_many_pixels_are_kept_within_the_budget_and_stay_close():
    rng = np.random.default_rng(1)
    images = []
    for i in range(8):
        score = rng.gamma(9, 0.1, (64, 64)).astype(np.float32)
        mask = np.zeros(score.shape, bool)
        mask[10:20, 10 : 20 + i] = i % 2
        score[mask] += 0.3
        images.append((score, mask))
    exact, pixels = add_all(images).results(), add_all(images, budget=2000)
    coarse = pixels.results()
    assert 0 < coarse.auroc_error < 1e-3
    assert coarse.auroc == pytest.approx(exact.auroc, abs=coarse.auroc_error)
    assert coarse.au_pro == pytest.approx(exact.au_pro, abs=coarse.au_pro_error)
    assert sum(keys.size for keys, _ in pixels._tables) <= 2000


def test_float16_maps_stay_exact():
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(1, -1)
    mask = (np.arange(every.size) % 7 == 0).reshape(1, -1)
    got = add_all([(every, mask)], budget=1 << 16).results()
    assert got.auroc_error == 0
    assert got.auroc == pytest.approx(sk.roc_auc_score(mask.ravel(), every.ravel()), abs=1e-12)


def test_results_can_be_read_on_the_way():
    images = [(np.array([[0, 1]], np.float32), np.array([[0, 1]])), (np.array([[2, 3]], np.float32), None)]
    pixels = PixelScores()
    seen = []
    for score, mask in images:
        pixels.add(score, mask)
        seen.append(pixels.results().auroc)
    assert seen == [1.0, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        pytest.param([None], (None, None, 0), id="good images only"),
        pytest.param([np.zeros((2, 2))], (None, None, 0), id="an empty mask is a good image"),
        pytest.param([np.ones((2, 2))], (None, None, 4), id="defects only"),
        pytest.param([], (None, None, 0), id="no image"),
    ],
)
def test_pixel_figures_of_one_class_are_none(masks, expected):
    got = add_all([(np.zeros((2, 2), np.float32), m) for m in masks]).results()
    assert (got.auroc, got.au_pro, got.n_defect_pixels) == expected
    assert got.n_images == len(masks)
    json.dumps(dataclasses.asdict(got), allow_nan=False)


def test_a_negative_zero_ties_with_zero():
    assert pixel_auroc([np.array([[-0.0, 0.0]], np.float32)], [np.array([[0, 1]])]) == 0.5


def test_pixel_scores_refuse():
    pixels = PixelScores()
    with pytest.raises(GeometryError, match=r"has the shape of its score map, \(2, 2\)\. Got shape \(2, 3\); check"):
        pixels.add(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ModelError, match=r"A score map holds numbers\. Got NaN; check the image"):
        pixels.add(np.array([[0, np.nan]]))
    assert pixels.results().n_images == 0
    for limit in (0, -0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=r"false-positive rate above 0 and at most 1\. Got"):
            pixels.results(limit)
    with pytest.raises(UsageError, match=r"At least two scores must be kept\. Got a budget of 1"):
        PixelScores(budget=1)
    with pytest.raises(UsageError, match=r"Each score map has a mask, or None\. Got 1 maps and 0 masks"):
        pixel_auroc([np.zeros((2, 2))], [])


IMAGES = st.lists(st.tuples(st.booleans(), TIED, st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(IMAGES)
def test_image_figures_are_scikit_learns(rows):
    labels, scores, predicted = (np.array(column) for column in zip(*rows, strict=True))
    got = image_metrics(labels, scores, predicted)
    tn, fp, fn, tp = sk.confusion_matrix(labels, predicted, labels=[False, True]).ravel().tolist()
    assert (got.true_negatives, got.false_positives, got.false_negatives, got.true_positives) == (tn, fp, fn, tp)
    assert (got.n_good, got.n_defect) == (int((~labels).sum()), int(labels.sum()))
    assert got.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    if 0 < labels.sum() < labels.size:
        assert got.auroc == pytest.approx(sk.roc_auc_score(labels, scores))
        assert got.average_precision == pytest.approx(sk.average_precision_score(labels, scores))
        assert got.auroc_interval.low <= got.auroc_interval.high
    else:
        assert got.auroc is got.average_precision is got.auroc_interval is None
    if labels.any():
        assert got.recall == pytest.approx(sk.recall_score(labels, predicted))
        assert got.recall_interval.low <= got.recall <= got.recall_interval.high
    else:
        assert got.recall is got.recall_interval is None
    if predicted.any():
        assert got.precision == pytest.approx(sk.precision_score(labels, predicted))
    else:
        assert got.precision is got.precision_interval is None
    if labels.any() or predicted.any():
        assert got.f1 == pytest.approx(sk.f1_score(labels, predicted))
    else:
        assert got.f1 is None
    if not labels.all():
        assert got.false_alarm_rate == pytest.approx(fp / (fp + tn))
    else:
        assert got.false_alarm_rate is got.false_alarm_interval is None
    json.dumps(dataclasses.asdict(got), allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "scores", "predicted", "message"),
    [
        ([], [], [], r"one entry for each image, at least one\. Got 0, 0 and 0"),
        ([0, 1], [0.1], [0, 1], "Got 2, 1 and 2"),
        ([0, 2], [0.1, 0.2], [0, 1], r"Labels are a list of 0 \(good\) and 1 \(defective\)\. Got \[0, 2\]"),
        ([0, 1], [0.1, 0.2], [0, 5], r"Predictions are a list of 0"),
        ([0, 1], [0.1, math.nan], [0, 1], r"list of numbers without NaN\. Got shape \(2,\); drop failed images"),
        ([0, 1], [[0.1, 0.2]], [0, 1], r"Got shape \(1, 2\)"),
    ],
)
def test_image_metrics_refuse(labels, scores, predicted, message):
    with pytest.raises(UsageError, match=message):
        image_metrics(labels, scores, predicted)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_is_scipys(k, n, level):
    assume(0 < k <= n or k == 0 < n)
    expected = stats.binomtest(k, n).proportion_ci(level, method="exact")
    got = clopper_pearson(k, n, level)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert got.level == level


def test_nothing_seen_leaves_every_share_possible():
    assert clopper_pearson(0, 0) == Interval(0.0, 1.0, 0.95)


def test_the_bootstrap_draws_the_classes_apart():
    rng = np.random.default_rng(3)
    good, defect = rng.normal(0, 1, 60), rng.normal(1.5, 1, 40)
    draws = []
    for _ in range(400):
        g, d = rng.choice(good, good.size), rng.choice(defect, defect.size)
        draws.append((d[:, None] > g).mean() + (d[:, None] == g).mean() / 2)
    got = bootstrap_auroc(good, defect, seed=0)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)
    assert got == bootstrap_auroc(good, defect, seed=0)
    assert got != bootstrap_auroc(good, defect, seed=1)
    wider = bootstrap_auroc(good, defect, seed=0, level=0.99)
    assert wider.low < got.low < got.high < wider.high


def test_the_bootstrap_of_more_scores_than_fit_at_once(monkeypatch):
    monkeypatch.setattr("inspection_core.metrics.BUDGET", 64)
    got = bootstrap_auroc([0, 1, 2, 3], [2, 3, 4], seed=0, n=500)
    assert 0.4 < got.low < 0.83 < got.high <= 1


def test_the_bootstrap_at_its_ends():
    assert bootstrap_auroc([0, 1], [2, 3], seed=0) == Interval(1.0, 1.0, 0.95)
    assert bootstrap_auroc([], [1.0], seed=0) is None
    assert bootstrap_auroc([1.0], [], seed=0) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clopper_pearson(3, 2), r"A share is k of n with 0 <= k <= n\. Got 3 of 2"),
        (lambda: clopper_pearson(-1, 2), "Got -1 of 2"),
        (lambda: clopper_pearson(1, 2, 95), r"A confidence level is between 0 and 1, such as 0\.95\. Got 95"),
        (lambda: bootstrap_auroc([0], [1], 0, level=0), r"A confidence level .* Got 0"),
        (lambda: bootstrap_auroc([0], [1], 0, n=0), r"A bootstrap draws at least once\. Got n = 0"),
        (lambda: bootstrap_auroc([math.nan], [1], 0), "Image scores are a list of numbers without NaN"),
    ],
)
def test_intervals_refuse(call, message):
    with pytest.raises(UsageError, match=message):
        call()
