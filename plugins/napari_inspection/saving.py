"""Writing a reviewed result, and reading it back; runs off the main thread on a copy of what is reviewed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.errors import ReadError, UsageError
from inspection_core.io.atomic import atomic_path
from inspection_core.prediction import Prediction
from inspection_core.review import Review
from napari_inspection.desk import Desk
from napari_inspection.layers import Case
from napari_inspection.worker import explain

FINDINGS_ONLY = ("seg.dcm", "sr.dcm")
"""Files that hold findings and are not written where there is none."""
LAST = "findings.json"
"""Where it is, the rest is."""


@dataclass(frozen=True, eq=False)
class Save:
    """What to write, as it was when the user asked for it."""

    case: Case
    review: Review
    card: ModelCard
    mask: NDArray[np.uint8]
    entries: int
    """Of the audit trail: the review may go on."""
    folder: Path
    again: bool
    """Whether this case was saved there before: what lies there of it is ours then."""


def plan(desk: Desk, folder: Path) -> Save:
    """Take a copy of what is reviewed."""
    card = replace(ModelCard.load(desk.folder), classes=desk.review.classes or ("finding",))
    again = (folder / _name(desk.case) / "audit_trail.json").is_file()
    return Save(desk.case, desk.review, card, desk.review.mask, len(desk.review.log), folder, again)


def formats_of(case: Case) -> tuple[str, ...]:
    """Return the formats that an image's results are written in: what its trade reads."""
    if case.opened.dicom is not None:
        return ("nifti", "dicom-seg", "dicom-sr")
    return ("nifti",) if case.image.ndim == 3 else ("png", "coco")


def save(job: Save) -> str:
    """Write mask, scores, findings, audit trail and the formats of the trade; return one line.

    All of it is written and read back beside its place first, and moved there once it is whole: where anything fails,
    an earlier save stands as it was, and nothing of this one is left.

    Raises
    ------
    ReadError
        If a mask does not read back the same.
    UsageError
        If the folder cannot be written to, or has no room.
    InspectionError
        If a format cannot be written.
    """
    staging = job.folder / f".{secrets.token_hex(6)}.tmp"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        checked, notes = _write(job, staging)
        places = _move(staging, job.folder)
        if job.again:
            _forget_older(job, places)
    except OSError as error:
        if error.filename and Path(error.filename).is_relative_to(staging):  # the user knows its place, not this one
            error.filename = str(job.folder / Path(error.filename).relative_to(staging))
        raise UsageError(f"Nothing was saved. {explain(error)}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    said = f" Note: {'; '.join(notes)}." if notes else ""
    return f"Saved in {_name(job.case)}: {', '.join(checked)} read back the same.{said}"


def _write(job: Save, into: Path) -> tuple[list[str], tuple[str, ...]]:
    """Write everything below a folder, and read it back; return what was checked, and what the user should know."""
    from inspection_core.export import Job, write_results
    from inspection_core.findings import find_labelled
    from inspection_core.io.review_store import write_trail

    before = job.review.prediction
    mask, findings = find_labelled(job.mask, before.score, before.geometry, job.card.classes)
    prediction = replace(before, mask=mask, findings=findings)
    edited = not np.array_equal(mask, before.mask)
    folder = into / _name(job.case)
    formats = formats_of(job.case)
    done = write_results(Job(folder, job.case.opened, prediction, job.card, formats, edited=edited))
    for suffix in ("csv", "json"):
        write_trail(folder / f"audit_trail.{suffix}", job.review, job.entries)
    checked = _check(folder, job, prediction)
    if "png" in formats:
        checked += _mvtec(job, prediction, into)
    return checked, done.notes


def _move(staging: Path, folder: Path) -> list[Path]:
    """Move every file below one folder to its place below another, or none where a place cannot be had."""
    files = sorted((path for path in staging.rglob("*") if path.is_file()), key=lambda p: (p.name == LAST, p))
    places = [folder / path.relative_to(staging) for path in files]
    made: list[Path] = []
    try:
        for place in places:
            made += [p for p in (place.parent, *place.parent.parents) if not p.exists() and p not in made]
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
    except OSError:
        for empty in sorted(made, reverse=True):
            with suppress(OSError):
                empty.rmdir()
        raise
    for path, place in zip(files, places, strict=True):
        path.replace(place)
    return places


def _forget_older(job: Save, places: list[Path]) -> None:
    """Take away what an earlier save of this case has and this one has no more: a class whose last finding went."""
    older = [job.folder / _name(job.case) / name for name in FINDINGS_ONLY]
    if "png" in formats_of(job.case):
        older += [_mvtec_path(job, label, job.folder) for label in job.card.classes]
    for path in older:
        if path not in places:
            path.unlink(missing_ok=True)


def _name(case: Case) -> str:
    if case.item is not None:
        return case.item.name
    return _plain(case.name).replace(" ", "_")


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
            raise ReadError(f"{name} does not read back the same, so nothing was saved; please report this.")
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


def _mvtec(job: Save, prediction: Prediction, into: Path) -> list[str]:
    """Write a mask of 0 and 255 a class, laid out as MVTec's data sets are; return what was checked."""
    import PIL.Image

    checked = []
    for value, label in enumerate(job.card.classes, start=1):
        inside = prediction.mask == value
        if not inside.any():
            continue
        path = _mvtec_path(job, label, into)
        with atomic_path(path) as temporary:
            PIL.Image.fromarray(inside.astype(np.uint8) * 255).save(temporary)
        if not np.array_equal(np.asarray(PIL.Image.open(path)) > 0, inside):
            raise ReadError(f"{path.name} does not read back the same, so nothing was saved; please report this.")
        checked.append(f"ground_truth/{_plain(label)}")
    return checked


def _mvtec_path(job: Save, label: str, folder: Path) -> Path:
    name, item = _name(job.case), job.case.item
    stem = name.removesuffix(item.files[0].suffix) if item is not None and item.files else name
    return folder / "ground_truth" / _plain(label) / f"{stem}_mask.png"


def _plain(name: str) -> str:
    """Return a name that is one file's or folder's, whatever was typed."""
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ") or "image"
