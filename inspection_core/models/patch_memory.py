"""``patch-memory``: the distance of each patch to the nearest patch of a good image.

A patch is described by a frozen backbone at strides 8 and 16 (PatchCore: Roth et al., CVPR 2022). Two things differ
from the original, both measured in ``docs/decisions/0002-anomaly-defaults.md``:

* **Views.** In a view of detail the backbone does not see the image itself but its difference from its own blur,
  amplified by a fixed gain. Exposure and slow shading drop out; cracks, pits and fibres stay. Several views, such as
  one of detail and one of the image as it is, are looked up in memories of their own, and their scores are added.
* **Local density.** A distance counts less where good patches are themselves far apart: it is divided by how far the
  nearest reference lies from its own fifteen neighbours, averaged with the mean of that over the memory (so that a lone
  odd reference does not excuse everything). A score of 1 a view is what a typical good patch has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from inspection_core.card import ModelCard, Scalar
from inspection_core.device import Device
from inspection_core.errors import FitError, ModelError
from inspection_core.models import Scores, weights
from inspection_core.models.backbone import Backbone
from inspection_core.models.backbone_file import digests, open_network
from inspection_core.models.nearest import Memory, greedy_coreset, projection
from inspection_core.prediction import Neighbour

POOL = (40_000, 80_000)
"""Fewest and most good patches of all images together, a view, that the memory is chosen from; bounds memory while
fitting."""

POOL_SHARE = 500
"""Patches of each image in that pool, between these bounds."""

LEAST_PATCHES = 4
"""Patches that an image gives to the pool in any case, however many images there are."""

KEPT_WINDOWS = 6
"""Windows' worth of patches that an image keeps: itself and five turns where it is one window. Large images, of many
windows, keep no more."""

CORESET_DIM = 48
"""Dimensions that the coreset is chosen in; the references themselves keep all."""

MAX_BLUR = 100.0
"""Largest blur, in pixels or cells, that a card may ask for."""

MAX_OFFSET = 1000.0
"""Largest offset, in pixels, that a card may ask for."""

NEIGHBOURS = 15
"""Good patches whose distance is taken for the local density of a reference, where the settings name no number."""


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
        size = [max(multiple, round(n * self.factor / multiple) * multiple) for n in batch.shape[-2:]]
        if size != list(batch.shape[-2:]):
            batch = F.interpolate(batch, size=size, mode="bilinear", antialias=True, align_corners=False)
        if not self.blur:
            return batch
        return 0.5 + self.gain * (batch - _blur(batch, self.blur))


class PatchMemory:
    """The predictor: nearest good patch for every patch, in every view.

    Parameters
    ----------
    backbone
        Frozen features.
    views
        Ways to look; the first sets the grid and gives the explanations.
    memories, densities
        For each view, references ``(m, d)`` and their density factors ``(m,)``.
    basis
        For each view ``(dim, d)``, what features are multiplied with before they are compared; None keeps them.
    origins
        ``(m, 5)`` of the first view: image number, centre y, x and height, width in the image's pixels.
    names
        Good images by number.
    smoothing
        Standard deviation, in cells, of the blur of the score map.
    """

    def __init__(
        self,
        backbone: Backbone,
        views: Sequence[View],
        memories: Sequence[Tensor],
        densities: Sequence[Tensor],
        basis: Tensor | None,
        origins: Tensor,
        names: Sequence[str],
        smoothing: float,
        offset: float,
    ) -> None:
        self.backbone = backbone
        self.views = tuple(views)
        self.memories = [Memory(m) for m in memories]
        self.densities = list(densities)
        self.basis = basis
        self.origins = origins
        self.names = tuple(names)
        self.smoothing = smoothing
        self.stride = backbone.stride
        self.offset = offset

    def __call__(self, batch: Tensor) -> Scores:
        """Score a batch ``(B, 1 or 3, h, w)``; see `inspection_core.models.Predictor`."""
        grid = [n // self.stride for n in batch.shape[-2:]]
        total = torch.zeros((len(batch), *grid), device=batch.device)
        neighbour: Tensor | None = None
        described = describe(self.backbone, self.views, batch, self.basis)
        for (patches, size), memory, density in zip(described, self.memories, self.densities, strict=True):
            distance, nearest = memory.search(patches)
            score = (distance[:, 0] * density[nearest[:, 0]]).view(len(batch), *size)
            total += _to_grid(score, grid)
            if neighbour is None:
                neighbour = nearest.view(len(batch), *size)
        if self.smoothing:
            total = _blur(total[:, None], self.smoothing)[:, 0]
        return Scores(total, neighbour)

    def to(self, device: Device) -> None:
        """Move everything that computes to a device."""
        # Each part is asked where it is: a move that failed half way, for want of memory, is then made good.
        where = device.torch
        self.backbone.to(where)
        self.memories = [m.to(where) for m in self.memories]
        self.densities = [d.to(where) for d in self.densities]
        self.basis = None if self.basis is None else self.basis.to(where)

    def explain(self, reference: int) -> Neighbour:
        """Return the good patch behind a reference of the first view."""
        image, y, x, height, width = self.origins[reference].tolist()
        return Neighbour(self.names[int(image)], (y, x), (height, width), 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that `load` needs besides the card."""
        stored = {f"backbone.{k}": v for k, v in self.backbone.net.state_dict().items()}
        for i, (memory, density) in enumerate(zip(self.memories, self.densities, strict=True)):
            stored |= {f"memory.{i}": memory.vectors, f"density.{i}": density}
        if self.basis is not None:
            stored["basis"] = self.basis
        return stored | {"origins": self.origins}

    def parameters(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the settings that the card keeps."""
        return {
            "backbone": self.backbone.name,
            "view_factor": tuple(v.factor for v in self.views),
            "view_blur": tuple(v.blur for v in self.views),
            "view_gain": tuple(v.gain for v in self.views),
            "view_border": tuple(v.border for v in self.views),
            "smoothing": self.smoothing,
            "offset": self.offset,
            "references": len(self.memories[0]),
        }


class PatchMemoryFitter:
    """Collects patches of good images and makes memories of them; see `inspection_core.models.Fitter`.

    Parameters
    ----------
    backbone
        Frozen features.
    settings
        ``views``, ``memory`` (most references a view), ``share`` (of all patches, at most), ``dim`` (0 keeps all
        dimensions), ``smoothing``, and if wanted ``neighbours`` (whose distance makes the local density).
    images
        How many images will be added.
    device, seed
        Where to compute, and the seed of every random choice.
    """

    def __init__(self, backbone: Backbone, settings: Mapping[str, Any], images: int, device: Device, seed: int) -> None:
        self.backbone = backbone
        self.views = tuple(View(*v) for v in settings["views"])
        self.memory = int(settings["memory"])
        self.share = float(settings["share"])
        self.smoothing = float(settings["smoothing"])
        self.neighbours = int(settings.get("neighbours", NEIGHBOURS))
        self.device = device
        self.seed = seed
        self.stride = backbone.stride
        self.offset = backbone.measure_offset()
        self.backbone.to(device.torch)
        dim = int(settings["dim"])
        self.basis = projection(backbone.dim, dim, seed).to(device.torch) if 0 < dim < backbone.dim else None
        self._pool = min(max(POOL[0], POOL_SHARE * images), POOL[1])
        self._quota = max(LEAST_PATCHES, self._pool // max(1, images))
        self._generator = torch.Generator().manual_seed(seed)
        self._lots = torch.Generator().manual_seed(seed)
        # For each view and image: patches (n, d), and for the first view their origins (n, 4).
        self._patches: list[dict[int, list[Tensor]]] = [{} for _ in self.views]
        self._origins: dict[int, list[Tensor]] = {}
        # A lot for each patch: where an image has too many, those with the lowest lots stay, a fair draw from them all.
        self._drawn: list[dict[int, list[Tensor]]] = [{} for _ in self.views]

    @torch.inference_mode()
    def add(self, image: int, batch: Tensor, origins: Tensor) -> None:
        """Take in windows of one image; a random share of the patches is kept where there are many."""
        described = describe(self.backbone, self.views, batch.to(self.device.torch), self.basis)
        for number, (patches, _) in enumerate(described):
            keep: slice | Tensor = slice(None)
            if len(patches) > self._quota:
                keep = torch.randperm(len(patches), generator=self._generator)[: self._quota].sort().values
            kept = patches[keep].cpu()
            self._patches[number].setdefault(image, []).append(kept)
            self._drawn[number].setdefault(image, []).append(torch.rand(len(kept), generator=self._lots))
            if number == 0:
                places = origins.reshape(-1, 4)
                if len(places) != len(patches):
                    raise ModelError(f"Each of the {len(patches)} patches has an origin. Got {len(places)}.")
                self._origins.setdefault(image, []).append(places[keep])
            self._thin(number, image)

    def _thin(self, number: int, image: int) -> None:
        """Keep a bounded number of an image's patches in a view, however many windows it has."""
        parts = [self._drawn[number][image], self._patches[number][image]]
        if number == 0:
            parts.append(self._origins[image])
        most = KEPT_WINDOWS * self._quota
        if sum(len(p) for p in parts[0]) <= most:
            return
        joined = [torch.cat(p) for p in parts]
        stay = joined[0].argsort(stable=True)[:most].sort().values
        for part, whole in zip(parts, joined, strict=True):
            part[:] = [whole[stay]]

    @torch.inference_mode()
    def build(self, images: Collection[int], names: Sequence[str]) -> PatchMemory:
        """Choose references from the patches of `images` and measure the density around each."""
        if not images:
            raise FitError("A memory needs the patches of at least one good image. Got none.")
        memories, densities, origins = [], [], torch.zeros((0, 5))
        for number in range(len(self.views)):
            pool = torch.cat([p for i in images for p in self._patches[number][i]]).to(self.device.torch)
            generator = torch.Generator().manual_seed(self.seed)
            some = torch.randperm(len(pool), generator=generator)[: self._pool].sort().values
            pool = pool[some.to(pool.device)]
            count = max(min(self.memory, round(self.share * len(pool))), min(len(pool), 256))
            small = pool
            if pool.shape[1] > CORESET_DIM:
                small = pool @ projection(pool.shape[1], CORESET_DIM, self.seed).to(pool.device)
            chosen, _ = greedy_coreset(small, count)
            chosen = chosen.to(pool.device)
            memory = pool[chosen]
            memories.append(memory)
            densities.append(_density(memory, pool, generator, self.neighbours))
            if number == 0:
                places = torch.cat(
                    [torch.cat([torch.full((len(o), 1), float(i)), o], dim=1) for i in images for o in self._origins[i]]
                )
                origins = places[some][chosen.cpu()]
        return PatchMemory(
            self.backbone, self.views, memories, densities, self.basis, origins, names, self.smoothing, self.offset
        )


def load(folder: Path, card: ModelCard, device: Device) -> PatchMemory:
    """Load a fitted model; see `inspection_core.models`."""
    stored = weights.load(folder, card)
    settings = cast("Mapping[str, Any]", card.parameters)
    try:
        views = [
            View(float(f), float(b), float(g), bool(c))
            for f, b, g, c in zip(
                settings["view_factor"],
                settings["view_blur"],
                settings["view_gain"],
                settings["view_border"],
                strict=True,
            )
        ]
        name, smoothing, offset = str(settings["backbone"]), float(settings["smoothing"]), float(settings["offset"])
        _check(views, smoothing, offset)
        names = [str(n) for n in cast("Sequence[str]", card.training["names"])]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"The card in {folder} lacks settings of patch-memory: {error}. Fit the model anew."
        ) from error
    prefix = "backbone."
    network: Backbone
    if files := digests(stored):
        network = open_network(folder, card, files)
    else:
        network = Backbone(name, {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
    predictor = PatchMemory(
        network,
        views,
        [weights.take(stored, f"memory.{i}", 2).float() for i in range(len(views))],
        [weights.take(stored, f"density.{i}", 1) for i in range(len(views))],
        stored.get("basis"),
        weights.take(stored, "origins", 2),
        names,
        smoothing,
        offset,
    )
    predictor.to(device)
    return predictor


def _check(views: Sequence[View], smoothing: float, offset: float) -> None:
    """Refuse settings that no fit makes, and that would take the memory or the time of a whole machine."""
    for view in views:
        if not (0 < view.factor <= 1 and 0 <= view.blur <= MAX_BLUR and 0 < view.gain < math.inf):
            raise ValueError(f"a view has a factor in (0, 1], a blur up to {MAX_BLUR:g} and a gain above 0, got {view}")
    if not 0 <= smoothing <= MAX_BLUR or not abs(offset) <= MAX_OFFSET:
        raise ValueError(
            f"smoothing is up to {MAX_BLUR:g} and offset up to {MAX_OFFSET:g}, got {smoothing:g} and {offset:g}"
        )


def describe(
    backbone: Backbone, views: Sequence[View], batch: Tensor, basis: Tensor | None
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield for each view its patches ``(B * h' * w', d)`` and its grid ``(h', w')``.

    Views that follow each other and differ only in their border share one pass through the network.
    """
    last: View | None = None
    levels: list[Tensor] = []
    for view in views:
        look = replace(view, border=True)
        if look != last:
            seen = backbone.normalise(view.apply(batch, backbone.multiple))
            if batch.device.type == "cpu":
                seen = seen.contiguous(memory_format=torch.channels_last)
            levels, last = backbone.levels(seen), look
        features = backbone.join(levels, view.border)
        patches = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        yield (patches if basis is None else patches @ basis), (features.shape[-2], features.shape[-1])


def _density(memory: Tensor, pool: Tensor, generator: torch.Generator, neighbours: int) -> Tensor:
    """Return a factor for each reference: low where good patches lie far apart; in units of a typical good patch."""
    sample = torch.randperm(len(pool), generator=generator)[:20_000].to(pool.device)
    around, _ = Memory(pool[sample]).search(memory, neighbours + 1)
    spread = around[:, 1:].mean(dim=1) if around.shape[1] > 1 else torch.ones_like(around[:, 0])
    factor = 1 / (spread + spread.mean()).clamp_min(1e-6)
    distance, nearest = Memory(memory).search(pool[sample[:4000]])
    typical = (distance[:, 0] * factor[nearest[:, 0]]).mean()
    return factor / typical.clamp_min(1e-6)


def _to_grid(score: Tensor, grid: Sequence[int]) -> Tensor:
    if list(score.shape[-2:]) == list(grid):
        return score
    return F.interpolate(score[:, None], size=list(grid), mode="bilinear", align_corners=False)[:, 0]


def _blur(batch: Tensor, sigma: float) -> Tensor:
    """Blur ``(B, C, h, w)`` with a Gaussian of `sigma` pixels; the border's values continue outside."""
    radius = max(1, round(3 * sigma))
    place = torch.arange(-radius, radius + 1, dtype=batch.dtype, device=batch.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    b, c, h, w = batch.shape
    planes = F.pad(batch.reshape(b * c, 1, h, w), (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(planes, kernel), kernel.transpose(2, 3)).view(b, c, h, w)
