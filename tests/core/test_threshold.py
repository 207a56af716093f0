"""Cuts and verdicts from a policy and a calibration."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.calibrate import p_value
from inspection_core.card import Calibration, Policy
from inspection_core.errors import ModelError
from inspection_core.threshold import Cuts, cuts, map_cuts, verdict

TO_90 = tuple(float(i) for i in range(1, 91))
SCORES = st.integers(-8, 8).map(lambda i: i / 8)
# Rates that people type, among them those where rate * (n + 1) misses a whole number by a rounding.
RATES = st.one_of(st.integers(1, 99).map(lambda i: i / 100), st.sampled_from([1 / 3, 0.005, 0.001, 1 / 91]))


@st.composite
def policies(draw):
    rates = sorted((draw(RATES), draw(st.one_of(RATES, st.just(1.0)))))
    return Policy(max_false_alarms=rates[0], review=rates[1])


def calibrated(scores, **more):
    return Calibration("test", tuple(scores), **more)


@settings(deadline=None)
@given(policies(), st.lists(SCORES, min_size=1, max_size=120), SCORES)
def test_a_certified_cut_says_the_same_as_the_p_value(policy, scores, score):
    calibration = calibrated(scores)
    n, p = len(scores), p_value(score, calibration.scores)
    got = cuts(policy, calibration)
    if policy.review >= 1 / (n + 1):
        assert (score > got.review) == (p <= policy.review)
    if policy.max_false_alarms >= 1 / (n + 1):
        assert (score > got.ng) == (p <= policy.max_false_alarms)
        assert verdict(score, got) == (
            "NG" if p <= policy.max_false_alarms else "REVIEW" if p <= policy.review else "OK"
        )
        assert got.certified_rate <= policy.max_false_alarms
        assert got.warnings == ()


@settings(deadline=None)
@given(policies(), st.lists(SCORES, max_size=60))
def test_cuts_are_in_order_and_certify_what_they_say(policy, scores):
    got = cuts(policy, calibrated(scores))
    assert got.review <= got.ng
    assert got.asked_rate == policy.max_false_alarms
    assert (got.certified_rate > got.asked_rate) == bool(got.warnings)
    if scores and not got.warnings:
        assert sum(s > got.ng for s in scores) <= got.certified_rate * (len(scores) + 1) - 1 + 1e-9


@pytest.mark.parametrize("n_plus_1", [7, 10, 20, 29, 49, 50, 91, 100, 1000])
def test_every_rate_k_of_n_plus_1_gives_the_kth_largest(n_plus_1):
    scores = calibrated(range(1, n_plus_1))
    for k in range(1, n_plus_1):
        got = cuts(Policy(max_false_alarms=k / n_plus_1, review=1.0), scores)
        assert (got.ng, got.review) == (n_plus_1 - k, -math.inf)


def test_a_rate_that_cannot_be_certified_leaves_a_gap_for_review():
    got = cuts(Policy(max_false_alarms=0.001, review=0.10), calibrated(TO_90))
    assert got.review == 82  # 9 of 91 is still at most 0.10
    assert got.certified_rate == 1 / 91
    assert 90 < got.ng < math.inf
    assert verdict(90.5, got) == verdict(got.ng, got) == "REVIEW"
    assert verdict(math.nextafter(got.ng, math.inf), got) == "NG"
    (warning,) = got.warnings
    assert warning == (
        "A false-alarm rate of 0.001 cannot be certified from 90 good images; the smallest certified rate is 0.0110. "
        f"Scores above 90 are at that rate; those up to {got.ng:.4g} go to REVIEW, and NG beyond rests on an "
        "extrapolation. 999 good images would certify 0.001."
    )


def test_a_review_rate_that_cannot_be_certified_becomes_the_smallest_that_can():
    assert cuts(Policy(max_false_alarms=0.001, review=0.002), calibrated(TO_90)).review == 90


@pytest.mark.parametrize("scores", [(1.0, 2.0, 3.0, 4.0), (0.1,) * 50], ids=["too few", "all alike"])
def test_without_a_tail_nothing_is_ng(scores):
    got = cuts(Policy(max_false_alarms=0.001), calibrated(scores))
    assert (got.ng, got.review) == (math.inf, scores[-1])
    assert verdict(1e9, got) == "REVIEW"
    assert verdict(scores[-1], got) == "OK"
    assert got.warnings[0].endswith(
        "are at that rate and go to REVIEW: these images are too few or too alike to extrapolate from, so none is NG. "
        "999 good images would certify 0.001."
    )


def test_ng_never_begins_inside_the_good_scores():
    """A lone high score lies beyond what the others' tail suggests; nothing up to it becomes NG."""
    got = cuts(Policy(max_false_alarms=0.01), calibrated((*TO_90[:-1], 1000.0)))
    assert got.ng == 1000
    assert "Scores above 1000 are at that rate; that they are NG rests on an extrapolation." in got.warnings[0]


