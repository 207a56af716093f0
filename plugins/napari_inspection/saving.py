"""Writing a reviewed result, and reading it back; runs off the main thread on a copy of what is reviewed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.errors import ReadError
from inspection_core.io.atomic import atomic_path
from inspection_core.prediction import Prediction
from inspection_core.review import Review
from napari_inspection.desk import Desk
from napari_inspection.layers import Case


@dataclass(frozen=True, eq=False)
class Save:
    """What to write, as it was when the user asked for it."""

    case: Case
    review: Review
    card: ModelCard
    mask: NDArray[np.uint8]
    folder: Path


def plan(desk: Desk, folder: Path) -> Save:
    """Take a copy of what is reviewed."""
    card = replace(ModelCard.load(desk.folder), classes=desk.review.classes or ("finding",))
    return Save(desk.case, desk.review, card, desk.review.mask, folder)


def formats_of(case: Case) -> tuple[str, ...]:
    """Return the formats that an image's results are written in: what its trade reads."""
    if case.opened.dicom is not None:
        return ("nifti", "dicom-seg", "dicom-sr")
    return ("nifti",) if case.image.ndim == 3 else ("png", "coco")


def save(job: Save) -> str:
    """Write mask, scores, findings, audit trail and the formats of the trade; return one line.

    Raises
    ------
    ReadError
        If a mask does not read back the same; nothing is claimed then.
    InspectionError
        If a format cannot be written.
    """
    from inspection_core.export import Job, write_results
    from inspection_core.findings import find_labelled
    from inspection_core.io.review_store import write_trail

    before = job.review.prediction
    mask, findings = find_labelled(job.mask, before.score, before.geometry, job.card.classes)
    prediction = replace(before, mask=mask, findings=findings)
    edited = not np.array_equal(mask, before.mask)
    folder = job.folder / _name(job.case)
    formats = formats_of(job.case)
    done = write_results(Job(folder, job.case.opened, prediction, job.card, formats, edited=edited))
    write_trail(folder / "audit_trail.csv", job.review)
    write_trail(folder / "audit_trail.json", job.review)
    checked = _check(folder, job, prediction)
    if "png" in formats:
        checked += _mvtec(job, prediction)
    notes = f" Note: {'; '.join(done.notes)}." if done.notes else ""
    return f"Saved in {folder.name}: {', '.join(checked)} read back the same.{notes}"


def _name(case: Case) -> str:
    if case.item is not None:
        return case.item.name
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in case.name) or "image"


def _check(folder: Path, job: Save, prediction: Prediction) -> list[str]:
    """Read back every mask that was written."""
    checked = []
    for name in ("mask.nii.gz", "mask.png", "seg.dcm"):
        path = folder / name
        if not path.is_file():
            continue
        there, wanted = _read(path, job), prediction.mask
        if name == "seg.dcm":
            there, wanted = there > 0, _on_slices(job, prediction) > 0
        if not np.array_equal(there, wanted):
            raise ReadError(f"{name} does not read back the same. Do not use it; please report this.")
        checked.append(name)
    return checked


def _read(path: Path, job: Save) -> NDArray[np.uint8]:
    if path.suffix == ".dcm":
        from inspection_core.io.dicom_seg import read_seg

        return read_seg(path, job.case.opened.dicom).array.max(axis=0)
    if path.suffix == ".png":
        from inspection_core.io.raster import read_raster

        return read_raster(path).array[0]
    from inspection_core.io.nifti import read_nifti

    return read_nifti(path).array[0].astype(np.uint8)


def _on_slices(job: Save, prediction: Prediction) -> NDArray[np.uint8]:
    """Return the mask as a SEG brings it back: through the slices taken, where those are no straight stack."""
    dicom = job.case.opened.dicom
    if dicom is None or not dicom.resampled:
        return prediction.mask
    return dicom.from_slices(dicom.to_slices(prediction.mask)).astype(np.uint8)


def _mvtec(job: Save, prediction: Prediction) -> list[str]:
    """Write a mask of 0 and 255 a class, laid out as MVTec's data sets are; return what was checked."""
    import PIL.Image

    checked = []
    stem = Path(_name(job.case)).stem
    for value, label in enumerate(job.card.classes, start=1):
        inside = prediction.mask == value
        if not inside.any():
            continue
        path = job.folder / "ground_truth" / label / f"{stem}_mask.png"
        with atomic_path(path) as temporary:
            PIL.Image.fromarray(inside.astype(np.uint8) * 255).save(temporary)
        if not np.array_equal(np.asarray(PIL.Image.open(path)) > 0, inside):
            raise ReadError(f"{path.name} does not read back the same. Do not use it; please report this.")
        checked.append(f"ground_truth/{label}")
    return checked
