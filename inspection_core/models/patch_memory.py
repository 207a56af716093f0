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
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from inspection_core import device as devices
from inspection_core.card import ModelCard, Scalar
from inspection_core.device import Device
from inspection_core.errors import FitError, ModelError
from inspection_core.models import Scores, weights
from inspection_core.models.backbone import Backbone, LaterBackbone
from inspection_core.models.backbone_file import described, description, digests, open_network
from inspection_core.models.compiled import Compiled, as_tensors, graphs_in
from inspection_core.models.compiled_search import References, search_alone, with_search
from inspection_core.models.nearest import Memory, greedy_coreset, principal, projection
from inspection_core.models.views import MAX_BLUR, Describer, View, blurred
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

MOST_LANES = 4
"""Memories that are built at once, at most: each holds a pool, and as much again for its choice."""

PUT_TOGETHER = 256
"""Windows whose patches are put together at a time while a pool is drawn from them."""

MAX_OFFSET = 1000.0
"""Largest offset, in pixels, that a card may ask for."""

NEIGHBOURS = 15
"""Good patches whose distance is taken for the local density of a reference, where the settings name no number."""


class PatchMemory:
    """The predictor: nearest good patch for every patch, in every view.

    Parameters
    ----------
    describer
        Frozen features of every view; the first view sets the grid and gives the explanations.
    memories, densities
        For each view, references ``(m, d)`` and their density factors ``(m,)``.
    origins
        ``(m, 5)`` of the first view: image number, centre y, x and height, width in the image's pixels.
    names
        Good images by number.
    smoothing
        Standard deviation, in cells, of the blur of the score map.
    offset
        See `inspection_core.models.Predictor`.
    joined
        In OpenVINO, compile network and search as one, which is faster. Not worth it for a predictor that sees few
        images and shares its describer with others: then only the search is compiled. Scores are the same.
    """

    def __init__(
        self,
        describer: Describer,
        memories: Sequence[Memory],
        densities: Sequence[Tensor],
        origins: Tensor,
        names: Sequence[str],
        smoothing: float,
        offset: float,
        joined: bool = True,
    ) -> None:
        self.describer = describer
        self.memories = list(memories)
        self.densities = list(densities)
        self.origins = origins
        self.names = tuple(names)
        self.smoothing = smoothing
        self.stride = describer.backbone.stride
        self.offset = offset
        self.joined = joined
        self._passes: list[Compiled] = []  # or searches, where these are not joined with the network
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> Scores:
        """Score a batch ``(B, 1 or 3, h, w)``; see `inspection_core.models.Predictor`."""
        grid = [n // self.stride for n in batch.shape[-2:]]
        total = torch.zeros((len(batch), *grid), device=batch.device)
        neighbour: Tensor | None = None
        for score, nearest in self._compared(batch):
            total += _to_grid(score, grid)
            if neighbour is None:
                neighbour = nearest
        if self.smoothing:
            total = blurred(total[:, None], self.smoothing)[:, 0]
        return Scores(total, neighbour)

    def _compared(self, batch: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each view score and number of the nearest reference, ``(B, h', w')`` each."""
        if self.runtime == "openvino" and not self.joined:
            for number, features in enumerate(self.describer.features(batch)):
                score, nearest = (torch.from_numpy(made) for made in self._search(number)(features.numpy()))
                yield score, nearest.long()
            return
        if self.runtime == "openvino":
            for number, (resized, views) in enumerate(self.describer.passes(batch)):
                found = [torch.from_numpy(made) for made in self._compiled(number, resized, views)(resized.numpy())]
                for score, nearest in zip(found[::2], found[1::2], strict=True):
                    yield score, nearest.long()
            return
        for (patches, size), memory, density in zip(self.describer(batch), self.memories, self.densities, strict=True):
            distance, nearest = memory.search(patches)
            score = distance[:, 0] * density[nearest[:, 0]]
            yield score.view(len(batch), *size), nearest.view(len(batch), *size)

    def _compiled(self, number: int, batch: Tensor, views: int) -> Compiled:
        """Return a pass through the network with the search at its end, compiled on its first use."""
        model = self.describer.model(number, batch)
        with self._lock:
            if number == len(self._passes):
                first = sum(len(one.model.outputs) // 2 for one in self._passes)
                ours = slice(first, first + views)
                references = map(References, self.memories[ours], self.densities[ours])
                self._passes.append(Compiled(with_search(model, list(references))))
            return self._passes[number]

    def _search(self, view: int) -> Compiled:
        """Return the search of a view by itself, compiled on its first use."""
        with self._lock:
            if view == len(self._passes):
                self._passes.append(Compiled(search_alone(References(self.memories[view], self.densities[view]))))
            return self._passes[view]

    @property
    def runtime(self) -> str:
        """What runs the network; see `inspection_core.device.Device`."""
        return self.describer.runtime

    @property
    def lanes(self) -> int:
        """Calls that may run at once: compiled, each takes one core."""
        return devices.threads() if self.runtime == "openvino" else 1

    def to(self, device: Device) -> None:
        """Move everything that computes to a device."""
        # Each part is asked where it is: a move that failed half way, for want of memory, is then made good.
        where = device.torch
        self.describer.to(device)
        self.memories = [m.to(where) for m in self.memories]
        self.densities = [d if d.device == where else d.to(where) for d in self.densities]

    def explain(self, reference: int) -> Neighbour:
        """Return the good patch behind a reference of the first view."""
        image, y, x, height, width = self.origins[reference].tolist()
        return Neighbour(self.names[int(image)], (y, x), (height, width), 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that `load` needs besides the card."""
        stored = {f"backbone.{k}": v for k, v in self.describer.backbone.net.state_dict().items()}
        for i, (memory, density) in enumerate(zip(self.memories, self.densities, strict=True)):
            stored |= {f"memory.{i}": memory.vectors, f"density.{i}": density}
            if memory.basis is not None:
                stored[f"basis.{i}"] = memory.basis
        return stored | as_tensors(self.describer.graphs()) | {"origins": self.origins}

    def parameters(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Return the settings that the card keeps."""
        views = self.describer.views
        return {
            "backbone": self.describer.backbone.name,
            **described(self.describer.backbone),
            "view_factor": tuple(v.factor for v in views),
            "view_blur": tuple(v.blur for v in views),
            "view_gain": tuple(v.gain for v in views),
            "view_border": tuple(v.border for v in views),
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
        ``views``, ``memory`` (most references a view), ``share`` (of all patches, at most), ``dim`` (principal
        directions that candidates are searched in; 0 for an exact search), ``smoothing``, and if wanted
        ``neighbours`` (whose distance makes the local density).
    images
        How many images will be added.
    device, seed
        Where to compute, and the seed of every random choice.
    """

    def __init__(self, backbone: Backbone, settings: Mapping[str, Any], images: int, device: Device, seed: int) -> None:
        self.views = tuple(View(*v) for v in settings["views"])
        self.describer = Describer(backbone, self.views)
        self.memory = int(settings["memory"])
        self.share = float(settings["share"])
        self.smoothing = float(settings["smoothing"])
        self.neighbours = int(settings.get("neighbours", NEIGHBOURS))
        self.device = device
        self.seed = seed
        self.stride = backbone.stride
        self.offset = backbone.measure_offset()
        self.describer.to(device)
        self.dim = int(settings["dim"])
        self._pool = min(max(POOL[0], POOL_SHARE * images), POOL[1])
        self._quota = max(LEAST_PATCHES, self._pool // max(1, images))
        self._generator = torch.Generator().manual_seed(seed)
        self._lots = torch.Generator().manual_seed(seed)
        self._wide = threading.Lock()  # one build at a time holds its pool in float64, twice as large
        # For each view and image: patches (n, d), and for the first view their origins (n, 4).
        self._patches: list[dict[int, list[Tensor]]] = [{} for _ in self.views]
        self._origins: dict[int, list[Tensor]] = {}
        # A lot for each patch: where an image has too many, those with the lowest lots stay, a fair draw from them all.
        self._drawn: list[dict[int, list[Tensor]]] = [{} for _ in self.views]

    @property
    def lanes(self) -> int:
        """Calls of `describe`, and of `build`, that may run at once, each in a thread with one core."""
        return min(devices.threads(), MOST_LANES) if self.describer.runtime == "openvino" else 1

    @torch.inference_mode()
    def describe(self, batch: Tensor) -> list[Tensor]:
        """Return the patches of windows ``(B, C, h, w)`` of one image in every view, ``(B * h' * w', d)`` each."""
        return [patches for patches, _ in self.describer(batch.to(self.device.torch))]

    @torch.inference_mode()
    def add(self, image: int, described: Sequence[Tensor], origins: Tensor) -> None:
        """Take in what `describe` gave of an image; a random share of the patches is kept where there are many."""
        for number, patches in enumerate(described):
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
            parts = [p for i in images for p in self._patches[number][i]]
            generator = torch.Generator().manual_seed(self.seed)
            some = torch.randperm(sum(map(len, parts)), generator=generator)[: self._pool].sort().values
            pool = _rows(parts, some).to(self.device.torch)
            count = max(min(self.memory, round(self.share * len(pool))), min(len(pool), 256))
            small = pool
            if pool.shape[1] > CORESET_DIM:
                small = pool @ projection(pool.shape[1], CORESET_DIM, self.seed).to(pool.device)
            chosen, _ = greedy_coreset(small, count)
            del small
            chosen = chosen.to(pool.device)
            basis = None
            if 0 < self.dim < pool.shape[1]:
                with self._wide:
                    basis = principal(pool, self.dim)
            memory = Memory(pool[chosen], basis)
            memories.append(memory)
            densities.append(_density(memory, pool, generator, self.neighbours))
            if number == 0:
                origins = self._places(images, some[chosen.cpu()])
        return PatchMemory(
            self.describer, memories, densities, origins, names, self.smoothing, self.offset, joined=False
        )

    def _places(self, images: Collection[int], rows: Tensor) -> Tensor:
        """Return image and origin, ``(n, 5)``, of patches given by their rows ``(n,)`` among those of `images`."""
        counts = torch.tensor([sum(map(len, self._origins[i])) for i in images])
        image = torch.tensor(list(images))[torch.searchsorted(counts.cumsum(0), rows, right=True)]
        ascending, order = rows.sort()
        places = torch.empty((len(rows), 4))
        places[order] = _rows([o for i in images for o in self._origins[i]], ascending)
        return torch.cat([image[:, None].float(), places], dim=1)


def _rows(parts: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Return rows, in ascending order, of all parts put together, which never is in memory as a whole."""
    taken = torch.empty((len(rows), parts[0].shape[1]))
    start = first = 0
    for at in range(0, len(parts), PUT_TOGETHER):
        some = torch.cat(list(parts[at : at + PUT_TOGETHER]))
        last = int(torch.searchsorted(rows, start + len(some)))
        taken[first:last] = some[rows[first:last] - start]
        start, first = start + len(some), last
    return taken


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
    except KeyError as error:
        raise ModelError(
            f"The card in {folder} lacks settings of patch-memory: {error}. Fit the model anew."
        ) from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"The card in {folder} is none of a patch-memory: {error}. Fit the model anew.") from error
    prefix = "backbone."
    own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    graphs = graphs_in(stored) if device.runtime == "openvino" else []
    network: Backbone
    if files := digests(stored):
        network = open_network(folder, card, files)
    elif graphs:
        network = LaterBackbone(name, description(folder, card), own)
    else:
        network = Backbone(name, own)
    if card.preparation.multiple % network.multiple:
        raise ModelError(
            f"Sides at inference are multiples of {network.multiple}, as {name} wants them. The card in {folder} has a "
            f"multiple of {card.preparation.multiple}; fit the model anew."
        )
    origins = weights.take(stored, "origins", 2)
    if len(origins) and not 0 <= origins[:, 0].min() <= origins[:, 0].max() < len(names):
        raise ModelError(
            f"The memory's patches come from {int(origins[:, 0].max()) + 1} good images. The card in {folder} names "
            f"{len(names)}; copy the model folder again, or fit it anew."
        )
    memories = [_memory(stored, i, network.dim) for i in range(len(views))]
    if memories and len(origins) != len(memories[0]):
        raise ModelError(
            f"The weights' 'origins' should have a row for each of {len(memories[0])} references. Got {len(origins)}; "
            "fit the model anew."
        )
    predictor = PatchMemory(
        Describer(network, views, graphs),
        memories,
        [_density_of(stored, i, memory) for i, memory in enumerate(memories)],
        origins,
        names,
        smoothing,
        offset,
    )
    predictor.to(device)
    return predictor


def _memory(stored: Mapping[str, Tensor], number: int, dim: int) -> Memory:
    vectors, basis = weights.take(stored, f"memory.{number}", 2).float(), stored.get(f"basis.{number}")
    if vectors.shape[1] != dim:
        raise ModelError(
            f"The weights' 'memory.{number}' should hold all {dim} features of the backbone. Got {vectors.shape[1]}; "
            "fit the model anew."
        )
    if not len(vectors):
        raise ModelError(f"The weights' 'memory.{number}' is empty, so nothing can be compared; fit the model anew.")
    if basis is not None and (basis.ndim != 2 or len(basis) != vectors.shape[1]):
        raise ModelError(
            f"The weights' 'basis.{number}' should have one row for each of {vectors.shape[1]} features. "
            f"Got shape {tuple(basis.shape)}."
        )
    return Memory(vectors, basis)


def _density_of(stored: Mapping[str, Tensor], number: int, memory: Memory) -> Tensor:
    density = weights.take(stored, f"density.{number}", 1)
    if len(density) != len(memory):
        raise ModelError(
            f"The weights' 'density.{number}' should have a number for each of {len(memory)} references. "
            f"Got {len(density)}; fit the model anew."
        )
    return density


def _check(views: Sequence[View], smoothing: float, offset: float) -> None:
    """Refuse settings that no fit makes, and that would take the memory or the time of a whole machine."""
    for view in views:
        if not (0 < view.factor <= 1 and 0 <= view.blur <= MAX_BLUR and 0 < view.gain < math.inf):
            raise ValueError(f"a view has a factor in (0, 1], a blur up to {MAX_BLUR:g} and a gain above 0, got {view}")
    if views and views[0].factor != 1:
        raise ValueError(f"the first view sets the grid, so its factor is 1, got {views[0].factor:g}")
    if not 0 <= smoothing <= MAX_BLUR or not abs(offset) <= MAX_OFFSET:
        raise ValueError(
            f"smoothing is up to {MAX_BLUR:g} and offset up to {MAX_OFFSET:g}, got {smoothing:g} and {offset:g}"
        )


def _density(memory: Memory, pool: Tensor, generator: torch.Generator, neighbours: int) -> Tensor:
    """Return a factor for each reference: low where good patches lie far apart; in units of a typical good patch."""
    sample = torch.randperm(len(pool), generator=generator)[:20_000].to(pool.device)
    around, _ = Memory(pool[sample]).search(memory.vectors, neighbours + 1)
    spread = around[:, 1:].mean(dim=1) if around.shape[1] > 1 else torch.ones_like(around[:, 0])
    factor = 1 / (spread + spread.mean()).clamp_min(1e-6)
    distance, nearest = memory.search(pool[sample[:4000]])
    typical = (distance[:, 0] * factor[nearest[:, 0]]).mean()
    return factor / typical.clamp_min(1e-6)


def _to_grid(score: Tensor, grid: Sequence[int]) -> Tensor:
    if list(score.shape[-2:]) == list(grid):
        return score
    return F.interpolate(score[:, None], size=list(grid), mode="bilinear", align_corners=False)[:, 0]
