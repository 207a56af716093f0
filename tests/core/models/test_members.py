"""Networks that keep OpenVINO's graph beside torch's weights: the same results, without the library they come from."""

import subprocess
import sys
from dataclasses import replace
from functools import cache

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
from inspection_core.io.nifti import write_nifti
from inspection_core.models import load_predictor, monai_unet, timm_unet, weights
from inspection_core.models.compiled import GRAPH, convert, written
from inspection_core.models.members import stored

OPENVINO, TORCH = Device("cpu", runtime="openvino"), Device("cpu")
# architecture: (module, view, neighbours, multiple, parameters)
KINDS = {
    "monai-unet": (monai_unet, "volume", 0, 8, {"channels": (4, 8, 16)}),
    "timm-unet": (timm_unet, "slices", 1, 32, {"flips": True}),
}
pytestmark = pytest.mark.usefixtures("needs_openvino")


@pytest.fixture(scope="module")
def needs_openvino():
    pytest.importorskip("openvino")


def card_of(architecture: str, members: int) -> ModelCard:
    _, view, neighbours, multiple, parameters = KINDS[architecture]
    preparation = Preparation(
        view=view, window=(0.0, 1.0), short_side=0, multiple=multiple, tile=2 * multiple, neighbours=neighbours
    )
    return ModelCard(
        "s", "1", architecture, "segmentation", ("a",), "1 - P(background)", ("low", "high"),
        preparation=preparation, policy=Policy(kind="band"), parameters={**parameters, "members": members},
    )  # fmt: skip


def make(architecture: str, members: int) -> dict[str, torch.Tensor]:
    """Return the tensors of a model with random weights, its graph among them."""
    card, module = card_of(architecture, members), KINDS[architecture][0]
    torch.manual_seed(0)
    return module.tensors([module.build(card) for _ in range(members)], card)


made_once = cache(make)
"""The same, for those who only read them: a graph takes seconds."""


def write(folder, architecture: str, members: int = 2, made=made_once, **other):
    """Write a model with random weights; `other` tensors take the place of its own, None takes them out."""
    tensors = made(architecture, members) | other
    return weights.save(folder, card_of(architecture, members), {n: t for n, t in tensors.items() if t is not None})


def without_graph():
    """Return what makes a model one from before graphs were kept."""
    return {part.format(0): None for part in GRAPH}


