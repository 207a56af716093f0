"""Two reviewers of one case: Dice and pairs whose values follow by hand."""

import numpy as np
import pytest

from inspection_core.agreement import Pair, compare_reviews, dice, pair_findings
from inspection_core.errors import GeometryError
from inspection_core.findings import find_labelled
from inspection_core.geometry import Geometry
from inspection_core.prediction import Prediction
from inspection_core.review import Mark, Review


def review(shape=(8, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 1:5] = 1
    mask[5:7, 6:10] = 2
    score = (mask > 0).astype(np.float32)
    geometry = Geometry.pixels(shape)
    mask, findings = find_labelled(mask, score, geometry, ("a", "b"))
    return Review(Prediction(geometry, score, mask, findings, 1, None, "NG", 0.5, "m", "1", "", "cpu"), (), ("a", "b"))


def test_two_who_changed_nothing_agree():
    result = compare_reviews(review(), review())
    assert result.dice == 1
    assert result.per_class == {"a": 1, "b": 1}
    assert result.pairs == (Pair(1, 1, 1.0, True, True), Pair(2, 2, 1.0, True, True))
    assert result.matched == 2


def test_half_of_a_finding_and_another_verdict():
    first, second = review(), review()
    number = int(first.regions[1, 1])
    second.add(second.change("paint", "ben", (1, 3), np.zeros((2, 2), np.uint16)))
    second.add(second.judge("accept", "ben", [number]))
    result = compare_reviews(first, second)
    assert result.per_class["a"] == pytest.approx(2 * 4 / (8 + 4))
    assert result.dice == pytest.approx(2 * 12 / (16 + 12))
    pair = next(p for p in result.pairs if p.first == number)
    assert (pair.second, pair.dice, pair.same_label, pair.same_status) == (number, pytest.approx(2 / 3), True, False)


def test_what_only_one_has_stands_alone():
    first, second = review(), review()
    second.add(second.change("paint", "ben", (0, 11), np.array([[second.next_number]])))
    result = compare_reviews(first, second)
    assert result.pairs[-1] == Pair(None, 3, 0.0)
    assert result.matched == 2
    assert result.to_dict()["findings"][-1] == {
        "first": None, "second": 3, "dice": 0.0, "same_label": False, "same_status": False
    }  # fmt: skip


def test_one_finding_is_paired_once():
    one = np.array([[1, 1, 1, 1, 1, 1]])
    two = np.array([[1, 1, 1, 1, 2, 2]])
    marks = {1: Mark("a"), 2: Mark("a")}
    assert pair_findings(one, two, marks, marks) == (Pair(1, 1, 0.8, True, True), Pair(None, 2, 0.0))


def test_both_empty_agree():
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_other_grids_are_refused():
    with pytest.raises(
        GeometryError, match=r"^Reviews of one case lie on one grid. Got shapes \(8, 12\) and \(9, 12\)"
    ):
        compare_reviews(review(), review((9, 12)))
