"""The tumour path on a synthetic head, and on a real patient where the shared data are present."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image

from inspection_core.cases import find_cases, read_case
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import UsageError
from inspection_core.export import Job, write_results
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.inputs import Opened, list_inputs, open_input
from inspection_core.io.nifti import write_nifti
from inspection_core.io.results import finding_json
from inspection_core.phantom import LABEL, phantom
from inspection_core.prediction import Prediction
from inspection_core.reliability import FILE as DIAGRAM
from inspection_core.render import render_overlay, render_plain, save_picture, score_scale
from inspection_core.report import ReportData, ReportItem, write_report
from inspection_core.studies import for_channels
from inspection_core.threshold import cuts

MODEL = "tumour-lgg-mri"
MARK = "tumour-demo.txt"
"""Says that a folder comes from an earlier demo and may be replaced."""
SHOWN = "FLAIR"
"""Channel that is drawn: the lesion's borders were drawn on it."""
COLUMNS, ROWS, TILE = 4, 3, 240
"""Slices of a study in its picture, and the pixels of one."""
SHARED = Path("medical") / "lgg2d" / "test"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TumourDemo:
    """Outcome of the tumour path.

    Parameters
    ----------
    report
        The HTML report.
    outputs
        What was written.
    lines
        For the terminal.
    warnings
        On the inputs.
    """

    report: Path
    outputs: tuple[Path, ...]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def demo_scans(out: Path, *, device: str, say: Callable[[str], None], progress: Progress) -> TumourDemo:
    """Segment a synthetic head, and a real patient where there is one, and write a report.

    Parameters
    ----------
    out
        Folder; the part ``tumour`` of an earlier demo is replaced.
    device
        As for `inspection_core.engine.Engine`.
    say
        Shows a line to the user.
    progress
        Called with stage, number done and total.

    Raises
    ------
    UsageError
        If `out` holds a ``tumour`` that is something else.
    """
    folder = out / "tumour"
    if folder.exists():
        if not (folder / MARK).is_file():
            raise UsageError(f"{folder} is there already and not from a demo. Give another folder for --out.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("Made by inspection demo; the next demo replaces this folder.\n", encoding="utf-8")
    model = Engine(device).load(MODEL)
    say(f"Segmenting a {LABEL} ...")
    items: list[ReportItem] = []
    outputs: list[Path] = []
    lines: list[str] = []
    warnings: list[str] = []
    studies = [("phantom (synthetic)", _phantom(folder / "input"))]
    if real := _patient(model):
        studies.append(real)
    else:
        say("No real patient: INSPECTION_DATA names no folder with the shared brain MRI.")
    for k, (name, opened) in enumerate(studies):
        prediction = predict(opened.image, model)
        place = folder / ("phantom" if k == 0 else "patient")
        written = write_results(Job(place, opened, prediction, model.card, ("nifti", "png")))
        outputs += written.files
        items.append(_item(name, opened.image, prediction, place, score_scale(model.card)))
        n = len(prediction.findings)
        lines.append(f"{name}: {n} finding{'' if n == 1 else 's'}, confidence {prediction.image_score:.2f}: {place}")
        warnings += [f"{name}: {w}" for w in prediction.warnings]
        progress("segmenting", k + 1, len(studies))
    report = write_report(folder / "report.html", _report(model, items, len(studies) > 1))
    return TumourDemo(report, (*outputs, report), (*lines, f"report: {report}"), tuple(warnings))


def _phantom(folder: Path) -> Opened:
    """Write the phantom as a user's files, one a channel, and read it back like any other study."""
    folder.mkdir()
    made = phantom()
    for k, name in enumerate(made.image.channels):
        channel = Image(made.image.array[k : k + 1], made.image.geometry, (name,))
        write_nifti(folder / f"synthetic-phantom_{k:04d}.nii.gz", channel)
    truth = Image(made.lesion[None].astype(np.uint8), made.image.geometry, ("lesion",))
    write_nifti(folder.parent / "phantom-lesion-as-drawn.nii.gz", truth)
    (item,) = for_channels(list_inputs([folder]), made.image.channels).inputs
    opened = open_input(item, made.image.channels)
    return replace(opened, image=replace(opened.image, notes=(*opened.image.notes, LABEL)))


def _patient(model: LoadedModel) -> tuple[str, Opened] | None:
    """Return the first of the shared test patients, by name; no other choice is made."""
    root = os.environ.get("INSPECTION_DATA")
    folder = Path(root) / SHARED if root else None
    if folder is None or not folder.is_dir():
        return None
    case = find_cases(folder)[0]
    image, _ = read_case(case, model.card.channels)
    return f"patient {case.name} (real, TCGA-LGG)", Opened(image)


def _item(name: str, image: Image, prediction: Prediction, place: Path, scale: tuple[float, float]) -> ReportItem:
    k = image.channels.index(SHOWN) if SHOWN in image.channels else 0
    shown = Image(image.array[k : k + 1], image.geometry, (image.channels[k],))
    low, high = (float(v) for v in np.percentile(shown.array, (1, 99.8)))
    window = (low, max(high, low + 1))
    if shown.array.dtype == np.uint8:  # drawn as it is otherwise, which is dark for these
        shown = Image(shown.array.astype(np.float32), shown.geometry, shown.channels)
    planes = slices(prediction)
    plain = _montage([render_plain(shown, window, TILE, z) for z in planes])
    overlay = _montage([render_overlay(shown, prediction, window, scale, TILE, z) for z in planes])
    return ReportItem(
        path=name,
        score=prediction.image_score,
        verdict=prediction.verdict,
        seconds=round(sum(prediction.timings.values()), 2),
        findings=tuple(finding_json(f) for f in prediction.findings),
        picture=save_picture(place / "slices_overlay.webp", overlay),
        plain=save_picture(place / "slices.webp", plain),
        warnings=prediction.warnings,
    )


def slices(prediction: Prediction, count: int = COLUMNS * ROWS) -> list[int]:
    """Return up to `count` planes, evenly spaced over those with a finding and one on each side; else over all."""
    seen = np.flatnonzero(prediction.mask.any(axis=(1, 2)))
    depth = prediction.mask.shape[0]
    first, last = (max(0, seen[0] - 1), min(depth - 1, seen[-1] + 1)) if seen.size else (0, depth - 1)
    return sorted({int(z) for z in np.linspace(first, last, count).round()})


def _montage(tiles: list[PIL.Image.Image]) -> PIL.Image.Image:
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    columns = min(COLUMNS, len(tiles))
    sheet = PIL.Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * width, k // columns * height))
    return sheet


def _report(model: LoadedModel, items: list[ReportItem], real: bool) -> ReportData:
    card = model.card
    cut = cuts(card.policy, card.calibration)
    notes = [
        f"The phantom is a {LABEL}. It shows geometry, overlay and export; no figure of accuracy follows from it.",
        f"The overlay is drawn on {SHOWN}, on slices from below upwards, one slice beyond the findings at either end.",
    ]
    if real:
        notes.append(
            "The patient is the first of the shared test set by name, from TCGA-LGG, licence CC BY-NC-SA 4.0; the set "
            "publishes no spacing, so sizes are in voxels."
        )
    diagram = model.folder / DIAGRAM
    return ReportData(
        title="Brain MRI, lower-grade glioma",
        card=card,
        items=items,
        threshold=cut.ng,
        review_threshold=cut.review,
        reliability=diagram if diagram.is_file() else None,
        notes=tuple(notes),
        warnings=tuple(dict.fromkeys(cut.warnings)),
        command="inspection demo",
        scale=score_scale(card),
    )
