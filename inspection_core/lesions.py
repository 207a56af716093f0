"""Findings against a reference, lesion by lesion.

A lesion is a connected set of voxels of one class (8 neighbours in 2-D, 26 in 3-D), in the reference and in the
prediction alike. A reference lesion is **found** where at least `OVERLAP` of its voxels are predicted as its class; a
finding is **true** where at least `OVERLAP` of its voxels are of its class in the reference. Both are counted on their
own, so one finding may meet several lesions and several findings one lesion: splits and merges are no errors.

References
----------
O. Commowick et al., Objective Evaluation of Multiple Sclerosis Lesion Segmentation using a Data Management and
Processing Infrastructure, Scientific Reports 8, 2018, for overlap of a tenth; A. Moawad et al., The Brain Tumor
Segmentation (BraTS-METS) Challenge 2023, for lesion-wise Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.errors import GeometryError
from inspection_core.findings import connected, regions_of
from inspection_core.geometry import FloatArray
from inspection_core.prediction import Finding

OVERLAP = 0.1
"""Share of its own voxels that a lesion or a finding shares with the other side to count as met."""
RADIUS = 5
"""Voxels around reference and prediction that count for the calibration of voxels."""


@dataclass(frozen=True, eq=False)
class LesionCounts:
    """One study, lesion by lesion.

    Parameters
    ----------
    found
        ``(R,)``: whether each reference lesion was found.
    true
        ``(F,)``: whether each finding is true, in the order of the findings.
    reach
        ``(R,)``: for each reference lesion the highest confidence at which it is found: with the findings of that
        confidence and above, but no fewer, enough of it is covered. Minus infinity where it is not found at all.
    dice
        Lesion-wise Dice: for each reference lesion the Dice of it and all predicted regions of its class that meet it;
        0 for each finding that meets none. Empty where there is neither.
    """

    found: NDArray[np.bool_]
    true: NDArray[np.bool_]
    reach: FloatArray
    dice: FloatArray


def compare(mask: NDArray[np.integer[Any]], reference: NDArray[np.integer[Any]], findings: Sequence[Finding],
            classes: Sequence[str]) -> LesionCounts:  # fmt: skip
    """Compare a prediction with its reference, lesion by lesion.

    Parameters
    ----------
    mask, reference
        Class numbers on one grid; 0 is background.
    findings
        Those of the mask, from `inspection_core.findings.find_labelled`.
    classes
        Names; class c is ``classes[c - 1]``.

    Raises
    ------
    GeometryError
        If mask and reference differ in shape, or the findings are not those of the mask.
    """
    if mask.shape != reference.shape:
        raise GeometryError(f"Mask and reference lie on one grid. Got the shapes {mask.shape} and {reference.shape}.")
    box = _box(mask, reference)
    if box is None:
        none = np.zeros(0, bool)
        if findings:
            raise GeometryError("The findings are not those of the mask, which is empty.")
        return LesionCounts(none, none, np.zeros(0), np.zeros(0))
    inside, truth = np.ascontiguousarray(mask[box]), np.ascontiguousarray(reference[box])
    predicted, actual = connected(inside), connected(truth)
    agree = (inside == truth) & (inside > 0)
    # How many voxels each pair of a region and a lesion shares; few pairs exist.
    pairs, shared = np.unique(np.stack([predicted[agree], actual[agree]]), axis=1, return_counts=True)
    sizes, wanted = np.bincount(predicted.ravel()), np.bincount(actual.ravel())
    hit, met = np.zeros(sizes.size), np.zeros(wanted.size)
    np.add.at(hit, pairs[0], shared)
    np.add.at(met, pairs[1], shared)
    order = regions_of(findings, predicted, inside, classes, [s.start for s in box])
    true = (hit >= OVERLAP * sizes)[order]
    confidence = np.full(sizes.size, -np.inf)
    confidence[order] = [f.confidence for f in findings]
    dice, reach = [], []
    for lesion in range(1, wanted.size):
        of = pairs[1] == lesion
        touching = pairs[0][of]
        dice.append(2 * met[lesion] / (wanted[lesion] + sizes[touching].sum()))
        falling = np.argsort(-confidence[touching], kind="stable")
        enough = np.flatnonzero(np.cumsum(shared[of][falling]) >= OVERLAP * wanted[lesion])
        reach.append(float(confidence[touching[falling[enough[0]]]]) if enough.size else -np.inf)
    lonely = (hit[order] == 0).sum()
    found = (met >= OVERLAP * wanted)[1:]
    return LesionCounts(found, true, np.array(reach), np.array([*dice, *[0.0] * int(lonely)]))


def near(tumour: NDArray[np.bool_], radius: int = RADIUS) -> NDArray[np.bool_]:
    """Return the voxels whose centre lies within `radius` voxels of a tumour's, as the crow flies."""
    from scipy.ndimage import distance_transform_edt

    out = np.zeros(tumour.shape, bool)
    box = _box(tumour)
    if box is not None:
        wide = tuple(slice(max(0, s.start - radius), s.stop + radius) for s in box)
        out[wide] = distance_transform_edt(~tumour[wide]) <= radius
    return out


def _box(*arrays: NDArray[Any]) -> tuple[slice, ...] | None:
    """Return the box around everything but 0 in any of the arrays, or None."""
    some = np.logical_or.reduce([a > 0 for a in arrays])
    lines = [
        np.flatnonzero(some.any(axis=tuple(a for a in range(some.ndim) if a != axis))) for axis in range(some.ndim)
    ]
    if not lines[0].size:
        return None
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)
