"""``monai-unet``: MONAI's residual U-Net over blocks of a volume, trained from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.models import weights
from inspection_core.models.members import Average, Form, stored, with_graph

CHANNELS = (16, 32, 64, 128)
"""Channels of each level; every level but the first halves the volume."""


class MonaiUNet:
    """Averaged class probabilities; see `inspection_core.models.Segmenter`.

    Parameters
    ----------
    tensors
        Of the weights' file.
    card
        Of the model.
    """

    stride = 1
    offset = 0.0

    def __init__(self, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
        self._average = Average(tensors, card, build, form(card))

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

    @property
    def built(self) -> bool:
        """Whether torch has the networks, which it has not where OpenVINO runs a graph that was kept."""
        return self._average.built

    def room(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return where the next batch of a shape may be put; see `inspection_core.models.Segmenter`."""
        return self._average.room(shape)

    def to(self, device: Device) -> None:
        """Move the networks to another device."""
        self._average.to(device)


def form(card: ModelCard) -> Form:
    """Return what goes into a card's networks and comes out of them."""
    channels, window = len(card.channels), card.preparation.window_size
    example = torch.zeros(1, channels, *(2 * card.preparation.multiple,) * 3)
    return Form(example, 1 + len(card.classes), True, (channels, *window) if window else ())


def levels(card: ModelCard) -> list[int]:
    """Return the channels of each level of a card's network.

    Raises
    ------
    ModelError
        If the card's parameters fit no such network.
    """
    channels = [int(c) for c in cast("tuple[int, ...]", card.parameters.get("channels", CHANNELS))]
    need = 2 ** (len(channels) - 1)
    if len(channels) < 2 or card.preparation.view != "volume" or card.preparation.multiple % need:
        raise ModelError(
            f'monai-unet takes the view "volume", and with {len(channels)} levels a multiple of {need}. '
            f"Got {card.preparation.view!r} and {card.preparation.multiple}."
        )
    return channels


def build(card: ModelCard) -> nn.Module:
    """Return an untrained network of a card's shape.

    Raises
    ------
    ModelError
        If the card's parameters fit no such network.
    """
    # Imported here: a model that OpenVINO runs does not need MONAI, which takes seconds and 0.4 GB.
    from monai.networks.nets.unet import UNet

    settings: dict[str, Any] = dict(card.parameters)
    channels = levels(card)
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


def tensors(networks: Sequence[nn.Module], card: ModelCard) -> dict[str, Tensor]:
    """Return the tensors of the weights' file, OpenVINO's graph with them."""
    return with_graph(stored(networks), card, build, form(card))


def load(folder: Path, card: ModelCard, device: Device) -> MonaiUNet:
    """Load a trained model; see `inspection_core.models`."""
    levels(card)
    predictor = MonaiUNet(weights.load(folder, card), card)
    predictor.to(device)
    return predictor
