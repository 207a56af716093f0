"""Image: array, grid and names that fit together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.image import Image, wrong_channels


@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]),
        hnp.array_shapes(min_dims=3, max_dims=4, max_side=4),
    )
)
def test_any_array_of_numbers_is_held_as_it_is(array):
    image = Image(array, Geometry.pixels(array.shape[1:]), [str(i) for i in range(len(array))])
    assert image.array.dtype == array.dtype
    np.testing.assert_array_equal(image.array, array)
    assert np.shares_memory(image.array, array)
    assert image.ndim == array.ndim - 1
    assert image.channels == tuple(str(i) for i in range(len(array)))


def test_the_array_refuses_writing():
    array = np.zeros((1, 4, 5))
    image = Image(array, Geometry.pixels((4, 5)), ("grey",))
    with pytest.raises(ValueError, match="read-only"):
        image.array[0, 0, 0] = 1
    assert array.flags.writeable  # the caller's own array is left alone


def test_name():
    grid = Geometry.pixels((4, 5))
    assert Image(np.zeros((1, 4, 5)), grid, ("grey",)).name == "image"
    assert Image(np.zeros((1, 4, 5)), grid, ("grey",), Path("a/part.png")).name == "part.png"


def test_notes_become_a_tuple():
    assert Image(np.zeros((1, 4, 5)), Geometry.pixels((4, 5)), ("grey",), notes=["one", "two"]).notes == ("one", "two")


# name: (array, channels, message)
ERRORS = {
    "another grid": (
        np.zeros((1, 5, 4)),
        ("grey",),
        "An image is (C, *spatial) with the spatial shape of its grid, (4, 5). Got an array of shape (1, 5, 4).",
    ),
    "no channel axis": (
        np.zeros((4, 5)),
        ("grey",),
        "An image is (C, *spatial) with the spatial shape of its grid, (4, 5). Got an array of shape (4, 5).",
    ),
    "channels last": (
        np.zeros((4, 5, 3)),
        ("red", "green", "blue"),
        "An image is (C, *spatial) with the spatial shape of its grid, (4, 5). Got an array of shape (4, 5, 3).",
    ),
    "a single number": (
        np.float64(3),
        ("grey",),
        "An image is (C, *spatial) with the spatial shape of its grid, (4, 5). Got an array of shape ().",
    ),
    "too few names": (
        np.zeros((3, 4, 5)),
        ("red", "green"),
        "Each of the 3 channels needs a name. Got ['red', 'green'].",
    ),
    "too many names": (np.zeros((1, 4, 5)), ("red", "green"), "Each of the 1 channels needs a name. Got ['red', 'gr"),
    "booleans": (
        np.zeros((1, 4, 5), bool),
        ("grey",),
        "Values are integers or floats. Got bool; convert booleans to uint8.",
    ),
    "complex numbers": (np.zeros((1, 4, 5), complex), ("grey",), "Values are integers or floats. Got complex128;"),
    "text": (np.full((1, 4, 5), "a"), ("grey",), "Values are integers or floats. Got <U1;"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    array, channels, message = ERRORS[name]
    with pytest.raises(GeometryError) as caught:
        Image(array, Geometry.pixels((4, 5)), channels)
    assert str(caught.value).startswith(message)


# name: (what the model takes, what the image has, as files, what is said)
WRONG = {
    "too few without names": (
        ("pre", "FLAIR", "post"),
        ("volume 1", "volume 2"),
        True,
        (
            "expected the 3 channels pre, FLAIR, post. Got 2 without names; give all 3 in this order in one file, or "
            "as files CASE_0000, _0001, _0002, or choose a model for such images."
        ),
    ),
    "one missing": (
        ("pre", "FLAIR"),
        ("flair", "T2"),
        False,
        (
            "expected the 2 channels pre, FLAIR. Got 2, flair, T2 (pre missing); give all 2 in this order in one file, "
            "or choose a model for such images."
        ),
    ),
    "too many": (
        ("grey",),
        ("red", "green", "blue"),
        False,
        "expected the channel grey. Got 3, red, green, blue; convert the image, or choose a model for such images.",
    ),
    "a lone picture": (
        ("pre", "FLAIR", "post"),
        ("red", "green", "blue"),
        False,
        (
            "expected the 3 channels pre, FLAIR, post. Got 3, red, green, blue (pre, FLAIR, post missing); give the "
            "slices of a study as CASE_1, CASE_2, ... in one folder, their colours the channels in this order, or"
        ),
    ),
    "hundreds": (
        ("grey",),
        tuple("abcdefgh"),
        False,
        "expected the channel grey. Got 8, a, b, c, d, e, f, ...; convert",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_channels_are_said_with_what_to_do(name):
    wanted, got, files, words = WRONG[name]
    assert wrong_channels(wanted, got, files=files).startswith(words)
