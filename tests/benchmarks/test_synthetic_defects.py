"""The comparison of settings by drawn defects: its figures are those of the model, and its intervals those of AUROC."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from sklearn.metrics import roc_auc_score

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy" / "synthetic_defects.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("synthetic_defects", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_models_are_spelt_as_they_are_read(script):
    for model in ("320:10:3+256:0:1", "256:4:4:0"):
        assert script.spell(script.parse(model)) == model


def test_the_first_sample_is_the_auroc_itself_and_the_others_vary(script):
    rng = np.random.default_rng(0)
    drawn = np.tile([False, True], 20)
    row = {
        "score": (rng.normal(size=40) + drawn).tolist(),
        "drawn": drawn.tolist(),
        "source": np.repeat(range(20), 2).tolist(),
    }
    values = script.resampled(row, np.random.default_rng(1))
    assert values[0] == pytest.approx(roc_auc_score(drawn, row["score"]))
    assert values[1:].mean() == pytest.approx(values[0], abs=0.02)
    assert 0.02 < values[1:].std() < 0.12


def test_a_setting_is_compared_with_the_first_on_the_same_samples(script):
    row = {
        "set": "s",
        "held_out": 1,
        "draw": 0,
        "seed": 0,
        "drawn": [False, True] * 9,
        "source": sorted([*range(9)] * 2),
    }
    scores = np.arange(18.0)
    better = scores + 20 * np.array(row["drawn"])
    first, second = (
        {**row, "setting": [name, 1, 0.1, 15, 0.03], "score": s.tolist()} for name, s in (("a", scores), ("b", better))
    )
    lines = script.table([first, second]).splitlines()
    assert lines[1].endswith("+0.0000 (+0.0000 to +0.0000)")
    mean, difference = lines[2].split(" | ")[-2:]
    assert mean == "1.0000"
    assert difference.startswith(f"{1 - roc_auc_score(row['drawn'], scores):+.4f} (+")


def test_scores_are_those_of_a_model_with_both_views(script, tmp_path):
    from inspection_core import device as devices
    from inspection_core.card import ModelCard, Preparation
    from inspection_core.engine import LoadedModel
    from inspection_core.gather import collect
    from inspection_core.infer import measure
    from inspection_core.io.raster import list_images, read_raster
    from inspection_core.models.backbone import Backbone, load_weights
    from inspection_core.models.patch_memory import PatchMemoryFitter
    from inspection_core.survey import look

    rng = np.random.default_rng(0)
    folder = tmp_path / "train" / "good"
    folder.mkdir(parents=True)
    for number in range(4):
        Pillow.fromarray(rng.integers(90, 160, (64, 64)).astype(np.uint8)).save(folder / f"{number}.png")
    options = script.options(["--memory", "300", "--top", "0.1"])
    models = [script.parse("64:4:4+32:0:1")]
    half = script.remember(tmp_path, 1, models, options)
    (row,) = script.score(half, models, 0, options)
    assert [n for n, d in zip(row["source"], row["drawn"], strict=True) if not d] == [0, 1]
    assert sum(row["drawn"]) == 3

    paths = list_images(folder)
    survey = look(folder, paths[:2])
    card = ModelCard(
        "same", "1", "patch-memory", "anomaly", survey.channels, "distance",
        preparation=Preparation(window=survey.window, dtype=survey.dtype, short_side=0, side=64, scales=(1, 1)),
        parameters={"top": 0.1},
    )  # fmt: skip
    settings = {"views": [(1, 4, 4, True), (0.5, 0, 1, True)], "memory": 300, "share": 0.1, "dim": 0, "smoothing": 1}
    backbone = Backbone(script.BACKBONE, load_weights(script.BACKBONE))
    on = devices.choose("cpu")
    fitter = PatchMemoryFitter(backbone, settings, 2, on, 0)
    collect(survey, card, fitter, lambda *_: None)
    model = LoadedModel(card, folder, fitter.build(range(2), survey.names), on)
    assert row["score"][0] == pytest.approx(measure(read_raster(paths[2]), model).image_score, rel=1e-5)
    (again,) = script.score(half, models, 1, options)
    same = [a == b for a, b in zip(row["score"], again["score"], strict=True)]
    assert same == [not d for d in row["drawn"]]
