"""Regions of maps and masks, and their figures."""

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import pdist

from inspection_core.calibrate import p_values
from inspection_core.errors import GeometryError, ModelError, UsageError
from inspection_core.findings import dismiss, find, find_labelled
from inspection_core.geometry import Geometry
from inspection_core.stretches import stretches

SMALL_MAPS = hnp.arrays(
    np.float32,
    st.one_of(hnp.array_shapes(min_dims=2, max_dims=3, max_side=7)),
    elements=st.integers(0, 4).map(float),
)


def diamonds(mask, spacing):
    """Tips of every voxel's diamond in a 2-D mask, in the unit of the spacing: all of them, with no hull."""
    centres = np.argwhere(mask)
    tips = np.concatenate([centres + d for d in ([0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5])])
    return tips * spacing


def slow_diameters(mask, spacing):
    points = diamonds(mask, spacing)
    i, j = np.triu_indices(len(points), 1)
    distance = pdist(points)
    best = distance >= distance.max() * (1 - 1e-9)
    along = (points[j] - points[i])[best] / distance[best, None]
    across = np.stack([-along[:, 1], along[:, 0]])
    return distance.max(), np.ptp(points @ across, axis=0).max()


def only(findings):
    assert len(findings) == 1
    return findings[0]


@settings(deadline=None)
@given(SMALL_MAPS)
def test_every_figure_against_one_region_at_a_time(score):
    low, high, n = 0.5, 2.5, score.ndim
    geometry = Geometry.from_spacing(score.shape, (3.0, 0.5, 2.0)[:n])
    mask, findings = find(score, low, high, geometry)

    regions, count = ndimage.label(score > low, np.ones((3,) * n))
    wanted = [r for r in range(1, count + 1) if score[regions == r].max() > high]
    assert np.array_equal(mask, np.isin(regions, wanted))
    assert mask.dtype == np.uint8
    assert [f.id for f in findings] == list(range(1, len(wanted) + 1))
    assert [f.peak for f in findings] == sorted((f.peak for f in findings), reverse=True)
    seen = set()
    for f in findings:
        box = tuple(slice(a, b) for a, b in zip(f.start, f.stop, strict=True))
        # The region that fills this box to its edges and has this size; there may be several, so take one each.
        region = next(
            r
            for r in wanted
            if r not in seen
            and ndimage.find_objects(regions)[r - 1] == box
            and np.allclose(np.argwhere(regions == r).mean(axis=0), f.centroid_index)
        )
        seen.add(region)
        inside = regions == region
        assert f.size == pytest.approx(inside.sum() * 3.0 * (1.0 if n == 3 else 0.5))
        assert f.peak == score[inside].max()
        assert f.mean == pytest.approx(score[inside].mean())
        assert f.centroid_world == pytest.approx(geometry.index_to_world(f.centroid_index).tolist())
        spacing = geometry.spacing[-2:]
        slices = [s for s in inside if s.any()] if n == 3 else [inside]
        longest = max(slow_diameters(s, spacing)[0] for s in slices)
        across = [w for d, w in (slow_diameters(s, spacing) for s in slices) if d >= longest * (1 - 1e-9)]
        assert f.long_axis == pytest.approx(longest)
        assert f.short_axis == pytest.approx(max(across))
        assert f.short_axis <= f.long_axis * (1 + 1e-9)


@settings(deadline=None)
@given(SMALL_MAPS, st.integers(0, 2**32 - 1))
def test_order_of_axes_changes_no_figure_of_2d(score, seed):
    """A turned part has the same findings: sizes and diameters do not depend on which axis the runs follow."""
    if score.ndim != 2:
        score = score[0]
    _, findings = find(score, 0.5, 2.5, Geometry.pixels(score.shape))
    _, turned = find(score.T, 0.5, 2.5, Geometry.pixels(score.T.shape))

    def figures(found):
        return sorted((f.peak, f.size, round(f.long_axis, 6), round(f.short_axis, 6)) for f in found)

    assert figures(findings) == figures(turned)


