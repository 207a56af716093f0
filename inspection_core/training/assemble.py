"""What becomes of trained networks: calibration on the patients that each did not see, and the model's folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inspection_core.card import Calibration, ChannelOrder, InputCheck, ModelCard
from inspection_core.cases import Case, read_case
from inspection_core.channel_order import channel_features, fit_channel_order
from inspection_core.confidence import temper
from inspection_core.confidence_fit import LabelledFindings, VoxelSample, fit_findings
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.findings import dismiss
from inspection_core.infer import Begun, Forwarded, begin, cells_in, complete
from inspection_core.input_check import fit_input_check, input_features
from inspection_core.io.atomic import write_text
from inspection_core.io.results import dump
from inspection_core.lesions import LesionCounts, compare
from inspection_core.models import load_predictor, monai_unet, timm_unet, weights
from inspection_core.models.members import stored
from inspection_core.placement import Placement
from inspection_core.prediction import Prediction
from inspection_core.prepare import Prepared
from inspection_core.segmentation_metrics import dice
from inspection_core.training.config import Config
from inspection_core.training.samples import Study

CROSS_FITTED = "crossfit.json"
CUTS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Probabilities that are tried as the cut of a voxel; Dice is highest below one half where a network is not sure."""
LEAST = (0.0, 0.05, 0.1, 0.15)
"""Confidences that are tried as the least of a finding. They stay below a verdict's usual `low`: doubt is shown."""
FEWEST = 3
"""Studies that a check of inputs needs."""
TENSORS: Mapping[str, Callable[[Sequence[nn.Module], ModelCard], dict[str, torch.Tensor]]] = {
    "timm-unet": timm_unet.tensors,
    "monai-unet": monai_unet.tensors,
}
"""Architecture -> what its networks' file of weights holds."""

Pair = tuple[LoadedModel, Case]
"""A patient, and the network that did not see it."""


@dataclass(frozen=True, eq=False)
class Member:
    """A trained network, and the patients that it never saw."""

    network: nn.Module
    held_back: Sequence[Case]


