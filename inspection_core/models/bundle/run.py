"""A MONAI bundle at work: its own way from an image to a mask, and the mask back on the image's own grid."""

from __future__ import annotations

import contextlib
import posixpath
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspection_core.card import ModelCard
from inspection_core.device import Device, is_out_of_memory
from inspection_core.errors import InspectionError, ModelError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.models import Segmented
from inspection_core.models import weights as weights_io
from inspection_core.models.bundle import components, config
from inspection_core.models.bundle.files import WEIGHTS_LIMIT, Files
from inspection_core.models.bundle.labels import Labels
from inspection_core.models.runtimes import load_torchscript

PRED = "pred"
_SCORE = "score of the suite"
WEIGHTS = ("models/model.pt", "models/model.ts")
STRAIGHT = 1e-5
"""Axes whose cosines are off by no more than this are taken for those at right angles."""
_NOT_IMAGES = ("label", "mask", "seg")


@dataclass(frozen=True, eq=False)
class Parts:
    """What a bundle is made of, built.

    Parameters
    ----------
    network, inferer, preprocessing
        As the bundle says.
    head, tail
        Its post-processing before the first transform that makes labels, and from it on.
    keys
        Names of the images in its dictionaries.
    amp
        Whether it wants mixed precision on a GPU.
    """

    network: Any
    inferer: Any
    preprocessing: Any
    head: tuple[Any, ...]
    tail: tuple[Any, ...]
    keys: tuple[str, ...]
    amp: bool


