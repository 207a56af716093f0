"""A small network, written as each kind of file that the suite runs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


def convolution(channels: int, outputs: int, ndim: int, stride: int = 1, seed: int = 0) -> torch.nn.Module:
    """Return one convolution with fixed weights of `seed`."""
    kind = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[ndim]
    torch.manual_seed(seed)
    return kind(channels, outputs, 3 if stride == 1 else stride, stride, 1 if stride == 1 else 0).eval()


def torchscript(folder: Path, network: torch.nn.Module, channels: int, side: int | None = None) -> Path:
    import warnings

    folder.mkdir(parents=True, exist_ok=True)
    ndim = network.weight.ndim - 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, and files of it are around
        torch.jit.trace(network, torch.zeros((1, channels, *(8,) * ndim))).save(folder / "net.ts")
    return folder / "net.ts"


def onnx(
    folder: Path, network: torch.nn.Module, channels: int, side: int | None = None, batch: int | None = None
) -> Path:
    """Write a convolution as ONNX, by hand; its input is free in size where `side` is None."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    ndim = network.weight.ndim - 2
    pads, steps = list(network.padding) * 2, list(network.stride)
    sides = [side or f"n{k}" for k in range(ndim)]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=pads, strides=steps)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch or "batch", channels, *sides])],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT, [batch or "batch", len(network.weight), *[None] * ndim]
            )
        ],
        [
            numpy_helper.from_array(np.asarray(network.weight.detach()), "w"),
            numpy_helper.from_array(np.asarray(network.bias.detach()), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def openvino(folder: Path, network: torch.nn.Module, channels: int, side: int | None = None) -> Path:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(onnx(folder, network, channels, side))
    openvino.save_model(model, folder / "net.xml", compress_to_fp16=False)
    return folder / "net.xml"


KINDS = {"torchscript": torchscript, "onnx": onnx, "openvino": openvino}


@pytest.fixture(scope="session")
def networks():
    """What writes small networks: ``networks.KINDS["onnx"](folder, networks.convolution(...), channels)``."""
    return SimpleNamespace(convolution=convolution, KINDS=KINDS)
