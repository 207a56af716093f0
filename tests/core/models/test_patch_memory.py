"""patch-memory: views, memories, and cards that were written by somebody else."""

import dataclasses

import pytest
import torch

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.engine import Engine
from inspection_core.errors import FitError, ModelError
from inspection_core.infer import measure
from inspection_core.models import patch_memory, weights
from inspection_core.models.backbone import Backbone
from inspection_core.models.compiled import GRAPH, convert, written
from inspection_core.models.patch_memory import KEPT_WINDOWS, PatchMemory, PatchMemoryFitter, View, load
from inspection_core.models.views import blurred

CPU, OPENVINO = Device("cpu"), Device("cpu", 1, "openvino")
SETTINGS = {"views": ((1.0, 0.0, 1.0, True),), "memory": 64, "share": 0.5, "dim": 16, "smoothing": 0.0}


@pytest.fixture
def fitter():
    """A fitter of a random network that has seen the patches of two images."""
    torch.manual_seed(0)
    made = PatchMemoryFitter(Backbone("resnet18"), SETTINGS, 2, CPU, seed=0)
    for image in range(2):
        origins = torch.full((1, 8, 8, 4), float(image))
        made.add(image, made.describe(torch.rand((1, 1, 64, 64))), origins)
    return made


def test_a_view_without_blur_is_the_image():
    batch = torch.rand((1, 1, 64, 64))
    assert torch.equal(View().apply(batch, 16), batch)


def test_a_view_of_detail_does_not_see_exposure():
    batch = torch.rand((1, 1, 64, 64))
    view = View(blur=3.0, gain=4.0)
    assert torch.allclose(view.apply(batch + 0.3, 16), view.apply(batch, 16), atol=1e-4)


def test_a_smaller_view_has_whole_multiples():
    assert View(factor=0.8).apply(torch.rand((1, 1, 64, 96)), 16).shape == (1, 1, 48, 80)
    assert View(factor=0.01).apply(torch.rand((1, 1, 64, 96)), 16).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_sides_known_to_be_multiples_of_16_are_blurred_to_the_same_values(channels):
    batch = torch.rand((2, channels, 48, 80))
    assert torch.allclose(blurred(batch, 2.5, multiple=16), blurred(batch, 2.5), rtol=1e-6, atol=1e-7)
    assert torch.equal(blurred(batch[..., :40], 2.5, multiple=8), blurred(batch[..., :40], 2.5))


def test_a_memory_of_one_image_explains_with_that_image(fitter):
    predictor = fitter.build([1], ["a.png", "b.png"])
    numbers = range(len(predictor.origins))
    assert {predictor.explain(i).image for i in numbers} == {"b.png"}
    assert {predictor.explain(i).centre for i in numbers} == {(1.0, 1.0)}


def test_no_image_makes_no_memory(fitter):
    with pytest.raises(FitError, match=r"^A memory needs the patches of at least one good image\. Got none\.$"):
        fitter.build([], [])


def test_an_image_of_many_windows_keeps_a_bounded_fair_share(monkeypatch):
    monkeypatch.setattr("inspection_core.models.patch_memory.POOL", (64, 64))
    torch.manual_seed(0)
    made = PatchMemoryFitter(Backbone("resnet18"), SETTINGS | {"views": SETTINGS["views"] * 2}, 1, CPU, seed=0)
    windows = 4 * KEPT_WINDOWS
    for window in range(windows):
        made.add(0, made.describe(torch.rand((1, 1, 64, 64))), torch.full((1, 8, 8, 4), float(window)))
    most = KEPT_WINDOWS * 64
    assert [sum(map(len, view[0])) for view in made._patches] == [most, most]
    kept = torch.cat(made._origins[0])[:, 0].long().bincount(minlength=windows)
    assert kept.sum() == most
    assert kept.min() >= 4  # 16 expected of each window, the first as the last
    assert kept.max() <= 32


@pytest.mark.parametrize("together", [1, 2, 256])
@pytest.mark.parametrize("count", [1, 7, 15])
def test_rows_of_many_parts_are_those_of_all_put_together(monkeypatch, together, count):
    monkeypatch.setattr(patch_memory, "PUT_TOGETHER", together)
    parts = [torch.rand((n, 3)) for n in (4, 0, 1, 7, 3)]
    rows = torch.randperm(15)[:count].sort().values
    assert torch.equal(patch_memory._rows(parts, rows), torch.cat(parts)[rows])