@pytest.mark.parametrize(
    ("shape", "low", "high", "expected"),
    [
        pytest.param([[0, 0], [0, 0]], 1, 2, 0, id="empty"),
        pytest.param([[1, 1], [2, 2]], 1, 2, 0, id="peak equal to high is not above it"),
        pytest.param([[3, 0], [0, 3]], 1, 2, 1, id="joined at a corner"),
        pytest.param([[3, 0, 0, 3]], 1, 2, 2, id="apart"),
        pytest.param([[3, 1.5, 1.5, 3]], 1, 2, 1, id="joined by what is above low"),
        pytest.param([[3, 1, 1, 3]], 1, 2, 2, id="low itself does not join"),
        pytest.param([[1.5, 0, 0, 3]], 1, 2, 1, id="no peak, no finding"),
        pytest.param([[3, 3], [3, 3]], -math.inf, -math.inf, 1, id="everything"),
        pytest.param([[3, 3], [3, 3]], math.inf, math.inf, 0, id="nothing"),
    ],
)
def test_hysteresis(shape, low, high, expected):
    score = np.array(shape, np.float32)
    mask, findings = find(score, low, high, Geometry.pixels(score.shape))
    assert len(findings) == expected
    assert mask.any() == (expected > 0)


def test_voxels_touch_at_corners_in_3d():
    score = np.zeros((2, 2, 2), np.float32)
    score[0, 0, 0] = score[1, 1, 1] = 1
    assert only(find(score, 0.5, 0.5, Geometry.pixels(score.shape))[1]).size == 2


def test_one_line_does_not_run_into_the_next():
    score = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    score[0, 3] = 1
    assert [f.start for f in find(score, 0.5, 0.5, Geometry.pixels(score.shape))[1]] == [(0, 3), (2, 0)]
    wrapped = np.array([[0, 0, 1], [1, 0, 0]], np.float32)  # neighbours in memory, not on the grid
    assert len(find(wrapped, 0.5, 0.5, Geometry.pixels(wrapped.shape))[1]) == 2


@pytest.mark.parametrize(
    ("ndim", "unit", "expected"), [(2, "px", "px"), (3, "px", "vox"), (2, "mm", "mm2"), (3, "mm", "mm3")]
)
def test_size_units(ndim, unit, expected):
    score = np.ones((2,) * ndim, np.float32)
    finding = only(find(score, 0.5, 0.5, Geometry.from_spacing(score.shape, (0.5,) * ndim, unit=unit))[1])
    assert finding.size == pytest.approx(1.0)
    assert finding.size_unit == expected


@pytest.mark.parametrize(
    ("rows", "spacing", "long_axis", "short_axis"),
    [
        pytest.param(["#"], (1, 1), 1, 1, id="one pixel"),
        pytest.param(["#"], (2, 0.5), 2, 0.5, id="one oblong pixel"),
        pytest.param(["####"], (1, 1), 4, 1, id="row"),
        pytest.param(["#", "#", "#"], (2, 1), 6, 1, id="column"),
        pytest.param(["#..", ".#.", "..#"], (1, 1), math.hypot(3, 2), None, id="diagonal"),
        pytest.param(["#...", "....", "...."], (1, 1), 1, 1, id="in a corner"),
        pytest.param(["####", "####"], (1, 1), math.hypot(4, 1), None, id="box"),
        pytest.param(["#.#", "###"], (1, 1), None, None, id="hollow"),
    ],
)
def test_diameters(rows, spacing, long_axis, short_axis):
    mask = np.array([[c == "#" for c in row] for row in rows])
    score = mask.astype(np.float32)
    finding = only(find(score, 0.5, 0.5, Geometry.from_spacing(mask.shape, spacing))[1])
    slow = slow_diameters(mask, spacing)
    assert (finding.long_axis, finding.short_axis) == pytest.approx(slow)
    assert finding.long_axis == pytest.approx(long_axis or slow[0])
    assert finding.short_axis == pytest.approx(short_axis or slow[1])


