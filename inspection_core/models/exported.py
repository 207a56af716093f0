"""``torchscript``, ``onnx`` and ``openvino``: networks that come as a file of their own, with a card beside it.

The core prepares, tiles and restores for them as for any other; here the file's output becomes what a `Predictor` or a
`Segmenter` gives. What the card's ``parameters`` say:

``activation``
    What is still to be done to the output: ``"none"``, ``"softmax"`` over the background and the classes, or
    ``"sigmoid"`` of each class by itself. ``"none"`` if not given.
``stride``, ``offset``
    As of `inspection_core.models.Predictor`; 1 and ``(stride - 1) / 2`` if not given.
``bin_sha256``
    Of OpenVINO: the hash of the ``.bin`` file; ``weights_sha256`` is that of the ``.xml``.
``precision``
    Of OpenVINO: ``"bf16"`` lets it compute in bfloat16 where the processor can. Anything else is float32.
``spread``
    Whether the network gives one channel more, the last; see `inspection_core.models.Segmenter`.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.device import Device, is_out_of_memory
from inspection_core.errors import ModelError
from inspection_core.io.atomic import atomic_path, write_text
from inspection_core.models import Scores, weights
from inspection_core.models.runtimes import RUNTIMES, Runtime, Shape, weights_of

if TYPE_CHECKING:
    import torch

SUFFIXES = {".ts": "torchscript", ".pt": "torchscript", ".onnx": "onnx", ".xml": "openvino"}
NAMES = {"torchscript": "model.ts", "onnx": "model.onnx", "openvino": "model.xml"}
"""What a network's file is called in a model's folder."""
ACTIVATIONS = ("none", "softmax", "sigmoid")


class Exported:
    """A network in a file; see `inspection_core.models.Predictor` and `inspection_core.models.Segmenter`."""

    def __init__(self, runtime: Runtime, card: ModelCard) -> None:
        parameters = card.parameters
        stride = parameters.get("stride", 1)
        if not isinstance(stride, int) or stride < 1 or card.preparation.multiple % stride:
            raise ModelError(
                f"The stride of {card.id} is a whole number that divides its preparation's multiple, "
                f"{card.preparation.multiple}. Got {stride!r} in parameters."
            )
        offset = parameters.get("offset", (stride - 1) / 2)
        activation = parameters.get("activation", "none")
        if not isinstance(offset, (int, float)) or activation not in ACTIVATIONS:
            raise ModelError(
                f"The parameters of {card.id} hold a number as offset and one of {list(ACTIVATIONS)} as activation. "
                f"Got {offset!r} and {activation!r}."
            )
        self.stride = stride
        self.offset = float(offset)
        self.activation = activation
        self.spread = bool(parameters.get("spread", False))
        self._network = runtime
        self.card = card
        if runtime.shape is not None:
            _check_shape(runtime.shape, card)

    def __call__(self, batch: torch.Tensor) -> Any:
        """Return `Scores`, or class probabilities ``(B, 1 + K, *grid)``, with the spread, if the card segments."""
        given = self._run(batch)
        cells = tuple(n // self.stride for n in batch.shape[2:])
        if self.card.task == "anomaly":
            given = given[:, None] if given.ndim == batch.ndim - 1 else given
            self._check(given, (len(batch), 1, *cells))
            return Scores(given[:, 0])
        classes, more = len(self.card.classes), int(self.spread)
        channels = given.shape[1] - more if given.ndim == batch.ndim else 0
        # Without a softmax the background may be left out: it is what is left to 1.
        whole = classes + 1 if self.activation == "softmax" or channels == classes + 1 else classes
        self._check(given, (len(batch), whole + more, *cells))
        found = _probabilities(given[:, :whole], self.activation, whole > classes)
        return self._with_spread(found, given) if more else found

    def to(self, device: Device) -> None:
        """Move the network to another device, where its runtime can."""
        self._network.to(device)

    def _with_spread(self, found: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([found, given[:, -1:]], dim=1)

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        import torch

        shape = self._network.shape
        alone = shape is not None and shape[0] == 1 and len(batch) > 1
        parts = [batch[k : k + 1] for k in range(len(batch))] if alone else [batch]
        try:
            given = [_single(self._network(part), self.card) for part in parts]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._failed(batch, error) from error
        except Exception as error:
            if isinstance(error, (ModelError, MemoryError)):
                raise
            raise self._failed(batch, error) from error
        return torch.cat(given).float()

    def _failed(self, batch: torch.Tensor, error: Exception) -> ModelError:
        line = " ".join(str(error).split())[-300:]
        return ModelError(
            f"{self.card.weights} of {self.card.id} fails on a batch of shape {tuple(batch.shape)}, which its card "
            f"asks for: {line}. Compare the card's channels, view and window_size with the network."
        )

    def _check(self, given: torch.Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(given.shape) != wanted:
            raise ModelError(
                f"{self.card.weights} of {self.card.id} gives an array of shape {tuple(given.shape)} where its card "
                f"needs {wanted}: compare the card's classes, view, stride and activation with the network."
            )


def load(folder: Path, card: ModelCard, device: Device) -> Exported:
    """Load a network in a file; see `inspection_core.models`.

    Raises
    ------
    ModelError
        If its runtime is not installed, the file is not that of the card, or does not fit it.
    """
    path = weights.check(folder, card)
    if card.architecture == "openvino":
        second = card.parameters.get("bin_sha256")
        if not isinstance(second, str):
            raise ModelError(f"The card of {card.id} lacks parameters.bin_sha256, the hash of {weights_of(path).name}.")
        weights.check_file(weights_of(path), second)
    predictor = Exported(RUNTIMES[card.architecture](path, str(card.parameters.get("precision", "fp32"))), card)
    predictor.to(device)
    return predictor


def make(folder: Path, card: ModelCard, file: Path) -> ModelCard:
    """Write a model folder from a network's file; return the card with its hash.

    Parameters
    ----------
    folder
        Where card and file go.
    card
        Its architecture is chosen by the file's suffix.
    file
        ``.ts`` or ``.pt`` (TorchScript), ``.onnx``, or ``.xml`` with its ``.bin`` beside it.

    Raises
    ------
    ModelError
        If the file is of another kind, cannot be read, or does not fit the card.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise ModelError(f"A network's file is one of {', '.join(SUFFIXES)}. Got {file.name!r}.")
    architecture = SUFFIXES[file.suffix.lower()]
    name = NAMES[architecture]
    pairs = [(file, folder / name)]
    parameters = dict(card.parameters)
    if architecture == "openvino":
        if not weights_of(file).is_file():
            raise ModelError(f"{file} needs {weights_of(file).name} beside it. Copy both files.")
        pairs.append((weights_of(file), weights_of(folder / name)))
        parameters["bin_sha256"] = weights.sha256(weights_of(file))
    card = replace(
        card,
        architecture=architecture,
        weights=name,
        weights_sha256=weights.sha256(file),
        parameters=parameters,
    )
    Exported(RUNTIMES[architecture](file), card)  # a card that does not fit is refused before anything is written
    for source, target in pairs:
        if source.resolve() != target.resolve():
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    write_text(folder / CARD_NAME, card.to_toml())
    return card


