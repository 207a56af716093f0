"""Measure a model that segments against reference masks that it never saw.

Every case goes the ordinary way, through `inspection_core.infer.predict`, and nothing is tuned here. Cases come one at
a time, and what is kept of each is a row, its findings and counts of probabilities, so a data set of any size fits.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.cases import Case, find_cases, read_case
from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.infer import predict, without_doubtful
from inspection_core.io.atomic import atomic_path
from inspection_core.io.results import finding_json, finite_in, utf8
from inspection_core.lesions import RADIUS, LesionCounts, compare, near
from inspection_core.prediction import Finding, Prediction
from inspection_core.reliability import FILE, write_reliability
from inspection_core.render import peak_slice, render_overlay, render_plain, save_picture, score_scale
from inspection_core.report import ReportData, ReportItem, write_report
from inspection_core.segmentation_metrics import (
    VoxelReliability,
    bland_altman,
    bootstrap,
    dice,
    finding_calibration,
    froc,
    mean_and_median,
    mean_of,
    surface_figures,
)
from inspection_core.threshold import cuts

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[int, int], None]
TOLERANCE = 1.0
"""Of surface Dice, in the grid's unit: a millimetre, or a voxel where no spacing is known."""


@dataclass(eq=False)
class _Gathered:
    """What is kept of the cases."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    """As `rows`, in the order of the dataset, with those that could not be measured."""
    findings: list[tuple[str, Finding, bool]] = field(default_factory=list)
    confidence: list[list[float]] = field(default_factory=list)
    counts: list[LesionCounts] = field(default_factory=list)
    chances: list[LesionCounts] = field(default_factory=list)
    """As `counts`, of everything that got a confidence, what was dismissed for it too."""
    around: VoxelReliability = field(default_factory=VoxelReliability)
    whole: VoxelReliability = field(default_factory=VoxelReliability)
    units: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    items: list[ReportItem] = field(default_factory=list)
    device: str = ""


def evaluate(
    model: LoadedModel,
    dataset: Path,
    *,
    out: Path | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    command: str = "",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Return the figures of a model that segments on a dataset.

    Parameters
    ----------
    model
        From `inspection_core.engine.Engine.load`, with the task "segmentation".
    dataset
        In one of the layouts of `inspection_core.cases`.
    out
        Folder for ``evaluation.csv``, a row a case; ``findings.csv``; ``reliability.svg``; and ``report.html``.
    tolerance
        Of surface Dice, in the grid's unit.
    seed
        Of the bootstrap over patients.
    command
        Command line, for the report.
    progress
        Called with the number of cases done and their total.

    Returns
    -------
    dict
        ``dice_mean``, ``dice_median``, ``hd95_mean``, ``surface_dice``, ``lesion_recall``, ``lesion_precision``,
        ``lesion_dice``, ``ece_voxel`` (within `RADIUS` voxels of reference and prediction), ``ece_image``,
        ``ece_finding`` and the other figures of confidence, of dismissed findings too (``n_judged``), ``froc``,
        ``volumes``, the intervals of those that have one, ``unit`` of distances and ``size_unit`` of volumes,
        ``cases`` (a row each, with ``status``), ``seconds_per_case``, ``peak_memory_bytes``, ``n_failed``, ``errors``
        and ``warnings``. A figure that the data cannot give is None. A case that could not be measured has a row with
        ``error`` and counts in no figure but ``dice_mean_failed_as_zero``, which is there when one failed.

    Raises
    ------
    UsageError
        If the folder is no such dataset.
    ReadError
        If no case of it could be measured.
    """
    if model.card.task != "segmentation":
        raise UsageError(
            f"The model {model.card.id} does not segment; reference masks of studies are for those that do."
        )
    todo = find_cases(Path(dataset), lenient=True)
    kept = _Gathered()
    # Confidences are measured on all that got one: dismissing is for those who read, not for the figures.
    all_shown = replace(model, card=replace(model.card, policy=replace(model.card.policy, least=0.0)))
    errors: list[dict[str, str]] = []
    for done, case in enumerate(todo, start=1):
        try:
            _measure(case, all_shown, model.card, kept, out, tolerance)
        except (InspectionError, OSError) as error:
            text = utf8(str(error))
            errors.append({"path": utf8(str(case.images[0])), "type": type(error).__name__, "message": text})
            kept.items.append(ReportItem(utf8(case.name), "failed", error=text))
            kept.listed.append({"case": utf8(case.name), "status": "failed", "error": text})
        else:
            kept.listed.append(kept.rows[-1])
        progress(done, len(todo))
    if not kept.rows:
        raise ReadError(
            f"None of the {len(todo)} cases of {dataset} could be measured. The first: {errors[0]['message']}"
        )
    found = _figures(kept, model.card, seed) | {
        "dataset": str(dataset),
        "surface_tolerance": tolerance,
        "model": {"id": model.card.id, "version": model.card.version, "sha256": model.card.weights_sha256},
        "device": kept.device,
        "n_failed": len(errors),
        "peak_memory_bytes": peak_memory(),
        "errors": errors,
        "warnings": list(dict.fromkeys(kept.warnings)),
    }
    if errors:
        share = len(kept.rows) / len(todo)
        found["dice_mean_failed_as_zero"] = found["dice_mean"] * share
        found["warnings"].append(
            f"{len(errors)} of {len(todo)} cases could not be measured and count in no figure; with a Dice of 0 for "
            f"each the mean Dice would be {found['dice_mean'] * share:.3f}."
        )
    if out is not None:
        _write(out, found, kept, model, command)
    return dict(finite_in(found))


