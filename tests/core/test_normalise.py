"""Intensities of a scan: parts that are made when they are looked at, beside the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.card import ModelCard, Preparation
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.normalise import Normalised, normalisation, normalised, volume_of, whole
from inspection_core.prepare import prepare

SHAPE = (7, 9, 11)
WAYS = {
    "a window": {},
    "a window, clipped": {"clip": True},
    "z-scores": {"normalise": "z-score"},
    "z-scores of what is not 0": {"normalise": "z-score", "foreground": "nonzero"},
    "percentiles": {"normalise": "percentile", "percentiles": (5.0, 95.0), "clip": True},
    "the mean of what is bright": {"normalise": "mean", "foreground": "bright"},
}


def values(dtype, seed=0) -> np.ndarray:
    array = np.random.default_rng(seed).integers(-50, 200, (2, *SHAPE)).astype(dtype)
    array[:, 2:4, 3:5] = 0
    if np.dtype(dtype).kind == "f":
        array[0, 1, 1, :3] = np.nan, np.inf, -np.inf
    return array


def lazy_and_whole(dtype, way, padded=SHAPE) -> tuple[Normalised, torch.Tensor]:
    """The same scan as it is normalised on demand, and plane by plane into a tensor."""
    preparation = Preparation(window=(0.0, 100.0), view="volume", short_side=0, multiple=1, **way)
    array = values(dtype)
    scales = [normalisation(channel, preparation)[:2] for channel in array]
    expected = torch.zeros((2, *padded))
    for target, channel, scale in zip(expected, array, scales, strict=True):
        for plane, z in zip(channel, range(SHAPE[0]), strict=True):
            target[z, : SHAPE[1], : SHAPE[2]] = torch.from_numpy(normalised(plane, scale, preparation))
    return Normalised(array, scales, preparation, padded), expected


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_every_part_is_that_of_the_whole_to_the_bit(dtype, way):
    lazy, expected = lazy_and_whole(dtype, way, padded=(8, 12, 11))
    assert torch.equal(whole(lazy), expected)

    @settings(deadline=None, max_examples=40)
    @given(st.data())
    def check(data):
        ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in lazy.shape[1:]]
        at = (slice(None), *(slice(*pair) for pair in ends))[: data.draw(st.integers(1, 4))]
        assert torch.equal(lazy[at], expected[at])
        planes = data.draw(st.lists(st.integers(0, lazy.shape[1] - 1), min_size=1, max_size=5))
        assert torch.equal(lazy[:, planes], expected[:, planes])

    check()


def test_a_part_is_the_callers_own():
    lazy, expected = lazy_and_whole(np.int16, {})
    lazy[:, 2:3].zero_()
    assert torch.equal(whole(lazy), expected)


def test_values_beyond_float32_are_0():
    preparation = Preparation(window=(0.0, 1.0), view="volume", short_side=0, multiple=1)
    assert normalised(np.array([1e300, -1e300, 0.5]), (0.0, 1.0), preparation).tolist() == [0, 0, 0.5]


def test_an_image_is_a_volume_of_one_plane():
    assert volume_of(torch.zeros(3, 4, 5)).shape == (3, 1, 4, 5)
    assert volume_of(torch.zeros(3, 2, 4, 5)).shape == (3, 2, 4, 5)


@pytest.mark.parametrize(("scale", "kept"), [(1.0, True), (0.5, False)])
def test_a_scan_that_is_not_resized_takes_no_second_array(scale, kept):
    preparation = Preparation(window=(0.0, 100.0), view="volume", short_side=0, multiple=1, scale=scale)
    card = ModelCard("m", "1", "x", "segmentation", ("CT",), "s", preparation=preparation)
    image = Image(values(np.int16)[:1], Geometry.from_spacing(SHAPE, (1.0, 1.0, 1.0)), ("CT",))
    assert isinstance(prepare(image, card).voxels, Normalised) is kept
