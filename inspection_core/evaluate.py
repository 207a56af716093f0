"""Measure a model against ground truth that it never saw.

An anomaly model is measured on an MVTec-style folder: ``test/good`` and ``test/DEFECT`` with masks in
``ground_truth/DEFECT/NAME_mask.png``. Nothing is tuned here: the threshold is the model's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.cases import mask_named
from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, ReadError, UsageError
from inspection_core.infer import predict
from inspection_core.io.atomic import atomic_path
from inspection_core.io.raster import list_images, read_raster
from inspection_core.io.results import finite, utf8
from inspection_core.io.stream import image_or_error, read_ahead
from inspection_core.metrics import PixelScores, clopper_pearson, image_metrics

if TYPE_CHECKING:
    from rich.table import Table

GOOD = "good"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One test image.

    Parameters
    ----------
    path
        The image.
    kind
        Name of its folder: ``"good"`` or a kind of defect.
    mask
        Its ground truth, or None for good images and where there is none.
    """

    path: Path
    kind: str
    mask: Path | None


def cases(dataset: Path) -> list[Case]:
    """List the test images of an MVTec-style folder.

    Raises
    ------
    UsageError
        If there is no ``test`` folder with images in folders by kind.
    """
    test = dataset / "test"
    if not test.is_dir():
        raise UsageError(
            f"{dataset} has no folder test. Expected test/good, test/DEFECT and ground_truth/DEFECT/NAME_mask.png."
        )
    found = []
    for path in list_images(test):
        relative = path.relative_to(test)
        if len(relative.parts) < 2:
            raise UsageError(f"{path} lies in no folder by kind. Move it to test/good or test/DEFECT.")
        kind = relative.parts[0]
        mask = None if kind == GOOD else mask_named(dataset / "ground_truth" / relative.parent, path.stem)
        found.append(Case(path, kind, mask))
    if not found:
        raise UsageError(f"{test} holds no PNG, JPEG, TIFF, BMP or WebP image.")
    return found


