"""Smart tools: what they do to outlines whose right answer is known, on even and uneven grids, and how fast."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from inspection_core import edit
from inspection_core.errors import UsageError

EVEN = (1.0, 1.0, 1.0)
THICK = (3.0, 1.0, 1.0)


def ball(shape, centre, radius, spacing=EVEN):
    """Voxels within a radius of a centre, in the grid's unit; the centre is an index."""
    axes = np.ix_(*(((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)))
    return sum(axes) <= radius**2


def hill(shape, centre, spacing=EVEN):
    """A score that falls with the distance to a centre, from 1 at the top."""
    axes = np.ix_(*(((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)))
    return np.exp(-np.sqrt(sum(axes)) / 5).astype(np.float32)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


SHAPE, MIDDLE = (17, 25, 25), (8, 12, 12)


class TestByScore:
    @pytest.mark.parametrize("spacing", [EVEN, THICK], ids=["even", "thick slices"])
    def test_growing_takes_the_next_level_of_the_score(self, spacing):
        score = hill(SHAPE, MIDDLE, spacing)
        small, large = ball(SHAPE, MIDDLE, 4, spacing), ball(SHAPE, MIDDLE, 5, spacing)
        grown = edit.grown(small, score, share=large.sum() / small.sum() - 1)
        assert grown.sum() == large.sum()
        assert dice(grown, large) > 0.97

    def test_growing_stays_out_of_what_is_not_allowed(self):
        mask, allowed = ball(SHAPE, MIDDLE, 3), np.ones(SHAPE, bool)
        allowed[:, :, 14:] = False
        grown = edit.grown(mask, hill(SHAPE, MIDDLE), allowed, share=2)
        assert grown[mask].all()
        assert not (grown & ~mask & ~allowed).any()

    def test_growing_where_there_is_no_room_changes_nothing(self):
        mask = ball(SHAPE, MIDDLE, 3)
        assert np.array_equal(edit.grown(mask, hill(SHAPE, MIDDLE), mask), mask)

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
    def test_shrinking_takes_its_share_and_keeps_the_peak(self, share):
        mask = ball(SHAPE, MIDDLE, 5)
        shrunk = edit.shrunk(mask, hill(SHAPE, MIDDLE), share)
        assert shrunk.sum() == mask.sum() - round(share * mask.sum())
        assert shrunk[MIDDLE]
        assert not (shrunk & ~mask).any()

    def test_the_last_voxel_stays(self):
        mask = np.zeros((5, 5), bool)
        mask[2, 2:4] = True
        score = np.arange(25.0).reshape(5, 5)
        once = edit.shrunk(mask, score)
        assert once.sum() == 1
        assert np.array_equal(edit.shrunk(once, score), once)

    @given(st.floats(0.05, 0.9))
    @settings(max_examples=20, deadline=None)
    def test_at_a_level_it_is_what_hangs_together_above(self, level):
        score = np.maximum(hill((9, 40), (4, 8), (1, 1)), hill((9, 40), (4, 32), (1, 1)))
        mask = ball((9, 40), (4, 8), 1, (1, 1))
        region = edit.at_level(mask, score, level)
        assert (score[region] > level).all()
        assert region[4, 8]
        assert region[4, 32] == bool((score[4, 8:33] > level).all()), "the other hill belongs to it once they meet"

    def test_its_own_level_gives_a_finding_back(self):
        score, mask = hill(SHAPE, MIDDLE), ball(SHAPE, MIDDLE, 5)
        assert np.array_equal(edit.at_level(mask, score, edit.level_of(mask, score)), mask)

    def test_above_its_peak_one_voxel_stays(self):
        score, mask = hill(SHAPE, MIDDLE), ball(SHAPE, MIDDLE, 5)
        assert np.argwhere(edit.at_level(mask, score, 2.0)).tolist() == [list(MIDDLE)]


@pytest.mark.parametrize("method", ["geodesic", "random walker"])
class TestSeeds:
    @pytest.mark.parametrize("spacing", [EVEN, THICK], ids=["even", "thick slices"])
    def test_a_seed_fills_what_looks_like_it(self, method, spacing):
        truth = ball(SHAPE, MIDDLE, 8, spacing)
        picture = np.where(truth, 80.0, 30.0) + np.random.default_rng(0).normal(0, 4, SHAPE)
        picture[:, :3] = 900  # bone at the edge weighs no more than the finding does
        found = edit.from_seeds(picture, ball(SHAPE, MIDDLE, 3, spacing), np.zeros(SHAPE, bool), spacing, method=method)
        assert dice(found, truth) > 0.9

    def test_outer_seeds_keep_it_out(self, method):
        picture = np.full((20, 40), 50.0)
        inside, outside = np.zeros((2, 20, 40), bool)
        inside[8:12, 8:12] = outside[8:12, 30:34] = True
        found = edit.from_seeds(picture, inside, outside, (1.0, 1.0), method=method)
        assert found[:, :15].all()
        assert not found[:, 27:].any()

    def test_a_large_block_answers_within_a_second_or_so(self, method):
        shape = (60, 90, 90)
        truth = ball(shape, (30, 45, 45), 24)
        picture = np.where(truth, 80.0, 30.0) + np.random.default_rng(0).normal(0, 4, shape)
        began = time.process_time()
        found = edit.from_seeds(picture, ball(shape, (30, 45, 45), 8), np.zeros(shape, bool), EVEN, method=method)
        assert time.process_time() - began < 4  # of a busy machine; a free one takes less than one
        assert dice(found, truth) > 0.9


class TestShape:
    def test_between_a_small_and_a_large_disc_there_is_a_middle_one(self):
        mask = np.zeros((9, 41, 41), bool)
        mask[0], mask[8] = ball((41, 41), (20, 20), 6, (1, 1)), ball((41, 41), (20, 20), 14, (1, 1))
        filled = edit.between_slices(mask)
        assert np.array_equal(filled[[0, 8]], mask[[0, 8]])
        radii = np.sqrt(filled.sum(axis=(1, 2)) / np.pi)
        np.testing.assert_allclose(radii, np.linspace(6, 14, 9), atol=0.6)

    def test_along_another_axis(self):
        mask = np.zeros((20, 5, 20), bool)
        mask[5:9, 0, 5:9] = mask[9:13, 4, 9:13] = True
        filled = edit.between_slices(mask, axis=1)
        assert filled[:, 2].any()
        assert np.argwhere(filled[:, 2]).mean(axis=0).tolist() == pytest.approx([8.5, 8.5], abs=0.5)

    def test_islands_and_holes(self):
        mask = ball(SHAPE, MIDDLE, 6)
        holed = mask & ~ball(SHAPE, MIDDLE, 2)
        dotted = holed.copy()
        dotted[0, 0, 0] = True
        assert np.array_equal(edit.without_islands(dotted), holed)
        assert np.array_equal(edit.filled(holed), mask)
        assert edit.without_islands(dotted, keep=2).sum() == dotted.sum()

    def test_a_tunnel_is_a_hole_of_each_slice(self):
        mask = ball(SHAPE, MIDDLE, 6)
        tunnel = mask.copy()
        tunnel[:, 12, 12] = False
        assert not edit.filled(tunnel)[8, 12, 12]
        assert edit.filled(tunnel, axis=0)[8, 12, 12]

    @pytest.mark.parametrize("spacing", [EVEN, THICK], ids=["even", "thick slices"])
    def test_smoothing_keeps_the_size_and_takes_off_the_spikes(self, spacing):
        mask = ball(SHAPE, MIDDLE, 6, spacing)
        spiky = mask.copy()
        spiky[8, 12, 18:24] = True
        smooth = edit.smoothed(spiky, spacing, 1.5)
        assert abs(int(smooth.sum()) - int(spiky.sum())) <= 0.1 * spiky.sum()
        assert not smooth[8, 12, 22]
        assert dice(smooth, mask) > 0.93

    def test_splitting_parts_and_at_a_waist(self):
        two = ball((30, 50), (15, 14), 9, (1, 1)) | ball((30, 50), (15, 30), 8, (1, 1))
        parts = edit.split(two, (1.0, 1.0))
        assert np.array_equal(parts > 0, two)
        assert ndimage.center_of_mass(parts == 1)[1] < 20 < ndimage.center_of_mass(parts == 2)[1]
        apart = two.copy()
        apart[:, 22:24] = False
        assert edit.split(apart, (1.0, 1.0)).max() == 2

    def test_a_small_part_behind_a_large_one_is_cut_off_on_thick_slices(self):
        shape, spacing = (14, 40, 40), (3.0, 1.2, 1.2)
        large = ball(shape, (7, 14, 20), 10, spacing)
        both = large | ball(shape, (7, 25, 20), 5.5, spacing)
        parts = edit.split(both, spacing)
        assert parts.max() == 2
        assert dice(parts == 1, large) > 0.9


class TestBox:
    def test_the_margin_is_in_the_grids_unit_and_stays_inside(self):
        mask = ball(SHAPE, MIDDLE, 2)
        assert edit.box_around(mask, EVEN, 3) == ((3, 7, 7), (14, 18, 18))
        assert edit.box_around(mask, THICK, 3) == ((5, 7, 7), (12, 18, 18))
        assert edit.box_around(mask, EVEN, 99) == ((0, 0, 0), SHAPE)

    def test_it_is_bounded(self):
        start, stop = edit.box_around(ball((100, 300, 300), (50, 150, 150), 10), EVEN, 100)
        assert np.prod(np.subtract(stop, start)) <= edit.BLOCK_VOXELS


EMPTY, DISC = np.zeros((9, 9), bool), ball((9, 9), (4, 4), 3, (1, 1))
# name: (function, message)
ERRORS = {
    "no seed": (
        lambda: edit.from_seeds(DISC * 1.0, EMPTY, EMPTY, (1, 1)),
        "Growing needs a seed: paint a few voxels of the finding first.",
    ),
    "an unknown method": (
        lambda: edit.from_seeds(DISC * 1.0, DISC, EMPTY, (1, 1), method="magic"),
        'A method is "geodesic" or "random walker". Got \'magic\'.',
    ),
    "nothing between": (
        lambda: edit.between_slices(np.ones((3, 4, 4), bool)),
        "Interpolating needs at least two painted slices with empty ones between them.",
    ),
    "no waist": (
        lambda: edit.split(DISC, (1, 1)),
        "This finding has no waist to be cut at. Erase a gap with the eraser, then split again.",
    ),
    "no voxel": (lambda: edit.box_around(EMPTY, (1, 1), 2), "This finding has no voxel; paint one first."),
    "no voxel to take a level from": (
        lambda: edit.at_level(EMPTY, DISC * 1.0, 0.5),
        "This finding has no voxel; paint one first.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    work, message = ERRORS[name]
    with pytest.raises(UsageError) as caught:
        work()
    assert str(caught.value) == message