def _measure(
    case: Case, all_shown: LoadedModel, card: ModelCard, kept: _Gathered, out: Path | None, tolerance: float
) -> None:
    """Predict one case and keep what its figures need; `all_shown` is the model, with nothing dismissed."""
    image, reference = read_case(case, card.channels)
    reference = _classes(reference, card, case.name, kept.warnings)
    started = time.perf_counter()
    judged = predict(image, all_shown)
    prediction = without_doubtful(judged, card)
    seconds = time.perf_counter() - started
    chances = compare(judged.mask, reference, judged.findings, card.classes)
    counts = compare(prediction.mask, reference, prediction.findings, card.classes)
    row = _row(case.name, prediction, reference, card, counts, tolerance)
    truth = reference > 0
    where = near(truth | (prediction.mask > 0))
    item = _item(row, image, prediction, card, seconds, out)
    # From here on nothing can fail, so a case counts in all figures or in none.
    kept.around.add(prediction.score[where], truth[where])
    for plane, true in zip(prediction.score, truth, strict=True):
        kept.whole.add(plane.ravel(), true.ravel())
    kept.rows.append(row | {"seconds": round(seconds, 3)})
    kept.findings += [(case.name, f, bool(t)) for f, t in zip(judged.findings, chances.true, strict=True)]
    kept.confidence.append([f.confidence for f in judged.findings])
    kept.chances.append(chances)
    kept.counts.append(counts)
    kept.units.add(prediction.geometry.unit)
    kept.device = prediction.device
    kept.items.append(item)


def _classes(reference: NDArray[np.uint8], card: ModelCard, name: str, warnings: list[str]) -> NDArray[np.uint8]:
    highest = int(reference.max(initial=0))
    if highest <= len(card.classes):
        return reference
    if len(card.classes) == 1:
        warnings.append(f"the references have several classes, the model one: all of them count as {card.classes[0]}.")
        return (reference > 0).astype(np.uint8)
    raise ReadError(f"{name}: its mask holds class {highest}, and the model has the {len(card.classes)} classes "
                    f"{', '.join(card.classes)}.")  # fmt: skip


def _row(name: str, prediction: Prediction, reference: NDArray[np.uint8], card: ModelCard, counts: LesionCounts,
         tolerance: float) -> dict[str, Any]:  # fmt: skip
    overlap, far, near_by = [], [], []
    for k in range(1, len(card.classes) + 1):
        pair = prediction.mask == k, reference == k
        overlap.append(dice(*pair))
        hd95, surface = surface_figures(*pair, prediction.geometry.spacing, tolerance)
        far.append(hd95)
        near_by.append(surface)
    voxel = prediction.geometry.voxel_size
    return {
        "case": utf8(name),
        "status": "done",
        "dice": float(np.mean(overlap)),
        **({f"dice_{c}": d for c, d in zip(card.classes, overlap, strict=True)} if len(card.classes) > 1 else {}),
        "hd95": mean_of(far)[0],
        "surface_dice": float(np.mean(near_by)),
        "unit": prediction.geometry.unit,
        "reference_volume": float((reference > 0).sum() * voxel),
        "predicted_volume": float((prediction.mask > 0).sum() * voxel),
        "n_lesions": int(counts.found.size),
        "n_found": int(counts.found.sum()),
        "n_findings": len(prediction.findings),
        "n_true": int(counts.true.sum()),
        "lesion_dice": mean_of(counts.dice.tolist())[0],
        "score": prediction.image_score,
        "verdict": prediction.verdict,
        "unlike": any(w.startswith("unlike") for w in prediction.warnings),
    }


