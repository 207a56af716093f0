"""A batch lies where the network's output comes, only where it is read before anything is written there."""

import numpy as np
import pytest
import torch
from torch import nn

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.engine import Engine
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.models import monai_unet, weights
from inspection_core.models.compiled import SHAPES, Compiled, convert
from inspection_core.prepare import prepare

SIDES = (12, 16, 20)


@pytest.fixture(scope="module", autouse=True)
def needs_openvino():
    pytest.importorskip("openvino")


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv3d(inputs, outputs, 3, padding=1)


class Skip(nn.Module):
    """The input, or a layer of it, added or put beside what two layers give.

    Where nothing is computed but places change, OpenVINO itself has no copy: numbers are wrong where memory is shared.
    """

    def __init__(self, how: str, network: nn.Module) -> None:
        super().__init__()
        self.how, self.network, self.layer = how, network, conv(2, 2)

    def forward(self, x):
        y = self.network(x)
        return {
            "added": lambda: y + x,
            "beside": lambda: torch.cat([y, x], dim=1),
            "layer": lambda: y + self.layer(x),
            "weighed": lambda: y * x,
            "turned": lambda: y + x.flip(2),
            "view": lambda: y + x.reshape(1, 2, -1).flip(2).reshape(y.shape),
            "shifted": lambda: torch.roll(x, 3, 2),
            "turned by mean": lambda: x.flip(2) * x.mean(dim=(2, 3, 4), keepdim=True),
            "mean": lambda: y + x.mean(dim=(2, 3, 4), keepdim=True),
        }[self.how]()


def two(last: int = 2) -> nn.Module:
    return nn.Sequential(conv(2, 4), nn.InstanceNorm3d(4), nn.PReLU(), conv(4, last))


# name: (network, whether its input may lie where its output comes; None: by how OpenVINO goes about it)
NETWORKS = {
    "two layers": (two(), True),
    "a norm first": (nn.Sequential(nn.InstanceNorm3d(2), two()), True),
    "a layer between": (nn.Sequential(Skip("added", two()), two()), True),
    "up again": (nn.Sequential(conv(2, 4), nn.MaxPool3d(2), nn.ConvTranspose3d(4, 3, 2, stride=2)), True),
    "softmax": (nn.Sequential(two(4), nn.Softmax(dim=1)), True),
    "one layer": (conv(2, 3), None),
    "the input itself": (nn.Identity(), False),
    "the input, each by itself": (nn.ReLU(), False),
    "the input, in another order": (nn.ChannelShuffle(2), False),
    "the input, shifted": (Skip("shifted", nn.Identity()), False),
    "the input, turned, by its mean": (Skip("turned by mean", nn.Identity()), False),
    "added": (Skip("added", two()), False),
    "beside": (Skip("beside", two()), False),
    "weighed": (Skip("weighed", two()), False),
    "turned": (Skip("turned", two()), False),
    "a view": (Skip("view", two()), False),
    "a layer of it": (Skip("layer", two()), None),
    "its mean": (Skip("mean", two()), None),
    "a smaller output": (two(1), False),
}


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize(("network", "shared"), NETWORKS.values(), ids=NETWORKS)
def test_where_a_batch_lies_changes_no_bit(network, shared):
    torch.manual_seed(0)
    shape = (1, 2, *SIDES)
    compiled = Compiled(convert(network.eval(), torch.zeros(1, 2, 8, 8, 8)), alone=True)
    room = compiled.room(shape)
    if shared is not None:
        assert (room is not None) is shared
    for seed in range(3):
        expected = compiled(noise(shape, seed))[0].copy()
        if room is not None:
            room[:] = noise(shape, seed)
            found = compiled(room)[0]
            assert np.shares_memory(room, found)
            assert np.array_equal(found, expected)


def test_several_outputs_and_calls_that_run_together_share_nothing():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = two(), two()

        def forward(self, x):
            return self.one(x), self.other(x)

    shape = (1, 2, *SIDES)
    assert Compiled(convert(Both().eval(), torch.zeros(1, 2, 8, 8, 8)), alone=True).room(shape) is None
    assert Compiled(convert(two().eval(), torch.zeros(1, 2, 8, 8, 8))).room(shape) is None


def test_a_version_that_does_not_tell_the_order_shares_nothing(monkeypatch):
    def fail(node):
        raise KeyError

    monkeypatch.setattr("inspection_core.models.compiled_order._place", fail)
    assert Compiled(convert(two().eval(), torch.zeros(1, 2, 8, 8, 8)), alone=True).room((1, 2, *SIDES)) is None


def test_what_is_known_of_a_shape_goes_with_its_network():
    compiled = Compiled(convert(two().eval(), torch.zeros(1, 2, 8, 8, 8)), alone=True)
    for n in range(1, SHAPES + 3):
        assert compiled.room((1, 2, n, 4, 4)) is not None
    assert len(compiled._shares) == SHAPES


# name: (networks, channels, whether some windows are skipped, whether there is room)
MODELS = {
    "one network": (1, 2, False, True),
    "windows that are skipped": (1, 2, True, True),
    "more channels than classes": (1, 4, False, False),
    "two networks, of which one reads late": (2, 2, False, False),
}


@pytest.mark.parametrize(("members", "channels", "skip", "room"), MODELS.values(), ids=MODELS)
def test_score_and_mask_are_the_same_with_room_and_without(tmp_path, monkeypatch, members, channels, skip, room):
    shape, names = (20, 40, 24), tuple(f"c{k}" for k in range(channels))
    preparation = Preparation(view="volume", window=(0.0, 1.0), short_side=0, multiple=8, window_size=(16, 16, 16),
                              overlap=0.5, skip_background=skip, average="logits")  # fmt: skip
    card = ModelCard(
        "s", "1", "monai-unet", "segmentation", names, "1 - P(background)", ("a", "b"),
        preparation=preparation, policy=Policy(kind="band"),
        parameters={"channels": (4, 8), "residual_units": 1, "members": members},
    )  # fmt: skip
    torch.manual_seed(0)
    weights.save(tmp_path, card, monai_unet.tensors([monai_unet.build(card) for _ in range(members)], card))
    array = noise((channels, *shape))
    array[:, :, :36] *= not skip
    prepared = prepare(Image(array, Geometry.from_spacing(shape, (1.0, 1.0, 1.0)), names), card)
    given, own = [], monai_unet.MonaiUNet.room

    def noted(self, shape):
        given.append(own(self, shape))
        return given[-1]

    def run(device: str, room):
        monkeypatch.setattr(monai_unet.MonaiUNet, "room", room)
        found, _ = Engine(device).load(tmp_path).run_classes(prepared)
        return found.score, found.mask

    score, mask = run("cpu/openvino", noted)
    expected_score, expected_mask = run("cpu/openvino", lambda self, shape: None)
    assert [one is not None for one in given] == [room]
    assert np.array_equal(score, expected_score)
    assert np.array_equal(mask, expected_mask)
    assert score.std() > 1e-4
    run("cpu/torch", noted)
    assert given[1] is None
