"""From a configuration to a model's folder: cross-fitted networks, and the card that describes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from inspection_core.card import ModelCard
from inspection_core.cases import Case, find_cases
from inspection_core.device import Device
from inspection_core.errors import UsageError
from inspection_core.models import monai_unet, timm_unet
from inspection_core.training.assemble import Member, assemble
from inspection_core.training.config import Config
from inspection_core.training.loop import Run, Show
from inspection_core.training.samples import Study, folds, load_studies

RUNS = "training"
"""Folder in a model's own that holds checkpoints, logs and prepared studies; the model does not need it."""
Built = tuple[nn.Module, nn.Module | None]


def _timm_unet(card: ModelCard) -> Built:
    network = timm_unet.build(card)
    timm_unet.pretrained(network, str(card.parameters.get("encoder", timm_unet.ENCODER)))
    return network, network.encoder


NETWORKS: Mapping[str, Callable[[ModelCard], Built]] = {
    "timm-unet": _timm_unet,
    "monai-unet": lambda card: (monai_unet.build(card), None),
}
"""Architecture -> network to be trained, and its pretrained part."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The studies of a configuration, as files and prepared, in the same order.

    Parameters
    ----------
    cases, studies
        By name of the patient.
    apart
        Numbers of those that are never trained on.
    """

    cases: Sequence[Case]
    studies: Sequence[Study]
    apart: frozenset[int]

    def split(self, config: Config, fold: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the patients that a network is trained on, and of those held back from it."""
        training = config.training
        if training.folds == 1:
            return [i for i in range(len(self.cases)) if i not in self.apart], sorted(self.apart)
        parts = folds([c.name for c in self.cases], training.folds, training.seed)
        return sorted(i for k, part in enumerate(parts) if k != fold for i in part), parts[fold]


def dataset(config: Config, place: Path, cache: Path, show: Show) -> Dataset:
    """Find and prepare the studies of a configuration.

    Parameters
    ----------
    config, place
        The configuration and its folder.
    cache
        Folder for prepared studies.
    show
        Progress.

    Raises
    ------
    UsageError
        If a folder is not there, a patient lies in two of them, or there are fewer patients than folds.
    ReadError
        If a study cannot be read.
    """
    groups = [(f, False) for f in config.folders(place, config.data.folders)]
    groups += [(f, True) for f in config.folders(place, config.data.held_back)]
    found = sorted(((case, apart) for f, apart in groups for case in find_cases(f)), key=lambda pair: pair[0].name)
    names = [case.name for case, _ in found]
    twice = [a for a, b in itertools.pairwise(names) if a == b]
    if twice:
        raise UsageError(
            f"{twice[0]} lies in two of the data's folders. A patient is trained on or held back, not both."
        )
    if len(found) < max(2, config.training.folds):
        raise UsageError(f"{config.training.folds} folds need as many patients. Got {len(found)}.")
    cases = [case for case, _ in found]
    studies = load_studies(cases, config.card, cache, show)
    return Dataset(cases, studies, frozenset(i for i, (_, apart) in enumerate(found) if apart))


def train_fold(config: Config, data: Dataset, fold: int, out: Path, device: Device, show: Show) -> Run:
    """Train one network, or go on with it; returns at once where it is done."""
    if config.card.architecture not in NETWORKS:
        raise UsageError(f"{config.card.architecture!r} cannot be trained. Choose one of {', '.join(NETWORKS)}.")
    seen, held_back = data.split(config, fold)
    torch.manual_seed(config.training.seed + fold)
    network, encoder = NETWORKS[config.card.architecture](config.card)
    run = Run(config, network, encoder, out / RUNS / f"fold-{fold}", device, fold)
    run.train([data.studies[i] for i in seen], [data.studies[i] for i in held_back], show)
    return run


def train(
    config: Config, place: Path, out: Path, device: Device, show: Show, only: int | None = None
) -> ModelCard | None:
    """Train all networks of a configuration and write the model, or go on where an earlier call was stopped.

    Parameters
    ----------
    config, place
        The configuration and its folder.
    out
        Folder of the model; checkpoints, logs and prepared studies go to ``out/training``.
    device
        To train on.
    show
        Progress.
    only
        Train this fold alone, and write no model: folds can so be trained side by side.

    Returns
    -------
    ModelCard
        As written; None with `only`.

    Raises
    ------
    UsageError
        If configuration, data and what lies in `out` do not go together.
    """
    count = config.training.folds
    if only is not None and not 0 <= only < count:
        raise UsageError(f"The folds are numbered from 0 to {count - 1}. Got {only}.")
    data = dataset(config, place, out / RUNS / "prepared", show)
    members = []
    for fold in range(count) if only is None else (only,):
        run = train_fold(config, data, fold, out, device, show)
        members.append(Member(run.averaged(), [data.cases[i] for i in data.split(config, fold)[1]]))
    return None if only is not None else assemble(config, members, data.studies, out, device, show)
