"""A correction beside the model's result, another reviewer's, or a mask such as ground truth; off the main thread."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inspection_core.agreement import Agreement, compare_reviews, dice, pair_findings
from inspection_core.errors import GeometryError, ReadError
from inspection_core.regions import number_regions
from inspection_core.review import Mark, Review
from napari_inspection.desk import Desk
from napari_inspection.layers import Case

if TYPE_CHECKING:
    from inspection_core.io.dicom import DicomImage

MODEL, TRUTH, FILE = "the model", "ground truth", "a mask file …"


@dataclass(frozen=True, eq=False)
class Comparison:
    """One line for the user, where both agree and differ (1 both, 2 the first alone, 3 the second), and their names."""

    line: str
    overlap: NDArray[np.uint8]
    names: tuple[str, str]


def truth_of(case: Case) -> Path | None:
    """Return the file with the ground truth of a case, where it lies in a dataset that has one."""
    from inspection_core.cases import reference_of

    item = case.item
    if item is None or item.kind not in ("picture", "scan") or not item.files:
        return None
    return reference_of(item.files[0].absolute())


def compare(desk: Desk, other: str) -> Comparison:
    """Compare a review with the model's result, its ground truth, another reviewer by name, or a mask file by its path.

    Raises
    ------
    ReadError, GeometryError
        If a file cannot be read, or lies on another grid.
    """
    first = desk.review.mask
    if other == MODEL:
        second = Review(desk.review.prediction, (), desk.review.classes)
        return _told(desk.reviewer, other, compare_reviews(desk.review, second), first, second.mask)
    if other in desk.store.reviewers():
        second = Review(desk.review.prediction, tuple(desk.store.corrections(other)), desk.review.classes)
        return _told(desk.reviewer, other, compare_reviews(desk.review, second), first, second.mask)
    truth = truth_of(desk.case) if other == TRUTH else None
    mask = _read(truth or Path(other), desk)
    regions, numbers = number_regions(mask, ())
    classes = desk.review.classes
    names = {n: classes[value - 1] if value <= len(classes) else f"label {value}" for n, (value, _) in numbers.items()}
    marks = {n: Mark(name) for n, name in names.items()}
    pairs = pair_findings(desk.review.regions, regions, desk.review.marks, marks)
    result = Agreement(dice(first > 0, mask > 0), {}, pairs)
    return _told(desk.reviewer, TRUTH if truth else Path(other).name, result, first, mask)


def _told(me: str, other: str, result: Agreement, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Comparison:
    overlap = np.zeros(first.shape, np.uint8)
    overlap[first > 0], overlap[second > 0] = 2, 3
    overlap[(first > 0) & (second > 0)] = 1
    same = sum(p.same_status and p.same_label for p in result.pairs)
    line = (
        f"{me} and {other}: Dice {result.dice:.3f}; {result.matched} of {len(result.pairs)} findings are of both, "
        f"{same} with the same class and verdict. Green is both, blue {me} alone, vermilion {other} alone."
    )
    return Comparison(line, overlap, (me, other))


def _read(path: Path, desk: Desk) -> NDArray[np.uint8]:
    """Return a mask on the grid of the case, 1 for its first class and so on."""
    if path.suffix.lower() in (".dcm", "") and desk.case.opened.dicom is not None:
        return _read_dicom(path, desk.case.opened.dicom, desk.review.classes)
    from inspection_core.io.raster import RASTER_SUFFIXES, read_raster
    from inspection_core.io.scans import read_scan

    picture = path.suffix.lower() in RASTER_SUFFIXES
    image = read_raster(path) if picture else read_scan(path)
    wanted = desk.case.image.geometry
    from inspection_core.inputs import SAME_GRID  # imports the readers, which take a second

    if image.geometry.shape != wanted.shape or (not picture and not image.geometry.is_close(wanted, SAME_GRID)):
        raise GeometryError(f"{path.name} lies on another grid than this image; give a mask of the same grid.")
    mask = np.asarray(image.array[0])
    if picture and mask.max() > len(desk.review.classes):  # white on black, as MVTec's are
        return (mask > 0).astype(np.uint8)
    return mask.astype(np.uint8)


def _read_dicom(path: Path, source: DicomImage, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return a DICOM SEG or RT Structure Set on the series.

    Segments count as the class that they are named after, as the suite's are, one a class or one a finding. Where none
    is, they count as the classes in their order.
    """
    from inspection_core.io.dicom_seg import read_seg
    from inspection_core.io.rtstruct import read_rtstruct

    try:
        drawn = read_seg(path, source)
    except ReadError:
        drawn = read_rtstruct(path, source)
    values = [_class_named(name, classes) for name in drawn.channels]
    order = range(1, len(values) + 1)
    values = [v or len(classes) + k for k, v in zip(order, values, strict=True)] if any(values) else list(order)
    mask = np.zeros(drawn.geometry.shape, np.uint8)
    for value, segment in zip(values, drawn.array, strict=True):
        mask[(segment > 0) & (mask == 0)] = min(value, 255)
    return mask


def _class_named(name: str, classes: Sequence[str]) -> int:
    """Return the class, 1 for the first, that a segment is named after, perhaps with a number behind; 0 for none."""
    plain = re.sub(r" \d+$", "", name)
    return next((k for k, label in enumerate(classes, start=1) if label in (name, plain)), 0)