def _figures(kept: _Gathered, card: ModelCard, seed: int) -> dict[str, Any]:
    rows = kept.rows
    mean, mean_span, median, median_span = mean_and_median([r["dice"] for r in rows], seed)
    far, defined = mean_of([r["hd95"] for r in rows])
    lesions, found = (np.array([r[k] for r in rows], dtype=float) for k in ("n_lesions", "n_found"))
    findings, true = (np.array([r[k] for r in rows], dtype=float) for k in ("n_findings", "n_true"))
    worth = finding_calibration(kept.confidence, [c.true for c in kept.chances], seed)
    lesion_dice = np.concatenate([c.dice for c in kept.counts])
    false = [f.confidence for _, f, hit in kept.findings if not hit]
    curve = froc(np.concatenate([c.reach for c in kept.chances]), false, len(rows))
    unit = kept.units.pop() if len(kept.units) == 1 else "mixed"
    kept.units.add(unit)
    if unit == "px":
        kept.warnings.append("no spacing is known: distances and volumes are in voxels.")
    if unit == "mixed":
        kept.warnings.append("some cases are in mm and some in voxels: distances and volumes are not comparable.")
    if undefined := len(rows) - defined:
        kept.warnings.append(
            f"HD95 is not defined for {undefined} cases in which one mask is empty; its mean leaves them out."
        )
    volumes = bland_altman([r["predicted_volume"] for r in rows], [r["reference_volume"] for r in rows])
    several = len(card.classes) > 1
    return {
        "dice_mean": mean,
        "dice_mean_interval": _span(mean_span),
        "dice_median": median,
        "dice_median_interval": _span(median_span),
        **(
            {"dice_by_class": {c: float(np.mean([r[f"dice_{c}"] for r in rows])) for c in card.classes}}
            if several
            else {}
        ),
        "hd95_mean": far,
        "hd95_median": float(np.median([r["hd95"] for r in rows if r["hd95"] is not None])) if defined else None,
        "hd95_defined": defined,
        "surface_dice": float(np.mean([r["surface_dice"] for r in rows])),
        "unit": unit,
        "lesion_recall": _ratio(found, lesions),
        "lesion_recall_interval": _ratio_span(found, lesions, seed),
        "lesion_precision": _ratio(true, findings),
        "lesion_precision_interval": _ratio_span(true, findings, seed),
        "lesion_dice": float(lesion_dice.mean()) if lesion_dice.size else None,
        "ece_voxel": kept.around.error(),
        "ece_voxel_radius": RADIUS,
        "ece_image": kept.whole.error(),
        "ece_finding": worth.ece,
        "finding_brier": worth.brier,
        "finding_base_brier": worth.base_brier,
        "finding_in_the_large": worth.in_the_large,
        "finding_in_the_large_interval": _span(worth.in_the_large_interval),
        "findings_calibrated": all(f.calibrated for _, f, _ in kept.findings) if kept.findings else None,
        "n_findings": int(findings.sum()),
        "n_true_findings": int(true.sum()),
        "n_judged": worth.n,
        "n_true_judged": worth.n_true,
        "n_lesions": int(lesions.sum()),
        "froc": asdict(curve),
        "volumes": None if volumes is None else asdict(volumes),
        "size_unit": {"mm": "mm3", "px": "vox"}.get(unit, unit),
        "reliability": {
            "voxels": [asdict(b) for b in kept.around.table()],
            "image": [asdict(b) for b in kept.whole.table()],
            "findings": [asdict(b) for b in worth.table],
        },
        "n_cases": len(rows),
        "n_empty": int((lesions == 0).sum()),
        "n_unlike": sum(r["unlike"] for r in rows),
        "seconds_per_case": float(np.mean([r["seconds"] for r in rows])),
        "cases": kept.listed,
    }


def _span(interval: Any) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> float | None:
    return float(part.sum() / whole.sum()) if whole.sum() else None


def _ratio_span(part: NDArray[Any], whole: NDArray[Any], seed: int) -> dict[str, float] | None:
    if not whole.sum():
        return None
    return _span(
        bootstrap(len(part), lambda d: np.asarray(part[d].sum(axis=1) / np.maximum(whole[d].sum(axis=1), 1)), seed)
    )


