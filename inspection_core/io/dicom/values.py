"""Values of a DICOM header, which may hold anything: what cannot be used counts as absent."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

DAMAGE = (
    OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError, NotImplementedError, OverflowError,
    RuntimeError, AssertionError, MemoryError, RecursionError, ArithmeticError, BufferError, struct.error, zlib.error,
    InvalidDicomError, BytesLengthException,
)  # fmt: skip
"""What pydicom raises on damaged files. A damaged file is no reason to stop, so all of it becomes a ReadError."""


def get(dataset: Dataset | None, keyword: str | tuple[int, int]) -> Any:
    """Return an element's value, or None where it is absent, empty or not readable."""
    if dataset is None:
        return None
    try:
        if isinstance(keyword, str):
            value = dataset.get(keyword)
        else:
            element = dataset.get(Tag(keyword))
            value = element.value if element is not None else None
    except DAMAGE:
        return None
    return None if value is None or (isinstance(value, str) and not value) else value


def number(dataset: Dataset | None, keyword: str | tuple[int, int]) -> float | None:
    """Return a finite number, the first of several, or None."""
    return next(iter(numbers(dataset, keyword) or ()), None)


def numbers(dataset: Dataset | None, keyword: str | tuple[int, int]) -> tuple[float, ...] | None:
    """Return finite numbers, or None where any is not."""
    value = get(dataset, keyword)
    if value is None or isinstance(value, (Dataset, bytes)):
        return None
    if isinstance(value, str):
        items: Sequence[Any] = value.split("\\")
    else:
        items = value if isinstance(value, Sequence) or hasattr(value, "__iter__") else [value]
    try:
        out = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        return None
    return out if out and all(math.isfinite(v) for v in out) else None


def whole(dataset: Dataset | None, keyword: str | tuple[int, int]) -> int | None:
    """Return a whole number, or None."""
    value = number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def text(dataset: Dataset | None, keyword: str | tuple[int, int]) -> str:
    """Return text, or an empty one."""
    value = get(dataset, keyword)
    return "" if value is None or isinstance(value, (Dataset, bytes)) else str(value).strip("\0 ")


def words(dataset: Dataset | None, keyword: str) -> tuple[str, ...]:
    """Return the entries of a multi-valued text."""
    value = get(dataset, keyword)
    if value is None:
        return ()
    if isinstance(value, (str, PersonName)):
        return (str(value),)
    return tuple(str(v) for v in value) if hasattr(value, "__iter__") else ()


def item(dataset: Dataset | None, keyword: str | tuple[int, int]) -> Dataset | None:
    """Return the first item of a sequence, or None."""
    value = get(dataset, keyword)
    if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) == 0:
        return None
    first = value[0]
    return first if isinstance(first, Dataset) else None


def items(dataset: Dataset | None, keyword: str | tuple[int, int]) -> list[Dataset]:
    """Return the items of a sequence."""
    value = get(dataset, keyword)
    if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return []
    return [entry for entry in value if isinstance(entry, Dataset)]
