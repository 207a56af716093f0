"""From windows to patches: ways to look at an image, each described by a frozen network, in torch or in OpenVINO."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inspection_core.device import Device
from inspection_core.models.backbone import Backbone
from inspection_core.models.compiled import Compiled, Graph, convert, kept_or_made, written

MAX_BLUR = 100.0
"""Largest blur, in pixels or cells, that a card may ask for."""


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Parameters
    ----------
    factor
        Size relative to the inference size, in (0, 1].
    blur
        Standard deviation, in pixels of this view, of the blur that is subtracted; 0 looks at the image itself.
    gain
        Amplification of the difference.
    border
        Whether averages over 3 x 3 cells count the empty cells beyond the image's border, which makes border patches
        weak: a border that varies from part to part then disturbs less, and a defect there is harder to see.
    """

    factor: float = 1.0
    blur: float = 0.0
    gain: float = 1.0
    border: bool = True

    def apply(self, batch: Tensor, multiple: int) -> Tensor:
        """Return the view of ``(B, C, h, w)``, intensity window at 0 and 1; sides become multiples of `multiple`."""
        return self.contrast(self.resize(batch, multiple), multiple)

    def resize(self, batch: Tensor, multiple: int) -> Tensor:
        """Return the batch at the view's size."""
        size = [max(multiple, round(n * self.factor / multiple) * multiple) for n in batch.shape[-2:]]
        if size == list(batch.shape[-2:]):
            return batch
        return F.interpolate(batch, size=size, mode="bilinear", antialias=True, align_corners=False)

    def contrast(self, batch: Tensor, multiple: int = 1) -> Tensor:
        """Return what is left of a batch without its blur, amplified.

        The batch is of the view's size, with sides that are multiples of `multiple`.
        """
        return 0.5 + self.gain * (batch - blurred(batch, self.blur, multiple)) if self.blur else batch


