"""Which lesions are found, which findings are true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from inspection_core.errors import GeometryError
from inspection_core.findings import find_labelled
from inspection_core.geometry import Geometry
from inspection_core.lesions import OVERLAP, compare, near

CLASSES = ("core", "rim")
MASKS = hnp.arrays(np.uint8, (4, 6, 7), elements=st.integers(0, 2))


def findings_of(mask):
    return find_labelled(mask, mask > 0.5 * np.ones(mask.shape), Geometry.pixels(mask.shape), CLASSES)[1]


def compared(mask, reference):
    return compare(mask, reference, findings_of(mask), CLASSES)


def grid(*boxes, shape=(4, 20, 20), values=None):
    out = np.zeros(shape, np.uint8)
    for k, (y, x, side) in enumerate(boxes):
        out[1:3, y : y + side, x : x + side] = values[k] if values else 1
    return out


# name: (prediction, reference, found, true, lesion-wise Dice)
CASES = {
    "the same": (grid((2, 2, 4)), grid((2, 2, 4)), [True], [True], [1]),
    "nothing on either side": (grid(), grid(), [], [], []),
    "missed": (grid(), grid((2, 2, 4)), [False], [], [0]),
    "false alarm": (grid((2, 2, 4)), grid(), [], [False], [0]),
    "one of two": (grid((2, 2, 4)), grid((2, 2, 4), (12, 12, 4)), [True, False], [True], [1, 0]),
    "two pieces of one": (grid((2, 2, 2), (2, 6, 2)), grid((2, 2, 6)), [True], [True, True], [2 * 16 / (72 + 16)]),
    "one over two": (grid((2, 2, 10)), grid((2, 2, 4), (8, 8, 4)), [True, True], [True], [64 / 232, 64 / 232]),
    "another class": (grid((2, 2, 4)), grid((2, 2, 4), values=[2]), [False], [False], [0, 0]),
    "a corner of it": (grid((2, 2, 10)), grid((11, 11, 6)), [False], [False], [2 * 2 / (200 + 72)]),
}


@pytest.mark.parametrize(("mask", "reference", "found", "true", "dice"), CASES.values(), ids=CASES)
def test_counts(mask, reference, found, true, dice):
    got = compared(mask, reference)
    assert got.found.tolist() == found
    assert got.true.tolist() == true
    assert got.dice.tolist() == pytest.approx(dice)


@settings(deadline=None)
@given(MASKS, MASKS)
def test_against_one_lesion_at_a_time(mask, reference):
    got = compared(mask, reference)
    some = []
    for label in (1, 2):
        regions, n = ndimage.label(reference == label, np.ones((3, 3, 3)))
        some += [(mask[regions == k] == label).mean() >= OVERLAP for k in range(1, n + 1)]
    assert sorted(got.found) == sorted(some)
    truth = []
    for label in (1, 2):
        regions, n = ndimage.label(mask == label, np.ones((3, 3, 3)))
        truth += [(reference[regions == k] == label).mean() >= OVERLAP for k in range(1, n + 1)]
    assert sorted(got.true) == sorted(truth)
    assert got.dice.size >= got.found.size


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (5, 5, 5), elements=st.integers(0, 2)))
def test_each_finding_is_its_own_region(mask):
    """Against itself everything is true, also where one region lies in the box of another."""
    assert compared(mask, mask).true.all()


def test_rings_around_one_another_are_told_apart():
    mask = np.zeros((1, 9, 9), np.uint8)
    mask[0, 0, :] = mask[0, -1, :] = mask[0, :, 0] = mask[0, :, -1] = 1
    reference = mask.copy()
    mask[0, 4, 4] = 2
    got = compared(mask, reference)
    assert dict(zip((f.label for f in findings_of(mask)), got.true, strict=True)) == {"core": True, "rim": False}


def test_near_is_a_ball():
    spot = np.zeros((15, 15, 15), bool)
    spot[7, 7, 7] = True
    z, y, x = np.ogrid[-7:8, -7:8, -7:8]
    assert np.array_equal(near(spot, 5), z**2 + y**2 + x**2 <= 25)
    assert not near(np.zeros((3, 3), bool)).any()


def test_findings_of_another_mask():
    with pytest.raises(GeometryError, match="one has no region of its own"):
        compare(grid((5, 5, 3)), grid(), findings_of(grid((2, 2, 4))), CLASSES)
    with pytest.raises(GeometryError, match="which is empty"):
        compare(grid(), grid(), findings_of(grid((2, 2, 4))), CLASSES)
    with pytest.raises(GeometryError, match="lie on one grid"):
        compare(grid(), grid(shape=(2, 5, 5)), (), CLASSES)