def test_references_keep_the_origin_of_their_patch(fitter):
    for image in range(2):  # origins that name the patch
        fitter._origins[image] = [torch.arange(64.0)[:, None] + 100 * image + torch.zeros(4)]
    predictor = fitter.build([1, 0], ["a.png", "b.png"])
    images, rows = predictor.origins[:, 0].long(), predictor.origins[:, 1].long() % 100
    patches = torch.stack([fitter._patches[0][int(i)][0][int(row)] for i, row in zip(images, rows, strict=True)])
    assert torch.equal(predictor.origins[:, 1].long() // 100, images)
    assert torch.equal(predictor.memories[0].vectors, patches)


def test_a_search_compiled_apart_scores_as_one_with_the_network():
    torch.manual_seed(0)
    views = ((1.0, 0.0, 1.0, True), (1.0, 0.0, 1.0, False), (0.5, 2.0, 3.0, True))  # the first two share a pass
    made = PatchMemoryFitter(Backbone("resnet18"), SETTINGS | {"views": views}, 1, OPENVINO, seed=0)
    made.add(0, made.describe(torch.rand((1, 1, 64, 96))), torch.zeros((1, 8, 12, 4)))
    apart = made.build([0], ["a.png"])
    joined = PatchMemory(
        apart.describer, apart.memories, apart.densities, apart.origins, apart.names, apart.smoothing, apart.offset
    )
    batch = torch.rand((1, 1, 64, 96))
    found, wanted = apart(batch), joined(batch)
    assert torch.equal(found.map, wanted.map)
    assert torch.equal(found.neighbour, wanted.neighbour)


def test_every_patch_has_an_origin(fitter):
    with pytest.raises(ModelError, match=r"^Each of the 64 patches has an origin\. Got 63\.$"):
        fitter.add(0, fitter.describe(torch.rand((1, 1, 64, 64))), torch.zeros((1, 63, 1, 4)))


# name: (parameters to change; None removes, message)
HOSTILE = {
    "no backbone": ({"backbone": None}, r"lacks settings of patch-memory: 'backbone'\. Fit the model anew\.$"),
    "unknown backbone": ({"backbone": "no_such_net"}, r"^timm knows no network 'no_such_net'"),
    "another backbone": ({"backbone": "resnet18"}, r"^The weights do not fit 'resnet18'"),
    "views of text": ({"view_factor": ("large",)}, r"is none of a patch-memory: could not convert"),
    "views of one number": ({"view_factor": 1.0}, r"is none of a patch-memory: .* is not iterable|argument"),
    "views of several lengths": ({"view_factor": (1.0, 1.0)}, r"is none of a patch-memory: zip\(\)"),
    "one view too many": (
        {k: v * 2 for k, v in zip(
            ("view_factor", "view_blur", "view_gain", "view_border"), ((1.0,), (4.0,), (4.0,), (True,)), strict=True
        )},
        r"^The weights lack 'memory\.1'",
    ),
    "a blur that takes all memory": ({"view_blur": (1e9,)}, r"patch-memory: a view has a factor .* blur=1000000000"),
    "a view of no size": ({"view_factor": (0.0,)}, r"patch-memory: a view has a factor in \(0, 1\]"),
    "a gain that is no number": ({"view_gain": (float("nan"),)}, r"patch-memory: a view has .* gain=nan"),
    "smoothing without end": ({"smoothing": 1e9}, r"patch-memory: smoothing is up to 100 .* got 1e\+09"),
    "smoothing below 0": ({"smoothing": -1.0}, r"patch-memory: smoothing is up to 100 .* got -1"),
    "a first view of another size": ({"view_factor": (1e-9,)}, r"patch-memory: the first view sets the grid, so its f"),
    "smoothing of text": ({"smoothing": "much"}, r"is none of a patch-memory: could not convert"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_cards(fitted, change, message):
    card = ModelCard.load(fitted.folder)
    parameters = {k: v for k, v in (card.parameters | change).items() if v is not None}
    with pytest.raises(ModelError, match=message):
        load(fitted.folder, dataclasses.replace(card, parameters=parameters), CPU)


def test_a_card_without_the_names_of_its_images(fitted):
    card = dataclasses.replace(ModelCard.load(fitted.folder), training={})
    with pytest.raises(ModelError, match=r"lacks settings of patch-memory: 'names'"):
        load(fitted.folder, card, CPU)


def test_a_card_with_fewer_names_than_its_memory_has_images(fitted):
    card = ModelCard.load(fitted.folder)
    card = dataclasses.replace(card, training=card.training | {"names": ("only.png",)})
    with pytest.raises(ModelError, match=r"^The memory's patches come from 12 good images\. .* names 1; copy"):
        load(fitted.folder, card, CPU)


def test_a_card_with_sides_that_the_network_cannot_take(fitted):
    card = ModelCard.load(fitted.folder)
    card = dataclasses.replace(card, preparation=dataclasses.replace(card.preparation, multiple=7))
    with pytest.raises(ModelError, match=r"^Sides at inference are multiples of 16, .* has a multiple of 7; fit the m"):
        load(fitted.folder, card, CPU)


def test_a_memory_of_the_wrong_shape(fitted, tmp_path):
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    card = weights.save(tmp_path, card, stored | {"memory.0": stored["memory.0"][0]})
    with pytest.raises(ModelError, match=r"^The weights' 'memory\.0' should have 2 axes\. Got shape"):
        load(tmp_path, card, CPU)


def test_a_memory_of_fewer_features_than_the_backbone_gives(fitted, tmp_path):
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    card = weights.save(tmp_path, card, stored | {"memory.0": stored["memory.0"][:, :128].contiguous()})
    with pytest.raises(
        ModelError, match=r"^The weights' 'memory\.0' should hold all 152 features .* fit the model anew"
    ):
        load(tmp_path, card, CPU)


def test_a_basis_of_the_wrong_shape(fitted, tmp_path):
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    card = weights.save(tmp_path, card, stored | {"basis.0": stored["memory.0"][:10, :64].contiguous()})
    with pytest.raises(ModelError, match=r"^The weights' 'basis\.0' should have one row for each of 152 features"):
        load(tmp_path, card, CPU)


# tensor: (what is kept of it, message)
SHORT = {
    "memory.0": (0, r"^The weights' 'memory\.0' is empty, so nothing can be compared; fit the model anew\.$"),
    "density.0": (10, r"^The weights' 'density\.0' should have a number for each of \d+ references\. Got 10; "),
    "origins": (10, r"^The weights' 'origins' should have a row for each of \d+ references\. Got 10; fit"),
}


@pytest.mark.parametrize("name", SHORT)
def test_tensors_that_lost_rows(fitted, tmp_path, name):
    count, message = SHORT[name]
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    card = weights.save(tmp_path, card, stored | {name: stored[name][:count].clone()})
    with pytest.raises(ModelError, match=message):
        load(tmp_path, card, CPU)


# The network for OpenVINO, kept beside torch's weights ---------------------------------------------------------------


def without_graph(folder, out):
    """Write the model again as one from before graphs were kept."""
    card = ModelCard.load(folder)
    kept = {k: v for k, v in weights.load(folder, card).items() if not k.startswith("graph.")}
    weights.save(out, card, kept)
    return out


def scored(folder, image, device="cpu"):
    """Return the scores of an image, and the model that gave them."""
    model = Engine(device).load(folder)
    return measure(image, model), model


def built(model):
    return "net" in model.predictor.describer.backbone._modules


def test_the_kept_graph_gives_the_same_scores_to_the_bit(fitted, parts, tmp_path):
    image = parts.read(tmp_path, parts.hole(parts.brushed(50)))
    kept, model = scored(fitted.folder, image)
    converted, _ = scored(without_graph(fitted.folder, tmp_path / "old"), image)
    assert not built(model)
    assert (kept.score == converted.score).all()
    assert kept.device == converted.device == "cpu float32 openvino"


def test_a_graph_of_another_version_is_left_for_the_network_itself(fitted, parts, tmp_path):
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    stored["graph.0.xml"] = torch.frombuffer(bytearray(b"<net version='99'/>"), dtype=torch.uint8)
    weights.save(tmp_path / "new", card, stored)
    image = parts.read(tmp_path, parts.hole(parts.brushed(50)))
    found, model = scored(tmp_path / "new", image)
    assert built(model)
    assert (found.score == scored(fitted.folder, image)[0].score).all()


class Other(torch.nn.Module):
    """Networks that are none of a patch-memory."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, batch):
        return self.give(batch)


# name: what the network in the file gives of a batch
OTHERS = {
    "other features": lambda batch: batch.permute(0, 2, 3, 1),
    "no grid": lambda batch: batch.mean(dim=(2, 3)),
    "one output too many": lambda batch: (batch, batch + 1),
    "whole numbers": lambda batch: batch.int(),
}


@pytest.mark.parametrize("give", OTHERS.values(), ids=OTHERS)
def test_a_graph_of_another_network_is_left_for_the_network_itself(fitted, parts, tmp_path, give):
    card = ModelCard.load(fitted.folder)
    stored = weights.load(fitted.folder, card)
    for part, content in zip(GRAPH, written(convert(Other(give), torch.rand((1, 3, 32, 32)))), strict=True):
        stored[part.format(0)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
    weights.save(tmp_path / "other", card, stored)
    image = parts.read(tmp_path, parts.hole(parts.brushed(50)))
    found, model = scored(tmp_path / "other", image)
    assert built(model)
    assert (found.score == scored(fitted.folder, image)[0].score).all()


def test_torch_builds_the_network_when_it_is_asked_to_run_it(fitted):
    predictor = load(fitted.folder, ModelCard.load(fitted.folder), OPENVINO)
    assert "net" not in predictor.describer.backbone._modules
    predictor.to(CPU)
    assert "net" in predictor.describer.backbone._modules


def test_a_card_that_does_not_describe_its_network(fitted):
    card = ModelCard.load(fitted.folder)
    card = dataclasses.replace(card, parameters={k: v for k, v in card.parameters.items() if k != "backbone_dim"})
    with pytest.raises(ModelError, match=r"lacks what describes its network: 'backbone_dim'\. Fit or export the model"):
        load(fitted.folder, card, OPENVINO)
