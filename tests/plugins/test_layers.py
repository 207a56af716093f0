"""Where a grid is shown: true sizes and places, whatever the order that the file stores its voxels in."""

import numpy as np
import pytest

from inspection_core.geometry import Geometry
from inspection_core.image import Image

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from inspection_core.inputs import Opened
from napari_inspection import layers

SHAPE = (5, 7, 9)


def turned(axes=(0, 1, 2), flips=(), angle=0.0):
    """A grid of 3 x 1.5 x 0.5 mm whose axes are ordered and turned, and perhaps rotated about x."""
    geometry = Geometry.from_spacing(SHAPE, (3.0, 1.5, 0.5), origin=(-10.0, 20.0, 30.0))
    for axis in flips:
        geometry = geometry.flipped(axis)
    geometry = geometry.transposed(axes)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    affine = geometry.affine.copy()
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ affine[:3, :3]
    return Geometry(geometry.shape, affine, "mm")


# name: geometry
STRAIGHT = {
    "axial": turned(),
    "nifti's order": turned((2, 1, 0)),
    "sagittal": turned((2, 0, 1), (0,)),
    "coronal": turned((1, 0, 2), (0, 2)),
    "all turned": turned((0, 1, 2), (0, 1, 2)),
}


@pytest.mark.parametrize("name", STRAIGHT)
class TestStraight:
    def test_naparis_world_is_the_patients(self, name):
        geometry = STRAIGHT[name]
        frame = layers.frame_of(geometry)
        index = np.array([1, 2, 3])
        world = frame.world(index)
        np.testing.assert_allclose(world[::-1], geometry.index_to_world(index), atol=1e-9)
        np.testing.assert_allclose(frame.patient(world), geometry.index_to_world(index), atol=1e-9)
        assert not frame.oblique
        assert frame.scale == pytest.approx((3.0, 1.5, 0.5))

    def test_the_shown_array_is_a_view_that_comes_back(self, name):
        geometry = STRAIGHT[name]
        frame = layers.frame_of(geometry)
        array = np.arange(np.prod(SHAPE)).reshape(geometry.shape)
        shown = frame.show(array)
        assert np.shares_memory(shown, array)
        np.testing.assert_array_equal(frame.unshow(shown), array)
        index = (2, 4, 1)
        there = tuple(frame.to_shown(index).astype(int))
        assert shown[there] == array[index]
        assert tuple(frame.from_shown(there).astype(int)) == index

    def test_a_box_is_the_same_voxels(self, name):
        geometry = STRAIGHT[name]
        frame = layers.frame_of(geometry)
        array = np.zeros(geometry.shape, int)
        frame.show(array)[1:3, 2:6, 3:4] = 1
        start, stop = frame.box((1, 2, 3), (3, 6, 4))
        inside = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert inside.all()
        assert inside.size == array.sum()

    def test_letters_say_where_the_patient_is(self, name):
        frame = layers.frame_of(STRAIGHT[name])
        assert [frame.letters(axis) for axis in range(3)] == [("I", "S"), ("A", "P"), ("R", "L")]


class TestOblique:
    frame = layers.frame_of(turned(angle=30))

    def test_it_lies_in_its_own_planes_with_true_sizes(self):
        assert self.frame.oblique
        assert self.frame.scale == pytest.approx((3.0, 1.5, 0.5))

    def test_its_middle_is_where_it_is_in_the_patient(self):
        middle = (np.array(SHAPE) - 1) / 2
        np.testing.assert_allclose(
            self.frame.world(middle)[::-1], self.frame.geometry.index_to_world(middle), atol=1e-9
        )

    def test_places_in_the_patient_are_true(self):
        index = np.array([4.0, 0.0, 8.0])
        np.testing.assert_allclose(
            self.frame.patient(self.frame.world(index)), self.frame.geometry.index_to_world(index), atol=1e-9
        )

    def test_letters_name_the_nearest_first(self):
        assert self.frame.letters(1) == ("AI", "PS")

    def test_a_hair_is_not_oblique(self):
        assert not layers.frame_of(turned(angle=0.05)).oblique


def case(array, geometry, channels, **given):
    return layers.make_case(Opened(Image(array, geometry, channels), **given), "thing")


