"""Windows cover everything, and no seam shows where they meet."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.errors import GeometryError
from inspection_core.tiling import Stitcher, windows

STEPS = st.sampled_from([1, 2, 8])


@st.composite
def grids(draw, axes=2):
    """Return shape, window size, overlap and step that fit together."""
    step = draw(STEPS)
    shape = tuple(step * draw(st.integers(1, 30)) for _ in range(axes))
    size = tuple(step * draw(st.integers(1, 12)) for _ in range(axes))
    return shape, size, draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), step


@settings(deadline=None)
@given(grids())
def test_windows_have_one_size_and_lie_on_the_grid(grid):
    shape, size, overlap, step = grid
    for window in windows(shape, size, overlap, step):
        for line, n, want in zip(window, shape, size, strict=True):
            assert line.stop - line.start == min(n, want)
            assert 0 <= line.start <= line.stop <= n
            assert line.start % step == 0


@settings(deadline=None)
@given(grids(axes=1))
def test_neighbours_overlap_as_asked_but_for_a_step(grid):
    shape, size, overlap, step = grid
    starts = [line.start for (line,) in windows(shape, size, overlap, step)]
    stride = max(step, math.ceil(min(shape[0], size[0]) * (1 - overlap) / step) * step)
    assert starts == sorted(set(starts))
    assert all(b - a <= stride for a, b in itertools.pairwise(starts))


@settings(deadline=None)
@given(grids(), st.integers(0, 9), st.integers(0, 2**31))
def test_what_says_nothing_new_leaves_no_seam(grid, ramp, seed):
    """Stitching a picture cut into windows gives the picture, whatever the overlap and the ramp."""
    shape, size, overlap, step = grid
    picture = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    stitcher = Stitcher(shape, ramp)
    for window in windows(shape, size, overlap, step):
        stitcher.add(window, picture[window])
    assert np.allclose(stitcher.result(), picture, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(grids(axes=3))
def test_volumes_are_covered_too(grid):
    shape, size, overlap, step = grid
    stitcher = Stitcher(shape, 2)
    for window in windows(shape, size, max(overlap, 0.0) if overlap < 0.9 else 0.5, step):
        stitcher.add(window, np.ones([s.stop - s.start for s in window]))
    assert np.allclose(stitcher.result(), 1)


def test_where_windows_disagree_the_blend_falls_evenly():
    """One window says 0, the next 1: in between the value rises in even steps, without a jump."""
    stitcher = Stitcher((1, 12), ramp=4)
    for value, start in enumerate((0, 4)):
        stitcher.add((slice(0, 1), slice(start, start + 8)), np.full((1, 8), float(value)))
    assert stitcher.result()[0] == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_the_weight_falls_towards_inner_borders_only():
    weight = Stitcher((8, 20), ramp=2).weight((slice(0, 8), slice(0, 8)))
    assert weight.shape == (8, 8)
    assert weight[0].tolist() == [1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]
    assert (weight == weight[0]).all()


def test_a_grid_smaller_than_a_window_is_one_window():
    assert windows((3, 5), (8, 8)) == [(slice(0, 3), slice(0, 5))]


# name: (arguments of windows, message)
ERRORS = {
    "overlap of 1": (((8, 8), (4, 4), 1.0), r"^The overlap of windows is in \[0, 1\)\. Got 1\.0\.$"),
    "negative overlap": (((8, 8), (4, 4), -0.1), r"Got -0\.1\.$"),
    "axes": (((8, 8), (4,)), r"^A window has as many axes as the grid, 2\. Got 1\.$"),
    "grid off the step": (
        ((10, 8), (8, 8), 0.25, 8),
        r"^Grid and window are multiples of 8\. Got a grid of 10 and a window of 8\.$",
    ),
    "window off the step": (((16,), (12,), 0.25, 8), r"Got a grid of 16 and a window of 12\.$"),
    "window of nothing": (((16,), (0,), 0.25, 8), r"Got a grid of 16 and a window of 0\.$"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(arguments, message):
    with pytest.raises(GeometryError, match=message):
        windows(*arguments)


def test_a_hole_is_an_error():
    stitcher = Stitcher((4, 4), ramp=0)
    stitcher.add((slice(0, 4), slice(0, 2)), np.ones((4, 2)))
    with pytest.raises(GeometryError, match=r"^The windows must cover the whole grid\. Some cells were never added\.$"):
        stitcher.result()
