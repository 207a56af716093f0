"""From stored numbers to values: ``value = stored * slope + intercept``, in the smallest type that is exact.

DICOM's rescale (PS3.3 C.11.1) and NIfTI's ``scl_slope`` are the same sum. Whole-numbered slopes and intercepts keep
integers; anything else is summed in double precision and kept as float32, or float64 where the stored numbers need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
"""Integer types that a result may have, smallest first."""
FLOAT32_SAFE = 1e30
"""Values beyond this go to float64."""


def is_identity(slope: float, intercept: float) -> bool:
    """Tell whether a rescale changes nothing."""
    return slope == 1.0 and intercept == 0.0


def result_type(stored: DTypeLike, low: int, high: int, rescales: Iterable[tuple[float, float]]) -> np.dtype[Any]:
    """Return the type that holds every value of several rescales.

    Parameters
    ----------
    stored
        Type of the stored numbers.
    low, high
        Range that the stored numbers can have; for floats it is not looked at.
    rescales
        ``(slope, intercept)`` of each part, such as each frame of a series.
    """
    stored = np.dtype(stored)
    pairs = set(rescales)
    if all(is_identity(*pair) for pair in pairs):
        return stored.newbyteorder("=")
    wide = any(max(abs(s * low + i), abs(s * high + i), abs(s), abs(i)) > FLOAT32_SAFE for s, i in pairs)
    if stored.kind == "f":
        return np.dtype(np.float64 if stored.itemsize > 4 or wide else np.float32)
    if all(float(s).is_integer() and float(i).is_integer() for s, i in pairs):
        ends = [int(s) * edge + int(i) for s, i in pairs for edge in (low, high)]
        for kind in INTEGERS:
            info = np.iinfo(kind)
            if info.min <= min(ends) and max(ends) <= info.max:
                return np.dtype(kind)
    # float32 holds 24 bits of a stored number; more needs float64.
    return np.dtype(np.float32 if max(abs(low), abs(high)) < 2**24 and not wide else np.float64)


def rescale(array: NDArray[Any], slope: float, intercept: float, dtype: DTypeLike) -> NDArray[Any]:
    """Return ``array * slope + intercept`` as `dtype`; without a change of value or type, the array itself.

    Raises
    ------
    OverflowError
        If an integer type cannot hold a value.
    """
    dtype = np.dtype(dtype)
    if is_identity(slope, intercept) and (dtype.kind == "f" or np.can_cast(array.dtype, dtype)):
        return array.astype(dtype, copy=False)
    if dtype.kind in "ui":
        _check_range(array, int(slope), int(intercept), dtype)
        # Sums in a fixed width wrap round and back again, so the type of the result is wide enough for every step.
        values = array.astype(dtype)
        if slope != 1.0:
            np.multiply(values, _wrapped(int(slope), dtype), out=values)
        if intercept != 0.0:
            np.add(values, _wrapped(int(intercept), dtype), out=values)
        return values
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged slope gives infinities, which are seen as such
        return np.asarray((array.astype(np.float64) * slope + intercept).astype(dtype))


def _check_range(array: NDArray[Any], slope: int, intercept: int, dtype: np.dtype[Any]) -> None:
    if not array.size:
        return
    ends = sorted(int(edge) * slope + intercept for edge in (array.min(), array.max()))
    info = np.iinfo(dtype)
    if ends[0] < info.min or ends[1] > info.max:
        raise OverflowError(f"{dtype} cannot hold {ends[0]} to {ends[1]}")


def _wrapped(number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a whole number modulo the width of an integer type."""
    bits = dtype.itemsize * 8
    return np.array(number % 2**bits, dtype=f"u{dtype.itemsize}").view(dtype)