class Bundle:
    """A bundle that was loaded; see `inspection_core.models.Host`.

    Parameters
    ----------
    parts
        From `build`.
    card
        From `inspection_core.models.bundle.meta.card`.
    outputs
        Channels of its network.
    background
        Whether the first of them is the background.
    ndim
        Spatial axes that it takes.
    labels
        What its mask means.
    """

    stride = 1
    offset = 0.0

    def __init__(
        self, parts: Parts, card: ModelCard, outputs: int, background: bool, ndim: int, labels: Labels
    ) -> None:
        self.parts = parts
        self.card = card
        self.outputs = outputs
        self.background = background
        self.ndim = ndim
        self.labels = labels

    def to(self, device: Device) -> None:
        """Move the network to another device."""
        self.parts.network.to(device.torch)

    def segment(self, image: Image, device: Device) -> Segmented:
        """Return score and mask on the image's own grid; see `inspection_core.models.Host`.

        A bundle for 2-D images takes the slices of a volume one by one.
        """
        if image.ndim < self.ndim:
            raise ReadError(f"{image.name}: the bundle {self.card.id} takes volumes. Got a 2-D image; give the series.")
        self.to(device)
        array, notes = image.array, image.notes
        if array.dtype.kind == "f" and (bad := int(array.size - np.isfinite(array).sum())):
            array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
            notes = (*notes, f"{bad} voxels are not finite: taken as 0")
        if image.geometry.unit != "mm" and _has(self.parts.preprocessing, "Spacing"):
            notes = (*notes, "no spacing is known: voxels taken as 1 mm for the bundle, results may be poor")
        score = np.zeros(image.geometry.shape, np.float32)
        mask = np.zeros(image.geometry.shape, np.uint8)
        overlap = False
        if image.ndim == self.ndim:
            score[...], mask[...], overlap = self._one(array, affine_ras(image.geometry), image.name, device)
        else:
            plane = np.eye(3)
            plane[[0, 1], [0, 1]] = image.geometry.spacing[:0:-1]
            for z in range(len(mask)):
                score[z], mask[z], both = self._one(array[:, z], plane, image.name, device)
                overlap |= both
        if overlap:
            notes = (*notes, "classes of the bundle overlap: where they do, the smaller one is shown")
        return Segmented(score, mask, notes)

    def _one(
        self, array: NDArray[Any], affine: NDArray[np.float64], name: str, device: Device
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], bool]:
        """Return score, mask and whether classes overlap, for one image ``(C, [z,] y, x)``."""
        turned = np.array(array.transpose(0, *range(array.ndim - 1, 0, -1)), dtype=np.float32, order="C")
        try:
            with _quiet(), torch.no_grad():
                score, final = self._run(torch.from_numpy(turned), affine, device)
        except InspectionError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"The bundle {self.card.id} cannot be run on {name}: {line}") from error
        spatial = turned.shape[1:]
        for what, got in (("score", score.shape), ("mask", final.shape[1:])):
            if tuple(got) != spatial:
                raise ModelError(
                    f"The {what} of the bundle {self.card.id} does not come back on the image's grid: expected "
                    f"{spatial}, got {tuple(got)}. Its post-processing lacks an Invertd that fits its preprocessing."
                )
        mask, overlap = self.labels.mask(final)
        return np.clip(score, 0, 1).T, mask.T, overlap

    def _run(
        self, pixels: torch.Tensor, affine: NDArray[np.float64], device: Device
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the score ``(*spatial)`` and the bundle's final array ``(C, *spatial)``, axes in MONAI's order."""
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.post.dictionary import Invertd
        from monai.utils.enums import TraceKeys

        parts = self.parts
        meta = {"original_channel_dim": 0, "spatial_shape": np.array(pixels.shape[1:])}
        split = [pixels[k : k + 1] for k in range(len(pixels))] if len(parts.keys) > 1 else [pixels]
        data: Any = {
            k: MetaTensor(p.clone(), affine=torch.from_numpy(affine), meta=dict(meta))
            for k, p in zip(parts.keys, split, strict=True)
        }
        data = parts.preprocessing(data)
        for value in data.values():
            for done in getattr(value, "applied_operations", ()):
                done["id"] = TraceKeys.NONE  # so that a copy of the preprocessing can undo it, as many bundles ask for
        key = "image" if "image" in data else parts.keys[0]
        batch = torch.as_tensor(data[key]).to(device.torch)[None].float()
        with torch.autocast(device.torch.type, enabled=parts.amp and device.torch.type == "cuda"):
            given = parts.inferer(batch, parts.network)
        given = _single(given)[0].float()
        if given.shape[0] != self.outputs:
            raise ModelError(
                f"The network of the bundle {self.card.id} gives {given.shape[0]} channels, and its metadata name "
                f"{self.outputs}."
            )
        data[PRED] = MetaTensor(given.as_tensor() if isinstance(given, MetaTensor) else given)
        for transform in parts.head:
            data = transform(data)
        chances = torch.as_tensor(data[PRED]).float()
        data[_SCORE] = self._score(chances)
        back = next((t for t in (*parts.head, *parts.tail) if isinstance(t, Invertd)), None)
        # Of several images that were put together, each one knows its own way back.
        origin = parts.keys[0] if back is None else back.orig_keys[0]
        undone = parts.preprocessing if back is None else back.transform
        if not any(isinstance(t, Invertd) for t in parts.head):
            data = Invertd(_SCORE, undone, orig_keys=origin, nearest_interp=False, to_tensor=True)(data)
        for transform in parts.tail:
            data = transform(data)
        if back is None:  # the bundle leaves its mask on the network's grid
            data = Invertd(PRED, undone, orig_keys=origin, nearest_interp=True, to_tensor=True)(data)
        return (
            np.asarray(torch.as_tensor(data[_SCORE]).cpu(), dtype=np.float32)[0],
            np.asarray(torch.as_tensor(data[PRED]).cpu()),
        )

    def _score(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``(1, *spatial)``: 1 - P(background), or the highest probability of any class.

        Where a bundle cut its image, what comes back from beyond the cut is 0 in every channel: background.
        """
        several = self.background and len(values) > 1
        beyond = (values == 0).all(dim=0, keepdim=True)
        done = any(_has_one(t, "softmax") or _has_one(t, "sigmoid") for t in self.parts.head)
        if not done:  # the bundle takes the largest, or cuts, without making probabilities first
            inside = values.min() >= 0 and values.max() <= 1
            sums = values.sum(dim=0, keepdim=True)[~beyond]
            if not (inside and (not several or bool(((sums - 1).abs() < 0.05).all()))):
                values = values.softmax(dim=0) if several else values.sigmoid()
        score = 1 - values[:1] if several else values.amax(dim=0, keepdim=True)
        return score.masked_fill(beyond, 0)


def affine_ras(geometry: Geometry) -> NDArray[np.float64]:
    """Return the affine of an array ``(x, y[, z])`` in RAS, as MONAI has it, for a grid ``(z, y, x)`` in LPS.

    Axes at right angles are made exactly so: MONAI lays its grid otherwise where they are off by the rounding of a
    NIfTI header, and the same study from DICOM would come out differently.
    """
    n = geometry.ndim
    turned = geometry.affine[:, [*range(n - 1, -1, -1), n]].copy()
    turned[:2] *= -1 if n == 3 else 1
    spacing = np.linalg.norm(turned[:n, :n], axis=0)
    left, _, right = np.linalg.svd(turned[:n, :n] / spacing)
    if np.abs(left @ right - turned[:n, :n] / spacing).max() < STRAIGHT:
        turned[:n, :n] = left @ right * np.round(spacing, 6)
        turned[:n, :n][np.abs(turned[:n, :n]) < 1e-12] = 0
    return turned


def build(files: Files, settings: config.Config, raw: Any, device: Device, *, trust: bool) -> tuple[Parts, str]:
    """Build what a bundle's configuration says, and load its weights.

    Returns
    -------
    parts, weights
        The parts, and the name of the file of weights.

    Raises
    ------
    ModelError
        If an entry is missing, not allowed, or does not fit the weights.
    """
    from monai.inferers.inferer import SimpleInferer
    from monai.transforms.compose import Compose
    from monai.transforms.post.dictionary import AsDiscreted

    with _quiet():
        preprocessing = settings.get("preprocessing")
        if not isinstance(preprocessing, Compose):
            raise ModelError(
                f"The bundle {files.path} has no `preprocessing` that is a Compose; it stands in the configuration of "
                "every bundle that follows MONAI's bundle specification."
            )
        after = settings.get("postprocessing")
        transforms = list(after.transforms) if isinstance(after, Compose) else []
        cut = _first(transforms, "AsDiscrete")
        cut = cut if cut is not None else _first(transforms, "Lambda")
        if cut is None:
            argmax = _has(after, "Activations", "softmax") or not _has(after, "Activations", "sigmoid")
            transforms.append(AsDiscreted(PRED, argmax=True) if argmax else AsDiscreted(PRED, threshold=0.5))
            cut = len(transforms) - 1
        network, weights = _network(files, settings, raw, trust=trust)
        inferer = settings.get("inferer") or SimpleInferer()
    network.to(device.torch)
    amp = bool(settings.get("amp", False)) or any(
        node.get("amp") is True for _, node in config.nodes(raw, "SupervisedEvaluator")
    )
    keys = _keys(settings, raw)
    return Parts(network, inferer, preprocessing, tuple(transforms[:cut]), tuple(transforms[cut:]), keys, amp), weights


def _network(files: Files, settings: config.Config, raw: Any, *, trust: bool) -> tuple[Any, str]:
    path, key = "", ""
    for where, node in config.nodes(raw, "CheckpointLoader"):
        path = str(settings.get(f"{where}#load_path"))
        key = next(iter(node.get("load_dict") or {"": None}))
        break
    root = str(files.path)
    name = posixpath.normpath(path.removeprefix(root).lstrip("/")) if path else ""
    name = next((n for n in (name, *WEIGHTS) if n in files.names), "")
    if not name:
        raise ModelError(
            f"The bundle {files.path} has no weights: expected {path or WEIGHTS[0]}. Get the whole bundle."
        )
    if name.endswith((".ts", ".torchscript")):
        if not trust:
            raise ModelError(
                f"The bundle {files.path} has its network as a TorchScript program, {name}, and no weights alone. "
                "A program of others can do more than compute; if you trust who made it, use --trust-bundle."
            )
        return load_torchscript(files.read(name, WEIGHTS_LIMIT), f"{name} of the bundle {files.path}"), name
    network = settings.get("network_def")
    network = settings.get("network") if network is None else network
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"The bundle {files.path} builds no network under `network_def` or `network`.")
    state = _state(files, name, key, trust=trust)
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"The weights {name} do not fit the network of the bundle {files.path}: {line}") from error
    return network.eval(), name


