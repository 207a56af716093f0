"""Studies on the network's grid, and the windows that are drawn from them.

Which window is drawn, and how it is changed, depends on seed, fold, step and place in the batch alone. So a run that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspection_core.card import ModelCard, Preparation
from inspection_core.cases import Case, read_case
from inspection_core.errors import ReadError
from inspection_core.io.atomic import atomic_path
from inspection_core.placement import Placement, resize
from inspection_core.prepare import padded_shape, prepare

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Study:
    """A prepared study.

    Parameters
    ----------
    name
        Of the patient.
    pixels
        float16 ``(C, d, h, w)``, prepared as for inference, without padding.
    labels
        uint8 ``(d, h, w)``.
    """

    name: str
    pixels: Tensor
    labels: Tensor

    @cached_property
    def slices_with(self) -> list[int]:
        """Return the planes with any class."""
        return [int(z) for z in torch.nonzero(self.labels.flatten(1).any(dim=1)).flatten()]


def load_studies(cases: Sequence[Case], card: ModelCard, cache: Path, show: Progress) -> list[Study]:
    """Read and prepare all studies, or take them from the cache where files and preparation are the same.

    Raises
    ------
    ReadError
        If a study cannot be read; training on less than was asked for is left to the user.
    """
    from safetensors.torch import load_file, save_file

    cache.mkdir(parents=True, exist_ok=True)
    studies = []
    for k, case in enumerate(cases):
        path = cache / f"{_key(case, card)}.safetensors"
        if path.is_file():
            stored = load_file(path)
        else:
            stored = dict(zip(("pixels", "labels"), prepared(case, card), strict=True))
            with atomic_path(path) as temporary:
                save_file(stored, temporary)
        studies.append(Study(case.name, stored["pixels"], stored["labels"]))
        show("reading", k + 1, len(cases))
    return studies


def _key(case: Case, card: ModelCard) -> str:
    told = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in (*case.images, *case.masks)]
    text = json.dumps([told, asdict(card.preparation), card.spacing, card.channels, len(card.classes)])
    return f"{hashlib.sha256(case.name.encode()).hexdigest()[:8]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def prepared(case: Case, card: ModelCard) -> tuple[Tensor, Tensor]:
    """Return pixels and labels of a study on the network's grid, without padding; see `Study`."""
    image, mask = read_case(case, card.channels)
    if mask.max(initial=0) > len(card.classes):
        raise ReadError(f"{case.name}: the mask holds class {mask.max()}. The card names {len(card.classes)}.")
    ready = prepare(image, card)
    place = cast("Placement", ready.placement)  # the view "image" is not trained
    inner = tuple(slice(n) for n in place.resized)
    return ready.pixels[(slice(None), *inner)].half().contiguous(), _labels(mask, place, len(card.classes))


def _labels(mask: NDArray[np.uint8], place: Placement, classes: int) -> Tensor:
    """Return the class of the largest share in each voxel of the network's grid."""
    seen = place.view(mask)
    best = torch.full(place.resized, 0.5)
    labels = torch.zeros(place.resized, dtype=torch.uint8)
    shares = []
    for k in range(1, classes + 1):
        share = torch.zeros(place.resized)
        resize((torch.from_numpy((plane == k).astype(np.float32)) for plane in seen), place.size[0], share)
        shares.append(share)
    background = 1 - sum(shares, torch.zeros(place.resized))
    best = background
    for k, share in enumerate(shares, start=1):
        above = share >= best
        labels[above & (share > 0)] = k
        best = torch.maximum(best, share)
    return labels


@dataclass(frozen=True)
class Where:
    """A window to be drawn: study, and its plane or the voxel at its centre."""

    study: int
    centre: tuple[int, ...]


def draw(studies: Sequence[Study], count: int, foreground: float, flat: bool, rng: np.random.Generator) -> list[Where]:
    """Choose windows: a share of `foreground` of them with a class in it, each patient as often as any other.

    Parameters
    ----------
    studies
        To choose from.
    count, foreground
        Number, and the share that is drawn where a class is; the rest is drawn where none is, or, of blocks, anywhere.
    flat
        Whether windows are slices; else blocks.
    rng
        Generator.
    """
    with_class = [k for k, s in enumerate(studies) if s.labels.any()]
    lit = round(foreground * count) if with_class else 0
    chosen = [int(rng.choice(with_class)) if i < lit else int(rng.integers(len(studies))) for i in range(count)]
    return [Where(k, _centre(studies[k], flat, i < lit, rng)) for i, k in enumerate(chosen)]


def _centre(study: Study, flat: bool, lit: bool, rng: np.random.Generator) -> tuple[int, ...]:
    shape = study.labels.shape
    if flat:
        some = study.slices_with
        chosen = some if lit else sorted(set(range(shape[0])) - set(some))
        return (int(rng.choice(chosen or list(range(shape[0])))),)
    if lit:
        classes = [int(c) for c in torch.unique(study.labels) if c]
        voxels = torch.nonzero(study.labels == int(rng.choice(classes)))
        return tuple(int(i) for i in voxels[int(rng.integers(len(voxels)))])
    return tuple(int(rng.integers(n)) for n in shape)


def cut_slice(study: Study, z: int, neighbours: int, step: int) -> tuple[Tensor, Tensor]:
    """Return a slice with its neighbours, float32 ``(C, 2 k + 1, h, w)``, and its labels ``(1, h, w)``."""
    last = study.pixels.shape[1] - 1
    planes = [min(max(z + step * k, 0), last) for k in range(-neighbours, neighbours + 1)]
    return study.pixels[:, planes].float(), study.labels[z][None].float()


def cut_block(study: Study, centre: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a block of about `size` around a voxel, moved into the volume; smaller volumes are given whole."""
    at = []
    for c, n, want in zip(centre, study.labels.shape, size, strict=True):
        start = min(max(0, c - want // 2), max(0, n - want))
        at.append(slice(start, min(n, start + want)))
    return study.pixels[(slice(None), *at)].float(), study.labels[tuple(at)][None].float()


def folds(names: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Split patients into `count` parts of nearly one size, at random."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [sorted(int(i) for i in order[k::count]) for k in range(count)]


def padded(pixels: Tensor, preparation: Preparation) -> Tensor:
    """Pad a prepared volume at its ends with zeros, as inference does."""
    shape = pixels.shape[1:]
    out = torch.zeros((pixels.shape[0], *padded_shape(shape, preparation)), dtype=torch.float32)
    out[(slice(None), *(slice(n) for n in shape))] = pixels
    return out
