"""A model and its export, run on the same real images by the whole way through, and what they may differ by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError
from inspection_core.prediction import Prediction
from inspection_core.threshold import Cuts, cuts

TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 0.1, "int8": 0.2}
"""Precision -> largest difference of a score that is let through, in the unit of the model's score."""
MASK_TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.1}
"""Precision -> largest share of an image's pixels with another label that is let through."""
REPORT = "parity.json"


@dataclass(frozen=True)
class Compared:
    """One image through both models.

    Parameters
    ----------
    name
        The image's label.
    score
        What is held against the tolerance. Of a model that segments: the largest difference of a voxel's score. Of an
        anomaly model: the difference of the image's score, or the mean difference of its map where that is larger.
    largest
        Largest difference of a pixel's score. An anomaly map may jump where two references are equally near.
    mask
        Share of pixels with another label.
    verdicts, p_values
        Of the original and of the export.
    near
        Whether the image's score is within the tolerance of a cut, so that rounding may decide.
    seconds
        What either network took.
    """

    name: str
    score: float
    largest: float
    mask: float
    verdicts: tuple[str, str]
    p_values: tuple[float | None, float | None]
    near: bool
    seconds: tuple[float, float]

    @property
    def agree(self) -> bool:
        """Whether both give the same verdict, or may differ by rounding."""
        return self.verdicts[0] == self.verdicts[1] or self.near


def compare(name: str, one: Prediction, other: Prediction, card: ModelCard, tolerance: float) -> Compared:
    """Compare what the original and the export give for an image; see `Compared`."""
    return compared(
        name, one, card, tolerance, score=other.image_score, pixels=other.score,
        mask=float((one.mask != other.mask).mean()), verdict=other.verdict, p_value=other.p_value,
        seconds=other.timings.get("infer", 0.0),
    )  # fmt: skip


def compared(
    name: str,
    one: Prediction,
    card: ModelCard,
    tolerance: float,
    *,
    score: float,
    pixels: NDArray[np.floating[Any]],
    mask: float,
    verdict: str,
    p_value: float | None,
    seconds: float,
) -> Compared:
    """Compare a prediction with what another program says of the image: its score, map, verdict and p-value."""
    apart = np.abs(one.score - pixels)
    largest = float(apart.max())
    limit = cuts(card.policy, card.calibration)
    return Compared(
        name,
        largest if card.task == "segmentation" else max(abs(one.image_score - score), float(apart.mean())),
        largest,
        mask,
        (one.verdict, verdict),
        (one.p_value, p_value),
        _near(one.image_score, limit, tolerance),
        (one.timings.get("infer", 0.0), seconds),
    )


def _near(score: float, limit: Cuts, tolerance: float) -> bool:
    return any(math.isfinite(cut) and abs(score - cut) <= tolerance for cut in (limit.ng, limit.review))


def difference(rows: Sequence[Compared], form: str, tolerance: float, most: float) -> str:
    """Say where an export does something else than the model, in one sentence; nothing where it does the same.

    `most` is the largest share of pixels with another label that is let through.
    """
    worst = max(rows, key=lambda r: (r.score > tolerance, r.mask > most, not r.agree, r.score))
    if worst.score <= tolerance and worst.mask <= most and worst.agree:
        return ""
    same = worst.verdicts[0] == worst.verdicts[1]
    return (
        f"The export to {form} does not do what the model does: on {worst.name} a score differs by "
        f"{worst.score:.2g} ({tolerance:g} is let through), {worst.mask:.2%} of pixels have another label "
        f"({most:.2%} are let through), and the verdict is {'the same' if same else 'another'}."
    )


def refuse(said: str) -> None:
    """Raise ModelError with what `difference` says, where it says something."""
    if said:
        raise ModelError(f"{said} Nothing was written; --allow-difference writes it all the same.")


def report(
    rows: Sequence[Compared],
    cards: tuple[ModelCard, ModelCard],
    folders: tuple[Path, Path],
    form: Mapping[str, Any],
    tolerance: Mapping[str, float],
    said: str,
) -> Mapping[str, Any]:
    """Return the comparison as plain data: of the original and of the export, and `form` says which form it has."""
    before, after = cards
    return {
        "schema_version": 2,
        **form,
        "model": {"id": before.id, "version": before.version, "sha256": before.weights_sha256},
        "exported_sha256": after.weights_sha256,
        "tolerance": dict(tolerance),
        "beyond_tolerance": said,
        "megabytes": {"original": megabytes(folders[0]), "export": megabytes(folders[1])},
        "network_ms": {k: _milliseconds([r.seconds[i] for r in rows]) for i, k in enumerate(("original", "export"))},
        "images": [
            {
                "name": r.name,
                "score_difference": r.score,
                "largest_difference": r.largest,
                "mask_share": r.mask,
                "verdicts": list(r.verdicts),
                "p_values": list(r.p_values),
                "same_verdict": r.verdicts[0] == r.verdicts[1],
            }
            for r in rows
        ],
    }


def megabytes(folder: Path) -> float:
    """Return the size of a model's files, in units of 10^6 bytes."""
    return round(sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) / 1e6, 3)


def _milliseconds(seconds: Sequence[float]) -> float:
    return round(1e3 * median(seconds), 2)
