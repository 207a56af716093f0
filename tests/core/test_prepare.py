"""To the network's grid and back: every value returns to the place that it came from."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.card import ModelCard, Preparation
from inspection_core.errors import ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.prepare import MAX_ASPECT, inference_shape, match_channels, prepare, restore, source_box

RGB = ("red", "green", "blue")


def image_of(*planes, channels=None) -> Image:
    array = np.stack(planes)
    return Image(array, Geometry.pixels(array.shape[1:]), channels or (("grey",) if len(planes) == 1 else RGB))


def card_of(channels=("grey",), **preparation) -> ModelCard:
    options = {"window": (0.0, 1.0), "short_side": 0, "multiple": 1, "tile": 768} | preparation
    return ModelCard("m", "1", "x", "anomaly", channels, "s", preparation=Preparation(**options))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_at_scale_1_nothing_changes(height, width, seed):
    picture = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    prepared = prepare(image_of(picture), card_of())
    back = restore(prepared.pixels[0].numpy(), prepared.shape, prepared.source, stride=1, offset=0)
    assert np.array_equal(back, picture)


# name: (shape of an image, size at inference); the good images were 100 x 100 to 400 x 100, and look like 80 x 80
SIDES = {
    "as the smallest good one": ((100, 100), (80, 80)),
    "as the largest": ((400, 100), (160, 40)),
    "between, and upright": ((100, 200), (56, 112)),
    "smaller than any": ((50, 50), (40, 40)),
    "larger than any: it shows more": ((1000, 500), (400, 200)),
    "a strip stays a strip": ((2, 8000), (8, 5056)),
}


@pytest.mark.parametrize(("shape", "expected"), SIDES.values(), ids=SIDES)
def test_images_of_various_sizes_are_brought_to_one_area(shape, expected):
    """Within the range of the good images; beyond it an image shows more, or less, at their scale."""
    assert inference_shape(shape, card_of(side=80.0, scales=(0.4, 0.8), multiple=8).preparation) == expected


def test_a_scale_that_would_take_all_memory_is_refused():
    with pytest.raises(ReadError, match=r"would be \(100000, 100000\) pixels, which is too large\. Give a part of it"):
        prepare(image_of(np.zeros((10, 10), np.float32)), card_of(scale=10000.0))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(60, 200), st.integers(60, 200)),
    st.floats(0.6, 3),
    st.sampled_from([4, 8, 16]),
    st.floats(0, 12),
    st.sampled_from([0, 1]),
)
def test_positions_go_there_and_back(shape, scale, stride, offset, axis):
    """Where each pixel holds its own row (or column), each pixel of the restored map must hold it too."""
    places = np.indices(shape)[axis].astype(np.float32)
    prepared = prepare(image_of(places), card_of(scale=scale, multiple=stride))
    n = prepared.shape[axis] // stride
    # A network that answers with what stands at the centre of each cell, between pixels where need be.
    line = np.moveaxis(prepared.pixels[0].numpy(), axis, 0)[:, 0]
    centres = np.arange(n) * stride + offset
    cells = np.interp(centres, np.arange(len(line)), line).astype(np.float32)
    grid = np.broadcast_to(cells[:, None] if axis == 0 else cells, [s // stride for s in prepared.shape])
    back = np.moveaxis(restore(grid, prepared.shape, shape, stride, offset), axis, 0)

    factor = shape[axis] / prepared.shape[axis]
    seen = centres[centres < len(line) - 1 - 2 / min(1, scale)]  # the border itself is smeared by the resizing
    first = int(np.ceil((max(seen[0], 2 / min(1, scale)) + stride) * factor))
    last = int((seen[-1] + 0.5) * factor - 0.5)
    inside = np.arange(first, last)
    assert np.allclose(back[inside], inside.reshape(-1, 1), atol=0.15)


def test_beyond_the_outermost_cells_their_value_continues():
    back = restore(np.array([[1.0, 3.0]]), (8, 16), (8, 16), stride=8, offset=3.5)
    assert back[0, :4].tolist() == [1.0] * 4
    assert back[0, 12:].tolist() == [3.0] * 4
    assert back.shape == (8, 16)
    assert back.dtype == np.float32


@pytest.mark.parametrize("cells", [(1, 1), (1, 5), (5, 1)])
def test_a_single_cell_fills_its_axis(cells):
    back = restore(np.full(cells, 7.0), [8 * c for c in cells], (11, 13), stride=8, offset=3.5)
    assert np.array_equal(back, np.full((11, 13), 7, np.float32))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 6), st.sampled_from([24, 64, 100, 192]), st.floats(0, 7))
def test_a_cells_box_is_where_its_peak_comes_back(row, column, side, offset):
    grid = np.zeros((10, 8))
    grid[row, column] = 1
    back = restore(grid, (80, 64), (side, side), stride=8, offset=offset)
    centre, size = source_box((row, column), (80, 64), (side, side), 8, offset)
    assert size == (8 * side / 80, 8 * side / 64)
    peak = np.unravel_index(int(back.argmax()), back.shape)
    assert np.abs(np.array(peak) - centre).max() <= 0.51


# name: (shape, preparation, expected)
SHAPES = {
    "short side": ((100, 200), {"short_side": 64, "multiple": 32}, (64, 128)),
    "portrait": ((200, 100), {"short_side": 64, "multiple": 32}, (128, 64)),
    "fixed scale": ((100, 200), {"short_side": 0, "scale": 0.5, "multiple": 1}, (50, 100)),
    "rounded to whole multiples": ((100, 210), {"short_side": 0, "scale": 1.0, "multiple": 32}, (96, 224)),
    "never below one multiple": ((1, 1), {"short_side": 0, "scale": 0.01, "multiple": 32}, (32, 32)),
    "a strip stays a strip": ((1, 20_000), {"short_side": 256, "multiple": 32}, (32, 20_000)),
    "a long side is not enlarged": ((10, 4096), {"short_side": 256, "multiple": 2}, (10, MAX_ASPECT * 256)),
}


@pytest.mark.parametrize(("shape", "options", "expected"), SHAPES.values(), ids=SHAPES)
def test_inference_shape(shape, options, expected):
    assert inference_shape(shape, Preparation(**options)) == expected


def test_the_window_is_the_cards_and_not_the_images():
    """A dim picture stays dim, and what lies beyond the window is kept."""
    pixels = prepare(image_of(np.array([[100, 200, 300]], np.uint16)), card_of(window=(100.0, 200.0))).pixels
    assert pixels[0, 0].tolist() == [0.0, 1.0, 2.0]


def test_what_the_reader_noticed_is_passed_on():
    image = dataclasses.replace(image_of(np.zeros((4, 4), np.uint8)), notes=("alpha channel dropped",))
    assert prepare(image, card_of()).warnings == ("alpha channel dropped",)


def test_grey_serves_a_colour_model():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    array, warnings = match_channels(image_of(grey), RGB)
    assert (array == grey).all()
    assert array.shape == (3, 2, 3)
    assert warnings == ()


def test_grey_saved_as_colour_is_the_same_grey():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    array, warnings = match_channels(image_of(grey, grey, grey), ("grey",))
    assert np.array_equal(array, grey[None])
    assert warnings == ()


def test_colour_turned_to_grey_is_said():
    planes = [np.full((2, 2), v, np.uint8) for v in (100, 0, 0)]
    array, warnings = match_channels(image_of(*planes), ("grey",))
    assert array == pytest.approx(np.full((1, 2, 2), 29.9))
    assert warnings == ("colour image turned to grey, as the model takes",)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.floats(0.2, 3))
def test_bytes_are_resized_in_whole_grey_values_whatever_their_order_in_memory(height, width, count, scale):
    values = np.random.default_rng(height * width).integers(0, 256, (count, height, width)).astype(np.uint8)
    mixed = np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)
    channels = ("grey",) if count == 1 else ("red", "green", "blue")
    card = card_of(channels, scale=scale, multiple=8, window=(0.0, 255.0), resize="uint8")
    exact = prepare(image_of(*values.astype(np.float32), channels=channels), card).pixels
    geometry = Geometry.pixels((height, width))
    pixels, same = (prepare(Image(array, geometry, channels), card).pixels for array in (values, mixed))
    assert pixels.equal(same)
    assert np.allclose((pixels * 255).round(), pixels * 255, atol=1e-4)
    assert float((pixels - exact).abs().max()) * 255 < 1.5  # each axis rounds once


def test_the_order_in_memory_changes_no_bit_of_grey():
    planes = np.random.default_rng(0).integers(0, 256, (3, 61, 97), dtype=np.uint8)
    plain, _ = match_channels(image_of(*planes), ("grey",))
    interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(planes, 0, -1)), -1, 0)
    array, _ = match_channels(Image(interleaved, Geometry.pixels((61, 97)), RGB), ("grey",))
    assert array.tobytes() == plain.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, np.finfo(np.float64).max])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ReadError, match="image: holds NaN or infinity"):
        prepare(image_of(np.full((32, 32), value)), card_of())


VOLUME = Image(np.zeros((1, 2, 2, 2), np.uint8), Geometry.pixels((2, 2, 2)), ("grey",))
# name: (image, card, message)
REFUSED = {
    "a volume": (VOLUME, card_of(), r"^image: the model m takes 2-D images\. Got 3 spatial axes\.$"),
    "another value type": (
        image_of(np.zeros((2, 2), np.uint8)),
        card_of(dtype="uint16", window=(0.0, 4095.0)),
        r"^image: the model m was made from uint16 images .* \(0\.0, 4095\.0\) fits no other type\. Got uint8; convert",
    ),
    "other channels": (
        image_of(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), channels=("a", "b")),
        card_of(),
        r"^image: expected the channel grey\. Got 2, a, b; convert the image, or choose a model",
    ),
}


@pytest.mark.parametrize(("image", "card", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(image, card, message):
    with pytest.raises(ReadError, match=message):
        prepare(image, card)
