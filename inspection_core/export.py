"""Predictions as files: what every input gets, and the further formats that a user may ask for.

Each format stands in one table with what it fits and what writes it. A new one is a function and a line there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inspection_core.card import ModelCard
from inspection_core.errors import UsageError
from inspection_core.image import Image
from inspection_core.inputs import Input, Opened
from inspection_core.io.atomic import write_text
from inspection_core.io.results import dump, findings_json, write_prediction
from inspection_core.prediction import Prediction
from inspection_core.render import render_overlay, save_picture, score_scale

if TYPE_CHECKING:  # highdicom is imported only where a DICOM result is written
    from inspection_core.io.dicom import DicomImage
    from inspection_core.io.dicom_regions import By, Region
    from inspection_core.io.dicom_seg import Kind

MANY_FINDINGS = 250
"""More than this, and regions of DICOM results are one a class unless asked otherwise: viewers list every one."""


FINDINGS_ONLY = ("dicom-seg", "dicom-sr", "rtstruct")
"""Formats that are not written where nothing was found."""


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
    segments
        What a region of a DICOM result is, ``"finding"`` or ``"class"``; None for the first unless they are too many.
    kind
        Of the SEG.
    edited
        Whether a person changed the mask: DICOM results then say SEMIAUTOMATIC.
    """

    folder: Path
    opened: Opened
    prediction: Prediction
    card: ModelCard
    formats: tuple[str, ...]
    segments: By | None = None
    kind: Kind = "BINARY"
    edited: bool = False


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
        notes += [note for note in done.notes if note not in notes]
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
    from inspection_core.io.nifti import write_nifti

    written = []
    header = frame_of(job.opened.header)
    for name, array in (("mask", job.prediction.mask), ("score", job.prediction.score)):
        path = job.folder / f"{name}.nii.gz"
        kind = np.uint8 if name == "mask" else np.float32
        image = Image(array[None], job.prediction.geometry, (name,))
        write_nifti(path, image, header=header, dtype=kind)
        written.append(path)
    return written


def frame_of(header: Any) -> Any:
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
    picture = render_overlay(job.opened.image, job.prediction, display_window(job), score_scale(job.card))
    return Written((save_picture(job.folder / "overlay.png", picture),))


def display_window(job: Job) -> tuple[float, float]:
    """Return raw intensities of black and white: the file's own, the model's, or those of the picture."""
    # Of a study, the DICOM image is the channel whose grid is used, and what is drawn is the first.
    if job.opened.dicom is not None and job.opened.dicom.windows and job.opened.dicom.image is job.opened.image:
        centre, width = job.opened.dicom.windows[0]
        if width > 0:
            return centre - width / 2, centre + width / 2
    if job.card.preparation.normalise == "window":
        return job.card.preparation.window
    values = np.nan_to_num(job.opened.image.array[0, :: max(1, len(job.opened.image.array[0]) // 16)])
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    return low, high if high > low else low + 1


def _source(job: Job) -> DicomImage:
    if job.opened.dicom is None:
        raise UsageError("DICOM results refer to a DICOM series. Got another source.")
    return job.opened.dicom


def _regions(job: Job) -> tuple[By, tuple[str, ...]]:
    """Return what a region is, and what to say of it: as asked, or each finding where they are not too many."""
    if job.segments is not None:
        return job.segments, ()
    count = len(job.prediction.findings)
    if count <= MANY_FINDINGS:
        return "finding", ()
    return "class", (f"{count} findings: regions in DICOM are one a class (--segments finding makes them one each)",)


def _nothing(job: Job) -> Written:
    """Say once for all formats that hold findings alone that there is none."""
    asked = [name for name in job.formats if name in FINDINGS_ONLY]
    return Written((), (f"no finding, so there is nothing to write as {' and '.join(asked)}",))


def _seg(job: Job) -> Written:
    """Write the SEG; and the SR that refers to it, where both are asked for."""
    from inspection_core.io.dicom_seg import write_seg

    if not job.prediction.findings:
        return _nothing(job)
    by, notes = _regions(job)
    path = job.folder / "seg.dcm"
    classes, site = job.card.classes, job.card.site
    regions = write_seg(
        path, _source(job), job.prediction, by=by, kind=job.kind, edited=job.edited, classes=classes, site=site
    )
    done = Written((path,), notes)
    if "dicom-sr" not in job.formats:
        return done
    report = _report(job, path, regions) if by == "finding" else _report(job)
    return Written((*done.files, *report.files), (*done.notes, *report.notes))


def _sr(job: Job) -> Written:
    """Write the SR; where a SEG is asked for too, the SEG's turn has written both."""
    return Written() if "dicom-seg" in job.formats and job.prediction.findings else _report(job)


def _report(job: Job, seg: Path | None = None, regions: Sequence[Region] | None = None) -> Written:
    """Write the SR on a SEG's segments; without a SEG of findings, on contours."""
    from inspection_core.io.dicom_sr import write_sr

    count = len(job.prediction.findings)
    if not count:
        return _nothing(job)
    if count > MANY_FINDINGS:
        return Written((), (f"{count} findings are too many for a structured report: sr.dcm is not written",))
    path = job.folder / "sr.dcm"
    classes, site = job.card.classes, job.card.site
    write_sr(path, _source(job), job.prediction, seg, regions, edited=job.edited, classes=classes, site=site)
    return Written((path,))


def _rtstruct(job: Job) -> Written:
    from inspection_core.io.rtstruct import write_rtstruct

    if not job.prediction.findings:
        return _nothing(job)
    by, notes = _regions(job)
    path = job.folder / "rtstruct.dcm"
    write_rtstruct(path, _source(job), job.prediction, by=by, edited=job.edited, classes=job.card.classes)
    return Written((path,), notes)


def _capture(job: Job) -> Written:
    """Write a picture a slice; also without a finding, which the pictures then say."""
    from inspection_core.io.secondary_capture import write_secondary_capture

    by, notes = _regions(job)
    folder = job.folder / "secondary-capture"
    write_secondary_capture(folder, _source(job), job.prediction, by=by, edited=job.edited, classes=job.card.classes)
    return Written(tuple(sorted(folder.glob("sc_*.dcm"))), notes)


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
    if not volume.file.frame_of_reference:
        return "it refers to a place in the patient, and this series names no frame of reference; nifti fits it"
    return _fits_frames(item)


def _fits_frames(item: Input) -> str:
    volume = item.volume
    if volume is None:
        return "it shows the slices of a DICOM series, and this is none"
    if volume.first.file.rows != volume.first.rows or any(f.corner != (0, 0) for f in volume.frames[0]):
        return "a mosaic has no frame to refer to; nifti fits it"
    return ""


FORMATS: Mapping[str, Format] = {
    "nifti": Format(_always, _fits_volumes),
    "png": Format(_overlay, _fits_all),
    "coco": Format(_always, _fits_flat),
    "dicom-seg": Format(_seg, _fits_series),
    "dicom-sr": Format(_sr, _fits_series),
    "rtstruct": Format(_rtstruct, _fits_series),
    "secondary-capture": Format(_capture, _fits_frames),
}
"""Format -> what writes it and which inputs it fits."""
