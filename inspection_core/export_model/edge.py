"""A bundle for an edge device: a model in ONNX, with one readable file that runs it without the suite.

The runner, ``templates/edge/inspect_parts.py``, does in numpy what the suite does. It shares no code with it, so it is
compared: the bundle is run as it will be, in a process of its own, on the same images.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from inspection_core.card import ModelCard
from inspection_core.engine import LoadedModel
from inspection_core.errors import ModelError
from inspection_core.export_model.parity import Compared, compared
from inspection_core.findings import find
from inspection_core.image import Image
from inspection_core.inputs import Input
from inspection_core.io.atomic import write_text
from inspection_core.models import weights
from inspection_core.prediction import Prediction
from inspection_core.threshold import cuts, map_cuts

Twin = Callable[[Input, Image, Prediction], Compared]
"""Compares what the original says of an image with what its export says."""

RUNNER = "inspect_parts.py"
TEMPLATES = Path(__file__).parents[1] / "templates" / "edge"
FILES = (RUNNER, "README.md", "requirements.txt")
ROUND = 64
"""Pictures that the runner is given at a time: a command line is of limited length, and so is a disk for the maps."""


def check(model: LoadedModel) -> None:
    """Refuse models that look at scans: the runner reads pictures.

    Raises
    ------
    ModelError
        If the model is no ``patch-memory``.
    """
    if model.card.architecture != "patch-memory":
        raise ModelError(
            f"An edge bundle reads pictures, and {model.card.id} is a model of scans. Export it to onnx or openvino."
        )


def bundle(folder: Path, card: ModelCard, tolerance: float, images: Sequence[Input], scratch: Path) -> Twin:
    """Add the runner to a model that was written as ONNX, and return what runs it on the images and compares it.

    What is returned raises ModelError if the runner does not run.
    """
    for name in FILES:
        shutil.copyfile(TEMPLATES / name, folder / name)
    files = {name: weights.sha256(folder / name) for name in ("model.onnx", card.weights)}
    write_text(folder / "edge.json", json.dumps(description(card, files, tolerance), indent=1) + "\n")
    paths = [_path(item) for item in images if item.kind == "picture"]
    rows: dict[str, Mapping[str, Any]] = {}

    def look(item: Input, image: Image, one: Prediction) -> Compared:
        path = _path(item)
        if path not in rows and path in paths:
            first = paths.index(path)
            rows.clear()
            rows.update(_run(folder, paths[first : first + ROUND], scratch))
        row = rows.get(path, {"error": "is no picture"})
        if row.get("status") != "done":
            raise ModelError(f"The edge bundle fails on {item.label}: {row['error']}.")
        scores = np.load(row["map"])
        mask, _ = find(scores, *map_cuts(card.policy, card.calibration), image.geometry)
        return compared(
            item.label, one, card, tolerance, score=row["score"], pixels=scores,
            mask=float((mask != one.mask).mean()), verdict=row["verdict"], p_value=row["p_value"],
            seconds=row["seconds"],
        )  # fmt: skip

    return look


def _path(item: Input) -> str:
    return str(item.files[0].absolute())


def _run(folder: Path, paths: Sequence[str], scratch: Path) -> Mapping[str, Mapping[str, Any]]:
    """Run the bundle as it will be run; return what it says of each picture, with its map in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    lines = scratch / "lines.jsonl"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", str(folder / RUNNER), "--out", str(lines), "--maps", str(scratch), "--", *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    broken = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode not in (0, 1) or broken:
        raise ModelError(f"The edge bundle does not run: {' '.join(broken or [done.stderr.strip()])[-300:]}")
    return {row["path"]: row for row in map(json.loads, lines.read_text(encoding="utf-8").splitlines())}


def description(card: ModelCard, files: Mapping[str, str], tolerance: float) -> Mapping[str, Any]:
    """Return what the runner has to know, as plain data; None stands for infinity, which JSON lacks."""
    settings = cast("Mapping[str, Any]", card.parameters)
    p, cut = card.preparation, cuts(card.policy, card.calibration)
    low, high = map_cuts(card.policy, card.calibration)
    views = zip(*(settings[f"view_{k}"] for k in ("factor", "blur", "gain", "border")), strict=True)
    return {
        "schema_version": 1,
        "model": {"id": card.id, "version": card.version, "intended_use": card.intended_use, "limits": card.limits},
        "files": files,
        "tolerance": tolerance,
        "channels": card.channels,
        "preparation": {
            "dtype": p.dtype, "window": p.window, "short_side": p.short_side, "side": p.side,
            "scales": [p.scales[0], _finite(p.scales[1])], "scale": p.scale, "multiple": p.multiple, "tile": p.tile,
            "overlap": p.overlap, "resize": p.resize,
        },
        "backbone": {k: settings[f"backbone_{k}"] for k in ("stride", "multiple", "mean", "std")},
        "views": [{"factor": f, "blur": b, "gain": g, "border": bool(c)} for f, b, g, c in views],
        "offset": settings["offset"],
        "smoothing": settings["smoothing"],
        "top": settings.get("top", 0.0),
        "cuts": {"ng": _finite(cut.ng), "review": _finite(cut.review)},
        "findings": {"low": _finite(low), "high": _finite(high)},
        "scores": card.calibration.scores,
        "peaks": card.calibration.peaks,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