def peak_memory() -> int | None:
    """Return the most memory that this process ever held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


# What is written ----------------------------------------------------------------------------------------------------


def _item(row: Mapping[str, Any], image: Image, prediction: Prediction, card: ModelCard, seconds: float,
          out: Path | None) -> ReportItem:  # fmt: skip
    picture = plain = None
    if out is not None:
        window, z = _window(image, card), peak_slice(prediction)
        folder = out / "report_images"
        folder.mkdir(parents=True, exist_ok=True)
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in row["case"])
        overlay = render_overlay(image, prediction, window, score_scale(card), z=z)
        picture = save_picture(folder / f"{stem}_overlay.webp", overlay)
        plain = save_picture(folder / f"{stem}.webp", render_plain(image, window, z=z))
    return ReportItem(
        path=row["case"],
        score=row["score"],
        verdict=row["verdict"],
        seconds=seconds,
        findings=tuple(finding_json(f) for f in prediction.findings),
        warnings=prediction.warnings,
        picture=picture,
        plain=plain,
    )


def _window(image: Image, card: ModelCard) -> tuple[float, float]:
    """Return raw intensities of black and white."""
    if card.preparation.normalise == "window":
        return card.preparation.window
    values = np.nan_to_num(image.array[0][:: max(1, len(image.array[0]) // 16)])
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    return low, high if high > low else low + 1


def _write(out: Path, found: Mapping[str, Any], kept: _Gathered, model: LoadedModel, command: str) -> None:
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    keys = ("id", "label", "size", "size_unit", "long_axis", "short_axis", "peak", "mean", "spread", "confidence",
            "calibrated")  # fmt: skip
    findings = [
        {"case": utf8(name)}
        | {k: getattr(f, k) for k in keys}
        | {"true": t, "kept": f.confidence >= model.card.policy.least or not f.calibrated}
        for name, f, t in kept.findings
    ]
    for name, rows in (("evaluation.csv", kept.listed), ("findings.csv", findings)):
        columns = None if rows else ["case", *keys, "true", "kept"]
        with atomic_path(out / name) as temporary:
            pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    worth = finding_calibration(kept.confidence, [c.true for c in kept.chances])
    name = Path(str(found["dataset"])).resolve().name
    note = f"{model.card.id} {model.card.version} on {found['n_cases']} cases of {name}."
    panels = [(f"Voxels within {RADIUS} of the tumour", kept.around.table()), ("Findings", worth.table)]
    diagram = write_reliability(out / FILE, panels, note)
    cut = cuts(model.card.policy, model.card.calibration)
    lists = ("cases", "reliability", "froc", "errors", "warnings", "model", "dataset")
    write_report(
        out / "report.html",
        ReportData(
            title=f"{model.card.id} on {name}",
            card=model.card,
            items=kept.items,
            threshold=cut.ng,
            review_threshold=cut.review,
            metrics={k: v for k, v in found.items() if k not in lists} | {"FROC": found["froc"]["score"]},
            notes=("Measured against reference masks; nothing was tuned on these cases.",),
            warnings=tuple(found["warnings"]),
            command=command,
            scale=score_scale(model.card),
            reliability=diagram,
        ),
    )


def table(figures: Mapping[str, Any]) -> Table:
    """Return the main figures as a table for a terminal."""
    from rich.table import Table

    shown = Table("figure", "value", "95 % interval", title=f"{figures['model']['id']} on {figures['dataset']}")
    unit = {"mm": "mm", "px": "voxels"}.get(figures["unit"], figures["unit"])
    worth = "" if figures["findings_calibrated"] else ", uncalibrated"
    lines = (
        ("Dice, mean", "dice_mean"),
        ("Dice, median", "dice_median"),
        (f"HD95, mean ({unit})", "hd95_mean"),
        (f"surface Dice at {figures['surface_tolerance']:g} {unit}", "surface_dice"),
        ("lesions found", "lesion_recall"),
        ("findings that are true", "lesion_precision"),
        ("Dice by lesion", "lesion_dice"),
        ("calibration error, voxels near tumour", "ece_voxel"),
        ("calibration error, whole image", "ece_image"),
        (f"calibration error, findings{worth}", "ece_finding"),
        ("Brier, findings", "finding_brier"),
        ("Brier of the base rate", "finding_base_brier"),
        ("confidence minus share of true", "finding_in_the_large"),
    )
    for label, key in lines:
        value, span = figures[key], figures.get(f"{key}_interval")
        text = "not defined" if value is None or not math.isfinite(value) else f"{value:.3f}"
        shown.add_row(label, text, "" if span is None else f"{span['low']:.3f} to {span['high']:.3f}")
    if figures["n_failed"]:
        shown.add_row("Dice, mean, failed cases as 0", f"{figures['dice_mean_failed_as_zero']:.3f}", "")
        shown.add_row("cases that failed, in no other figure", f"{figures['n_failed']}", "")
    shown.add_row("cases, without a lesion", f"{figures['n_cases']}, {figures['n_empty']}", "")
    shown.add_row("unlike the training data", f"{figures['n_unlike']}", "")
    shown.add_row("seconds a case", f"{figures['seconds_per_case']:.2f}", "")
    if figures["peak_memory_bytes"] is not None:
        shown.add_row("peak memory", f"{figures['peak_memory_bytes'] / 2**20:,.0f} MiB", "")
    return shown
