"""A network, traced and written to a file: TorchScript, ONNX or OpenVINO, in the precision asked for.

Sides are left free where the card fixes no window. What is written is then run at another size than it was traced for,
beside the network itself: one whose positions are learned for a single size would be found out here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from inspection_core.errors import ModelError, UsageError
from inspection_core.export_model.precision import halve, quantise
from inspection_core.models.compiled import openvino_core
from inspection_core.models.exported import NAMES
from inspection_core.models.runtimes import EXTRA, RUNTIMES, weights_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "torchscript": ("fp32",),
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
}
"""Form -> precisions that it is written in. ONNX Runtime has no bfloat16 on processors."""

OPSET = 17
SAME = 1e-3
"""Largest difference at another size, relative to the largest value."""


@dataclass(frozen=True, eq=False)
class Network:
    """What is to be written.

    Parameters
    ----------
    name
        For messages.
    call
        The network: from ``(B, *shape)`` to a tensor, or to several.
    shape
        Of one input ``(C, *spatial)``.
    outputs
        Names of what it gives.
    multiple
        Sides are free in steps of this; 0 fixes them at `shape`.
    """

    name: str
    call: Callable[[torch.Tensor], Any]
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    multiple: int = 0


def check_precision(target: str, precision: str) -> None:
    """Refuse a precision that a form has not."""
    if precision not in PRECISIONS[target]:
        raise UsageError(
            f"An export to {target} is one of {', '.join(PRECISIONS[target])}. Got {precision!r}; "
            "bf16 and all others go to openvino."
        )


def write_network(
    network: Network, target: str, precision: str, folder: Path, samples: Sequence[NDArray[np.float32]] = ()
) -> Path:
    """Write a network; return the file, for OpenVINO the ``.xml``.

    Parameters
    ----------
    network
        On the CPU.
    target, precision
        See `PRECISIONS`.
    folder
        Takes the file, and what is made on the way.
    samples
        Inputs ``(1, *shape)`` that int8 takes its ranges from.

    Raises
    ------
    ModelError
        If it cannot be traced or written, or not at any size, or the target's package is not installed.
    """
    installed(target)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAMES["torchscript" if target == "torchscript" else "onnx"]
    try:
        _trace(network, file)
        _check_sizes(network, file, target)
        if precision == "int8":
            quantise(file, samples, network.name)
        elif precision == "fp16" and target == "onnx":
            halve(file)
        if target == "openvino":
            import openvino

            read = openvino_core().read_model(file)
            file = folder / NAMES["openvino"]
            openvino.save_model(read, file, compress_to_fp16=precision != "fp32")
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"The network of {network.name} cannot be written as {target}: {line}") from error
    return file


def files_of(file: Path) -> list[Path]:
    """Return a network's files."""
    return [file, weights_of(file)] if file.suffix == ".xml" else [file]


def installed(target: str) -> None:
    """Raise ModelError where what writes a form is not installed."""
    from importlib.util import find_spec

    needed = {"torchscript": (), "onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}[target]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ModelError(f"Export to {target} needs {', '.join(missing)}: {EXTRA}.")


def _trace(network: Network, file: Path) -> None:
    import torch

    class Traced(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> Any:
            given = network.call(batch)
            return tuple(given) if isinstance(given, list) else given

    example = torch.rand((1, *network.shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings(), _plain_padding(network.multiple):
        warnings.simplefilter("ignore")  # torch's own plans for its tracer
        if file.suffix == ".ts":
            # By way of memory: where a disk is full, torch's own writer ends the whole process.
            content = io.BytesIO()
            cast("Any", torch.jit).save(
                cast("Any", torch.jit).trace(Traced().eval(), (example,), check_trace=False), content
            )
            file.write_bytes(content.getvalue())
            return
        axes = {0: "batch"} | {k: f"side{k - 1}" for k in range(2, 1 + len(network.shape))}
        names = ("image", *network.outputs)
        torch.onnx.export(
            Traced().eval(), (example,), str(file), input_names=["image"], output_names=list(network.outputs),
            opset_version=OPSET, dynamo=False, dynamic_axes=dict.fromkeys(names, axes) if network.multiple else None,
        )  # fmt: skip


@contextlib.contextmanager
def _plain_padding(multiple: int) -> Iterator[None]:
    """Let timm's convolutions of TensorFlow's padding pad by fixed numbers, as they do wherever the stride divides.

    Traced as they are, they compute the padding from the sides at every call, and OpenVINO then misreads the network in
    8 bits.
    """
    import torch.nn.functional as F
    from timm import layers

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for kernel, stride, dilation in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            whole = max((kernel - 1) * dilation + 1 - stride, 0)
            pads = [whole // 2, whole - whole // 2, *pads]
        x = F.pad(x, pads)
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups)

    convolution: Any = layers.Conv2dSame  # type: ignore[attr-defined]
    own = convolution.forward
    if multiple:
        convolution.forward = forward
    try:
        yield
    finally:
        convolution.forward = own


def _check_sizes(network: Network, file: Path, target: str) -> None:
    if not network.multiple:
        return
    import torch

    sides = [network.multiple * n for n in (3, 4, 2)][: len(network.shape) - 1]
    batch = torch.rand((1, network.shape[0], *sides), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        try:
            wanted = network.call(batch)
            given = RUNTIMES["torchscript" if target == "torchscript" else "onnx"](file)(batch)
        except Exception as error:  # each runtime has errors of its own
            raise SizeError(network.name) from error
    pairs = zip(*(x if isinstance(x, (list, tuple)) else [x] for x in (wanted, given)), strict=True)
    if any(a.shape != b.shape or (a - b).abs().max() > SAME * a.abs().max() for a, b in pairs):
        raise SizeError(network.name)


class SizeError(ModelError):
    """A network, as traced, works at one size only."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The network of {name} works at one size of input only, as far as it can be written to a file. Choose "
            "another backbone, or a card with a window_size."
        )
