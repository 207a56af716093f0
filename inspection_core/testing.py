"""What tests and benchmarks share."""

from __future__ import annotations

from pathlib import Path

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.models.intensity_band import make


def bright_model(folder: Path, *, tile: int, low: float) -> ModelCard:
    """Write a model that marks bright pixels of grey pictures; return its card.

    There is no network in it, so that the machinery around one is tested, or takes most of the time.

    Parameters
    ----------
    folder
        Where card and weights go.
    tile
        Largest side of one window, in pixels.
    low
        Brightness from which a pixel is marked; 0 is black, 1 is 255.
    """
    card = ModelCard(
        id="bright",
        version="1",
        architecture="intensity-band",
        task="segmentation",
        channels=("grey",),
        score="1 - P(background)",
        classes=("bright",),
        preparation=Preparation(window=(0.0, 255.0), short_side=0, multiple=4, tile=tile, view="slices"),
        policy=Policy(kind="band", low=0.3, high=0.7),
    )
    return make(folder, card, ((low, 2.0),))
