"""Regions from stretches, against those from labelled voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from inspection_core.stretches import stretches, touching

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9))


CLASSES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.integers(0, 3))


@settings(deadline=None)
@given(MASKS | CLASSES)
def test_stretches_are_connected_as_voxels_are(mask):
    of = stretches(mask)
    number = touching(of)
    drawn = np.zeros(mask.shape, int)
    for k in range(number.max(initial=-1) + 1):
        of.fill(number == k, drawn, k + 1)
    expected = np.zeros(mask.shape, int)
    for value in np.unique(mask[mask != 0]):  # voxels of two classes are never connected
        regions, _ = ndimage.label(mask == value, np.ones((3,) * mask.ndim))
        expected += np.where(regions, regions + expected.max(), 0)
    # The same regions, each numbered by its first voxel.
    pairs = {(int(a), int(b)) for a, b in zip(drawn.ravel(), expected.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    first = [int(np.flatnonzero(drawn == k + 1)[0]) for k in range(number.max(initial=-1) + 1)]
    assert first == sorted(first)
    assert mask.ravel()[of.first].tolist() == of.value.tolist()


@settings(deadline=None)
@given(MASKS, st.data())
def test_reductions_see_the_stretch_and_nothing_between(mask, data):
    values = data.draw(hnp.arrays(np.float32, mask.shape, elements=st.integers(-9, 9).map(float)))
    of = stretches(mask)
    flat = values.ravel()
    parts = [flat[a : a + n] for a, n in zip(of.first, of.length, strict=True)]
    assert of.reduce(np.add, values, np.float64).tolist() == [float(p.sum()) for p in parts]
    assert of.reduce(np.maximum, values).tolist() == [float(p.max()) for p in parts]
    assert sum(p.size for p in parts) == mask.sum()


def test_a_stretch_ends_with_its_line():
    of = stretches(np.array([[0, 1, 1], [1, 1, 0]], bool))
    assert of.rows().tolist() == [[0, 1, 2], [1, 0, 1]]
    assert touching(of).tolist() == [0, 0]  # they touch all the same
    far = stretches(np.array([[0, 0, 0, 1], [1, 0, 0, 0]], bool))
    assert touching(far).tolist() == [0, 1]  # the end of a line and the start of the next do not


@settings(deadline=None)
@given(CLASSES, st.data())
def test_pieces_do_not_show(mask, data):
    """Slab by slab, of an array that is a part of another, the same stretches, sums and marks come out."""
    values = data.draw(hnp.arrays(np.float32, mask.shape, elements=st.floats(-1, 1, width=32)))
    of = stretches(mask)
    room = np.zeros([n + 2 for n in mask.shape], mask.dtype)
    inner = tuple(slice(1, -1) for _ in mask.shape)
    room[inner] = mask
    around = np.zeros(room.shape, np.float32)
    around[inner] = values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspection_core.stretches.PIECE", 1)
        slabs = stretches(room[inner])
        for name in ("value", "line", "start", "stop"):
            assert getattr(slabs, name).tolist() == getattr(of, name).tolist()
        assert (
            slabs.reduce(np.add, around[inner], np.float64).tolist() == of.reduce(np.add, values, np.float64).tolist()
        )
        assert slabs.reduce(np.maximum, around[inner]).tolist() == of.reduce(np.maximum, values).tolist()
    slabs.fill(np.ones(slabs.line.size, bool), room[inner], 0)
    assert not room.any()


@settings(deadline=None)
@given(MASKS | CLASSES, st.integers(1, 5))
def test_chunks_do_not_show(mask, chunk):
    """Also where two regions that were told apart turn out to be one in a later chunk."""
    of = stretches(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspection_core.stretches.CHUNK", chunk)
        numbers = touching(of)
    assert numbers.tolist() == touching(of).tolist()


def test_prongs_of_a_comb_are_one_region_though_its_back_comes_last(monkeypatch):
    comb = np.zeros((6, 9), bool)
    comb[:, ::2] = True
    comb[-1] = True
    monkeypatch.setattr("inspection_core.stretches.CHUNK", 2)
    assert set(touching(stretches(comb)).tolist()) == {0}
    comb[-1] = [1, 1, 1, 1, 1, 0, 1, 1, 1]
    of = stretches(comb)
    assert dict(zip(of.start.tolist(), touching(of).tolist(), strict=True)) == {0: 0, 2: 0, 4: 0, 6: 1, 8: 1}