class _Network(nn.Module):
    """All that is done to the resized batch of views that differ in their border only."""

    def __init__(self, backbone: Backbone, views: Sequence[View]) -> None:
        super().__init__()
        self.backbone = backbone
        self.views = tuple(views)

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Return for each view ``(B, h', w', d)``."""
        seen = self.backbone.normalise(self.views[0].contrast(batch, self.backbone.multiple))
        if batch.device.type == "cpu":
            seen = seen.contiguous(memory_format=torch.channels_last)
        levels = self.backbone.levels(seen)
        return tuple(self.backbone.join(levels, view.border).permute(0, 2, 3, 1) for view in self.views)


class Describer:
    """Turns windows into patches, in every view.

    Views that follow each other and differ only in their border share one pass through the network.

    Parameters
    ----------
    backbone
        Frozen features.
    views
        Ways to look; the first sets the grid.
    graphs
        What `graphs` of an equal describer gave, so that OpenVINO need not be given the network by torch.
    """

    def __init__(self, backbone: Backbone, views: Sequence[View], graphs: Sequence[Graph] = ()) -> None:
        self.backbone = backbone
        self.views = tuple(views)
        self._device: Device | None = Device("cpu")
        groups: list[list[View]] = []
        for view in self.views:
            if groups and replace(groups[-1][0], border=view.border) == view:
                groups[-1].append(view)
            else:
                groups.append([view])
        self._networks = [_Network(backbone, group).eval() for group in groups]
        self._models: list[Any] = [None] * len(groups)
        self._compiled: list[Compiled | None] = [None] * len(groups)
        self._graphs = graphs if len(graphs) == len(groups) else ()
        self._lock = threading.Lock()

    @property
    def runtime(self) -> str:
        """What runs the network; see `inspection_core.device.Device`."""
        return "torch" if self._device is None else self._device.runtime

    def to(self, device: Device) -> None:
        """Compute on another device."""
        if not self.backbone.compiles:
            device = replace(device, runtime="torch")
        if device == self._device:  # asked before every image, and a look at every layer takes milliseconds
            return
        self._device = None  # where a move fails half way, for want of memory, the next one is made in any case
        if device.runtime == "torch":
            self.backbone.build()
        self.backbone.to(device.torch)
        self._device = device

    def graphs(self) -> list[Graph]:
        """Return the network of each pass as OpenVINO keeps it; none before its first use there."""
        return [written(model) for model in self._models] if None not in self._models else []

    def passes(self, batch: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Yield for each pass through the network its input, and how many views it describes.

        Parameters
        ----------
        batch
            ``(B, C, h, w)``; at the size of the pass's views it comes back.
        """
        for network in self._networks:
            yield network.views[0].resize(batch, self.backbone.multiple), len(network.views)

    def model(self, number: int, batch: Tensor) -> Any:
        """Return the network of a pass as an ``openvino.Model``, made of the first batch that it is asked for."""
        with self._lock:
            if self._models[number] is None:
                self._models[number] = self._graph(number, batch)
            return self._models[number]

    def __call__(self, batch: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yield each view of a batch ``(B, C, h, w)``: its patches ``(B * h' * w', d)`` and its grid ``(h', w')``."""
        for features in self.features(batch):
            yield features.reshape(-1, features.shape[-1]), (features.shape[1], features.shape[2])

    def features(self, batch: Tensor) -> Iterator[Tensor]:
        """Yield for each view of a batch ``(B, C, h, w)`` its patches on their grid, ``(B, h', w', d)``."""
        for number, (resized, _) in enumerate(self.passes(batch)):
            yield from self._run(number, resized)

    def _run(self, number: int, batch: Tensor) -> Sequence[Tensor]:
        if self.runtime != "openvino":
            features: Sequence[Tensor] = self._networks[number](batch)
            return features
        model = self.model(number, batch)
        with self._lock:
            compiled = self._compiled[number]
            if compiled is None:
                compiled = self._compiled[number] = Compiled(model)
        return [torch.from_numpy(made) for made in compiled(batch.numpy())]

    def _graph(self, number: int, batch: Tensor) -> Any:
        def make() -> Any:
            self._graphs = ()
            self.backbone.build()
            return convert(self._networks[number], batch)

        kept = self._graphs[number] if self._graphs else None
        return kept_or_made(kept, lambda model: self._fits(model, number), make)

    def _fits(self, model: Any, number: int) -> bool:
        """Say whether a graph takes and gives what the network of a pass does: another one would fail far from here."""
        views = len(self._networks[number].views)
        if len(model.inputs) != 1 or len(model.outputs) != views:
            return False
        (given,), made = model.inputs, model.outputs
        shapes = [port.get_partial_shape() for port in (given, *made)]
        return (
            all(port.get_element_type().get_type_name() == "f32" for port in (given, *made))
            and all(len(shape) == 4 for shape in shapes if shape.rank.is_static)
            and all(shape.rank.is_static and shape[3] == self.backbone.dim for shape in shapes[1:])
        )


def blurred(batch: Tensor, sigma: float, multiple: int = 1) -> Tensor:
    """Blur ``(B, C, h, w)`` with a Gaussian of `sigma` pixels; the border's values continue outside.

    Sides that are known to be multiples of 16 are blurred in a third of the time, to the same values.
    """
    radius = max(1, round(3 * sigma))
    kernel = torch.tensor(_gaussian(sigma, radius), dtype=batch.dtype, device=batch.device)
    if multiple % LANES == 0:
        return _blurred_down(_blurred_across(batch, kernel), kernel)
    channels = int(batch.shape[1])
    # Each channel is a group of its own, which OpenVINO computes in half the time of one plane after the other.
    kernel = kernel.expand(channels, 1, 1, -1)
    rows = F.conv2d(F.pad(batch, (radius, radius, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(rows, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3), groups=channels)


LANES = 16
"""Numbers in a processor's widest register: channels are computed side by side, and an image has one or three only."""


def _blurred_across(batch: Tensor, kernel: Tensor) -> Tensor:
    """Blur each row of ``(B, C, h, w)``. Rows that follow each other take the place of channels."""
    planes, channels, height, width = batch.shape
    radius = len(kernel) // 2
    padded = F.pad(batch, (radius, radius, 0, 0), mode="replicate")
    lanes = padded.reshape(planes * channels * (height // LANES), LANES, 1, width + 2 * radius)
    done = F.conv2d(lanes, kernel.view(1, 1, 1, -1).expand(LANES, -1, -1, -1), groups=LANES)
    return done.reshape(batch.shape)


def _blurred_down(batch: Tensor, kernel: Tensor) -> Tensor:
    """Blur each column of ``(B, C, h, w)``. Columns that lie side by side take the place of channels."""
    planes, channels, height, width = batch.shape
    radius = len(kernel) // 2
    padded = F.pad(batch, (0, 0, radius, radius), mode="replicate")
    lanes = padded.reshape(planes * channels, height + 2 * radius, width // LANES, LANES).permute(0, 3, 1, 2)
    done = F.conv2d(lanes, kernel.view(1, 1, -1, 1).expand(LANES, -1, -1, -1), groups=LANES)
    return done.permute(0, 2, 3, 1).reshape(batch.shape)


@functools.lru_cache(maxsize=64)
def _gaussian(sigma: float, radius: int) -> NDArray[np.float64]:
    """Return a Gaussian that adds up to one, ``(2 * radius + 1,)``; by numpy, so that traces hold it as a constant."""
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())
