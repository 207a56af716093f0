"""What a model says about one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import Table
from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry, readonly

Verdict = Literal["OK", "REVIEW", "NG"]
RESEARCH_USE = "Research use only, not for diagnosis."


@dataclass(frozen=True)
class Neighbour:
    """The good patch that comes nearest to a finding: the explanation of its score.

    Parameters
    ----------
    image
        Name of the good image, relative to the folder that the model was fitted on.
    centre
        Index ``(y, x)`` in that image, in its own pixels.
    size
        Extent ``(height, width)`` of the patch in that image, in its own pixels.
    distance
        Distance between the two patches' features, the unit of the score before smoothing.
    """

    image: str
    centre: tuple[float, ...]
    size: tuple[float, ...]
    distance: float


@dataclass(frozen=True)
class Finding:
    """One connected region.

    Parameters
    ----------
    id
        Its value in the list of findings, from 1.
    label
        Class name.
    start, stop
        Half-open box in index order, ``(z, y, x)`` or ``(y, x)``.
    centroid_index, centroid_world
        Unweighted centre, as index and in world coordinates ``(x, y[, z])``.
    size
        Volume or area in `size_unit`: ``"mm3"``, ``"mm2"``, ``"vox"`` or ``"px"``.
    long_axis, short_axis
        Largest extent, and largest extent at right angles to it, in the grid's unit.
    peak, mean
        Highest and mean score inside.
    confidence
        Between 0 and 1. For anomaly models ``1 - p_value``: the share of good images that stay below. For models that
        segment the probability of a true lesion, where it is calibrated, and else the mean score inside.
    calibrated
        Whether `confidence` was fitted on data that the model did not see.
    p_value
        Conformal p-value of the peak, or None without calibration.
    neighbour
        Nearest good patch, where the model has a memory.
    spread
        Mean disagreement inside between the members and flips of a network that gives it: the standard deviation of
        their probabilities. None for others.
    """

    id: int
    label: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    centroid_index: tuple[float, ...]
    centroid_world: tuple[float, ...]
    size: float
    size_unit: str
    long_axis: float
    short_axis: float
    peak: float
    mean: float
    confidence: float
    calibrated: bool
    p_value: float | None = None
    neighbour: Neighbour | None = None
    spread: float | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores, mask and findings of one image on its own grid.

    Parameters
    ----------
    geometry
        Grid of the source image; score and mask have its shape.
    score
        Float score map, spatial only: anomaly distance, or 1 - P(background).
    mask
        uint8 label mask; 0 is background.
    findings
        Connected regions of the mask, the most doubtful part first: ordered by falling peak.
    image_score, p_value, verdict
        Of the whole image; `p_value` is None for models without conformal calibration.
    threshold
        Image score above which the verdict is NG.
    model_id, model_version, model_sha256
        From the card.
    device
        Where it ran, with precision, such as ``"cpu float32"``.
    timings
        Seconds of each step.
    warnings
        Plain words for the user.
    source
        File that was read, if any.
    """

    geometry: Geometry
    score: NDArray[np.floating[Any]]
    mask: NDArray[np.uint8]
    findings: tuple[Finding, ...]
    image_score: float
    p_value: float | None
    verdict: Verdict
    threshold: float
    model_id: str
    model_version: str
    model_sha256: str
    device: str
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    source: Path | None = None

    def __post_init__(self) -> None:
        for name, array in (("score map", self.score), ("mask", self.mask)):
            if array.shape != self.geometry.shape:
                raise GeometryError(
                    f"The {name} lies on the source's grid of shape {self.geometry.shape}. Got shape {array.shape}."
                )
        object.__setattr__(self, "score", readonly(self.score))
        object.__setattr__(self, "mask", readonly(self.mask))
        if self.mask.dtype != np.uint8 or self.score.dtype.kind != "f":
            raise GeometryError(
                f"A score map is float and a mask uint8. Got {self.score.dtype} and {self.mask.dtype}; convert them."
            )
        object.__setattr__(self, "timings", Table(self.timings))
