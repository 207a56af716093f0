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


@pytest.mark.parametrize(
    ("axis", "ends", "said"),
    [
        ("images", (50, 850), "from 50 to 850: one image more takes 10.0 ms of CPU"),
        (
            "volume",
            (1.1, 9.1),
            "from 1.1 to 9.1: a million voxels more take 1.00 s of CPU, and a voxel more 13.1 bytes",
        ),
        ("references", (1024, 65536), "from 1,024 to 65,536: 9.0 times the CPU time, and 100 MiB more"),
    ],
)
def test_growth_is_said_from_the_first_point_to_the_last(scaling, axis, ends, said):
    points = [
        {"line": "one", "at": ends[0], "runs": [{"cpu_seconds": 1.0, "resident_mib": 1300.0}]},
        {"line": "one", "at": ends[1], "runs": [{"cpu_seconds": 9.0, "resident_mib": 1400.0}]},
        {"line": "other", "at": 1, "runs": [{"error": "no end"}]},
    ]
    (note,) = scaling.growth(axis, points)
    assert said in note


@pytest.mark.parametrize("axis", ["images", "size", "references", "volume"])
def test_every_axis_has_a_plot_of_time_and_one_of_memory(scaling, axis):
    points = [{"line": "one", "at": 2, "runs": [{"cpu_seconds": 1.0, "resident_mib": 1300.0}]}]
    names = [made["name"] for made in scaling.plots(axis, points)]
    assert names == [f"scaling-{axis}-time", f"scaling-{axis}-memory"]