def test_diameters_of_a_disc_and_an_ellipse():
    y, x = np.mgrid[:101, :101] - 50
    disc = only(find((y**2 + x**2 <= 30**2) * 1.0, 0.5, 0.5, Geometry.pixels(y.shape))[1])
    assert (disc.long_axis, disc.short_axis) == pytest.approx((61, 61), abs=0.5)
    u, v = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    ellipse = only(find(((u / 40) ** 2 + (v / 10) ** 2 <= 1) * 1.0, 0.5, 0.5, Geometry.pixels(y.shape))[1])
    assert (ellipse.long_axis, ellipse.short_axis) == pytest.approx((80, 20), abs=1.5)


def test_the_long_axis_is_close_to_scikit_images_feret_diameter():
    from skimage.measure import regionprops

    y, x = np.mgrid[:40, :60]
    mask = ((y - 20) / 12) ** 2 + ((x - 30) / 25) ** 2 <= 1
    finding = only(find(mask * 1.0, 0.5, 0.5, Geometry.pixels(mask.shape))[1])
    assert finding.long_axis == pytest.approx(regionprops(mask.astype(int))[0].feret_diameter_max, abs=0.1)


def test_3d_diameters_come_from_the_slice_where_the_region_is_longest():
    score = np.zeros((6, 8, 8), np.float32)
    score[:, 2, 2] = 1  # six slices deep, which no in-plane diameter sees
    score[3, 2:4, 2:7] = 1
    finding = only(find(score, 0.5, 0.5, Geometry.from_spacing(score.shape, (5.0, 1.0, 1.0)))[1])
    assert (finding.long_axis, finding.short_axis) == pytest.approx(slow_diameters(score[3] > 0, (1, 1)))
    assert finding.size == pytest.approx(5.0 * 15)


