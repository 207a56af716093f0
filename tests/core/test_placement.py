"""A volume's way to a network's grid and back: turned, cut, resized, padded; every voxel returns to its place."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.card import ModelCard, Preparation
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.nifti import orientation
from inspection_core.placement import ClassMap, Placement, orient, restore_classes, restore_map
from inspection_core.prepare import prepare

ORDERS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((0, 1), repeat=3)]


def turned(image: Image, axes, flips) -> Image:
    """Return the same voxels at the same places in another array order."""
    array, geometry = image.array.transpose(0, *(a + 1 for a in axes)), image.geometry.transposed(axes)
    for axis, flip in enumerate(flips):
        if flip:
            array, geometry = np.flip(array, axis + 1), geometry.flipped(axis)
    return Image(np.ascontiguousarray(array), geometry, image.channels)


def turn(angles) -> np.ndarray:
    """Return a rotation about x, y and z, in degrees."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(angles)):
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        out = step @ out
    return out


def grid(shape=(4, 5, 6), spacing=(3.0, 1.0, 0.5), angles=(0, 0, 0)) -> Geometry:
    affine = Geometry.from_spacing(shape, spacing, (-7.0, 11.0, 5.0)).affine.copy()
    affine[:3, :3] = turn(angles) @ affine[:3, :3]
    return Geometry(shape, affine, "mm")


def card_of(view="volume", spacing=(), **preparation) -> ModelCard:
    given = {"window": (0.0, 1.0), "short_side": 0, "multiple": 1} | preparation
    return ModelCard(
        "m", "1", "x", "segmentation", ("CT",), "s", spacing=spacing, preparation=Preparation(view=view, **given)
    )


@pytest.mark.parametrize("letters", ["LPS", "RAS", "SPL", "AIR"])
@pytest.mark.parametrize("order", ORDERS[::5])
def test_any_array_order_is_turned_to_the_orientation_asked_for(letters, order):
    image = turned(Image(np.zeros((1, 4, 5, 6), np.uint8), grid(angles=(10, -20, 30)), ("CT",)), *order)
    axes, flips = orient(image.geometry, letters)
    result = image.geometry.transposed(axes)
    for axis, flip in enumerate(flips):
        result = result.flipped(axis) if flip else result
    assert orientation(result) == letters


def test_no_orientation_leaves_the_array_as_it_is():
    assert orient(grid(angles=(80, 70, 60)), "") == ((0, 1, 2), (False, False, False))


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -30, 7), (45, 0, 0), (0, 45, 0), (0, 0, 45)])
def test_the_same_voxels_in_any_order_give_the_same_input(angles):
    """At 45 degrees two orders come equally close; the choice must still be one of the world, not of the array."""
    array = np.random.default_rng(0).random((1, 4, 5, 6), dtype=np.float32)
    image = Image(array, grid(angles=angles), ("CT",))
    card = card_of(spacing=(2.0, 0.7, 0.7), normalise="z-score", multiple=4)
    first = prepare(image, card).pixels
    for order in ORDERS:
        other = prepare(turned(image, *order), card).pixels
        assert other.shape == first.shape
        assert (other - first).abs().max() < 1e-4


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(6, 20)] * 3),
    st.tuples(*[st.floats(0.5, 3)] * 3),
    st.tuples(*[st.sampled_from([0.0, 0.6, 1.0, 1.7])] * 3),
    st.sampled_from(ORDERS),
    st.sampled_from(["volume", "slices"]),
    st.integers(0, 2),
)
def test_positions_go_there_and_back(shape, spacing, wanted, order, view, axis):
    """Where each voxel holds its own index, the restored map holds it too, away from the smeared border."""
    places = np.indices(shape)[axis].astype(np.float32)
    image = turned(Image(places[None], grid(shape, spacing), ("CT",)), *order)
    prepared = prepare(image, card_of(view, wanted, multiple=4))
    back = restore_map(prepared.pixels[0].numpy(), prepared.placement, (1, 1, 1), (0.0, 0.0, 0.0))
    original = image.array[0]
    factor = max(1.0, (wanted[axis] or spacing[axis]) / spacing[axis])
    margin = 2 * factor + 1
    inner = (original >= margin) & (original <= shape[axis] - 1 - margin)
    assert back.shape == image.geometry.shape
    assert np.abs(back - original)[inner].max(initial=0) < 0.35 * factor + 1e-3


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(ORDERS), st.integers(0, 2**31))
def test_at_the_same_spacing_nothing_changes(shape, order, seed):
    array = np.random.default_rng(seed).random((1, *shape), dtype=np.float32)
    image = turned(Image(array, grid(shape), ("CT",)), *order)
    prepared = prepare(image, card_of(multiple=8))
    back = restore_map(prepared.pixels[0].numpy(), prepared.placement, (1, 1, 1), (0.0, 0.0, 0.0))
    assert np.array_equal(back, image.array[0])


