"""nnU-Net v2 result folders as models: ``nnunet:PATH`` (Isensee et al., Nature Methods 2021).

PATH is what training leaves, ``Dataset.../Trainer__Plans__configuration`` with ``dataset.json``, ``plans.json`` and
``fold_*``; all its folds are averaged, or PATH is one ``fold_*``. nnU-Net's own code prepares, predicts and restores,
so that a result is what ``nnUNetv2_predict`` gives. Its checkpoints are loaded as tensors alone, and its plans may name
networks and layers of nnU-Net and torch only: they name classes, which nnU-Net itself would import from anywhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspection_core.card import ModelCard, Policy, Preparation, Scalar
from inspection_core.device import Device
from inspection_core.errors import InspectionError, ModelError, ReadError
from inspection_core.image import Image
from inspection_core.models import Segmented, weights
from inspection_core.placement import orient

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
REORIENTS = "NibabelIOWithReorient"
"""nnU-Net's reader that turns every scan to RAS; the others take scans as they are stored."""
TRUSTED = ("dynamic_network_architectures.", "torch.nn.")
POLICY = Policy(kind="band", low=1e-6, high=1.0)
FLAT = 999.0
"""Spacing of the missing axis of a picture, as nnU-Net's own reader has it."""


class NnUNet:
    """An nnU-Net that was loaded; see `inspection_core.models.Host`."""

    stride = 1
    offset = 0.0

    def __init__(self, predictor: Any, card: ModelCard, labels: tuple[int, ...], *, regions: bool, turn: bool) -> None:
        self.predictor = predictor
        self.card = card
        self.labels = labels
        self.regions = regions
        self.turn = turn

    def to(self, device: Device) -> None:
        """Move the network to another device."""
        self.predictor.device = device.torch
        self.predictor.network.to(device.torch)

    def segment(self, image: Image, device: Device) -> Segmented:
        """Return score and mask on the image's own grid; see `inspection_core.models.Host`."""
        self.to(device)
        array, notes = image.array.astype(np.float32), image.notes
        if bad := int(array.size - np.isfinite(array).sum()):
            np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            notes = (*notes, f"{bad} voxels are not finite: taken as 0")
        spacing = image.geometry.spacing
        axes: tuple[int, ...] = (0, 1, 2)
        flips: tuple[bool, ...] = (False, False, False)
        if image.ndim == 2:
            if len(self.predictor.configuration_manager.patch_size) == 3:
                raise ReadError(f"{image.name}: the model {self.card.id} takes volumes. Got a 2-D image.")
            array, spacing = array[:, None], (FLAT, *spacing)
        elif self.turn:
            axes, flips = orient(image.geometry, "RAS")
        if image.geometry.unit != "mm" and image.ndim == 3:
            notes = (*notes, "no spacing is known: voxels taken as 1 mm for the model, results may be poor")
        turned = np.flip(array.transpose(0, *(a + 1 for a in axes)), tuple(i + 1 for i, f in enumerate(flips) if f))
        properties = {"spacing": [spacing[a] for a in axes]}
        try:
            with _quiet():
                given = self.predictor.predict_single_npy_array(
                    np.ascontiguousarray(turned), properties, None, None, True
                )
        except InspectionError:
            raise
        except (ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
            line = " ".join(str(error).split())[:300]
            raise ModelError(f"The model {self.card.id} cannot be run on {image.name}: {line}") from error
        whole, chances = (np.asarray(g) for g in given)
        score = chances.max(axis=0) if self.regions else 1 - chances[0]
        mask = np.zeros(whole.shape, np.uint8)
        for k, label in enumerate(self.labels, start=1):
            mask[whole == label] = k
        return Segmented(
            np.clip(self._back(score, image, axes, flips), 0, 1).astype(np.float32),
            self._back(mask, image, axes, flips),
            notes,
        )

    def _back(self, array: NDArray[Any], image: Image, axes: tuple[int, ...], flips: tuple[bool, ...]) -> NDArray[Any]:
        turned = np.flip(array, tuple(i for i, f in enumerate(flips) if f)).transpose(np.argsort(axes))
        return np.ascontiguousarray(turned).reshape(image.geometry.shape)


def open_results(path: Path, device: Device, *, trust: bool = False) -> tuple[ModelCard, NnUNet]:
    """Load an nnU-Net's result folder, or one of its folds.

    Parameters
    ----------
    path
        The folder.
    device
        Where it shall run.
    trust
        Load checkpoints that hold more than tensors, and take networks from anywhere, as nnU-Net itself would.

    Returns
    -------
    card, predictor
        The predictor keeps `inspection_core.models.Host`.

    Raises
    ------
    ModelError
        If nnU-Net is not installed, or the folder is damaged or names what is not allowed.
    """
    try:
        with _quiet():
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
            from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    except ImportError as error:
        raise ModelError(
            f"nnU-Net result folders need nnU-Net, which is not installed ({error.name}): "
            'pip install "inspection-suite[nnunet]".'
        ) from error
    folder, folds = _folds(Path(path))
    dataset, plans = (_json(folder / n) for n in ("dataset.json", "plans.json"))
    if not trust:
        _check_names(plans, folder)
    parameters = []
    first: dict[str, Any] = {}
    for fold in folds:
        checkpoint = _checkpoint(fold, trust=trust)
        first = first or checkpoint
        parameters.append(checkpoint["network_weights"])
    try:
        with _quiet():
            manager = PlansManager(plans)
            configuration = manager.get_configuration(first["init_args"]["configuration"])
            if configuration.previous_stage_name is not None:
                raise ModelError(f"{folder} is the second stage of a cascade, which cannot be run by itself.")
            label_manager = manager.get_label_manager(dataset)
            network = _network(manager, configuration, first["trainer_name"], len(parameters), (
                determine_num_input_channels(manager, configuration, dataset), label_manager.num_segmentation_heads,
            ))  # fmt: skip
            network.load_state_dict(parameters[0])
            predictor = nnUNetPredictor(
                perform_everything_on_device=device.torch.type == "cuda", device=device.torch, allow_tqdm=False
            )
            predictor.manual_initialization(
                network, manager, configuration, parameters, dataset, first["trainer_name"],
                first.get("inference_allowed_mirroring_axes"),
            )  # fmt: skip
    except ModelError:
        raise
    except (KeyError, RuntimeError, TypeError, ValueError, ImportError, AttributeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"The nnU-Net in {folder} cannot be loaded: {line}") from error
    names, labels = _classes(dataset, label_manager)
    card = _card(folder, folds, dataset, plans, names, dimensions=len(configuration.patch_size))
    turn = plans.get("image_reader_writer") == REORIENTS
    return card, NnUNet(predictor, card, labels, regions=bool(label_manager.has_regions), turn=turn)


def _folds(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """Return the folder of results and the files of weights of its folds."""
    folder, given = (path.parent, [path]) if path.name.startswith("fold_") else (path, [])
    if not (folder / "plans.json").is_file() or not (folder / "dataset.json").is_file():
        raise ModelError(
            f"An nnU-Net result folder holds dataset.json, plans.json and fold_0, fold_1, ... Found none in {folder}; "
            "give the folder that is named like nnUNetTrainer__nnUNetPlans__3d_fullres."
        )
    numbered = [p for p in sorted(folder.glob("fold_*")) if p.name != "fold_all"]
    for fold_list in (given,) if given else (numbered, [folder / "fold_all"]):
        for name in CHECKPOINTS:
            if found := tuple(p / name for p in fold_list if (p / name).is_file()):
                return folder, found
    raise ModelError(f"{path} holds no {' or '.join(CHECKPOINTS)} of any fold; copy the folds too.")


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} must be a table of entries. Got {type(data).__name__}.")
    return data


def _check_names(plans: Mapping[str, Any], folder: Path) -> None:
    """Refuse plans that name networks or layers from elsewhere than nnU-Net's own packages and torch."""
    for configuration in _tables(plans.get("configurations", {})):
        architecture = configuration.get("architecture", {})
        if not isinstance(architecture, dict):
            continue
        kwargs = architecture.get("arch_kwargs", {})
        wanted = architecture.get("_kw_requires_import", ())
        named = [architecture.get("network_class_name"), *(kwargs.get(k) for k in wanted)]
        for name in named:
            if name is not None and not str(name).startswith(TRUSTED):
                raise ModelError(
                    f"The plans in {folder} name {str(name)[:80]!r}, which is neither nnU-Net's nor torch's. Read "
                    "them; if you trust who made them, use --trust-bundle."
                )


def _tables(data: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(data, dict):
        yield from (v for v in data.values() if isinstance(v, dict))


def _checkpoint(path: Path, *, trust: bool) -> dict[str, Any]:
    try:
        data = weights.load_checkpoint(path.read_bytes(), f"The checkpoint {path}", trust=trust)
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be read: {error.strerror}. Copy the whole folder.") from error
    if not isinstance(data, dict):
        raise ModelError(f"The checkpoint {path} is no table. Got {type(data).__name__}.")
    missing = [k for k in ("network_weights", "init_args", "trainer_name") if k not in data]
    if missing:
        raise ModelError(f"The checkpoint {path} lacks {missing}: is it nnU-Net version 2's?")
    return dict(data)


def _network(manager: Any, configuration: Any, trainer: str, folds: int, channels: tuple[int, int]) -> Any:
    """Build the network as nnU-Net's trainer of that name does; trainers come from nnU-Net's own package."""
    import inspect

    import nnunetv2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    found = nnUNetTrainer
    if trainer != "nnUNetTrainer":
        root = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
        found = recursive_find_python_class(str(root), trainer, "nnunetv2.training.nnUNetTrainer")
        if found is None:
            raise ModelError(f"nnU-Net has no trainer {trainer!r}; a changed trainer must be installed with it.")
    build = found.build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        return build(manager, configuration, *channels, enable_deep_supervision=False)
    return build(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        *channels,
        enable_deep_supervision=False,
    )


def _classes(dataset: Mapping[str, Any], label_manager: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of the classes and their values in nnU-Net's masks."""
    named = {str(k): v for k, v in dataset["labels"].items() if str(k) not in ("background", "ignore")}
    if label_manager.has_regions:
        return tuple(named), tuple(int(v) for v in dataset["regions_class_order"])
    pairs = sorted((int(v), k) for k, v in named.items() if int(v) != 0)
    return tuple(k for _, k in pairs), tuple(v for v, _ in pairs)


def _card(
    folder: Path,
    folds: tuple[Path, ...],
    dataset: Mapping[str, Any],
    plans: Mapping[str, Any],
    classes: tuple[str, ...],
    *,
    dimensions: int,
) -> ModelCard:
    names = dataset.get("channel_names") or dataset.get("modality") or {"0": "image"}
    channels = tuple(str(names[k]) for k in sorted(names, key=int))
    if len(set(channels)) != len(channels):
        channels = tuple(f"{c} {k}" for k, c in enumerate(channels, start=1))
    turn = plans.get("image_reader_writer") == REORIENTS
    training: dict[str, Scalar | tuple[Scalar, ...]] = {
        k: str(dataset[k])[:500] for k in ("name", "description", "reference", "numTraining") if dataset.get(k)
    }
    training["folds"] = tuple(f.parent.name for f in folds)
    hashes = tuple(weights.sha256(f) for f in (*folds, folder / "plans.json"))
    name = str(dataset.get("name") or plans.get("dataset_name") or folder.parent.name)
    return ModelCard(
        id=re.sub(r"[\\/\s]+", "-", name).strip("-.") or "nnunet",
        version=str(dataset.get("release") or "unknown"),
        architecture="nnunet",
        task="segmentation",
        channels=channels,
        score="1 - P(background), or the highest probability of any region where regions overlap; not calibrated",
        classes=classes,
        preparation=Preparation(view="volume", normalise="z-score"),
        policy=POLICY,
        parameters={"sha256": hashes},
        intended_use="Not stated by the result folder. Research use only, not for diagnosis.",
        limits="A model made by others: nothing was measured here. Confidences are not calibrated, so that every "
        "finding is for someone to look at."
        + ("" if turn or dimensions == 2 else " Scans are given to it as they are stored, as nnU-Net does."),
        licence=str(dataset.get("licence") or dataset.get("license") or "not stated by the result folder")[:500],
        training=training,
        weights=folds[0].name,
        weights_sha256=hashes[0],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what nnU-Net prints, and its notes on its own future, from the output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