def oblique(shape, spacing):
    """A grid turned about two axes."""
    a, b = 0.4, -0.7
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_z = np.array([[math.cos(b), -math.sin(b), 0], [math.sin(b), math.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing[::-1])[:, ::-1]
    affine[:3, 3] = (-100.0, 20.0, 7.5)
    return Geometry(shape, affine, "mm")


def test_an_oblique_grid_moves_the_centroid_and_keeps_the_lengths():
    score = np.zeros((4, 9, 9), np.float32)
    score[1:3, 2:5, 3:8] = 1
    spacing = (2.5, 0.7, 0.9)
    tilted = oblique(score.shape, spacing)
    straight = only(find(score, 0.5, 0.5, Geometry.from_spacing(score.shape, spacing))[1])
    finding = only(find(score, 0.5, 0.5, tilted)[1])
    assert finding.centroid_index == (1.5, 3.0, 5.0)
    x, y, z = finding.centroid_world
    expected = tilted.affine @ (1.5, 3.0, 5.0, 1.0)
    assert (x, y, z) == pytest.approx(expected[:3].tolist())
    assert tilted.world_to_index((x, y, z)) == pytest.approx([1.5, 3.0, 5.0])
    assert (finding.long_axis, finding.short_axis, finding.size) == pytest.approx(
        (straight.long_axis, straight.short_axis, straight.size)
    )


def test_order_is_by_peak_then_size_then_place():
    score = np.array([[2, 0, 5, 0, 2, 2, 0, 2]], np.float32)
    _, findings = find(score, 1, 1, Geometry.pixels(score.shape))
    assert [(f.id, f.start[1]) for f in findings] == [(1, 2), (2, 4), (3, 0), (4, 7)]


def test_small_regions_leave_findings_and_mask():
    score = np.array([[9, 0, 2, 2, 0, 3, 3, 3]], np.float32)
    mask, findings = find(score, 1, 1, Geometry.pixels(score.shape), min_size=2, label="scratch")
    assert [(f.id, f.label, f.size) for f in findings] == [(1, "scratch", 3), (2, "scratch", 2)]
    assert mask.tolist() == [[0, 0, 1, 1, 0, 1, 1, 1]]


def test_confidence_is_one_minus_p():
    score = np.array([[5, 0, 2, 0, 0.9]], np.float32)
    peaks = [0.5, 1.0, 2.0, 3.0]
    _, findings = find(score, 0.1, 0.1, Geometry.pixels(score.shape), p_values=lambda s: p_values(s, peaks))
    assert [f.p_value for f in findings] == [0.2, 0.6, 0.8]
    assert [f.confidence for f in findings] == pytest.approx([0.8, 0.4, 0.2])
    assert all(f.calibrated for f in findings)


def test_without_calibration_no_confidence_is_claimed():
    finding = only(find(np.ones((2, 2), np.float32), 0.5, 0.5, Geometry.pixels((2, 2)))[1])
    assert (finding.confidence, finding.calibrated, finding.p_value) == (0.0, False, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_cut_is_not_rounded_to_the_type_of_the_map(dtype):
    value = np.nextafter(dtype(0.1), dtype(1))
    score = np.full((1, 1), value, dtype)
    just_below, itself = math.nextafter(float(value), 0), float(value)
    assert len(find(score, 0, just_below, Geometry.pixels((1, 1)))[1]) == 1
    assert len(find(score, just_below, just_below, Geometry.pixels((1, 1)))[1]) == 1
    assert find(score, 0, itself, Geometry.pixels((1, 1)))[1] == ()


def test_inputs_are_left_as_they_were():
    score = np.array([[0, 2], [1, 0]], np.float32)
    score.flags.writeable = False
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    labels.flags.writeable = False
    find(score, 0.5, 0.5, Geometry.pixels((2, 2)))
    find_labelled(labels, score, Geometry.pixels((2, 2)), ("a",))


def test_views_of_any_memory_order():
    score = np.zeros((6, 9), np.float32)
    score[1:3, 2:8] = 1
    for view in (np.asfortranarray(score), np.repeat(score, 2, axis=1)[:, ::2]):
        assert (
            find(view, 0.5, 0.5, Geometry.pixels(view.shape))[1]
            == (find(score, 0.5, 0.5, Geometry.pixels(score.shape))[1])
        )


def test_many_findings_on_a_large_map():
    score = np.zeros((1000, 1200), np.float32)
    score[::50, ::40] = score[1::50, ::40] = 1
    mask, findings = find(score, 0.5, 0.5, Geometry.pixels(score.shape))
    assert len(findings) == 600
    assert {f.size for f in findings} == {2.0}
    assert mask.sum() == 1200


GRID = Geometry.pixels((2, 2))
ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("score", "low", "high", "error", "message"),
    [
        (np.ones((2, 3)), 0, 1, GeometryError, r"lies on a grid of shape \(2, 2\)\. Got shape \(2, 3\)"),
        (ONES, 2, 1, UsageError, r"Findings need cuts with low <= high\. Got 2 and 1"),
        (ONES, math.nan, 1, UsageError, "Got nan and 1"),
        (np.array([[0, np.nan], [0, 0]]), 0, 1, ModelError, r"A score map holds numbers\. Got NaN; check the image"),
    ],
)
def test_what_find_refuses(score, low, high, error, message):
    with pytest.raises(error, match=message):
        find(score, low, high, GRID)


def test_regions_of_a_label_mask():
    labels = np.array([[1, 1, 2, 0, 1], [0, 0, 2, 0, 0], [0, 3, 0, 0, 2]], np.uint8)
    score = np.array([[0.9, 0.7, 0.6, 0, 1], [0, 0, 0.8, 0, 0], [0, 0.95, 0, 0, 0.55]], np.float32)
    mask, findings = find_labelled(labels, score, Geometry.pixels(labels.shape), ("crack", "pore", "dust"))
    assert np.array_equal(mask, labels)
    assert [(f.id, f.label, f.size) for f in findings] == [
        (1, "crack", 1),
        (2, "dust", 1),
        (3, "crack", 2),
        (4, "pore", 2),
        (5, "pore", 1),
    ]
    assert [f.confidence for f in findings] == pytest.approx([1, 0.95, 0.8, 0.7, 0.55])
    assert not any(f.calibrated for f in findings)
    assert {f.p_value for f in findings} == {None}


def test_small_regions_leave_a_label_mask():
    labels = np.array([[1, 1, 0, 2]], np.uint8)
    mask, findings = find_labelled(labels, np.ones((1, 4)), Geometry.pixels((1, 4)), ("a", "b"), min_size=2)
    assert mask.tolist() == [[1, 1, 0, 0]]
    assert only(findings).label == "a"


@pytest.mark.parametrize(("calibrated", "left"), [(True, [1, 0, 0, 2]), (False, [1, 0, 1, 2])])
def test_doubtful_findings_are_dismissed_where_their_confidence_is_calibrated(calibrated, left):
    labels, score = np.array([[1, 0, 1, 2]], np.uint8), np.array([[0.6, 0, 0.7, 0.9]])
    mask, findings = find_labelled(labels, score, Geometry.pixels((1, 4)), ("a", "b"))
    chances = zip(findings, (0.8, 0.1, 0.2), strict=True)
    judged = [replace(f, confidence=c, calibrated=calibrated) for f, c in chances]
    rest, kept = dismiss(mask, judged, ("a", "b"), 0.2)
    assert rest.tolist() == [left]
    assert [f.id for f in kept] == list(range(1, len(kept) + 1))
    assert [f.confidence for f in kept] == ([0.8, 0.2] if calibrated else [0.8, 0.1, 0.2])
    assert np.array_equal(mask, labels)  # what was given is not changed


@settings(deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 2)))
def test_what_is_dismissed_takes_its_own_voxels_along(labels):
    """Also where a region of its class or of another lies in its box."""
    mask, findings = find_labelled(labels, labels * 0.4, Geometry.pixels(labels.shape), "ab")
    judged = [replace(f, confidence=float(f.id % 2), calibrated=True) for f in findings]
    rest, kept = dismiss(mask, judged, "ab", 0.5)
    again = find_labelled(rest, labels * 0.4, Geometry.pixels(labels.shape), "ab")[1]
    place = lambda some: sorted((f.label, f.start, f.stop, f.size) for f in some)  # noqa: E731
    assert place(kept) == place(again) == place(f for f in findings if f.id % 2)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.integers(0, 3)))