def _state(files: Files, name: str, key: str, *, trust: bool) -> Any:
    data = load_inside(files, name, trust=trust)
    for inner in (key, "model", "state_dict", "network"):
        if isinstance(data, dict) and isinstance(data.get(inner), dict):
            data = data[inner]
            break
    if not isinstance(data, dict):
        raise ModelError(f"The weights {name} of the bundle {files.path} are no table of tensors.")
    return {str(k).removeprefix("module."): v for k, v in data.items()}


def load_inside(files: Files, name: str, *, trust: bool = False) -> Any:
    """Return what a checkpoint in a bundle holds; `name` may begin with ``./``."""
    name = posixpath.normpath(name)
    data = files.read(name, WEIGHTS_LIMIT)
    return weights_io.load_checkpoint(data, f"{name} of the bundle {files.path}", trust=trust)


def functions(files: Files, device: Device) -> dict[str, Any]:
    """Return what some functions mean to a bundle that runs here: which device there is, and what it may load."""

    def here(name: Any = "cpu", *more: Any) -> torch.device:
        asked = torch.device(name, *more)
        return device.torch if asked.type != "cpu" else asked

    return {
        "torch.cuda.is_available": lambda: device.torch.type == "cuda",
        "torch.device": here,
        "torch.load": lambda path, *_, **__: load_inside(files, str(path)),
    }


def _keys(settings: config.Config, raw: Any) -> tuple[str, ...]:
    """Return the names under which a bundle loads its images."""
    for where, _ in config.nodes(raw, "LoadImage"):
        given = settings.get(f"{where}#keys")
        found = tuple(map(str, given)) if isinstance(given, (list, tuple)) else (str(given),)
        if found := tuple(k for k in found if not k.startswith(_NOT_IMAGES)):
            return found
    return ("image",)


def _single(given: Any) -> torch.Tensor:
    """Return the network's output; of several, such as those of deep supervision, the first."""
    while isinstance(given, (list, tuple, dict)) and given:
        given = given.get(PRED, next(iter(given.values()))) if isinstance(given, dict) else given[0]
    if not isinstance(given, torch.Tensor):
        raise ModelError(f"The bundle's network gives {type(given).__name__}, where a tensor was expected.")
    return given


def _first(transforms: Sequence[Any], name: str) -> int | None:
    return next((i for i, t in enumerate(transforms) if components.plain(type(t).__name__) == name), None)


def _has(compose: Any, name: str, setting: str = "") -> bool:
    """Tell whether a transform is among those of a Compose, and whether it has a setting."""
    found = [t for t in getattr(compose, "transforms", ()) if components.plain(type(t).__name__) == name]
    return any(not setting or _has_one(t, setting) for t in found)


def _has_one(transform: Any, setting: str) -> bool:
    return any(np.atleast_1d(getattr(transform, setting, False)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MONAI's notes on its own future from users, who cannot change them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
