"""Models that the benchmark of scaling makes see and find what they are made for."""

import pytest

from inspection_core.engine import Engine
from inspection_core.infer import predict
from inspection_core.io.raster import read_raster
from inspection_core.learn import fit


@pytest.fixture
def scaling(script):
    return script("scaling")


def test_a_model_with_more_references_gives_nearly_the_same_scores(scaling, tmp_path):
    from common import write_textures

    write_textures(tmp_path / "good", 4, (96, 96))
    fit(tmp_path / "good", tmp_path / "model", preset="fast", device="cpu")
    own = scaling.with_references(tmp_path / "model", tmp_path / "many", 5000)
    image = read_raster(next((tmp_path / "good").iterdir()))
    models = [Engine("cpu").load(folder) for folder in (tmp_path / "model", own)]
    assert len(models[1].predictor.memories[0]) == 5000
    few, many = (predict(image, model).image_score for model in models)
    assert few == pytest.approx(many, rel=0.1)
    for change, longest in ((scaling.whole, 256), (scaling.full, 96)):
        folder = scaling.with_card(tmp_path / "model", tmp_path / change.__name__, change)
        preparation = Engine("cpu").load(folder).card.preparation
        assert (preparation.side or 96) == longest


def test_a_still_network_finds_nothing(scaling, tmp_path):
    work = scaling.volume_here(str(scaling.still_network(tmp_path)), "[96, 96, 96]", "cpu")
    found = work()
    assert not found.findings
    assert not found.mask.any()
