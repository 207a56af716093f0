"""Fewer bits for a network in an ONNX file: weights in 16, or weights and arithmetic in 8.

Weights in float16 are turned back to float32 when the file is opened: half the size, the same speed, and nothing but
the rounding of the weights differs. For 8 bits, ranges of all values inside the network are taken from real inputs
(ONNX Runtime's static quantisation, a scale for each channel of the weights).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inspection_core.engine import LoadedModel
from inspection_core.errors import InspectionError, ModelError, UsageError
from inspection_core.infer import predict
from inspection_core.inputs import Choices, Input, open_input
from inspection_core.survey import spread

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SAMPLES = 96
"""Inputs of the network that ranges are taken from, at most."""
IMAGES = 48
"""Images that they come from, at most."""
SMALL = 16
"""Numbers with no more entries stay as they are: they are sizes and bounds, not weights."""
QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add")
"""Operators that compute in 8 bits; the first four hold nearly all of the work."""


def halve(file: Path) -> None:
    """Keep the weights of an ONNX file as float16; they become float32 again when it is opened.

    Raises
    ------
    ModelError
        If a weight is too large for float16.
    """
    import onnx

    model = onnx.load(file)
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size <= SMALL:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise ModelError(f"Weights of {tensor.name} are too large for fp16. Export with --precision fp32.")
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def quantise(file: Path, samples: Sequence[NDArray[np.float32]], name: str) -> None:
    """Turn an ONNX file's network to 8 bits.

    Parameters
    ----------
    file
        Changed in place.
    samples
        Inputs ``(1, C, *spatial)`` that are like those to come.
    name
        Of the model, for messages.

    Raises
    ------
    UsageError
        If there are no samples.
    """
    if not samples:
        raise UsageError(f"int8 takes its ranges from real images of {name}'s kind. Give some with --calibrate.")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            sample = next(self.left, None)
            return None if sample is None else {"image": sample}

    logger = logging.getLogger()
    level = logger.level
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)  # it would rather have been asked to prepare the file, which it was
        try:
            fused = Path(scratch) / "fused.onnx"
            quant_pre_process(str(file), str(fused), skip_symbolic_shape=True)
            quantize_static(
                str(fused), str(file), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=list(QUANTISED), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        finally:
            logger.setLevel(level)


class Listener:
    """Stands in for a network, and keeps what it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.heard: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, batch: torch.Tensor) -> Any:
        """Go on to the network itself, a predictor."""
        self._keep(batch)
        return self.inner(batch)

    def levels(self, batch: torch.Tensor) -> Any:
        """Go on to the network itself, a backbone."""
        self._keep(batch)
        return self.inner.levels(batch)

    def _keep(self, batch: torch.Tensor) -> None:
        self.heard += [batch[k : k + 1].numpy().copy() for k in range(len(batch))]


def inputs_of(listener: Listener, model: LoadedModel, images: Sequence[Input]) -> list[NDArray[np.float32]]:
    """Predict on images, and return what the network was given on the way: evenly spaced, `SAMPLES` at most.

    Images that the model cannot take are left out.
    """
    chosen = spread(images, IMAGES)
    each = max(1, SAMPLES // max(1, len(chosen)))
    found: list[NDArray[np.float32]] = []
    for item in chosen:
        listener.heard = []
        try:
            predict(open_input(item, model.card.channels, Choices()).image, model)
        except InspectionError:
            continue
        found += spread(listener.heard, each)
    return found