@pytest.mark.parametrize(("n", "rate"), [(30, 0.01), (90, 0.002)])
def test_with_an_exponential_tail_the_extrapolation_keeps_the_rate(n, rate):
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(1500):
        got = cuts(Policy(max_false_alarms=rate), calibrated(rng.exponential(size=n).tolist()))
        alarms.append(math.exp(-got.ng))  # share of new exponential scores above the cut
    # Never below the largest good score, so no more than asked; and not so strict as to be useless.
    assert rate / 3 < np.mean(alarms) <= 1.05 * rate


def test_uncalibrated_goes_to_review():
    got = cuts(Policy(), Calibration())
    assert got == Cuts(math.inf, -math.inf, 1.0, 0.05, got.warnings)
    assert got.warnings[0].startswith("The model is uncalibrated: it holds no scores of good images, so every image")
    assert {verdict(s, got) for s in (-1e300, 0.0, 1e300)} == {"REVIEW"}


@pytest.mark.parametrize(
    ("score", "expected"), [(0.29, "OK"), (0.3, "REVIEW"), (0.5, "REVIEW"), (0.7, "REVIEW"), (0.71, "NG")]
)
def test_a_band_takes_both_ends_in(score, expected):
    got = cuts(Policy(kind="band", low=0.3, high=0.7), Calibration())
    assert verdict(score, got) == expected
    assert (got.ng, got.certified_rate, got.asked_rate, got.warnings) == (0.7, None, None, ())


def test_a_band_without_width_reviews_its_one_score():
    got = cuts(Policy(kind="band", low=0.5, high=0.5), Calibration())
    assert [verdict(s, got) for s in (0.49, 0.5, 0.51)] == ["OK", "REVIEW", "NG"]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_has_no_verdict(score):
    with pytest.raises(ModelError, match=r"An image score is a finite number\. Got -?(nan|inf); check the image"):
        verdict(score, Cuts(1.0, 0.5, 0.05, 0.05))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_damaged_calibration_is_refused(bad):
    with pytest.raises(ModelError, match=r"Calibration scores are finite\. Got NaN or infinity in the card; fit"):
        cuts(Policy(), calibrated((1.0, bad)))


@pytest.mark.parametrize(
    ("policy", "calibration", "expected"),
    [
        pytest.param(Policy(), calibrated((), peaks=TO_90, pixel_low=40.0), (40.0, 82.0), id="peaks"),
        pytest.param(Policy(), calibrated((), peaks=TO_90, pixel_low=85.0), (82.0, 82.0), id="low stays below high"),
        pytest.param(Policy(review=0.05), calibrated((), peaks=(1.0, 2.0)), (0.0, 2.0), id="unreachable"),
        pytest.param(Policy(), calibrated(TO_90), (math.inf, math.inf), id="no peaks"),
    ],
)
def test_cuts_for_outlines(policy, calibration, expected):
    assert map_cuts(policy, calibration) == expected


def test_cuts_for_outlines_of_a_band():
    policy, just_below = Policy(kind="band", low=0.3, high=0.7), math.nextafter(0.3, 0)
    assert map_cuts(policy, Calibration()) == (just_below, just_below)
    assert map_cuts(policy, calibrated((), peaks=(1.0,), pixel_low=0.1)) == (0.1, just_below)
