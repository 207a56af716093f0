"""Predictions as files: what every input gets, and the further formats that a user may ask for.

Each format stands in one table with what it fits and what writes it. A new one is a function and a line there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inspection_core.card import ModelCard
from inspection_core.errors import UsageError
from inspection_core.image import Image
from inspection_core.inputs import Input, Opened
from inspection_core.io.atomic import write_text
from inspection_core.io.nifti import write_nifti
from inspection_core.io.results import dump, findings_json, write_prediction
from inspection_core.prediction import Prediction
from inspection_core.render import render_overlay, save_picture, score_scale

MANY_FINDINGS = 250
"""More than this, and a SEG gets one segment a class: viewers list every segment."""


@dataclass(frozen=True, eq=False)
class Job:
    """One prediction to write.

    Parameters
    ----------
    folder
        Of its results.
    opened
        What was read.
    prediction
        What was found.
    card
        Of the model.
    formats
        All formats asked for.
    """

    folder: Path
    opened: Opened
    prediction: Prediction
    card: ModelCard
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """Files that a format gave, and what a user should know about them."""

    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """How a prediction is written.

    Parameters
    ----------
    write
        Writes it.
    misfit
        Says why an input has no such file, or "" where it has; from the header alone.
    """

    write: Callable[[Job], Written]
    misfit: Callable[[Input], str]


def check_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of formats without repetition, or say which is unknown.

    Raises
    ------
    UsageError
        If one is none of `FORMATS`.
    """
    if unknown := sorted(set(names) - set(FORMATS)):
        raise UsageError(f"Formats are {', '.join(FORMATS)}. Got {', '.join(unknown)}.")
    return tuple(dict.fromkeys(names))


def check_fit(formats: Sequence[str], inputs: Sequence[Input]) -> None:
    """Refuse a format that does not fit an input, before any work is done.

    Raises
    ------
    UsageError
        Naming the first such input.
    """
    for name in formats:
        for item in inputs:
            if reason := FORMATS[name].misfit(item):
                raise UsageError(f"--format {name} does not fit {item.label}: {reason}.")


def write_results(job: Job) -> Written:
    """Write a prediction: mask and scores on the source's own grid, findings, and the formats asked for.

    2-D inputs get ``mask.png`` and ``score.tiff``, scans ``mask.nii.gz`` and ``score.nii.gz``. ``findings.json`` is
    written last: where it is, the rest is.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    notes: list[str] = []
    flat = job.prediction.geometry.ndim == 2
    if not flat:
        files += _volumes(job)
    for name in job.formats:
        done = FORMATS[name].write(job)
        files += done.files
        notes += done.notes
    prediction = replace(job.prediction, warnings=(*job.prediction.warnings, *notes))
    if flat:
        two = [name for name in job.formats if name in ("png", "coco")]
        return Written((*files, *write_prediction(job.folder, prediction, two)), tuple(notes))
    findings = job.folder / "findings.json"
    write_text(findings, dump(findings_json(prediction)))
    return Written((*files, findings), tuple(notes))


# What is written ----------------------------------------------------------------------------------------------------


def _volumes(job: Job) -> list[Path]:
    """Write mask and scores as NIfTI in the source's frame."""
    written = []
    header = _frame(job.opened.header)
    for name, array in (("mask", job.prediction.mask), ("score", job.prediction.score)):
        path = job.folder / f"{name}.nii.gz"
        kind = np.uint8 if name == "mask" else np.float32
        image = Image(array[None], job.prediction.geometry, (name,))
        write_nifti(path, image, header=header, dtype=kind)
        written.append(path)
    return written


def _frame(header: Any) -> Any:
    """Return a NIfTI header with its forms, codes and unit, but without what tells of the source's values or origin."""
    if header is None:
        return None
    kept = header.copy()
    kept.extensions.clear()  # may hold a whole DICOM header
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if name in kept.keys():  # noqa: SIM118 - a header is no mapping; NIfTI-2 lacks some
            kept[name] = b""
    for name in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3", "toffset"):
        kept[name] = 0
    return kept


