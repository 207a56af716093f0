"""``intensity-band``: a voxel belongs to a class where its value lies in the class's band.

For phantoms and for what a threshold is the right answer to: bone or metal in CT, hot voxels in PET, a marker. It is
also the smallest model that goes all the way of one that segments, and shows whether scans and results are where they
should be. It learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.models import weights

NEAR = 1e-4
"""The least probability of any class, so that no voxel is certain."""


class IntensityBand:
    """Class probabilities from one channel's values, through soft edges.

    Parameters
    ----------
    bands
        ``(K, 3)``: low and high of each class, and the width over which its probability rises from 0.27 to 0.73, all in
        the network's units, after normalisation. Where bands overlap, the voxel's probability is shared.
    channel
        Which input channel is looked at, counted over neighbours too.
    """

    stride = 1
    offset = 0.0

    def __init__(self, bands: torch.Tensor, channel: int) -> None:
        self.bands = bands
        self.channel = channel

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Return ``(B, 1 + K, *spatial)`` probabilities; see `inspection_core.models.Segmenter`."""
        values = batch[:, self.channel, None]
        low, high, width = (self.bands[:, i].view(1, -1, *[1] * (batch.ndim - 2)) for i in range(3))
        inside = torch.sigmoid((values - low) / width * 2) * torch.sigmoid((high - values) / width * 2)
        inside = inside.clamp(NEAR, 1 - NEAR)
        total = inside.sum(dim=1, keepdim=True)
        inside = inside / total.clamp_min(1)
        return torch.cat([1 - inside.sum(dim=1, keepdim=True), inside], dim=1)

    def to(self, device: Device) -> None:
        """Move the model to another device."""
        self.bands = self.bands.to(device.torch)


def make(folder: Path, card: ModelCard, bands: Sequence[tuple[float, float]], softness: float = 0.02) -> ModelCard:
    """Write a model folder; return the card with the weights' hash.

    Parameters
    ----------
    folder
        Where card and weights go.
    card
        Its classes are those of the bands, its task becomes "segmentation". ``parameters.channel`` names the input
        channel to look at, the middle plane's first if not given.
    bands
        ``(low, high)`` of each class, in the network's units after normalisation.
    softness
        Width of the edges in the same units.

    Raises
    ------
    ModelError
        If classes and bands do not fit together.
    """
    if len(bands) != len(card.classes) or softness <= 0 or any(low >= high for low, high in bands):
        raise ModelError(
            f"Each class has one band (low, high), low < high, and softness is above 0. Got {list(bands)} for "
            f"{list(card.classes)} and {softness}."
        )
    rows = torch.tensor([[low, high, softness] for low, high in bands], dtype=torch.float32)
    return weights.save(folder, replace(card, architecture="intensity-band", task="segmentation"), {"bands": rows})


def load(folder: Path, card: ModelCard, device: Device) -> IntensityBand:
    """Load a model that `make` wrote; see `inspection_core.models`."""
    bands = weights.take(weights.load(folder, card), "bands", 2)
    if tuple(bands.shape) != (len(card.classes), 3):
        raise ModelError(
            f"intensity-band holds three numbers a class of {list(card.classes)}. Got {tuple(bands.shape)}."
        )
    middle = card.preparation.neighbours * len(card.channels)
    channel = card.parameters.get("channel", middle)
    inputs = len(card.channels) * (2 * card.preparation.neighbours + 1)
    if not isinstance(channel, int) or not 0 <= channel < inputs:
        raise ModelError(f"intensity-band looks at one of {inputs} channels, from 0. Got {channel!r} in parameters.")
    predictor = IntensityBand(bands, channel)
    predictor.to(device)
    return predictor