def as_bytes(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def image() -> Image:
    array = np.random.default_rng(0).random((1, 9, 40, 36)).astype(np.float32)
    return Image(array, Geometry.from_spacing((9, 40, 36), (1.0, 1.0, 1.0)), ("a",))


def found(folder, device="cpu/openvino"):
    """Return the prediction of an image, and whether torch has the networks."""
    model = Engine(device).load(folder)
    return predict(image(), model), model.predictor.built


@pytest.fixture(scope="module")
def with_graph(tmp_path_factory):
    """Folder of a model with its graph, what it finds, and whether torch has its networks: read them, change none."""

    @cache
    def model(architecture, members=2):
        folder = tmp_path_factory.mktemp(architecture)
        write(folder, architecture, members)
        return folder, *found(folder)

    return model


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("architecture", KINDS)
def test_the_kept_graph_gives_the_same_to_the_bit(with_graph, tmp_path, architecture, members):
    write(tmp_path, architecture, members, **without_graph())
    (_, kept, built), (converted, built_old) = with_graph(architecture, members), found(tmp_path)
    assert (built, built_old) == (False, True)
    assert kept.device == converted.device == "cpu float32 openvino"
    assert np.array_equal(kept.score, converted.score)
    assert np.array_equal(kept.mask, converted.mask)
    assert kept.score.std() > 1e-4


@pytest.mark.parametrize("architecture", KINDS)
def test_torch_builds_the_networks_when_it_is_to_run_them(with_graph, architecture):
    folder, compiled, _ = with_graph(architecture)
    plain, built = found(folder, "cpu/torch")
    assert built
    assert plain.device == "cpu float32"
    assert np.allclose(plain.score, compiled.score, atol=1e-4)
    predictor = load_predictor(folder, ModelCard.load(folder), OPENVINO)
    predictor.to(TORCH)  # as down the memory's ladder
    assert predictor.built
    predictor.to(OPENVINO)
    assert predictor.runtime == "openvino"


class Other(torch.nn.Module):
    """A convolution, and what becomes of what it gives."""

    def __init__(self, inputs, outputs, ndim, give):
        super().__init__()
        self.layer = (torch.nn.Conv3d if ndim == 3 else torch.nn.Conv2d)(inputs, outputs, 1)
        self.give = give

    def forward(self, batch):
        return self.give(self.layer(batch))


def graph_of(inputs=1, outputs=3, ndim=3, give=lambda made: made):
    network = Other(inputs, outputs, ndim, give).eval()
    graph = written(convert(network, torch.rand((1, inputs, *(16,) * ndim))))
    return dict(zip((part.format(0) for part in GRAPH), map(as_bytes, graph), strict=True))


# name: what takes the place of the graph in the file, whose own takes one channel and gives three classes
BAD = {
    "of a later version": lambda: {"graph.0.xml": as_bytes(b"<net version='99'/>")},
    "no graph": lambda: {"graph.0.xml": as_bytes(b"not a graph at all")},
    "cut off": lambda: {"graph.0.bin": as_bytes(b"\0" * 8)},
    "without its constants": lambda: {"graph.0.bin": None},
    "of other classes": lambda: graph_of(outputs=4),
    "of other channels": lambda: graph_of(inputs=2),
    "of pictures": lambda: graph_of(ndim=2),
    "of half the grid": lambda: graph_of(give=lambda made: made[..., ::2]),
    "of several outputs": lambda: graph_of(give=lambda made: (made, made + 1)),
    "of whole numbers": lambda: graph_of(give=lambda made: made.int()),
    "of two networks": lambda: {f"graph.1.{kind}": as_bytes(b"\0") for kind in ("xml", "bin")},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_graph_that_cannot_be_run_is_left_for_the_networks_themselves(with_graph, tmp_path, change):
    write(tmp_path, "monai-unet", **change())
    (_, expected, _), (score, built) = with_graph("monai-unet"), found(tmp_path)
    assert built
    assert np.array_equal(score.score, expected.score)


def test_weights_are_in_the_file_twice_at_two_bytes_each(tmp_path):
    write(tmp_path / "new", "timm-unet", members=1)
    write(tmp_path / "old", "timm-unet", members=1, **without_graph())
    new, old = ((tmp_path / name / "weights.safetensors").stat().st_size for name in ("new", "old"))
    assert 1.5 * old < new < 2.3 * old


def test_two_files_of_one_network_are_equal(tmp_path):
    one, two = (write(tmp_path / name, "monai-unet", made=make) for name in ("one", "two"))
    assert one.weights_sha256 == two.weights_sha256


def test_without_openvino_a_model_has_no_graph(monkeypatch):
    card = card_of("monai-unet", 1)
    networks = [monai_unet.build(card)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert set(monai_unet.tensors(networks, card)) == set(stored(networks))


def test_a_card_that_fits_no_network_is_refused_with_a_graph_too(tmp_path):
    card = write(tmp_path, "monai-unet")
    card = replace(card, preparation=replace(card.preparation, multiple=2))
    with pytest.raises(ModelError, match=r"with 3 levels a multiple of 4\. Got 'volume' and 2"):
        load_predictor(tmp_path, card, OPENVINO)


@pytest.mark.parametrize("architecture", KINDS)
def test_predicting_does_not_wait_for_the_library_of_the_network(with_graph, tmp_path, architecture):
    folder, *_ = with_graph(architecture, 1)
    write_nifti(tmp_path / "scan.nii", image())
    code = (
        "import sys; from inspection_core.cli import app\n"
        f"sys.argv = ['inspection', 'predict', {str(tmp_path / 'scan.nii')!r}, '--model', {str(folder)!r}, "
        f"'--out', {str(tmp_path / 'out')!r}, '--device', 'cpu/openvino']\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('modules', *{m.partition('.')[0] for m in sys.modules}, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.partition("modules\n")[2].split())
    assert "openvino" in modules
    assert modules & {"monai", "timm", "torchvision"} == set()