def _always(_: Job) -> Written:
    return Written()  # written for every input that it fits


def _overlay(job: Job) -> Written:
    """Draw the slice where the score peaks; a 2-D input's PNG is its mask."""
    if job.prediction.geometry.ndim == 2:
        return Written()
    picture = render_overlay(job.opened.image, job.prediction, _window(job), score_scale(job.card))
    return Written((save_picture(job.folder / "overlay.png", picture),))


def _window(job: Job) -> tuple[float, float]:
    """Return raw intensities of black and white: the file's own, the model's, or those of the picture."""
    if job.opened.dicom is not None and job.opened.dicom.windows:
        centre, width = job.opened.dicom.windows[0]
        if width > 0:
            return centre - width / 2, centre + width / 2
    if job.card.preparation.normalise == "window":
        return job.card.preparation.window
    values = np.nan_to_num(job.opened.image.array[0, :: max(1, len(job.opened.image.array[0]) // 16)])
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    return low, high if high > low else low + 1


def _seg(job: Job) -> Written:
    from inspection_core.io.dicom_regions import By
    from inspection_core.io.dicom_seg import write_seg
    from inspection_core.io.dicom_sr import write_sr

    dicom, found = job.opened.dicom, job.prediction.findings
    if dicom is None:
        raise UsageError("A DICOM SEG refers to a DICOM series. Got another source.")
    if not found:
        asked = [n for n in ("dicom-seg", "dicom-sr") if n in job.formats]
        return Written((), (f"no finding, so there is nothing to write as {' and '.join(asked)}",))
    by: By = "finding" if len(found) <= MANY_FINDINGS else "class"
    notes: tuple[str, ...] = () if by == "finding" else (f"{len(found)} findings: the SEG holds one segment a class",)
    seg = job.folder / "seg.dcm"
    regions = write_seg(seg, dicom, job.prediction, by=by, classes=job.card.classes, site=job.card.site)
    files = [seg]
    if "dicom-sr" in job.formats:
        if by == "class":
            notes += ("too many findings for a structured report: sr.dcm is not written",)
        else:
            write_sr(job.folder / "sr.dcm", dicom, job.prediction, seg, regions, site=job.card.site)
            files.append(job.folder / "sr.dcm")
    return Written(tuple(files), notes)


def _sr(job: Job) -> Written:
    """Write SEG and SR; the report refers to the SEG, so where both are asked for the SEG's turn writes both."""
    return Written() if "dicom-seg" in job.formats else _seg(job)


# What fits ----------------------------------------------------------------------------------------------------------


def _is_flat(item: Input) -> bool:
    return item.kind == "picture" or (item.volume is not None and item.volume.layout != "volume")


def _fits_all(_: Input) -> str:
    return ""


def _fits_flat(item: Input) -> str:
    return "" if _is_flat(item) else "it is for 2-D images"


def _fits_volumes(item: Input) -> str:
    return "it is for scans with slices" if _is_flat(item) else ""


def _fits_series(item: Input) -> str:
    volume = item.volume
    if volume is None:
        return (
            "it refers to a DICOM series, and this is none; nifti fits it"
            if not _is_flat(item)
            else ("it refers to a DICOM series, and this is a picture")
        )
    if volume.layout != "volume":
        return "it refers to slices with positions, and this series has none"
    if volume.first.file.rows != volume.first.rows or any(f.corner != (0, 0) for f in volume.frames[0]):
        return "a mosaic has no frame to refer to; nifti fits it"
    return ""


FORMATS: Mapping[str, Format] = {
    "nifti": Format(_always, _fits_volumes),
    "png": Format(_overlay, _fits_all),
    "coco": Format(_always, _fits_flat),
    "dicom-seg": Format(_seg, _fits_series),
    "dicom-sr": Format(_sr, _fits_series),
}
"""Format -> what writes it and which inputs it fits."""