def _check_shape(shape: Shape, card: ModelCard) -> None:
    """Check the input's shape, as far as the file fixes it, against what the card will send."""
    preparation = card.preparation
    channels = len(card.channels) * (2 * preparation.neighbours + 1)
    spatial = 3 if preparation.view == "volume" else 2
    window = preparation.window_size or (None,) * spatial
    said = [n if n is not None else "any" for n in shape]
    if len(shape) != 2 + spatial or shape[1] not in (None, channels) or shape[0] not in (None, 1):
        raise ModelError(
            f"{card.weights} of {card.id} takes {said}, and its card sends batches of {channels} channels with "
            f"{spatial} axes of the view {preparation.view!r}: compare channels, neighbours and view with the network, "
            "and export it for batches of 1 or of any size."
        )
    if any(n not in (None, w) for n, w in zip(shape[2:], window, strict=True)):
        raise ModelError(
            f"{card.weights} of {card.id} takes windows of {said[2:]}, and its card sends {list(window)}: set "
            'preparation.window_size to the network\'s (of pictures, with the view "slices"), or export for any size.'
        )


def _single(given: Any, card: ModelCard) -> torch.Tensor:
    import torch

    while isinstance(given, (list, tuple)) and given:
        given = given[0]
    if not isinstance(given, torch.Tensor):
        raise ModelError(f"{card.weights} of {card.id} gives {type(given).__name__}, where a tensor was expected.")
    return given


def _probabilities(values: torch.Tensor, activation: str, background: bool) -> torch.Tensor:
    """Return probabilities, the background first."""
    import torch

    if activation == "softmax":
        return values.softmax(dim=1)
    if activation == "sigmoid":
        values = values.sigmoid()
    values = values[:, 1:] if background and activation == "sigmoid" else values
    if background and activation == "none":
        return values
    values = values.clamp(0, 1)
    values = values / values.sum(dim=1, keepdim=True).clamp_min(1)  # where classes overlap, they share the voxel
    return torch.cat([1 - values.sum(dim=1, keepdim=True), values], dim=1)