def read_mask(path: Path, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Read a ground-truth mask: True where any channel is above 0.

    Raises
    ------
    ReadError
        If its size is not that of its image.
    """
    mask = read_raster(path).array.max(axis=0) > 0
    if mask.shape != tuple(shape):
        raise ReadError(f"{path}: a mask has the size of its image, {tuple(shape)}. Got {mask.shape}.")
    return np.asarray(mask)


def evaluate(
    model: LoadedModel,
    dataset: Path,
    *,
    out: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Return the figures of a model on a dataset.

    Parameters
    ----------
    model
        From `inspection_core.engine.Engine.load`.
    dataset
        MVTec-style folder.
    out
        Folder for ``evaluation.csv``, a row an image.
    progress
        Called with the number of images done and their total.

    Returns
    -------
    dict
        ``image_auroc``, ``average_precision``, ``f1``, ``precision``, ``recall``, ``accuracy``, ``false_alarm_rate``
        and the confusion matrix at the model's own threshold (NG is the positive verdict), ``pixel_auroc``,
        ``au_pro``, their intervals (bootstrap for the AUROC, Clopper-Pearson for rates), ``threshold``, ``n_good``,
        ``n_defect``, ``images_per_second``, a row for each kind of defect, ``errors`` and ``warnings``. A figure that
        the data cannot give is None.

    Raises
    ------
    UsageError
        If the folder is no such dataset.
    ReadError
        If no image of it could be measured.
    """
    todo = cases(Path(dataset))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # before the work, lest it be for nothing
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    pixels = PixelScores()
    without_mask = empty_masks = 0
    started = time.perf_counter()
    images = read_ahead([case.path for case in todo], image_or_error)
    for done, (case, image) in enumerate(zip(todo, images, strict=True), start=1):
        try:
            if isinstance(image, InspectionError):
                raise image
            prediction = predict(image, model)
            if case.kind == GOOD:
                pixels.add(prediction.score, None)
            elif case.mask is not None and (truth := read_mask(case.mask, image.geometry.shape)).any():
                pixels.add(prediction.score, truth)
            elif case.mask is not None:
                empty_masks += 1
            else:
                without_mask += 1
        except InspectionError as error:
            errors.append({"path": str(case.path), "type": type(error).__name__, "message": str(error)})
        else:
            rows.append(
                {
                    "path": utf8(case.path.relative_to(dataset).as_posix()),
                    "kind": utf8(case.kind),
                    "score": prediction.image_score,
                    "p_value": prediction.p_value,
                    "verdict": prediction.verdict,
                    "n_findings": len(prediction.findings),
                }
            )
        progress(done, len(todo))
    seconds = time.perf_counter() - started
    if not rows:
        raise ReadError(
            f"None of the {len(todo)} images of {dataset} could be measured. The first: {errors[0]['message']}"
        )
    if out is not None:
        _write(out / "evaluation.csv", rows)
    warnings = list(dict.fromkeys(prediction.warnings))
    if without_mask:
        warnings.append(
            f"{_images(without_mask, 'defective ')} without a mask, such as ground_truth/DEFECT/NAME_mask.png: not "
            "counted in the pixel figures."
        )
    if empty_masks:
        warnings.append(
            f"{_images(empty_masks, 'defective ')} with a mask that marks nothing: not counted in the pixel figures."
        )
    if errors:
        said = errors[0]["message"]
        warnings.append(f"{_images(len(errors))} not measured and counted in no figure. The first: {said}")
    return {
        **figures(rows),
        "threshold": finite(prediction.threshold),
        **_pixel_figures(pixels),
        "images_per_second": len(rows) / seconds,
        "seconds": seconds,
        "dataset": str(dataset),
        "model": {"id": model.card.id, "version": model.card.version, "sha256": model.card.weights_sha256},
        "device": prediction.device,
        "errors": errors,
        "warnings": warnings,
    }


def _images(count: int, kind: str = "") -> str:
    return f"{count} {kind}image{'' if count == 1 else 's'}"


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the image-level figures of rows with ``kind``, ``score`` and ``verdict``."""
    defect = np.array([r["kind"] != GOOD for r in rows])
    scores = np.array([r["score"] for r in rows], dtype=float)
    ng = np.array([r["verdict"] == "NG" for r in rows])
    measured = asdict(image_metrics(defect, scores, ng))
    good = ~defect
    kinds = {}
    for kind in sorted({str(r["kind"]) for r in rows} - {GOOD}):
        of = np.array([r["kind"] == kind for r in rows])
        some = good | of
        kinds[kind] = {
            "n": int(of.sum()),
            "image_auroc": image_metrics(defect[some], scores[some], ng[some]).auroc,
            "recall": float(ng[of].mean()),
            "recall_interval": asdict(clopper_pearson(int(ng[of].sum()), int(of.sum()))),
        }
    review = np.array([r["verdict"] == "REVIEW" for r in rows])
    return {
        "image_auroc": measured.pop("auroc"),
        "image_auroc_interval": measured.pop("auroc_interval"),
        **measured,
        "review_rate_good": float(review[good].mean()) if good.any() else None,
        "review_rate_defect": float(review[defect].mean()) if defect.any() else None,
        "n_good": int(good.sum()),
        "n_defect": int(defect.sum()),
        "kinds": kinds,
    }


def _pixel_figures(pixels: PixelScores) -> dict[str, Any]:
    measured = pixels.results()
    return {
        "pixel_auroc": measured.auroc,
        "pixel_auroc_error": measured.auroc_error,
        "au_pro": measured.au_pro,
        "au_pro_error": measured.au_pro_error,
        "au_pro_limit": measured.limit,
        "n_regions": measured.n_regions,
    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    with atomic_path(path) as temporary:
        pd.DataFrame(list(rows)).to_csv(temporary, index=False)


def table(figures: Mapping[str, Any]) -> Table:
    """Return the main figures as a table for a terminal."""
    from rich.table import Table

    shown = Table("figure", "value", "95 % interval", title=f"{figures['model']['id']} on {figures['dataset']}")
    lines = (
        ("image AUROC", "image_auroc", "image_auroc_interval"),
        ("average precision", "average_precision", None),
        ("F1", "f1", None),
        ("precision", "precision", "precision_interval"),
        ("recall", "recall", "recall_interval"),
        ("accuracy", "accuracy", "accuracy_interval"),
        ("false alarms", "false_alarm_rate", "false_alarm_interval"),
        ("pixel AUROC", "pixel_auroc", None),
        ("AU-PRO (0.3)", "au_pro", None),
    )
    for label, key, interval in lines:
        value, span = figures[key], figures[interval] if interval else None
        shown.add_row(
            label,
            "not defined" if value is None else f"{value:.3f}",
            "" if span is None else f"{span['low']:.3f} to {span['high']:.3f}",
        )
    shown.add_row("good / defective", f"{figures['n_good']} / {figures['n_defect']}", "")
    shown.add_row("images a second", f"{figures['images_per_second']:.1f}", "")
    return shown
