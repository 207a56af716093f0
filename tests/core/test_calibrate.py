"""p-values from good images, and the words for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.calibrate import describe_p_value, p_value, p_values
from inspection_core.errors import ModelError, UsageError

SCORES = st.integers(-5, 5).map(lambda i: i / 4)  # few values, so that ties are common


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=30), st.lists(SCORES, max_size=10))
def test_p_value_is_its_definition(calibration, scores):
    got = p_values(scores, sorted(calibration))
    n = len(calibration)
    assert got.shape == (len(scores),)
    assert got.tolist() == [(1 + sum(c >= s for c in calibration)) / (n + 1) for s in scores]
    assert got.tolist() == [p_value(s, sorted(calibration)) for s in scores]


def test_p_values_keep_the_shape_of_the_scores():
    assert p_values(np.zeros((2, 3)), [0.0, 1.0]).shape == (2, 3)
    assert p_values(np.float32(0.5), [0.0, 1.0]).shape == ()


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40, unique=True))
def test_of_exchangeable_scores_each_rank_is_as_likely(scores):
    """Each of n + 1 scores against the other n gives each of the p-values 1 / (n + 1), ..., 1 once."""
    n = len(scores) - 1
    got = sorted(p_value(s, sorted(scores[:i] + scores[i + 1 :])) for i, s in enumerate(scores))
    assert got == [k / (n + 1) for k in range(1, n + 2)]


def test_a_float32_score_ties_with_itself_read_back_from_a_card():
    score = np.float32(0.1)
    assert p_value(float(score), [float(score)]) == 1.0


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        pytest.param([], r"needs a list of scores of good images\. Got shape \(0,\); calibrate the model", id="none"),
        pytest.param([[1.0]], r"Got shape \(1, 1\)", id="no list"),
        pytest.param([2.0, 1.0], r"Calibration scores ascend, without NaN\. Got others; sort them", id="descending"),
        pytest.param([1.0, np.nan], "ascend, without NaN", id="NaN last"),
        pytest.param([np.nan], "ascend, without NaN", id="NaN alone"),
    ],
)
def test_calibration_must_be_usable(calibration, message):
    with pytest.raises(UsageError, match=message):
        p_values([1.0], calibration)


def test_nan_has_no_p_value():
    with pytest.raises(ModelError, match=r"A p-value needs a score\. Got NaN; check the image"):
        p_value(float("nan"), [1.0])


@pytest.mark.parametrize(
    ("p", "n", "words"),
    [
        (1 / 91, 90, "fewer than 1 in 90 good parts look this odd"),
        (1 / 10_001, 10_000, "fewer than 1 in 10,000 good parts look this odd"),
        (2 / 10_001, 10_000, "about 1 in 5,000 good parts look at least this odd"),
        (0.05, 99, "about 1 in 20 good parts look at least this odd"),
        (2 / 91, 90, "about 1 in 46 good parts look at least this odd"),
        (0.2, 99, "about 1 in 5 good parts look at least this odd"),
        (0.4, 99, "about 40 in 100 good parts look at least this odd"),
        (1.0, 99, "all good parts seen look at least this odd"),
        (1 / 5, 4, "odder than all good parts seen, but they were too few to say more (4)"),
        (1 / 2, 1, "odder than all good parts seen, but they were too few to say more (1)"),
        (2 / 5, 4, "about 40 in 100 good parts look at least this odd"),
        (1.0, 1, "all good parts seen look at least this odd"),
        (1.0, 0, "not calibrated: how many good parts look this odd is unknown"),
    ],
)
def test_words_for_a_p_value(p, n, words):
    assert describe_p_value(p, n) == words


def test_words_name_what_is_inspected():
    assert describe_p_value(0.05, 99, "scans") == "about 1 in 20 scans look at least this odd"


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_every_possible_p_value_has_words(n, data):
    k = data.draw(st.integers(1, n + 1))
    assert "good parts" in describe_p_value(k / (n + 1), n)


@pytest.mark.parametrize(("p", "n"), [(0.001, 90), (0.0, 90), (1.1, 90), (float("nan"), 90), (0.5, -1), (0.5, 0)])
def test_words_are_for_possible_p_values_only(p, n):
    with pytest.raises(UsageError, match=r"lies between 1 / \(n \+ 1\) and 1\. Got p = "):
        describe_p_value(p, n)
