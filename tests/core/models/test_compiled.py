"""OpenVINO gives what torch gives, whatever the shape, from several threads at once."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from inspection_core.device import Device
from inspection_core.engine import Engine
from inspection_core.infer import measure
from inspection_core.models import compiled
from inspection_core.models.backbone import Backbone
from inspection_core.models.compiled import (
    FEW,
    FIXED,
    OFTEN,
    SHAPES,
    Compiled,
    _fill_registers,
    _spread_channels,
    _sum_in_short_runs,
    convert,
    read,
    written,
)
from inspection_core.models.views import Describer, View

TORCH, OPENVINO = Device("cpu"), Device("cpu", 1, "openvino")

VIEWS = {
    "plain": [View()],
    "detail": [View(blur=4.0, gain=4.0)],
    "two sizes": [View(blur=10.0, gain=3.0), View(factor=0.8)],
    "one pass for two borders": [View(), View(border=False)],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_patches_are_those_of_torch(views, channels):
    torch.manual_seed(0)
    describer = Describer(Backbone("resnet18"), views)
    for shape in ((64, 64), (64, 96)):
        batch = torch.rand((1, channels, *shape))
        with torch.inference_mode():
            describer.to(TORCH)
            expected = list(describer(batch))
            describer.to(OPENVINO)
            got = list(describer(batch))
        assert [size for _, size in got] == [size for _, size in expected]
        for (patches, _), (wanted, _) in zip(got, expected, strict=True):
            assert torch.allclose(patches, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_threads_share_a_network_and_each_gets_its_own_result():
    network = Compiled(convert(torch.nn.Conv2d(1, 2, 3).eval(), torch.zeros((1, 1, 8, 8))))
    batches = [torch.full((1, 1, 8, 8 + n % 3), float(n)).numpy() for n in range(24)]
    alone = [network(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: network(batch)[0], batches))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_a_bounded_number_of_shapes_is_kept():
    network = Compiled(convert(torch.nn.ReLU().eval(), torch.zeros((1, 4))), alone=True)
    for n in range(1, SHAPES + 4):
        assert network(torch.ones((1, n)).numpy())[0].shape == (1, n)
    assert len(network._by_shape) == SHAPES


def test_a_new_size_is_not_compiled_anew():
    network = Compiled(convert(torch.nn.Conv2d(1, 2, 3).eval(), torch.zeros((1, 1, 8, 8))))
    for n in range(8, 12):
        assert network(torch.ones((1, 1, n, 8)).numpy())[0].shape == (1, 2, n - 2, 6)
    assert len(network._by_shape) == 1


def repeated(network: Compiled, batch: np.ndarray, times: int = OFTEN + 2) -> list[np.ndarray]:
    return [network(batch)[0] for _ in range(times)]


def test_a_size_that_comes_often_is_compiled_for_and_changes_no_bit():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU6(), torch.nn.Conv2d(16, 16, 3, stride=2, groups=16)]
    batch = torch.rand((1, 3, 48, 80))
    network = Compiled(convert(torch.nn.Sequential(*layers).eval(), batch))
    given = repeated(network, batch.numpy())
    assert list(network._fixed) == [(1, 3, 48, 80)]
    assert all(np.array_equal(one, given[0]) for one in given)


def test_few_sizes_are_compiled_for_and_those_used_last_stay():
    network = Compiled(convert(torch.nn.ReLU().eval(), torch.zeros((1, 1, 4, 4))))
    for n in range(1, FIXED + 2):
        repeated(network, np.ones((1, 1, n, 2), np.float32))
        network(np.ones((1, 1, 1, 2), np.float32))
    assert sorted(shape[2] for shape in network._fixed) == [1, *range(3, FIXED + 2)]
    repeated(network, np.ones((1, 1, 2, 2), np.float32))  # which had to go, and may come back
    assert (1, 1, 2, 2) in network._fixed


def test_a_network_that_gives_other_bits_for_a_known_size_stays_as_it_was(monkeypatch):
    network = Compiled(convert(torch.nn.ReLU().eval(), torch.zeros((1, 1, 4, 4))))
    other = Compiled(convert(torch.nn.LeakyReLU(0.5).eval(), torch.zeros((1, 1, 4, 4))))
    monkeypatch.setattr(network, "_compile", lambda shape: other._compile(shape) if shape[2] > 0 else compile_(shape))
    compile_ = Compiled._compile.__get__(network)
    given = repeated(network, np.full((1, 1, 4, 4), -1, np.float32))
    assert all((one == 0).all() for one in given)
    assert not network._fixed


def test_a_network_that_cannot_be_compiled_for_a_size_stays_as_it_was(monkeypatch):
    network = Compiled(convert(torch.nn.ReLU().eval(), torch.zeros((1, 1, 4, 4))))
    network(np.ones((1, 1, 4, 4), np.float32))

    def fail(shape: tuple[int, ...]) -> None:
        raise RuntimeError("an optimisation went wrong")

    monkeypatch.setattr(network, "_compile", fail)
    assert all((one == 1).all() for one in repeated(network, np.ones((1, 1, 4, 4), np.float32)))


def test_grey_is_three_channels_where_the_size_is_known_too():
    torch.manual_seed(0)
    describer = Describer(Backbone("resnet18"), [View()])
    describer.to(OPENVINO)
    batch = torch.rand((1, 1, 64, 64))
    given = [next(describer(batch))[0] for _ in range(OFTEN + 1)]
    assert len(describer._compiled[0]._fixed) == 1
    assert torch.equal(given[0], given[-1])


def test_a_graph_that_was_written_and_read_gives_the_same_to_the_bit():
    torch.manual_seed(0)
    batch = torch.rand((1, 3, 64, 96))
    made = convert(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU6()).eval(), batch
    )
    again = read(*written(made))
    assert (Compiled(again)(batch.numpy())[0] == Compiled(made)(batch.numpy())[0]).all()


@pytest.mark.parametrize("halves", [True, False])
def test_weights_that_float16_holds_are_written_in_two_bytes_each(halves):
    torch.manual_seed(0)
    batch, network = torch.rand((1, 16, 20, 20)), torch.nn.Conv2d(16, 64, 3, bias=False).eval()
    if halves:
        network.weight.data = network.weight.data.half().float()
    made = convert(network, batch)
    xml, constants = written(made)
    size = (2 if halves else 4) * network.weight.numel()
    assert size <= len(constants) < size + 256
    expected = Compiled(made)(batch.numpy())[0]  # `written` leaves its own model as it is
    assert (Compiled(read(xml, constants))(batch.numpy())[0] == expected).all()


def test_a_model_scores_alike_in_both_runtimes(fitted, parts, tmp_path):
    image = parts.read(tmp_path, parts.hole(parts.brushed(50)))
    one, other = (measure(image, Engine(name).load(fitted.folder)) for name in ("cpu/torch", "cpu/openvino"))
    assert (one.device, other.device) == ("cpu float32", "cpu float32 openvino")
    assert other.image_score == pytest.approx(one.image_score, rel=1e-4)
    assert other.score == pytest.approx(one.score, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("alone", [True, False])
def test_an_instance_norm_of_many_like_voxels_is_exact(alone):
    """A window that is background but for one face: summed one after the other, it is wrong by a part in a thousand."""
    network = torch.nn.Sequential(torch.nn.Conv3d(4, 4, 3, padding=1), torch.nn.InstanceNorm3d(4)).eval()
    batch = torch.full((1, 4, 64, 64, 64), 0.3)
    batch[..., -4:] += 0.05 * torch.rand((1, 4, 64, 64, 4), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(batch.double()).numpy()
    found = Compiled(convert(network, torch.zeros(1, 4, 8, 8, 8)), alone)(batch.numpy())[0]
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()


def test_other_normalisations_stay_as_they_are():
    network = torch.nn.Sequential(torch.nn.GroupNorm(2, 4), torch.nn.LayerNorm(8), torch.nn.InstanceNorm2d(4)).eval()
    batch = torch.rand((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert np.allclose(Compiled(convert(network, batch))(batch.numpy())[0], network(batch).detach().numpy(), atol=1e-5)


UP = {"stride": 2, "padding": 1, "output_padding": 1}
# name: (transposed convolution, its input, whether it is turned into a plain one)
TRANSPOSED = {
    "a volume": (torch.nn.ConvTranspose3d(6, 4, 3, **UP), (1, 6, 5, 4, 7), True),
    "a picture": (torch.nn.ConvTranspose2d(6, 3, 3, **UP), (1, 6, 5, 8), True),
    "no bias": (torch.nn.ConvTranspose3d(3, 1, 3, bias=False, **UP), (1, 3, 4, 4, 4), True),
    "many channels": (torch.nn.ConvTranspose3d(4, FEW + 1, 3, **UP), (1, 4, 4, 4, 4), False),
    "another size": (torch.nn.ConvTranspose3d(4, 2, 2, stride=2), (1, 4, 4, 4, 4), False),
    "another border": (torch.nn.ConvTranspose3d(4, 2, 3, stride=2, padding=1), (1, 4, 4, 4, 4), False),
    "groups": (torch.nn.ConvTranspose2d(4, 4, 3, groups=2, **UP), (1, 4, 4, 4), False),
}


@pytest.mark.parametrize(("network", "shape", "turned"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_convolutions_are_those_of_torch(network, shape, turned):
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    network = network.eval().requires_grad_(False)
    found = Compiled(convert(network, batch), alone=True)(batch.numpy())[0]
    assert np.allclose(found, network(batch).numpy(), atol=1e-5)
    model = convert(network, batch)
    model.reshape(list(shape))
    _spread_channels(model)
    assert any("ConvolutionBackpropData" in node.get_type_name() for node in model.get_ops()) is not turned


class Last(torch.nn.Module):
    """The end of a network: a convolution, and its own input or something else added to it, or nothing."""

    def __init__(self, layer, added="nothing"):
        super().__init__()
        self.layer, self.added = layer, added

    def forward(self, batch):
        given = torch.relu(batch)
        made = self.layer(given)
        if self.added == "its input":
            return made + given
        return made + torch.sigmoid(batch) if self.added == "something else" else made


CONV2, CONV3 = torch.nn.Conv2d, torch.nn.Conv3d


@pytest.mark.parametrize(
    ("layer", "added", "shape", "turned"),
    [
        (CONV3(4, 4, 3, padding=1), "its input", (1, 4, 6, 8, 10), True),
        (CONV3(3, 3, 3, padding=1, bias=False), "its input", (2, 3, 4, 6, 8), True),
        (CONV3(5, 2, 3, padding=1), "nothing", (1, 5, 4, 4, 6), True),
        (CONV3(2, 2, 3, padding=1), "something else", (1, 2, 4, 4, 6), True),
        (CONV2(4, 4, 3, padding=1), "its input", (1, 4, 8, 12), True),
        (CONV2(16, 1, 3, padding=1), "nothing", (3, 16, 2, 2), True),
        (CONV3(4, 4, 3, padding=1), "its input", (1, 4, 6, 7, 10), False),  # no blocks of two
        (CONV3(4, 5, 3, padding=1), "nothing", (1, 4, 6, 8, 10), False),  # fills registers well enough
        (CONV3(4, 4, 3, padding=1, stride=2), "nothing", (1, 4, 8, 8, 8), False),
        (CONV3(4, 4, 3, padding=2, dilation=2), "nothing", (1, 4, 8, 8, 8), False),
        (CONV3(4, 4, 3), "nothing", (1, 4, 8, 8, 8), False),
        (CONV3(4, 4, 1), "nothing", (1, 4, 8, 8, 8), False),
        (CONV2(4, 4, (3, 1), padding=(1, 0)), "nothing", (1, 4, 8, 8), False),
    ],
)
def test_a_convolution_to_very_few_channels_gives_blocks_and_the_same(layer, added, shape, turned):
    torch.manual_seed(0)
    network, batch = Last(layer, added).eval(), torch.randn(shape)
    (found,) = Compiled(convert(network, batch), alone=True)(batch.numpy())
    with torch.inference_mode():
        assert np.allclose(found, network(batch).numpy(), atol=1e-5)
    model = convert(network, batch)
    model.reshape(list(shape))
    _sum_in_short_runs(model)  # which also works out constants
    _fill_registers(model)
    kinds = [node.get_type_name() for node in model.get_ops()]
    assert ("DepthToSpace" in kinds) is turned
    if turned:  # bias and input are in its weights, and what else is added is not
        assert kinds.count("Add") == (layer.bias is not None) + (added == "something else")


def test_a_convolution_with_free_sides_stays():
    model = convert(CONV2(4, 4, 3, padding=1).eval(), torch.zeros((1, 4, 8, 8)))
    _fill_registers(model)
    assert "DepthToSpace" not in [node.get_type_name() for node in model.get_ops()]


def test_a_size_that_comes_often_gets_no_blocks_since_digits_would_change(monkeypatch):
    monkeypatch.setattr(compiled, "_fill_registers", lambda model: pytest.fail("digits change"))
    batch = torch.rand((1, 4, 8, 8))
    network = Compiled(convert(CONV2(4, 4, 3, padding=1).eval(), batch))
    for _ in range(OFTEN + 1):
        network(batch.numpy())
    assert tuple(batch.shape) in network._fixed


GIVEN_BACK = """
import gc, signal
import torch
from inspection_core.models.compiled import Compiled, convert

def used():
    compiled = Compiled(convert(torch.nn.Conv2d(1, 1, 3).eval(), torch.zeros(1, 1, 8, 8)))
    compiled(torch.zeros(1, 1, 8, 8).numpy())
    return compiled

waiting = [used(), used()]
while waiting:
    del waiting[0]  # the oldest first
    gc.collect()
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
signal.raise_signal(signal.SIGINT)
print(len(heard))
"""


def test_a_signal_is_heard_after_networks_were_given_back():
    """Of several ``openvino.Core`` one would leave signals a stack that is gone: the process would end with a fault."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", GIVEN_BACK], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n")