class TestLayers:
    def test_a_volume(self):
        ((data, meta, kind),) = layers.image_layers(case(np.ones((1, *SHAPE)), turned(), ("CT",)))
        assert (kind, data.shape) == ("image", SHAPE)
        assert meta["units"] == ("mm",) * 3
        assert meta["axis_labels"] == ("z", "y", "x")
        assert meta["scale"] == pytest.approx((3.0, 1.5, 0.5))
        assert meta["translate"] == pytest.approx((30.0, 20.0, -10.0))

    def test_a_part_has_no_millimetres(self):
        picture = np.zeros((3, 8, 9), np.uint8)
        ((data, meta, _),) = layers.image_layers(case(picture, Geometry.pixels((8, 9)), ("red", "green", "blue")))
        assert data.shape == (8, 9, 3)
        assert meta["rgb"] is True
        assert meta["units"] == ("pixel", "pixel")

    def test_a_few_channels_are_layers_and_many_have_a_slider(self):
        few = layers.image_layers(case(np.zeros((2, *SHAPE)), turned(), ("T1", "FLAIR")))
        assert [meta["name"] for _, meta, _ in few] == ["thing T1", "thing FLAIR"]
        assert [meta["visible"] for _, meta, _ in few] == [True, False]
        names = tuple(str(k) for k in range(12))
        ((data, meta, _),) = layers.image_layers(case(np.zeros((12, *SHAPE)), turned(), names))
        assert data.shape == (12, *SHAPE)
        assert meta["axis_labels"] == ("volume", "z", "y", "x")
        assert len(meta["scale"]) == len(meta["units"]) == 4

    @pytest.mark.parametrize("last", [3, 4])
    @pytest.mark.parametrize("channels", [1, 5])
    def test_three_or_four_sagittal_slices_are_no_colours(self, last, channels):
        layer_of = pytest.importorskip("napari.layers", reason="needs the extra [viewer]").Layer.create
        shape = (32, 40, last)
        thing = case(
            np.zeros((channels, *shape), np.int16), Geometry.from_spacing(shape, (1, 1, 5)), ("MR",) * channels
        )
        (made,) = [layer_of(*layer) for layer in layers.image_layers(thing)]
        assert not made.rgb
        assert made.data.shape[-3:] == shape

    def test_a_large_picture_is_a_pyramid(self):
        picture = np.zeros((1, 5000, 4200), np.uint8)
        ((levels, meta, _),) = layers.image_layers(case(picture, Geometry.pixels((5000, 4200)), ("grey",)))
        assert meta["multiscale"] is True
        assert [level.shape for level in levels] == [(5000, 4200), (2500, 2100), (1250, 1050), (625, 525)]

    @pytest.mark.parametrize(
        ("shape", "last"), [((3, 5000), (1, 625)), ((1, 5000), (1, 625)), ((9000, 2), (562, 1)), ((5000, 5), (625, 1))]
    )
    def test_a_pyramid_of_a_few_lines_keeps_one(self, shape, last):
        picture = np.full((1, *shape), 7, np.uint8)
        ((levels, _, _),) = layers.image_layers(case(picture, Geometry.pixels(shape), ("grey",)))
        assert levels[-1].shape == last
        assert (np.asarray(levels[-1]) == 7).all()

    @pytest.mark.parametrize(
        ("values", "want"),
        [
            (np.linspace(0, 100, 1000), (0.5, 99.5)),
            (np.full(10, 7.0), (7.0, 8.0)),
            (np.array([np.nan, np.inf]), (0.0, 1.0)),
        ],
        ids=["a range", "one value", "no number"],
    )
    def test_contrast(self, values, want):
        assert layers.contrast(values) == pytest.approx(want)


# name: (values, dtype, channels, bright)
SHADES = {
    "a dark scan": (np.r_[np.zeros(90), np.full(10, 255)], np.uint8, ("grey",), False),
    "a bright part": (np.r_[np.zeros(10), np.full(90, 230)], np.uint8, ("grey",), True),
    "bright colours": (np.full(100, 250), np.uint8, ("red", "green", "blue"), True),
    "sixteen bits with gaps": (np.r_[np.full(5, np.nan), np.zeros(70), np.full(25, 9e4)], np.float32, ("grey",), False),
}


@pytest.mark.parametrize("name", SHADES)
def test_what_is_drawn_on_an_image_is_seen(name):
    values, kind, channels, bright = SHADES[name]
    array = np.broadcast_to(values.astype(kind).reshape(10, 10), (len(channels), 10, 10))
    case = layers.make_case(Opened(Image(array, Geometry.pixels((10, 10)), channels)), name)
    assert layers.is_bright(case) is bright


@pytest.mark.parametrize(("zoom", "width"), [(4.0, 1), (1.0, 2), (0.2, 10), (1e-6, 25)])
def test_outlines_are_as_wide_at_every_zoom(zoom, width):
    assert layers.outline_width(zoom, layers.frame_of(Geometry.pixels((4000, 4000)))) == width
