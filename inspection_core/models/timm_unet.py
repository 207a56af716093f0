"""``timm-unet``: a pretrained timm encoder with a U-shaped decoder, for slices with their neighbours.

Several networks of one shape can share a card, as those of cross-fitted training do; their probabilities are averaged,
over left-right flips too where the card asks for it. Encoder and decoder meet at every stride from 2 to 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.models import weights
from inspection_core.models.backbone import fill, load_weights
from inspection_core.models.members import Average, Form, stored, with_graph

ENCODER = "tf_efficientnet_lite0"
DECODER = (128, 64, 48, 32)
"""Channels of the decoder at strides 16, 8, 4 and 2."""


class Block(nn.Module):
    """Enlarge to the size of the encoder's features, join with them, and convolve twice."""

    def __init__(self, below: int, beside: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(below + beside, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """Return features of the size of `beside`."""
        x = F.interpolate(x, size=beside.shape[-2:], mode="bilinear", align_corners=False)
        return cast("Tensor", self.layers(torch.cat([x, beside], dim=1)))


class UNet(nn.Module):
    """Logits of a batch of slices.

    Parameters
    ----------
    inputs
        Channels of the input: those of the middle slice and of its neighbours.
    classes
        Classes, with the background.
    encoder
        timm name.
    decoder
        Channels of the decoder, deepest level first: one for each stride of the encoder but the last.
    dropout
        Share of the last features' channels that training drops.
    drop_path
        Probability with which training skips the encoder's last block; the blocks before it in proportion.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        encoder: str = ENCODER,
        decoder: Sequence[int] = DECODER,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        import timm  # here: a model that OpenVINO runs does not need it, and it takes seconds and 0.2 GB

        skipping: dict[str, Any] = (
            {"drop_path_rate": drop_path} if drop_path else {}
        )  # not every network of timm's knows it
        try:
            self.encoder = timm.create_model(encoder, features_only=True, pretrained=False, in_chans=inputs, **skipping)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ModelError(
                f"The timm network {encoder!r} gives no feature maps ({error}); choose another."
            ) from error
        sizes = [int(c) for c in cast("Any", self.encoder.feature_info).channels()][::-1]
        if len(decoder) != len(sizes) - 1:
            raise ModelError(
                f"A decoder for {encoder!r} has {len(sizes) - 1} levels, deepest first. Got {list(decoder)}."
            )
        belows = (sizes[0], *decoder[:-1])
        self.decoder = nn.ModuleList(
            Block(below, beside, out) for below, beside, out in zip(belows, sizes[1:], decoder, strict=True)
        )
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(decoder[-1], classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, classes, h, w)`` of ``(B, inputs, h, w)``."""
        *beside, y = self.encoder(x)
        for block, features in zip(self.decoder, reversed(beside), strict=True):
            y = block(y, features)
        y = self.head(y)
        return F.interpolate(y.float(), size=x.shape[-2:], mode="bilinear", align_corners=False)


def pretrained(network: UNet, encoder: str, path: Path | None = None) -> None:
    """Fill the encoder with ImageNet weights; the first layer is repeated over slices and scaled to keep its sum.

    Channels beyond red, green and blue take these weights in turn, so three sequences and their neighbours each start
    from a filter that the network knows.
    """
    fill(network.encoder, load_weights(encoder, path), encoder, adapt=_widened)


def _widened(source: Tensor, shape: torch.Size) -> Tensor:
    """Return a first layer's weights for more channels than it has; any other layer's as they are."""
    if source.ndim != 4 or len(shape) != 4 or (source.shape[0], *source.shape[2:]) != (shape[0], *shape[2:]):
        return source
    inputs, known = shape[1], source.shape[1]
    return source[:, [k % known for k in range(inputs)]] * (known / inputs) if inputs != known else source


class TimmUNet:
    """Averaged class probabilities of networks and flips; see `inspection_core.models.Segmenter`.

    Parameters
    ----------
    tensors
        Of the weights' file.
    card
        Of the model; its parameter ``flips`` says whether to average over the slice and its left-right mirror image.
    """

    stride = 1
    offset = 0.0

    def __init__(self, tensors: Mapping[str, Tensor], card: ModelCard) -> None:
        self.flips = bool(card.parameters.get("flips", False))
        self._average = Average(tensors, card, _build_for_use, form(card))

    @property
    def spread(self) -> bool:
        """Whether the last channel given is the standard deviation of P(not background) over the flips."""
        return self.flips

    def __call__(self, batch: Tensor) -> Tensor:
        """Return ``(B, 1 + K, h, w)`` probabilities, and one channel more where `spread` is set."""
        plain = self._average(batch.contiguous(memory_format=torch.channels_last))
        if not self.flips:
            return plain
        plain = plain.clone()  # what the next call writes over
        # Of the networks' mean, so that it says the same of one network, as in cross-fitting, and of several.
        mirrored = self._average(batch.flip(-1).contiguous(memory_format=torch.channels_last))
        both = torch.stack([plain, mirrored.flip(-1)])
        return torch.cat([both.mean(dim=0), both[:, :, :1].std(dim=0, unbiased=False)], dim=1)

    @property
    def runtime(self) -> str:
        """What runs the networks; see `inspection_core.device.Device`."""
        return self._average.runtime

    @property
    def built(self) -> bool:
        """Whether torch has the networks, which it has not where OpenVINO runs a graph that was kept."""
        return self._average.built

    def to(self, device: Device) -> None:
        """Move the networks to another device."""
        self._average.to(device)


def form(card: ModelCard) -> Form:
    """Return what goes into a card's networks and comes out of them."""
    planes, side = 2 * card.preparation.neighbours + 1, 2 * card.preparation.multiple
    return Form(torch.zeros(1, planes * len(card.channels), side, side), 1 + len(card.classes))


def build(card: ModelCard) -> UNet:
    """Return an untrained network of a card's shape."""
    settings = card.parameters
    decoder = settings.get("decoder", DECODER)
    planes = 2 * card.preparation.neighbours + 1
    return UNet(
        planes * len(card.channels),
        1 + len(card.classes),
        str(settings.get("encoder", ENCODER)),
        [int(d) for d in cast("tuple[int, ...]", decoder)],
        float(cast("float", settings.get("dropout", 0.0))),
        float(cast("float", settings.get("drop_path", 0.0))),
    )


def _build_for_use(card: ModelCard) -> nn.Module:
    return build(card).to(memory_format=torch.channels_last)


def tensors(networks: Sequence[nn.Module], card: ModelCard) -> dict[str, Tensor]:
    """Return the tensors of the weights' file, OpenVINO's graph with them."""
    return with_graph(stored(networks), card, _build_for_use, form(card))


def load(folder: Path, card: ModelCard, device: Device) -> TimmUNet:
    """Load a trained model; see `inspection_core.models`."""
    predictor = TimmUNet(weights.load(folder, card), card)
    predictor.to(device)
    return predictor