def as_model(network: nn.Module, card: ModelCard, device: Device) -> LoadedModel:
    """Return a trained network as a model, by way of its files: so it is rounded as it will be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = replace(card, parameters={**card.parameters, "members": 1})
        alone = weights.save(folder, alone, stored([network]))
        return LoadedModel(alone, folder, load_predictor(folder, alone, device), device)


def assemble(
    config: Config,
    members: Sequence[Member],
    studies: Sequence[Study],
    out: Path,
    device: Device,
    show: Callable[[str, int, int], None],
) -> ModelCard:
    """Calibrate, and write card and weights.

    Each patient is predicted by the network that did not see it, through the same way as any input: first for the
    temperature, then, at that temperature, for the findings' confidence and for the least of it. The model itself
    averages all networks.

    Parameters
    ----------
    config
        Of the run.
    members
        Its networks, each with the patients held back from it.
    studies
        All of the run, for the check of inputs.
    out
        Folder for the model.
    device
        To predict on.
    show
        Progress.

    Returns
    -------
    ModelCard
        As written, with cross-fitted figures in its metrics.
    """
    card = config.card
    models = [as_model(m.network, card, device) for m in members]
    pairs = [(model, case) for model, m in zip(models, members, strict=True) for case in m.held_back]
    calibration, metrics = Calibration(), dict[str, Any]()
    if pairs:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            kept = [Path(folder) / f"{k}.npy" for k in range(len(pairs))]
            card, temperature = _first_pass(pairs, card, kept, lambda k: show("calibrating", k, 2 * len(pairs)))
            warm = replace(card, calibration=Calibration(temperature=temperature))
            fitted = fit_findings(
                _labelled(pairs, warm, kept, lambda k: show("calibrating", len(pairs) + k, 2 * len(pairs)))
            )
            inputs, order = _input_checks(studies)
            calibration = replace(
                warm.calibration,
                method=f"cross-fitted on {len(pairs)} patients, each predicted by a network that did not see it"
                if config.training.folds > 1
                else f"fitted on {len(pairs)} patients held back",
                finding=fitted.calibration,
                inputs=inputs,
                order=order,
            )
            card = replace(card, calibration=calibration)
            least, rows = _least(pairs, card, kept)
            card = replace(card, policy=replace(card.policy, least=least))
        metrics = _summary(rows)
        write_text(out / CROSS_FITTED, dump({"summary": metrics, "reason": fitted.reason, "rows": rows}))
    card = replace(
        card,
        calibration=calibration,
        parameters={**card.parameters, "members": len(members)},
        training={**card.training, **_told(config, members)},
        metrics={**card.metrics, **{f"crossfit_{k}": v for k, v in metrics.items()}},
    )
    return weights.save(out, card, TENSORS[card.architecture]([m.network for m in members], card))


def _first_pass(
    pairs: Sequence[Pair], card: ModelCard, kept: Sequence[Path], done: Callable[[int], None]
) -> tuple[ModelCard, float]:
    """Put each patient through the network that did not see it; return the card with its cut, and the temperature.

    What the networks give is kept in files: it takes the most time, and is needed twice.
    """
    voxels, overlaps = VoxelSample(), []
    for k, (model, case) in enumerate(pairs):
        image, mask = read_case(case, card.channels)
        begun = begin(image, model)
        foreground, _ = model.run_foreground(cast("Prepared", begun.prepared))
        np.save(kept[k], foreground)
        place = _place(begun)
        inner = (slice(None), *(slice(n) for n in place.resized))
        classes, truth = foreground[inner][: len(card.classes)], _on_grid(mask, place.view, place.resized)
        voxels.add(classes, truth)
        overlaps.append(_overlaps(classes, truth))
        done(k + 1)
    temperature = voxels.fit()
    if len(card.classes) == 1:
        best = CUTS[int(np.mean(overlaps, axis=0).argmax())]
        odds = (best / (1 - best)) ** (1 / temperature)  # the same cut after tempering
        card = replace(card, policy=replace(card.policy, voxel=round(odds / (1 + odds), 4)))
    return card, temperature


Completed = tuple[Case, NDArray[np.uint8], Prediction, LesionCounts, float]
"""A patient, the reference mask, what the model says, how the two compare, and `LabelledFindings.cells`."""


def _completed(pairs: Sequence[Pair], card: ModelCard, kept: Sequence[Path]) -> Iterator[Completed]:
    """Finish each patient with a card, from what the network gave in the first pass."""
    for (model, case), path in zip(pairs, kept, strict=True):
        image, mask = read_case(case, card.channels)
        begun = begin(image, model)
        output = _tempered(np.load(path), card.calibration.temperature, len(card.classes))
        warm = replace(model, card=card)
        found = complete(Forwarded(begun, warm.restore(output, _place(begun)), None, {}), warm)
        counts = compare(found.mask, mask, found.findings, card.classes)
        yield case, mask, found, counts, cells_in(_place(begun)) / image.geometry.voxel_size


def _labelled(
    pairs: Sequence[Pair], card: ModelCard, kept: Sequence[Path], done: Callable[[int], None]
) -> list[LabelledFindings]:
    """Return the findings of each patient at the card's temperature and cut, and which are lesions."""
    labelled = []
    for k, (case, _, found, counts, cells) in enumerate(_completed(pairs, card, kept)):
        labelled.append(LabelledFindings(case.name, found.findings, counts.true, cells))
        done(k + 1)
    return labelled


