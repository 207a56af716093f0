"""What every architecture with a fitter keeps. A new one is tested here without a new test; others segment."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inspection_core import models
from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError
from inspection_core.learn import fit
from inspection_core.models import FITTERS, MODELS, architectures, function, load_predictor

CPU = Device("cpu")


@pytest.fixture(scope="module", params=sorted(FITTERS))
def loaded(request, fitted, good_parts, tmp_path_factory):
    """Card and predictor of each architecture, loaded from a fitted folder."""
    if request.param == fitted.card.architecture:
        made = fitted
    else:
        out = tmp_path_factory.mktemp("contract") / "m"
        made = fit(good_parts, out, preset="fast", architecture=request.param, device="cpu", smallest_defect=8)
    card = ModelCard.load(made.folder)
    return card, load_predictor(made.folder, card, CPU)


def batch(count: int, card: ModelCard, side: int = 96) -> torch.Tensor:
    return torch.rand((count, len(card.channels), side, side), generator=torch.Generator().manual_seed(0))


def test_scores_are_a_finite_map_on_the_grid(loaded):
    card, predictor = loaded
    with torch.inference_mode():
        scores = predictor(batch(2, card))
    assert scores.map.shape == (2, 96 // predictor.stride, 96 // predictor.stride)
    assert scores.map.dtype == torch.float32
    assert scores.map.isfinite().all()
    if scores.neighbour is not None:
        assert scores.neighbour.shape == scores.map.shape
        assert scores.neighbour.dtype == torch.int64


def test_stride_and_offset_say_where_cells_look(loaded):
    card, predictor = loaded
    assert card.preparation.multiple % predictor.stride == 0
    assert -predictor.stride < predictor.offset < 2 * predictor.stride


def test_a_defect_comes_back_where_it_was(loaded, parts):
    card, predictor = loaded
    good = parts.brushed(70, 192)

    def score(picture):
        pixels = torch.from_numpy(picture / np.float32(255)).expand(1, len(card.channels), -1, -1)
        with torch.inference_mode():
            return predictor(pixels).map[0]

    change = score(parts.hole(good, at=(88, 120), side=16)) - score(good)
    weight = (change * (change > change.max() / 2)).numpy()
    cells = np.indices(weight.shape).reshape(2, -1) * predictor.stride + predictor.offset
    centre = (cells * weight.ravel()).sum(axis=1) / weight.sum()
    assert np.abs(centre - [95.5, 127.5]).max() < predictor.stride


def test_explanations_name_a_good_image_and_a_place_in_it(loaded, good_parts):
    card, predictor = loaded
    with torch.inference_mode():
        neighbour = predictor(batch(1, card)).neighbour
    if neighbour is None:
        pytest.skip("has no memory to explain with")
    for reference in neighbour.unique().tolist():
        good = predictor.explain(reference)
        assert (good_parts / good.image).is_file()
        assert all(-s <= c < 96 + s for c, s in zip(good.centre, good.size, strict=True))
        assert all(s > 0 for s in good.size)


def test_company_in_a_batch_of_fixed_size_changes_nothing(loaded):
    card, predictor = loaded
    four = batch(4, card)
    alone = torch.zeros_like(four)
    alone[0] = four[0]
    with torch.inference_mode():
        assert torch.allclose(predictor(alone).map[0], predictor(four).map[0], rtol=1e-6)


def test_moving_to_where_it_is_changes_nothing(loaded):
    card, predictor = loaded
    with torch.inference_mode():
        before = predictor(batch(1, card)).map
        predictor.to(CPU)
        assert torch.equal(predictor(batch(1, card)).map, before)


def test_every_fitter_makes_a_model_that_can_be_loaded():
    assert set(FITTERS) <= set(MODELS)
    assert all(callable(function(table, name)) for table in (MODELS, FITTERS) for name in table)


def test_third_parties_add_architectures(monkeypatch):
    entry = SimpleNamespace(name="theirs", value="their_package:load")
    monkeypatch.setattr(models, "entry_points", lambda group: [entry])
    assert architectures() == {**MODELS, "theirs": "their_package:load"}


@pytest.mark.parametrize("first", ["patch-memory", "theirs"])
def test_two_architectures_of_one_name(monkeypatch, first):
    entries = [SimpleNamespace(name=n, value=f"{n.replace('-', '_')}_{i}:load") for i, n in enumerate([first, first])]
    monkeypatch.setattr(models, "entry_points", lambda group: entries)
    ours = MODELS.get(first, "theirs_0:load")
    theirs = "patch_memory_0:load" if first in MODELS else "theirs_1:load"
    with pytest.raises(ModelError) as caught:
        architectures()
    assert str(caught.value) == (
        f"Two architectures are named {first!r}: {ours} and {theirs}. "
        "Uninstall one of the packages, or ask its author for another name."
    )


# name: (table, message)
UNLOADABLE = {
    "unknown": ({"a": "x:y", "b": "x:y"}, r"^The architecture 'm' is unknown\. Known are: a, b\.$"),
    "no such module": (
        {"m": "no_such_module:load"},
        r"^The architecture 'm' cannot be loaded from no_such_module:load: No module named 'no_such_module'\.$",
    ),
    "no such function": ({"m": "json:no_such"}, r"cannot be loaded from json:no_such: module 'json' has no attribute"),
}


@pytest.mark.parametrize(("table", "message"), UNLOADABLE.values(), ids=UNLOADABLE)
def test_unloadable(table, message):
    with pytest.raises(ModelError, match=message):
        function(table, "m")
