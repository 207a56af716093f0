"""``monai-unet``: MONAI's residual U-Net over blocks of a volume, trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.models import weights
from inspection_core.models.members import Average, rebuilt

CHANNELS = (16, 32, 64, 128)
"""Channels of each level; every level but the first halves the volume."""


class MonaiUNet:
    """Averaged class probabilities; see `inspection_core.models.Segmenter`."""

    stride = 1
    offset = 0.0

    def __init__(self, networks: Sequence[nn.Module], card: ModelCard) -> None:
        channels, window = len(card.channels), card.preparation.window_size
        example = torch.zeros(1, channels, *(2 * card.preparation.multiple,) * 3)
        self._average = Average(networks, example, (channels, *window) if window else (), logits=True)

    def __call__(self, batch: Tensor) -> Tensor:
        """Return ``(B, 1 + K, d, h, w)`` probabilities, or logits where `logits` says so."""
        return self._average(batch)

    @property
    def logits(self) -> bool:
        """Whether it gives logits: a lone network does."""
        return self._average.logits

    @property
    def runtime(self) -> str:
        """What runs the networks; see `inspection_core.device.Device`."""
        return self._average.runtime

    def to(self, device: Device) -> None:
        """Move the networks to another device."""
        self._average.to(device)


def build(card: ModelCard) -> nn.Module:
    """Return an untrained network of a card's shape.

    Raises
    ------
    ModelError
        If the card's parameters fit no such network.
    """
    settings: dict[str, Any] = dict(card.parameters)
    channels = [int(c) for c in cast("tuple[int, ...]", settings.get("channels", CHANNELS))]
    need = 2 ** (len(channels) - 1)
    if len(channels) < 2 or card.preparation.view != "volume" or card.preparation.multiple % need:
        raise ModelError(
            f'monai-unet takes the view "volume", and with {len(channels)} levels a multiple of {need}. '
            f"Got {card.preparation.view!r} and {card.preparation.multiple}."
        )
    return UNet(
        spatial_dims=3,
        in_channels=len(card.channels),
        out_channels=1 + len(card.classes),
        channels=channels,
        strides=[2] * (len(channels) - 1),
        num_res_units=int(settings.get("residual_units", 2)),
        norm=str(settings.get("norm", "INSTANCE")),
        dropout=float(settings.get("dropout", 0.0)),
    )


def load(folder: Path, card: ModelCard, device: Device) -> MonaiUNet:
    """Load a trained model; see `inspection_core.models`."""
    predictor = MonaiUNet(rebuilt(weights.load(folder, card), card, build), card)
    predictor.to(device)
    return predictor
