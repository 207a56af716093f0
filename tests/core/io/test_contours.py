"""Masks become contours and masks again, bit for bit, with holes, islands and corners that touch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import measure

from inspection_core.io.contours import contours_of, mask_of


def picture(text):
    return np.array([[c == "#" for c in line] for line in text.split()])


MASKS = {
    "one pixel": (picture("... .#. ..."), 1),
    "touching at a corner": (picture("#.. .#. ..#"), 1),
    "two islands": (picture("#.# ... ###"), 3),
    "a hole": (picture("##### #...# #.#.# #...# #####"), 2),
    "two holes in a row": (picture("####### #.#.#.# #######"), 1),
    "holes that touch at a corner": (picture("##### #.### ##.## #####"), 1),
    "hole above hole": (picture("##### #.### ##### #..## #####"), 1),
    "all of it": (np.ones((4, 6), bool), 1),
}


@pytest.mark.parametrize("name", MASKS)
def test_one_contour_an_island(name):
    mask, islands = MASKS[name]
    contours = contours_of(mask)
    assert len(contours) == islands
    np.testing.assert_array_equal(mask_of(contours, mask.shape), mask)


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.booleans()))
def test_there_and_back(mask):
    np.testing.assert_array_equal(mask_of(contours_of(mask), mask.shape), mask)


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.booleans()))
def test_the_area_is_that_of_the_pixels_but_for_cut_corners(mask):
    """Marching squares cut an eighth of a pixel off each corner that stands out, and fill one in each that goes in."""
    area = 0.0
    for points in contours_of(mask):
        y, x = points.T
        area += abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2
    assert mask.sum() / 2 <= area + 1e-9
    assert area <= mask.sum() * 1.5


def away_from_edges(polygon, shape, by=1e-3):
    """Where a pixel's centre lies farther than that from every edge: on an edge the two may differ."""
    centres = np.stack(np.indices(shape), axis=-1)[:, :, None].astype(float)
    a, b = polygon, np.roll(polygon, -1, axis=0)
    length = np.maximum(((b - a) ** 2).sum(axis=1), 1e-12)
    share = np.clip(((centres - a) * (b - a)).sum(axis=-1) / length, 0, 1)
    return np.linalg.norm(centres - a - share[..., None] * (b - a), axis=-1).min(axis=-1) > by


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12)), min_size=3, max_size=9))
def test_filling_agrees_with_scikit_image(points):
    polygon = np.array(points)
    compared = away_from_edges(polygon, (9, 10))
    expected = measure.grid_points_in_poly((9, 10), polygon)
    np.testing.assert_array_equal(mask_of([polygon], (9, 10))[compared], expected[compared])


def test_a_contour_through_pixel_centres_takes_them_in():
    """Some tools draw through the centres of the outermost pixels; millimetres bring them back a little beside."""
    square = np.array([[1, 1], [1, 4], [3, 4], [3, 1]]) + 3e-6
    expected = np.zeros((6, 7), bool)
    expected[1:4, 1:5] = True
    np.testing.assert_array_equal(mask_of([square], (6, 7)), expected)


def test_a_contour_inside_another_is_a_hole():
    outer = np.array([[-0.5, -0.5], [-0.5, 6.5], [6.5, 6.5], [6.5, -0.5]])
    filled = mask_of([outer, outer * 0.4 + 1.8], (7, 7))
    assert filled.sum() == 49 - 9
    assert not filled[2:5, 2:5].any()


def test_what_lies_outside_is_cut_off():
    assert mask_of([np.array([[-9.0, -9], [-9, 30], [30, 30], [30, -9]])], (4, 5)).all()
    assert not mask_of([np.array([[40.0, 40], [40, 50], [50, 50]])], (4, 5)).any()
    assert not mask_of([], (4, 5)).any()
