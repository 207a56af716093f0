"""``value = stored * slope + intercept`` in the smallest type that is exact."""

import numpy as np
import pytest

from inspection_core.io.rescale import rescale, result_type


@pytest.mark.parametrize(
    ("stored", "low", "high", "pairs", "expected"),
    [
        ("i2", -32768, 32767, [(1, 0)], "i2"),
        (">i2", -32768, 32767, [(1, 0)], "i2"),
        ("u2", 0, 4095, [(1, -1024)], "i2"),
        ("u2", 0, 65535, [(1, -1024)], "i4"),
        ("u1", 0, 255, [(2, 0)], "i2"),
        ("u2", 0, 4095, [(0.5, 0)], "f4"),
        ("i4", -(2**31), 2**31 - 1, [(0.5, 0)], "f8"),
        ("u2", 0, 4095, [(1, 0), (1.5, 0)], "f4"),
        ("u2", 0, 4095, [(1e38, 0)], "f8"),
        ("i8", -(2**60), 2**60, [(1, -(2.0**62))], "i8"),
        ("f4", 0, 0, [(2, 1)], "f4"),
        ("f8", 0, 0, [(2, 1)], "f8"),
    ],
)
def test_smallest_type_that_holds_every_value(stored, low, high, pairs, expected):
    assert result_type(stored, low, high, pairs) == np.dtype(expected)


def test_whole_numbers_are_exact_beyond_float_precision():
    array = np.array([2**53 + 1], np.int64)
    assert rescale(array, 1, 1, np.int64)[0] == 2**53 + 2


def test_too_small_a_type_is_an_error_not_a_wrap():
    with pytest.raises(OverflowError, match="int16 cannot hold"):
        rescale(np.array([-32768], np.int16), 1, -1, np.int16)


def test_no_change_is_no_copy():
    array = np.zeros(3, np.int16)
    assert rescale(array, 1, 0, np.int16) is array