def test_a_crop_looks_at_the_foreground_only_and_the_rest_is_background():
    array = np.zeros((1, 8, 9, 10), np.int16)
    array[0, 2:5, 3:7, 4:9] = 500
    image = turned(Image(array, grid((8, 9, 10)), ("CT",)), (2, 0, 1), (1, 0, 1))
    prepared = prepare(image, card_of(crop=True))
    assert prepared.placement.size == (3, 4, 5)
    score, mask = restore_classes(np.ones((1, 3, 4, 5), np.float16), prepared.placement, (1, 1, 1), (0.0, 0.0, 0.0))
    assert np.array_equal(mask > 0, image.array[0] > 0)
    assert np.array_equal(score > 0, mask > 0)


def test_an_empty_scan_is_not_cropped():
    image = Image(np.zeros((1, 4, 5, 6), np.int16), grid(), ("CT",))
    assert prepare(image, card_of(crop=True)).placement.size == (4, 5, 6)


def test_the_class_is_the_most_probable_one_and_the_score_what_is_not_background():
    plain = Placement.plain((1, 4), (1, 4))
    probabilities = np.array([[0.2, 0.6, 0.3, 0.5], [0.3, 0.3, 0.4, 0.0]], np.float32)[:, None, None]
    score, mask = restore_classes(probabilities, plain, (1, 1, 1), (0.0, 0.0, 0.0))
    assert mask[0, 0].tolist() == [0, 1, 2, 0]  # 0.5 background; 0.6 first; 0.4 second; a tie is background
    assert np.allclose(score[0, 0], [0.5, 0.9, 0.7, 0.5])


def test_cells_of_padding_are_not_mixed_in():
    """The last voxels of a scan that was enlarged lie beyond the last cell that saw any of it."""
    place = Placement((1, 1, 4), (0, 1, 2), (False,) * 3, (0, 0, 0), (1, 1, 4), (1, 1, 2), (1, 1, 8))
    cells = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.float32)[None, None]
    assert restore_map(cells, place, (1, 1, 1), (0.0, 0.0, 0.0)).tolist() == [[[1, 1, 1, 1]]]


def test_slabs_do_not_show(monkeypatch):
    image = Image(np.random.default_rng(1).random((1, 12, 9, 7), dtype=np.float32), grid((12, 9, 7)), ("CT",))
    card = card_of(spacing=(2.0, 0.7, 0.8))

    def there_and_back():
        prepared = prepare(image, card)
        return restore_map(prepared.pixels[0].numpy(), prepared.placement, (1, 1, 1), (0.0, 0.0, 0.0))

    whole = there_and_back()
    monkeypatch.setattr("inspection_core.placement.SLAB_BYTES", 1)
    assert np.array_equal(there_and_back(), whole)


# name: (box of the source, its size on the network's grid, stride, offset)
GRIDS = {
    "voxel by voxel": ((12, 10, 9), (12, 10, 9), 1, 0.0),
    "coarser": ((24, 20, 18), (12, 10, 9), 1, 0.0),
    "finer": ((7, 6, 5), (12, 10, 9), 1, 0.0),
    "thick slices": ((5, 20, 18), (12, 10, 9), 1, 0.0),
    "a network with a stride": ((24, 20, 18), (24, 20, 18), 2, 0.5),
}


@pytest.mark.parametrize(("size", "resized", "stride", "offset"), GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_blocks_come_to_what_the_whole_does(size, resized, stride, offset, spread, order):
    """Blocks of uneven layers and lines give score, mask and spread as all at once; the axes are turned and flipped."""
    source = (size[1], size[2] + 2, size[0])
    place = Placement(source, (2, 0, 1), (True, False, True), (0, 0, 1), size, resized, tuple(n + 3 for n in resized))
    cells = tuple(-(-n // stride) for n in place.padded)
    values = np.random.default_rng(0).dirichlet((1.0,) * 4, cells).transpose(3, 0, 1, 2)[1:].astype(np.float16)
    more = np.concatenate([values, values[:1] / 2]) if spread else values
    steps = (stride,) * 3, (offset,) * 3
    found = ClassMap(3, cells, place, *steps, 0.0, spread, order)
    cuts = [[0, n // 4, n // 2, n] for n in cells]
    boxes = itertools.product(*(list(itertools.pairwise(c)) for c in cuts))
    for box in sorted(boxes, key=lambda b: [b[axis] for axis in order]):
        at = tuple(slice(*b) for b in box)
        found.add(at, more[(slice(None), *at)].astype(np.float32))
    score, mask, apart = found.result()
    expected = restore_classes(values, place, *steps)
    assert np.allclose(score, expected[0], atol=1e-6)
    assert (mask == expected[1]).mean() > 0.999  # ties may fall either way
    assert mask.any()
    assert (apart is None) is not spread
    if spread:
        assert np.allclose(apart, restore_map(more[-1].astype(np.float32), place, *steps), atol=1e-3)
