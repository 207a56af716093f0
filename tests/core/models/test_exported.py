"""Networks that come as files of their own: what runs, and what is refused in one line."""

import builtins
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import Engine
from inspection_core.errors import ModelError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.models import load_predictor, runtimes
from inspection_core.models.exported import make

KINDS = ("onnx", "openvino", "torchscript")
CPU = Device("cpu")


def card_of(view="volume", task="segmentation", parameters=None, classes=("a", "b"), channels=("CT",), **preparation):
    given = {"window": (0.0, 1.0), "short_side": 0, "multiple": 8, "tile": 16, "view": view} | preparation
    return ModelCard(
        id="net",
        version="1",
        architecture="onnx",
        task=task,
        channels=channels,
        classes=classes,
        score="x",
        preparation=Preparation(**given),
        policy=Policy(kind="band", low=0.3, high=0.7),
        parameters={"activation": "softmax"} if parameters is None else parameters,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_goes_through_the_ordinary_way(networks, tmp_path, kind):
    network = networks.convolution(1, 3, 3)
    make(tmp_path / "m", card_of(overlap=0.5, blend="gaussian"), networks.KINDS[kind](tmp_path, network, 1))
    scan = Image(
        np.random.default_rng(0).random((1, 20, 21, 30), np.float32),
        Geometry.from_spacing((20, 21, 30), (1, 1, 1)).flipped(0),
        ("CT",),
    )
    prediction = predict(scan, Engine("cpu").load(tmp_path / "m"))
    with torch.inference_mode():
        turned = torch.from_numpy(scan.array[:, ::-1].copy())[None]
        expected = network(turned).softmax(dim=1)[0].numpy()[:, ::-1]
    # Windows of 16 voxels see zeros beyond their borders, where the whole scan sees its neighbours.
    inner = (slice(9, 11), slice(6, 8), slice(12, 14))
    assert np.abs(prediction.score - (1 - expected[0]))[inner].max() < 0.1
    assert (prediction.mask == expected.argmax(axis=0)).mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_what_is_odd(networks, tmp_path, kind):
    network = networks.convolution(1, 1, 2, stride=8)
    card = card_of("image", "anomaly", {"stride": 8}, ("anomaly",), ("grey",))
    make(tmp_path / "m", card, networks.KINDS[kind](tmp_path, network, 1))
    model = Engine("cpu").load(tmp_path / "m")
    pixels = np.random.default_rng(0).random((1, 24, 32), np.float32)
    with torch.inference_mode():
        scores = model.predictor(torch.from_numpy(pixels)[None])
        expected = network(torch.from_numpy(pixels)[None])[:, 0]
    assert torch.allclose(scores.map, expected, atol=1e-5)
    assert predict(Image(pixels, Geometry.pixels((24, 32)), ("grey",)), model).score.shape == (24, 32)


ACTIVATIONS = {
    "softmax": ({"activation": "softmax"}, 3, lambda y: y.softmax(dim=1)),
    "probabilities": ({}, 3, lambda y: y),
    "each by itself": (
        {"activation": "sigmoid"},
        2,
        lambda y: torch.cat([1 - y.sigmoid().sum(1, keepdim=True).clamp(max=1),
                             y.sigmoid() / y.sigmoid().sum(1, keepdim=True).clamp_min(1)], 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parameters", "outputs", "expected"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_what_is_still_to_be_done_to_the_output(networks, tmp_path, parameters, outputs, expected):
    network = networks.convolution(1, outputs, 2)
    card = make(
        tmp_path / "m", card_of("slices", parameters=parameters), networks.KINDS["torchscript"](tmp_path, network, 1)
    )
    batch = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        given = load_predictor(tmp_path / "m", card, CPU)(batch)
        assert torch.allclose(given, expected(network(batch)), atol=1e-6)


def test_a_file_for_one_at_a_time_is_given_one_at_a_time(networks, tmp_path):
    network = networks.convolution(1, 3, 2)
    file = networks.KINDS["onnx"](tmp_path, network, 1, 8, 1)
    card = make(tmp_path / "m", card_of("slices", window_size=(8, 8)), file)
    batch = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        given = load_predictor(tmp_path / "m", card, CPU)(batch)
        assert torch.allclose(given, network(batch).softmax(dim=1), atol=1e-6)


# name: (kind, card, (channels, outputs, ndim, side), message)
MISFITS = {
    "channels": ("onnx", {"channels": ("a", "b")}, (1, 3, 3, None), "its card sends batches of 2 channels"),
    "axes": ("onnx", {"view": "slices"}, (1, 3, 3, None), "2 axes of the view 'slices'"),
    "window": ("openvino", {"window_size": (16, 16, 16)}, (1, 3, 3, 8), r"sends \[16, 16, 16\]: set preparation"),
    "any window": ("onnx", {}, (1, 3, 3, 8), r"takes windows of \[8, 8, 8\], and its card sends \[None"),
    "stride": ("onnx", {"parameters": {"stride": 3}}, (1, 3, 3, None), "divides its preparation's multiple, 8. Got 3"),
    "activation": ("onnx", {"parameters": {"activation": "x"}}, (1, 3, 3, None), "Got 0.0 and 'x'"),
}


@pytest.mark.parametrize(("kind", "card", "net", "message"), MISFITS.values(), ids=MISFITS)
def test_a_file_that_does_not_fit_its_card(networks, tmp_path, kind, card, net, message):
    channels, outputs, ndim, side = net
    file = networks.KINDS[kind](tmp_path, networks.convolution(channels, outputs, ndim), channels, side)
    with pytest.raises(ModelError, match=message):
        make(tmp_path / "m", card_of(**card), file)
    assert not (tmp_path / "m").exists()


def test_what_shows_only_when_it_runs(networks, tmp_path):
    file = networks.KINDS["torchscript"](tmp_path, networks.convolution(2, 2, 3), 2)
    card = make(tmp_path / "m", card_of(), file)
    with pytest.raises(ModelError, match=r"fails on a batch of shape \(1, 1, 8, 8, 8\), which its card asks for"):
        load_predictor(tmp_path / "m", card, CPU)(torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(
        ModelError, match=r"gives an array of shape \(1, 2, 8, 8, 8\) where its card needs \(1, 3, 8, 8, 8\)"
    ):
        load_predictor(tmp_path / "m", card, CPU)(torch.zeros(1, 2, 8, 8, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_hashes_are_checked(networks, tmp_path, kind):
    card = make(tmp_path / "m", card_of(), networks.KINDS[kind](tmp_path, networks.convolution(1, 3, 3), 1))
    damaged = tmp_path / "m" / card.weights
    if kind == "openvino":  # the weights are in the second file
        damaged = damaged.with_suffix(".bin")
        with pytest.raises(ModelError, match=r"lacks parameters\.bin_sha256"):
            load_predictor(tmp_path / "m", replace(card, parameters={}), CPU)
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(ModelError, match="are not those that the card was written for"):
        load_predictor(tmp_path / "m", card, CPU)


MODULES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.mark.parametrize(("kind", "module"), MODULES.items())
def test_a_runtime_that_is_not_installed(networks, tmp_path, monkeypatch, kind, module):
    card = make(tmp_path / "m", card_of(), networks.KINDS[kind](tmp_path, networks.convolution(1, 3, 3), 1))
    real = builtins.__import__

    def without(name, *more, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *more, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r'not installed: pip install "inspection-suite\[export\]"\.'):
        load_predictor(tmp_path / "m", card, CPU)


def broken(tmp_path, name, data=b"no model"):
    path = tmp_path / name
    path.write_bytes(data)
    path.with_suffix(".bin").write_bytes(b"")
    return path


# name: message
BROKEN = {
    "net.ts": "is no TorchScript file",
    "net.onnx": "is no ONNX file that can be read|cannot be run by ONNX Runtime",
    "net.xml": "cannot be run by OpenVINO",
    "net.h5": r"is one of \.ts, \.pt, \.onnx, \.xml\. Got 'net\.h5'",
}


@pytest.mark.parametrize(("name", "message"), BROKEN.items())
def test_files_that_are_none(tmp_path, name, message):
    with pytest.raises(ModelError, match=message):
        make(tmp_path / "m", card_of(), broken(tmp_path, name))


def test_weights_outside_of_the_file(networks, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = networks.KINDS["onnx"](tmp_path, networks.convolution(1, 3, 3), 1)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="out.data", size_threshold=0)
    with pytest.raises(ModelError, match="keeps weights in other files, which its hash does not cover"):
        make(tmp_path / "m", card_of(), path)


PROGRAMS = {
    "reads a file": (
        "def forward(self, x):\n  return torch.from_file('/etc/passwd', False, 3)\n",
        "uses torch.from_file",
    ),
    "writes a file": ("def forward(self, x):\n  ops.aten.save(x, 'y')\n", "uses ops.aten.save"),
    "a file, by a longer name": (
        "def forward(self, x):\n  return torch.from_file.default(x)\n",
        "torch.from_file.default",
    ),
    "a family whole": ("def forward(self, x):\n  y = ops.prim\n  return y.rpc_sync(x)\n", "uses ops.prim,"),
    "all families": ("def forward(self, x):\n  y = ops\n  return y.prim.rpc_sync(x)\n", "uses ops,"),
    "another machine": ("def forward(self, x):\n  return ops.prim.rpc_sync(x)\n", "uses ops.prim.rpc_sync"),
    "Python": ("def forward(self, x):\n  return ops.prim.PythonOp(x)\n", "uses ops.prim.PythonOp"),
    "more than is allowed": ("def forward(self, x):\n  return ops.prim.abs.x(x)\n", "uses ops.prim.abs.x"),
    "an operator of its own": ("def forward(self, x):\n  return ops.evil.run(x)\n", "uses ops.evil.run"),
    "a class of its own": (
        "def forward(self, x: __torch__.torch.classes.evil.X):\n  return x\n",
        "torch.classes.evil.X",
    ),
    "no code": ("def (", "The code in .* cannot be read"),
}


@pytest.mark.parametrize(("code", "message"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_do_more_than_compute(tmp_path, code, message):
    with zipfile.ZipFile(tmp_path / "net.ts", "w") as archive:
        archive.writestr("net/code/__torch__.py", code)
    with pytest.raises(ModelError, match=message):
        runtimes.check_torchscript((tmp_path / "net.ts").read_bytes(), tmp_path / "net.ts")


class Questions(torch.nn.Module):
    """A network whose program asks for shapes, kinds and places, as scripted ones and those of timm do."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x):
        if min(x.shape[2:]) < 2 or x.is_cuda or abs(x.shape[0]) < max(1, x.dim() - 4):
            raise RuntimeError("no")
        return self.net(x.to(x.device, x.dtype))


@pytest.mark.parametrize("way", ["scripted", "traced"])
def test_programs_that_ask_for_shapes_are_taken(tmp_path, way):
    network = Questions().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.script(network) if way == "scripted" else torch.jit.trace(network, torch.zeros(1, 1, 8, 8))
        made.save(str(tmp_path / "net.ts"))
    card = make(tmp_path / "m", card_of("slices", overlap=0.5), tmp_path / "net.ts")
    batch = torch.rand(1, 1, 16, 24)
    with torch.inference_mode():
        given = load_predictor(tmp_path / "m", card, CPU)(batch)
        assert torch.allclose(given, network(batch).softmax(dim=1), atol=1e-6)


def test_an_openvino_model_of_one_file(networks, tmp_path):
    path = networks.KINDS["openvino"](tmp_path, networks.convolution(1, 3, 3), 1)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"needs net\.bin beside it"):
        make(tmp_path / "m", card_of(), path)