def test_every_labelled_voxel_is_in_one_finding(labels):
    mask, findings = find_labelled(labels, np.zeros(labels.shape, np.float32), Geometry.pixels(labels.shape), "abc")
    assert np.array_equal(mask, labels)
    for value, name in enumerate("abc", start=1):
        _, count = ndimage.label(labels == value, np.ones((3,) * labels.ndim))
        of_class = [f for f in findings if f.label == name]
        assert len(of_class) == count
        assert sum(f.size for f in of_class) == (labels == value).sum()


def test_an_empty_label_mask_has_no_findings():
    mask, findings = find_labelled(np.zeros((2, 2), np.uint8), ONES, GRID, ("a",))
    assert findings == ()
    assert not mask.any()


@pytest.mark.parametrize(
    ("labels", "score", "classes", "error", "message"),
    [
        (np.zeros((1, 2), np.uint8), ONES, ("a",), GeometryError, r"label mask lies on a grid of .*Got shape \(1, 2\)"),
        (np.zeros((2, 2), np.uint8), np.ones(2), ("a",), GeometryError, r"score map lies on .*Got shape \(2,\)"),
        (
            np.full((2, 2), 2, np.int16),
            ONES,
            ("a",),
            ModelError,
            r"Labels are whole numbers from 0 to 1, .*\['a'\]\. Got int16 from 2 to 2; compare",
        ),
        (np.full((2, 2), -1), ONES, ("a",), ModelError, "Got int64 from -1 to -1"),
        (np.zeros((2, 2)), ONES, ("a",), ModelError, "Got float64 from"),
        (np.zeros((2, 2), np.uint8), ONES, ["a"] * 256, ModelError, "at most 255 classes. Got 256; merge some"),
        (np.zeros((2, 2), np.uint8), ONES * np.nan, ("a",), ModelError, r"A score map holds numbers\. Got NaN"),
    ],
)
def test_what_find_labelled_refuses(labels, score, classes, error, message):
    with pytest.raises(error, match=message):
        find_labelled(labels, score, GRID, classes)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("spacing", [(3.0, 0.5, 0.5), (0.4, 0.8, 0.8)], ids=str)
