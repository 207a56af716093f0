"""Geometry: what moves where, by properties; and every error."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from inspection_core.errors import GeometryError
from inspection_core.geometry import AFFINE_TOLERANCE, Geometry, readonly

FINITE = {"allow_nan": False, "allow_infinity": False}


@st.composite
def geometries(draw, dimensions=(2, 3)):
    """Rotated, mirrored, sheared and far-away grids, as scanners make them."""
    n = draw(st.sampled_from(dimensions))
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=n, max_size=n)))
    spacing = draw(st.lists(st.floats(0.05, 20, **FINITE), min_size=n, max_size=n))
    origin = draw(st.lists(st.floats(-1e4, 1e4, **FINITE), min_size=n, max_size=n))
    angles = draw(st.lists(st.floats(-180, 180, **FINITE), min_size=3, max_size=3))
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() if n == 3 else plane_turn(angles[0])
    shear = np.eye(n)
    shear[0, 1] = draw(st.floats(-0.5, 0.5, **FINITE))  # a tilted gantry
    mirror = np.diag(draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=n, max_size=n)))
    affine = np.eye(n + 1)
    affine[:n, :n] = turn @ shear @ mirror @ np.diag(spacing)
    affine[:n, n] = origin
    return Geometry(shape, affine, draw(st.sampled_from(["mm", "px"])))


def plane_turn(degrees):
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def indices(geometry):
    """Every index of a grid that holds its corners and some of its middle, ``(N, n)``."""
    axes = [sorted({0, n // 3, n - 1}) for n in geometry.shape]
    return np.array(list(itertools.product(*axes)))


def near(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-6)


@given(geometries())
def test_index_to_world_to_index(geometry):
    at = indices(geometry) + 0.25
    near(geometry.world_to_index(geometry.index_to_world(at)), at)


@given(geometries())
def test_one_point_maps_like_many(geometry):
    at = indices(geometry)
    np.testing.assert_array_equal(geometry.index_to_world(at[0]), geometry.index_to_world(at)[0])
    near(geometry.world_to_index(geometry.index_to_world(at[-1])), at[-1])
    assert geometry.index_to_world(at.reshape(1, -1, geometry.ndim)).shape == (1, *at.shape)


@given(geometries(), st.data())
def test_flipped_keeps_places(geometry, data):
    axis = data.draw(st.integers(-geometry.ndim, geometry.ndim - 1))
    flipped = geometry.flipped(axis)
    at = indices(geometry)
    there = at.copy()
    there[:, axis] = geometry.shape[axis] - 1 - at[:, axis]
    near(flipped.index_to_world(there), geometry.index_to_world(at))
    assert flipped.shape == geometry.shape
    assert flipped.flipped(axis).is_close(geometry)


@given(geometries(), st.data())
def test_transposed_keeps_places(geometry, data):
    axes = data.draw(st.permutations(range(geometry.ndim)))
    transposed = geometry.transposed(axes)
    at = indices(geometry)
    near(transposed.index_to_world(at[:, axes]), geometry.index_to_world(at))
    assert transposed.shape == np.empty(geometry.shape, np.uint8).transpose(axes).shape
    assert transposed.transposed(np.argsort(axes).tolist()) == geometry


@given(geometries(), st.data())
def test_cropped_keeps_places(geometry, data):
    start = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=geometry.ndim, max_size=geometry.ndim)))
    cropped = geometry.cropped(start.tolist(), (5,) * geometry.ndim)
    near(cropped.index_to_world(indices(cropped)), geometry.index_to_world(indices(cropped) + start))
    assert cropped.cropped((-start).tolist(), geometry.shape).is_close(geometry)


@given(geometries(), st.data())
def test_resized_keeps_the_field_of_view(geometry, data):
    shape = data.draw(st.lists(st.integers(1, 60), min_size=geometry.ndim, max_size=geometry.ndim))
    resized = geometry.resized(shape)
    for corner in itertools.product([0, 1], repeat=geometry.ndim):  # outer edges: half a voxel outside the centres
        old = np.array(corner) * geometry.shape - 0.5
        new = np.array(corner) * shape - 0.5
        near(resized.index_to_world(new), geometry.index_to_world(old))
    assert resized.resized(geometry.shape).is_close(geometry)
    volume = geometry.voxel_size * np.prod(geometry.shape)
    np.testing.assert_allclose(resized.voxel_size * np.prod(shape), volume, rtol=1e-9)


@given(geometries())
def test_unit_survives(geometry):
    n = geometry.ndim
    for other in (geometry.flipped(0), geometry.transposed(range(n)), geometry.cropped([0] * n, [1] * n)):
        assert other.unit == geometry.unit
    assert geometry.resized([2] * n).unit == geometry.unit


@given(geometries())
def test_spacing_is_the_distance_of_neighbours(geometry):
    for axis, spacing in enumerate(geometry.spacing):
        step = np.zeros(geometry.ndim)
        step[axis] = 1
        near(np.linalg.norm(geometry.index_to_world(step) - geometry.index_to_world(0 * step)), spacing)


@given(geometries())
def test_equal_grids_have_equal_hashes(geometry):
    again = Geometry(geometry.shape, geometry.affine.copy(), geometry.unit)
    assert again == geometry
    assert hash(again) == hash(geometry)
    # Two turns may leave -0.0 where 0.0 was.
    pixels = Geometry.pixels(geometry.shape)
    assert pixels.flipped(0).flipped(0) == pixels
    assert hash(pixels.flipped(0).flipped(0)) == hash(pixels)


def test_equality_asks_for_everything():
    grid = Geometry.from_spacing((4, 5), (2, 2))
    assert grid != Geometry.from_spacing((5, 5), (2, 2))
    assert grid != Geometry.from_spacing((4, 5), (2, 3))
    assert grid != Geometry.from_spacing((4, 5), (2, 2), unit="px")
    assert grid != "a grid"


def test_is_close_is_relative_to_the_largest_spacing():
    grid = Geometry.from_spacing((4, 5), (1, 100))
    within, beyond = (Geometry.from_spacing((4, 5), (1, 100), (f * 100 * AFFINE_TOLERANCE, 0)) for f in (0.9, 1.1))
    assert grid.is_close(within)
    assert not grid.is_close(beyond)
    assert not grid.is_close(Geometry.pixels((4, 5)))
    assert not grid.is_close(Geometry.pixels((3, 4, 5)))


def test_pixels_reverse_the_index():
    grid = Geometry.pixels((10, 20))
    assert grid.unit == "px"
    assert grid.spacing == (1, 1)
    np.testing.assert_array_equal(grid.index_to_world((3, 7)), [7, 3])
    np.testing.assert_array_equal(Geometry.pixels((4, 10, 20)).index_to_world((2, 3, 7)), [7, 3, 2])


def test_spacing_and_origin_have_their_own_orders():
    grid = Geometry.from_spacing((4, 10, 20), spacing=(5, 2, 1), origin=(100, 200, 300))
    assert grid.unit == "mm"
    assert grid.spacing == (5, 2, 1)  # z, y, x
    assert grid.voxel_size == pytest.approx(10)
    np.testing.assert_array_equal(grid.index_to_world((1, 1, 1)), [101, 202, 305])  # x, y, z


def test_the_affine_is_a_copy_that_refuses_writing():
    affine = np.eye(3)
    grid = Geometry((4, 5), affine)
    affine[0, 0] = 7
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7


def test_readonly_is_a_view():
    array = np.zeros(3)
    assert readonly(array).base is array
    assert array.flags.writeable


def affine_with(value, row=0, column=0, n=2):
    affine = np.eye(n + 1)
    affine[row, column] = value
    return affine


GRID = Geometry.pixels((4, 5))
ERRORS = {
    "one axis": (
        lambda: Geometry((4,), np.eye(2)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape (4,).",
    ),
    "four axes": (
        lambda: Geometry((1, 2, 3, 4), np.eye(5)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape (1, 2, 3, 4).",
    ),
    "no axes": (
        lambda: Geometry((), np.eye(1)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape ().",
    ),
    "an empty axis": (
        lambda: Geometry((4, 0), np.eye(3)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape (4, 0).",
    ),
    "affine of the wrong shape": (
        lambda: Geometry((4, 5), np.eye(4)),
        "The affine of a 2-D grid is 3 x 3. Got shape (4, 4).",
    ),
    "affine with nan": (
        lambda: Geometry((4, 5), affine_with(np.nan)),
        "The affine must be finite. Got NaN or infinity; check the file's orientation fields.",
    ),
    "affine with another last row": (
        lambda: Geometry((4, 5), affine_with(2, 2, 0)),
        "The last row of an affine is 0 ... 0 1. Got [2.0, 0.0, 1.0].",
    ),
    "an axis of no length": (
        lambda: Geometry((4, 5), affine_with(0)),
        (
            "The affine must be invertible: the axes of the grid may not be parallel or of zero length. "
            "Got spacings [0.0, 1.0]."
        ),
    ),
    "parallel axes": (
        lambda: Geometry((4, 5), [[1, 1, 0], [1, 1, 0], [0, 0, 1]]),
        "The affine must be invertible: the axes of the grid may not be parallel or of zero length. Got spacings [1.4",
    ),
    "a strange unit": (
        lambda: Geometry((4, 5), np.eye(3), "inch"),
        'The unit is "mm" or "px". Got \'inch\'.',
    ),
    "spacing of another length": (
        lambda: Geometry.from_spacing((4, 5), (1, 1, 1)),
        "Shape, spacing and origin have one entry an axis. Got (4, 5), (1, 1, 1), None.",
    ),
    "origin of another length": (
        lambda: Geometry.from_spacing((4, 5), (1, 1), (0, 0, 0)),
        "Shape, spacing and origin have one entry an axis. Got (4, 5), (1, 1), (0, 0, 0).",
    ),
    "spacing of zero": (
        lambda: Geometry.from_spacing((4, 5), (1, 0)),
        "Spacings are finite and above 0. Got (1, 0).",
    ),
    "spacing of nan": (
        lambda: Geometry.from_spacing((4, 5), (1, np.nan)),
        "Spacings are finite and above 0. Got (1, nan).",
    ),
    "pixels of one axis": (
        lambda: Geometry.pixels((4,)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape (4,).",
    ),
    "crop of other axes": (
        lambda: GRID.cropped((0,), (2, 2)),
        "A block has a start and a shape of 2 entries. Got (0,) and (2, 2).",
    ),
    "crop to nothing": (
        lambda: GRID.cropped((0, 0), (2, 0)),
        "A grid has 2 or 3 spatial axes of at least 1 voxel each. Got shape (2, 0).",
    ),
    "resize to nothing": (
        lambda: GRID.resized((2, 0)),
        "A new shape has 2 entries of at least 1. Got (2, 0).",
    ),
    "resize of other axes": (
        lambda: GRID.resized((2, 2, 2)),
        "A new shape has 2 entries of at least 1. Got (2, 2, 2).",
    ),
    "flip of an absent axis": (lambda: GRID.flipped(2), "An axis is between -2 and 1. Got 2."),
    "flip of an absent axis from the end": (lambda: GRID.flipped(-3), "An axis is between -2 and 1. Got -3."),
    "transpose by too few axes": (lambda: GRID.transposed((0,)), "Axes are an order of [0, 1]. Got [0]."),
    "transpose by one axis twice": (lambda: GRID.transposed((0, 0)), "Axes are an order of [0, 1]. Got [0, 0]."),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    make, message = ERRORS[name]
    with pytest.raises(GeometryError) as caught:
        make()
    assert str(caught.value).startswith(message)
