"""What findings look like in the picture: their colours, and the words beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.prediction import Finding
from inspection_core.review import Mark
from napari_inspection.layers import Frame

COLOURS = {"open": "#e69f00", "accepted": "#009e73", "rejected": "#00000000", "selected": "#f0e442"}
"""Of findings, by status: Okabe and Ito's, told apart with every kind of colour vision."""
SELECTED_ON_BRIGHT = "#000000"
"""Of the selected finding where the image is bright: yellow is not seen on white."""
CLASS_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7")
"""Of classes or findings; yellow is left to the selected one."""
HEADROOM = 0.05
"""Of an image's height, that a text keeps from its upper edge."""
TEXTS = 300
"""Findings up to which each has its text in the picture."""


def colours(
    marks: Mapping[int, Mark], classes: Sequence[str], by: str, selection: int, *, bright: bool
) -> dict[int | None, Any]:
    """Return the colour of each finding, for napari's table of colours: None is for all others, 0 for none.

    Parameters
    ----------
    marks
        Of all findings, by their numbers.
    classes
        In their order.
    by
        ``status``, ``class`` or ``finding``.
    selection
        The finding that is looked at; 0 for none.
    bright
        Whether the image is.
    """
    found: dict[int | None, Any] = {None: COLOURS["open"], 0: "transparent"}
    for number, mark in marks.items():
        if mark.status == "rejected":
            found[number] = COLOURS["rejected"]
        elif by == "class":
            found[number] = CLASS_COLOURS[classes.index(mark.label) % len(CLASS_COLOURS)]
        elif by == "finding":
            found[number] = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        elif mark.status != "open":
            found[number] = COLOURS[mark.status]
    if selection:
        found[selection] = SELECTED_ON_BRIGHT if bright else COLOURS["selected"]
    return found


def texts(
    frame: Frame, marks: Mapping[int, Mark], findings: Mapping[int, Finding], origin: Mapping[int, Finding]
) -> tuple[NDArray[np.float64], list[str]]:
    """Return where each finding has its text, ``(n, ndim)`` indices in the core's order, and the texts.

    Parameters
    ----------
    frame
        How the image is shown.
    marks
        Of the findings that have a voxel.
    findings
        As they are now.
    origin
        As the model had them, which says how sure it was.
    """
    shown = [n for n in marks if marks[n].status != "rejected"][:TEXTS]
    places = np.array([_beside(frame, findings[n]) for n in shown], dtype=np.float64)
    words = []
    for n in shown:
        sure = origin.get(n)
        what = "drawn" if sure is None else f"{sure.confidence:.2f}"
        words.append(f"{n}: {what}" + (" ok" if marks[n].status == "accepted" else ""))
    return places, words


def _beside(frame: Frame, finding: Finding) -> NDArray[np.float64]:
    """Return the index above the upper left corner of a finding as shown, in its middle slice and in the image."""
    ends = frame.to_shown(np.stack([np.array(finding.start, float), np.array(finding.stop, float) - 1]))
    corner = frame.to_shown(np.array(finding.centroid_index))
    corner[-2] = max(ends[:, -2].min() - 1, HEADROOM * frame.shown.shape[-2])
    corner[-1] = ends[:, -1].min()
    return frame.from_shown(corner)
