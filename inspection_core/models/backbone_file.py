"""The network of an exported ``patch-memory``: a file in TorchScript, ONNX or OpenVINO in the place of a timm network.

Only the network is in the file. Views, pooling, projection and search stay those of
`inspection_core.models.patch_memory`, so that they cannot differ, and images may have any size.
``weights.safetensors`` holds the memory and, as tensors
``network.NAME``, the SHA-256 of each of the network's files: the hash of the weights, by which a model is known, covers
them. What the card's ``parameters`` say besides those of any ``patch-memory``:

``backbone_dim``, ``backbone_stride``, ``backbone_multiple``, ``backbone_mean``, ``backbone_std``
    As of `inspection_core.models.backbone.Backbone`.
``precision``
    ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``; see `inspection_core.models.runtimes.RUNTIMES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from inspection_core.card import ModelCard, Scalar
from inspection_core.device import Device, is_out_of_memory
from inspection_core.errors import ModelError
from inspection_core.models import weights
from inspection_core.models.backbone import Backbone, DescribedBackbone, Description
from inspection_core.models.exported import NAMES, SUFFIXES
from inspection_core.models.runtimes import RUNTIMES, Runtime, weights_of

PREFIX = "network."
"""Of the tensors that hold the hashes of files."""


class FileBackbone(DescribedBackbone):
    """A `Backbone` whose feature maps come from a file's network, which has a runtime of its own.

    Parameters
    ----------
    name, description
        As of `DescribedBackbone`.
    runtime
        Maps normalised ``(B, 3, h, w)`` to the feature maps, finest first.
    """

    compiles = False

    def __init__(self, name: str, description: Description, runtime: Runtime) -> None:
        super().__init__(name, description)
        self.runtime = runtime

    def levels(self, batch: Tensor) -> list[Tensor]:
        """Return the network's feature maps, finest first.

        Raises
        ------
        ModelError
            If the network fails, or gives something else than feature maps of its card's stride.
        """
        self.runtime.to(Device(str(batch.device)))
        try:
            given = [cast("Tensor", g) for g in self.runtime(batch)]
        except Exception as error:
            if isinstance(error, (ModelError, MemoryError)) or is_out_of_memory(error):
                raise
            line = " ".join(str(error).split())[-300:]
            raise ModelError(
                f"The network of {self.name} in a file fails on {tuple(batch.shape)}: {line}. Export the model again."
            ) from error
        wanted = (len(batch), *(n // self.stride for n in batch.shape[2:]))
        if not given or any(g.ndim != 4 for g in given) or (len(given[0]), *given[0].shape[2:]) != wanted:
            raise ModelError(
                f"The network of {self.name} in a file gives {[tuple(g.shape) for g in given]} for "
                f"{tuple(batch.shape)}, where its card needs feature maps at stride {self.stride}. Export the model "
                "again."
            )
        return [g.to(batch.device, torch.float32) for g in given]


def digests(stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the network's files and their hashes in hexadecimal, as a model's weights name them; most name none."""
    return {k.removeprefix(PREFIX): bytes(v.tolist()).hex() for k, v in stored.items() if k.startswith(PREFIX)}


def hashes(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors that `digests` reads, of a network's files."""
    return {f"{PREFIX}{f.name}": torch.tensor([*bytes.fromhex(weights.sha256(f))], dtype=torch.uint8) for f in files}


def described(backbone: Backbone) -> dict[str, Scalar | tuple[Scalar, ...]]:
    """Return what a card says about a backbone, so that it need not be built to know it."""
    return {f"backbone_{name}": getattr(backbone, name) for name in Description._fields}


def description(folder: Path, card: ModelCard) -> Description:
    """Return what `described` gave.

    Raises
    ------
    ModelError
        If the card lacks some of it, or it is none that the network can have.
    """
    settings = cast("Mapping[str, Any]", card.parameters)
    try:
        dim, stride, multiple = (int(settings[f"backbone_{k}"]) for k in ("dim", "stride", "multiple"))
        mean, std = (tuple(float(v) for v in settings[f"backbone_{k}"]) for k in ("mean", "std"))
        if not (0 < stride <= multiple and multiple % stride == 0 and card.preparation.multiple % multiple == 0):
            raise ValueError(f"strides {stride} and {multiple} that divide {card.preparation.multiple}")
        if not len(mean) == len(std) == 3 or not all(std):
            raise ValueError("three means and deviations")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"The card in {folder} lacks what describes its network: {error}. Fit or export the model again."
        ) from error
    return Description(dim, stride, multiple, mean, std)


def open_network(folder: Path, card: ModelCard, files: Mapping[str, str]) -> FileBackbone:
    """Return the backbone in a model's folder, from what `digests` gives.

    Raises
    ------
    ModelError
        If a file is missing or another than that of the weights, its runtime is not installed, or the card does not
        describe it.
    """
    settings = cast("Mapping[str, Any]", card.parameters)
    main = next((name for name in files if name in NAMES.values()), "")
    expected = {main, weights_of(Path(main)).name} if main.endswith(".xml") else {main}
    if set(files) != expected:
        raise ModelError(
            f"The weights in {folder} name {sorted(files)} as the network's files. Export the model again."
        )
    for name, digest in files.items():
        weights.check_file(folder / name, digest)
    precision = str(settings.get("precision", "fp32"))
    runtime = RUNTIMES[SUFFIXES[Path(main).suffix]](folder / main, precision)
    return FileBackbone(str(settings["backbone"]), description(folder, card), runtime)
