"""Ultrasound: from the regions that the scanner calibrated to a spacing in millimetres (PS3.3 C.8.5.5).

A picture of ultrasound may hold several images, curves and texts, each with a scale of its own. Its spacing is one only
where one image of tissue is all that is calibrated; flow in colour over that image, with the same scale, is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from inspection_core.io.dicom.values import items, number, whole

PLANE, TISSUE, FLOW, CM = 1, 1, 2, 3
"""Values of RegionSpatialFormat, RegionDataType (two), and PhysicalUnitsXDirection or PhysicalUnitsYDirection."""
SAME_SCALE = 1e-3


@dataclass(frozen=True)
class _Region:
    """One calibrated region: columns and rows, both ends inside; mm between rows and between columns."""

    kind: int
    left: int
    top: int
    right: int
    bottom: int
    spacing: tuple[float, float]

    def holds(self, other: _Region) -> bool:
        """Tell whether another lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


def ultrasound_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return the distance between rows and between columns in mm, or None; and what a user should know of it."""
    entries = items(dataset, "SequenceOfUltrasoundRegions")
    if not entries:
        return None, ()
    regions = [_region(entry) for entry in entries]
    tissue = [r for r in regions if r is not None and r.kind == TISSUE]
    none = "the regions of the scanner give no one spacing"
    if len(tissue) != 1:
        return None, (f"{none}: {len(tissue)} are images of tissue in centimetres, where one is needed",)
    image = tissue[0]
    for region in regions:
        if region is None or not image.holds(region) or not _same(image.spacing, region.spacing):
            return None, (f"{none}: beside the image of tissue there are others, with scales of their own",)
    place = f"columns {image.left} to {image.right}, rows {image.top} to {image.bottom}"
    return image.spacing, (f"millimetres come from the scanner's calibrated region, and hold inside it: {place}",)


def _region(entry: Dataset) -> _Region | None:
    """Return a region of a plane in centimetres; None for any other kind, and for one that makes no sense."""
    kind = whole(entry, "RegionDataType")
    units = [whole(entry, f"PhysicalUnits{axis}Direction") for axis in "XY"]
    deltas = [number(entry, f"PhysicalDelta{axis}") for axis in "YX"]
    ends = [whole(entry, f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if kind not in (TISSUE, FLOW) or whole(entry, "RegionSpatialFormat") != PLANE or units != [CM, CM]:
        return None
    # A delta below zero says which way the axis counts.
    dy, dx = (10 * abs(d) if d is not None else 0.0 for d in deltas)
    left, top, right, bottom = (end if end is not None else -1 for end in ends)
    if not (1e-6 < dy < 1e6 and 1e-6 < dx < 1e6) or not (0 <= left < right and 0 <= top < bottom):
        return None
    return _Region(kind, left, top, right, bottom, (dy, dx))


def _same(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(abs(x - y) <= SAME_SCALE * x for x, y in zip(a, b, strict=True))
