"""Weights on disk: safetensors, checked by hash; loading executes nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import pickle
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.errors import ModelError
from inspection_core.io.atomic import atomic_path, write_text

if TYPE_CHECKING:
    import torch


def sha256(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(folder: Path, card: ModelCard, tensors: Mapping[str, torch.Tensor]) -> ModelCard:
    """Write weights and card to `folder`; return the card with the weights' hash.

    The weights are written first: a folder with a card is a whole model.

    Raises
    ------
    OSError
        If they cannot be written: no space, no permission.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(folder / card.weights) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk comes as this, not as OSError
            raise OSError(errno.EIO, str(error), str(folder / card.weights)) from error
        temporary.chmod(stat.S_IMODE(mode))  # safetensors lets its writer alone read it, and a model is for others too
        digest = sha256(temporary)
    card = replace(card, weights_sha256=digest)
    write_text(folder / CARD_NAME, card.to_toml())
    return card


def check(folder: Path, card: ModelCard) -> Path:
    """Return the path of a model's weights, once they are known to be those of its card.

    Raises
    ------
    ModelError
        If the file is missing, or is not the one that the card was written for.
    """
    return check_file(Path(folder) / card.weights, card.weights_sha256)


def check_file(path: Path, expected: str) -> Path:
    """Return `path` if its hash is the expected one; see `check`."""
    try:
        digest = sha256(path)
    except OSError as error:
        raise ModelError(
            f"The weights {path} cannot be read: {error.strerror}. Copy the whole model folder."
        ) from error
    if digest != expected:
        raise ModelError(
            f"The weights {path} are not those that the card was written for: expected SHA-256 "
            f"{expected[:12]}..., got {digest[:12]}... Copy the model folder again, or fit it anew."
        )
    return path


def load(folder: Path, card: ModelCard) -> dict[str, torch.Tensor]:
    """Read a model's tensors.

    Raises
    ------
    ModelError
        If the file is missing, is no safetensors file, or is not the one that the card was written for.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = check(folder, card)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ModelError(f"The weights {path} are no valid safetensors file: {error}.") from error


def load_checkpoint(data: bytes, where: str, *, trust: bool = False) -> Any:
    """Return what a file of ``torch.save`` holds: tensors, numbers, text, lists and tables, and nothing that runs.

    Parameters
    ----------
    data
        Content of the file.
    where
        Begins the error messages.
    trust
        Load whatever it holds, which may run any code.

    Raises
    ------
    ModelError
        If it holds more, or cannot be read.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_plain_numbers()):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where} holds more than tensors and numbers, and loading it would run code. Ask for weights alone; if "
            "you trust who made it, use --trust-bundle."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError, IndexError) as error:
        raise ModelError(f"{where} cannot be read: {' '.join(str(error).split())[:200].rstrip('.')}.") from error


def _plain_numbers() -> list[Any]:
    """Return what numpy's numbers and arrays are made of: many keep one beside the weights."""
    import importlib

    import numpy as np

    multiarray = importlib.import_module("numpy._core.multiarray")

    kinds = [type(np.dtype(k)) for k in ("float32", "float64", "int32", "int64", "bool")]
    return [
        np.dtype,
        np.float32,
        np.float64,
        np.int64,
        np.ndarray,
        multiarray._reconstruct,
        multiarray.scalar,
        (multiarray.scalar, "numpy.core.multiarray.scalar"),  # as written by numpy 1
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        *kinds,
    ]


def take(tensors: Mapping[str, torch.Tensor], name: str, ndim: int) -> torch.Tensor:
    """Return one tensor, checked for presence and number of axes."""
    if name not in tensors:
        raise ModelError(f"The weights lack {name!r}. They hold {sorted(tensors)}; fit the model anew.")
    tensor = tensors[name]
    if tensor.ndim != ndim:
        raise ModelError(f"The weights' {name!r} should have {ndim} axes. Got shape {tuple(tensor.shape)}.")
    return tensor