def test_diameters_do_not_depend_on_how_the_array_is_turned(order, spacing):
    """They are taken in the plane of acquisition, which the spacing tells."""
    rng = np.random.default_rng(0)
    mask = (ndimage.gaussian_filter(rng.normal(size=(7, 16, 18)), (0.7, 2, 2)) > 0.08).astype(np.uint8)
    geometry = Geometry.from_spacing(mask.shape, spacing)
    turned = Geometry(
        tuple(mask.shape[k] for k in order), geometry.affine[:, [*order, 3]], geometry.unit
    )  # the same voxels in the same places
    found, again = (
        find_labelled(m, m * 0.9, g, ("a",))[1]
        for m, g in ((mask, geometry), (np.ascontiguousarray(mask.transpose(order)), turned))
    )
    assert len(found) > 1
    figures = [sorted((f.size, f.long_axis, f.short_axis) for f in some) for some in (found, again)]
    assert np.allclose(*figures)


def test_findings_of_another_mask_cannot_be_dismissed():
    labels = np.array([[1, 0, 1]], np.uint8)
    _, findings = find_labelled(labels, labels * 0.4, Geometry.pixels((1, 3)), "a")
    judged = [replace(f, confidence=0.0, calibrated=True) for f in findings]
    with pytest.raises(GeometryError, match="one has no region of its own"):
        dismiss(np.array([[1, 1, 0]], np.uint8), judged, "a", 0.5)


@pytest.mark.parametrize("copy", [True, False])
def test_labels_may_become_the_mask(copy):
    labels, score = np.array([[2, 2, 0, 1]], np.uint8), np.full((1, 4), 0.5)
    mask, findings = find_labelled(labels, score, Geometry.pixels((1, 4)), "ab", min_size=2, copy=copy)
    assert mask.tolist() == [[2, 2, 0, 0]]
    assert [f.label for f in findings] == ["b"]
    assert labels.tolist() == ([[2, 2, 0, 1]] if copy else mask.tolist())
    assert np.shares_memory(mask, labels) is not copy


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7), elements=st.integers(0, 2)),
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_slabs_and_chunks_change_no_bit_of_a_finding(labels, piece, chunk, seed):
    """Not of the mean either, which adds up in the order of a region's stretches however the mask is cut."""
    score, spread = np.random.default_rng(seed).random((2, *labels.shape), np.float32)
    grid = Geometry.pixels(labels.shape)

    def found():
        mask, findings = find_labelled(labels, score, grid, "ab", min_size=2, spread=spread)
        judged = [replace(f, calibrated=True) for f in findings]
        rest, kept = dismiss(mask, judged, "ab", 0.5)
        above, odd = find(score, 0.4, 0.8, grid)
        return mask.tolist(), findings, rest.tolist(), kept, above.tolist(), odd

    whole = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspection_core.stretches.PIECE", piece)
        patch.setattr("inspection_core.stretches.CHUNK", chunk)
        patch.setattr("inspection_core.findings.CHUNK", chunk)
        assert found() == whole


@pytest.mark.parametrize("classes", [1, 20])
def test_a_rough_mask_takes_few_bytes_a_stretch(monkeypatch, classes):
    """A study with rough borders has 20 million stretches: at 40 bytes, 0.8 GB beside its mask and its score."""
    monkeypatch.setattr("inspection_core.stretches.PIECE", 1 << 13)
    monkeypatch.setattr("inspection_core.stretches.CHUNK", 1 << 11)
    monkeypatch.setattr("inspection_core.findings.CHUNK", 1 << 11)
    rng = np.random.default_rng(0)
    shape = (40, 128, 256)
    bands = 1 + np.arange(shape[1]) * classes // shape[1]  # nearly all of each is one region
    labels = np.where(rng.random(shape) < 0.5, bands[:, None], 0).astype(np.uint8)
    score, grid, names = rng.random(shape, np.float32), Geometry.pixels(shape), [str(n) for n in range(classes)]
    find_labelled(labels[:1], score[:1], Geometry.pixels((1, *shape[1:])), names)  # what is imported stays out
    count = stretches(labels).line.size
    assert count > 300_000
    tracemalloc.start()
    try:
        _, findings = find_labelled(labels, score, grid, names, min_size=1000, copy=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(findings) == classes
    assert peak < 40 * count
