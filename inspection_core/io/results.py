"""Predictions as portable files: PNG mask, TIFF scores, JSON findings, COCO annotations."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import UsageError
from inspection_core.io.atomic import write_text
from inspection_core.io.raster import write_mask_png, write_score_tiff
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

SCHEMA_VERSION = 1
FORMATS = ("png", "coco")


def findings_json(prediction: Prediction) -> dict[str, Any]:
    """Return the content of ``findings.json``; boxes are half-open, in index order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": str(prediction.source) if prediction.source else None,
        "model": {
            "id": prediction.model_id,
            "version": prediction.model_version,
            "sha256": prediction.model_sha256,
        },
        "unit": prediction.geometry.unit,
        "image_score": prediction.image_score,
        "p_value": prediction.p_value,
        "threshold": finite(prediction.threshold),
        "verdict": prediction.verdict,
        "findings": [finding_json(f) for f in prediction.findings],
        "warnings": list(prediction.warnings),
        "note": RESEARCH_USE,
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return one finding as plain data."""
    data = dict(vars(finding))  # not dataclasses.asdict, which copies every number
    if finding.neighbour is not None:
        data["neighbour"] = dict(vars(finding.neighbour))
    start, stop = data.pop("start"), data.pop("stop")
    return {
        "id": data.pop("id"),
        "label": data.pop("label"),
        "box_index": [list(start), list(stop)],
        **{k: list(v) if isinstance(v, tuple) else v for k, v in data.items()},
    }


def utf8(text: str) -> str:
    """Write out the bytes of a file name that are no UTF-8: text files and databases take no others."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def finite(value: float | None) -> float | None:
    """Return the value, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def finite_in(data: Any) -> Any:
    """Return plain data with None in place of every number that JSON has not, at any depth."""
    if isinstance(data, Mapping):
        return {key: finite_in(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite_in(value) for value in data]
    return finite(data) if isinstance(data, float) else data


def dump(data: Mapping[str, Any]) -> str:
    """Return strict JSON text: NaN and infinity are an error, never written."""
    return json.dumps(data, indent=2, allow_nan=False, default=_plain) + "\n"


def check_formats(formats: Sequence[str]) -> Sequence[str]:
    """Return `formats`, or say which is unknown."""
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UsageError(f"Formats for 2-D images are {', '.join(FORMATS)}. Got {', '.join(unknown)}.")
    return formats


def write_prediction(folder: Path, prediction: Prediction, formats: Sequence[str] = ()) -> list[Path]:
    """Write one prediction's files into `folder`; return their paths.

    Mask and scores lie on the source's own pixel grid. ``findings.json`` is written last: where it is, the rest is.

    Raises
    ------
    UsageError
        If a format is unknown.
    """
    check_formats(formats)
    folder.mkdir(parents=True, exist_ok=True)
    mask, score, findings = folder / "mask.png", folder / "score.tiff", folder / "findings.json"
    write_mask_png(mask, prediction.mask)
    write_score_tiff(score, prediction.score)
    written = [mask, score]
    if "coco" in formats:
        coco = folder / "coco.json"
        write_text(coco, dump(coco_json([prediction])))
        written.append(coco)
    write_text(findings, dump(findings_json(prediction)))
    return [*written, findings]


def coco_json(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """Return predictions as COCO: boxes ``[x, y, width, height]``, masks as uncompressed column-major run lengths."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labels: dict[str, int] = {}
    for image_id, prediction in enumerate(predictions, start=1):
        height, width = prediction.geometry.shape
        name = prediction.source.name if prediction.source else f"image {image_id}"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for finding in prediction.findings:
            (y0, x0), (y1, x1) = finding.start, finding.stop
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": labels.setdefault(finding.label, len(labels) + 1),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(region(prediction, finding).sum()),
                    "segmentation": _run_lengths(prediction, finding),
                    "iscrowd": 1,  # what COCO calls an annotation that is given as run lengths
                    "score": finding.confidence,
                }
            )
    return {
        "info": {"description": RESEARCH_USE},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": label} for label, i in labels.items()],
    }


def folder_names(paths: Sequence[Path]) -> list[str]:
    """Return a distinct folder name for each input: its stem; equal stems keep their suffix, then get their folder."""
    # The stem of "...png" is "..", which would be the folder above.
    names = [p.stem if p.stem.strip(".") else f"_{p.name}" for p in paths]
    for longer in ([p.name for p in paths], [f"{p.parent.name}_{p.name}" for p in paths]):
        names = [b if clash else a for a, b, clash in zip(names, longer, _clashes(names), strict=True)]
    return [f"{n}_{i}" if clash else n for i, (n, clash) in enumerate(zip(names, _clashes(names), strict=True), 1)]


def _clashes(names: Sequence[str]) -> list[bool]:
    counts = Counter(n.casefold() for n in names)  # some file systems know no case
    return [counts[n.casefold()] > 1 for n in names]


def _run_lengths(prediction: Prediction, finding: Finding) -> dict[str, Any]:
    """Return a finding's pixels as COCO's uncompressed run lengths: column by column, background first."""
    (y0, x0), (y1, x1) = finding.start, finding.stop
    height, width = prediction.geometry.shape
    whole = np.zeros((width, height), dtype=bool)
    whole[x0:x1, y0:y1] = region(prediction, finding).T
    flat = whole.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": [height, width], "counts": [0, *counts] if flat[0] else counts}


def region(prediction: Prediction, finding: Finding) -> NDArray[np.bool_]:
    """Return which pixels of a finding's box are its own; another finding may reach into the box."""
    box = tuple(slice(a, b) for a, b in zip(finding.start, finding.stop, strict=True))
    inside = prediction.mask[box] > 0
    if inside.all():
        return inside
    from scipy import ndimage  # takes a tenth of a second, which most images of a line need not wait for

    parts, count = ndimage.label(inside, structure=np.ones((3,) * inside.ndim))
    if count <= 1:
        return inside
    # Its own part is the one that fills the box from border to border.
    for number, extent in enumerate(ndimage.find_objects(parts), start=1):
        if all(e.start == 0 and e.stop == n for e, n in zip(extent, inside.shape, strict=True)):
            return np.asarray(parts == number)
    return inside


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
