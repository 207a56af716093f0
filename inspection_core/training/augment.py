"""Random changes of training samples, by MONAI's transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (  # type: ignore[attr-defined]
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
)
from torch import Tensor

from inspection_core.training.config import Augmentation, Stage

SOMETIMES = 0.3
"""Probability of each change of intensity, of each channel."""


class Augment:
    """Changes of the samples of one stage.

    Parameters
    ----------
    augmentation, stage
        From the configuration.
    channels
        Names of the channels.
    """

    def __init__(self, augmentation: Augmentation, stage: Stage, channels: Sequence[str]) -> None:
        self.channels = tuple(channels)
        self.how = augmentation
        self.place = Compose(self._place(augmentation, stage))
        self.rng = np.random.default_rng(0)
        self.values = [Compose(self._values(augmentation, name, len(stage.size))) for name in self.channels]

    def _place(self, how: Augmentation, stage: Stage) -> list[Any]:
        keys = [*self.channels, "label"]
        axes = len(stage.size)
        turn = math.radians(how.rotate)
        zoom = (stage.zoom * (1 - how.scale) - 1, stage.zoom * (1 + how.scale) - 1)
        affine = RandAffined(
            keys,
            prob=1.0,
            spatial_size=stage.size,
            rotate_range=turn if axes == 2 else (turn,) * 3,
            scale_range=(zoom,) * axes,
            translate_range=[how.shift * n * stage.zoom for n in stage.size],
            mode=["bilinear"] * len(self.channels) + ["nearest"],
            padding_mode="zeros",
        )
        return [affine, *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in how.flips)]

    @staticmethod
    def _values(how: Augmentation, name: str, axes: int) -> list[Any]:
        changes: list[Any] = []
        if how.contrast:
            gamma = (math.exp(-how.contrast), math.exp(how.contrast))
            changes.append(RandAdjustContrastd([name], prob=SOMETIMES, gamma=gamma))
        if how.brightness:
            changes.append(RandScaleIntensityd([name], prob=2 * SOMETIMES, factors=how.brightness))
        if how.bias:
            changes.append(RandBiasFieldd([name], prob=SOMETIMES, coeff_range=(-how.bias, how.bias)))
        if how.low_resolution:
            zoom = (how.low_resolution, 1.0)
            mode = "bilinear" if axes == 2 else "trilinear"
            changes.append(RandSimulateLowResolutiond([name], prob=SOMETIMES / 2, upsample_mode=mode, zoom_range=zoom))
        if how.blur:
            sigma = (0.3, how.blur)
            changes.append(RandGaussianSmoothd([name], prob=SOMETIMES / 2, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma))
        if how.noise:
            changes.append(RandGaussianNoised([name], prob=SOMETIMES / 2, std=how.noise))
        return changes

    def seed(self, seed: int) -> None:
        """Set all that the next samples' changes depend on; once a batch, as it takes longer than a change."""
        self.place.set_random_state(seed=seed)
        for k, change in enumerate(self.values, start=1):
            change.set_random_state(seed=(seed + 7919 * k) % 2**32)
        self.rng = np.random.default_rng(seed)

    def __call__(self, pixels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Change one sample.

        Parameters
        ----------
        pixels
            float32 ``(C, planes, h, w)`` of a slice with its neighbours, or ``(C, d, h, w)`` of a block.
        label
            float32 ``(1, ...)``.

        Returns
        -------
        pixels, label
            ``(planes * C, h, w)``, the channels of the lowest plane first, or ``(C, d, h, w)``; int64 label.
        """
        flat = label.ndim == 3
        sample: dict[str, Any] = {n: p if flat else p[None] for n, p in zip(self.channels, pixels, strict=True)}
        sample["label"] = label
        sample = dict(self.place(sample))
        parts = []
        for name, change in zip(self.channels, self.values, strict=True):
            parts.append(torch.as_tensor(change({name: sample[name]})[name]))
        parts = self._dropped(parts)
        labels = torch.as_tensor(sample["label"]).long()
        if not flat:
            return torch.cat(parts), labels
        return torch.stack(parts, dim=1).flatten(0, 1), labels

    def _dropped(self, parts: list[Tensor]) -> list[Tensor]:
        how = self.how
        for name in how.drop:
            k = self.channels.index(name)
            gone, copied = self.rng.random(2) < (how.drop_probability, 0.5)
            if gone:
                stand_in = how.stand_in and copied
                parts[k] = parts[self.channels.index(how.stand_in)].clone() if stand_in else torch.zeros_like(parts[k])
        return parts
