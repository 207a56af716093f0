"""DICOM in: what is there (`scan_dicom`), and one volume of it as an image (`read_dicom`).

Names are fetched when they are asked for: pydicom takes a quarter of a second, which who looks at pictures is spared.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspection_core.io.dicom.series import Inventory, Problem, Series, Volume, scan_dicom
    from inspection_core.io.dicom.volume import DicomImage, choose, load_volume, read_dicom

__all__ = [
    "DicomImage",
    "Inventory",
    "Problem",
    "Series",
    "Volume",
    "choose",
    "load_volume",
    "read_dicom",
    "scan_dicom",
]
_IN_SERIES = ("Inventory", "Problem", "Series", "Volume", "scan_dicom")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{'series' if name in _IN_SERIES else 'volume'}"), name)