def _least(pairs: Sequence[Pair], card: ModelCard, kept: Sequence[Path]) -> tuple[float, list[dict[str, Any]]]:
    """Return the largest of `LEAST` that loses no lesion found, 0 without a calibration, and each patient's figures."""
    tried = LEAST if card.calibration.finding.features else (0.0,)
    reach, rows = [], [list[dict[str, Any]]() for _ in tried]
    for case, mask, found, counts, _ in _completed(pairs, card, kept):
        reach.append(counts.reach)
        for least, some in zip(tried, rows, strict=True):
            left, findings = dismiss(found.mask, found.findings, card.classes, least)
            some.append(_row(case.name, len(card.classes), left, mask, compare(left, mask, findings, card.classes)))
    met = np.concatenate(reach)
    met = met[np.isfinite(met)]
    best = max(k for k, least in enumerate(tried) if least == 0 or (met >= least).all())
    return tried[best], rows[best]


def _place(begun: Begun) -> Placement:
    return cast("Prepared", begun.prepared).place


def _tempered(foreground: NDArray[Any], temperature: float, classes: int) -> NDArray[np.float16]:
    """Return what the network gives at a temperature, from what it gave at 1."""
    given = torch.from_numpy(foreground.astype(np.float32))
    background = 1 - given[:classes].sum(dim=0, keepdim=True)
    tempered = temper(torch.cat([background.clamp_min(0), given])[None], temperature, 1 + classes)
    return np.asarray(tempered[0, 1:].half().numpy())


def _overlaps(foreground: NDArray[Any], truth: NDArray[np.uint8]) -> list[float]:
    """Return the Dice of one class at each of `CUTS`."""
    score, true = foreground.sum(axis=0), truth > 0
    return [dice(score > cut, true) for cut in CUTS]


def _input_checks(studies: Sequence[Study]) -> tuple[InputCheck, ChannelOrder]:
    if len(studies) < FEWEST:
        return InputCheck(), ChannelOrder()
    given = [(s.pixels.float(), s.labels.shape) for s in studies]
    inputs = fit_input_check([input_features(*one) for one in given])
    return inputs, fit_channel_order([channel_features(*one) for one in given])


def _on_grid(mask: NDArray[np.uint8], view: Callable[[Any], NDArray[Any]], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return the reference on the network's grid, by the nearest voxel."""
    seen = view(mask)
    lines = [
        np.minimum(((np.arange(m) + 0.5) * n / m).astype(int), n - 1) for n, m in zip(seen.shape, shape, strict=True)
    ]
    return np.ascontiguousarray(seen[np.ix_(*lines)])


def _row(name: str, classes: int, found: NDArray[Any], true: NDArray[Any], counts: LesionCounts) -> dict[str, Any]:
    row: dict[str, Any] = {"case": name}
    dices = []
    for c in range(1, classes + 1):
        dices.append(dice(found == c, true == c))
        row[f"dice_{c}"] = dices[-1]
    row["dice"] = float(np.mean(dices))
    row |= {
        "lesions": len(counts.found),
        "found": int(np.sum(counts.found)),
        "findings": len(counts.true),
        "true": int(np.sum(counts.true)),
    }
    return row


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    dice = [r["dice"] for r in rows]
    lesions, findings = sum(r["lesions"] for r in rows), sum(r["findings"] for r in rows)
    return {
        "patients": len(rows),
        "dice_mean": round(float(np.mean(dice)), 4),
        "dice_median": round(float(np.median(dice)), 4),
        "lesion_recall": round(sum(r["found"] for r in rows) / lesions, 4) if lesions else math.nan,
        "lesion_precision": round(sum(r["true"] for r in rows) / findings, 4) if findings else math.nan,
    }


def _told(config: Config, members: Sequence[Member]) -> dict[str, Any]:
    import monai
    import timm

    training = config.training
    return {
        "data": config.data.words,
        "folders": config.data.folders,
        "networks": len(members),
        "seed": training.seed,
        "samples": sum(s.samples for s in training.stages),
        "versions": (
            f"torch {torch.__version__.split('+')[0]}",
            f"monai {monai.__version__}",
            f"timm {timm.__version__}",
        ),
    }
