"""A guard against slowness that measures no time: how much is computed for one image of 256 x 256."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inspection_core.device import Device
from inspection_core.learn import PRESETS
from inspection_core.models.backbone import Backbone, load_weights
from inspection_core.models.compiled import Compiled
from inspection_core.models.nearest import Memory, principal
from inspection_core.models.views import Describer, View

FAST = PRESETS["fast"]
CELLS = (FAST.size // 8) ** 2


@pytest.fixture(scope="module")
def describer():
    views = [View(*view) for view in FAST.settings["views"]]
    return Describer(Backbone(FAST.backbone, load_weights(FAST.backbone)), views)


def flop(work) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def test_the_backbone_ends_where_its_last_features_come_from(describer):
    describer.to(Device("cpu"))
    image = torch.rand((1, 1, FAST.size, FAST.size))
    assert flop(lambda: list(describer(image))) < 0.75  # the whole network: 1.0


def test_the_search_takes_a_quarter_of_one_in_all_dimensions():
    settings = FAST.settings
    vectors = torch.randn((settings["memory"], 152), generator=torch.Generator().manual_seed(0))
    memory = Memory(vectors, principal(vectors, settings["dim"]))
    patches = vectors[torch.arange(CELLS) % len(vectors)]
    whole = 2 * CELLS * len(vectors) * 152 / 1e9
    assert flop(lambda: memory.search(patches)) < 0.25 * whole


def test_an_image_is_in_the_network_once_and_the_network_stays_where_it_is(describer, monkeypatch):
    calls = []
    original = Compiled.__call__
    monkeypatch.setattr(Compiled, "__call__", lambda self, batch: calls.append(batch.shape) or original(self, batch))
    describer.to(Device("cpu", 1, "openvino"))
    monkeypatch.setattr(describer.backbone, "to", lambda device: pytest.fail("looked at every layer anew"))
    for _ in range(3):
        describer.to(Device("cpu", 1, "openvino"))
        with torch.inference_mode():
            list(describer(torch.rand((1, 1, 64, 64))))
    assert calls == [(1, 1, 64, 64)] * 3
    assert {len(c._by_shape) for c in describer._compiled} == {1}  # compiled once
