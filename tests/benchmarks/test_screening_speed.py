"""What the benchmark of screening says of the limits: rates of one core, and what each stage must do at least."""

import pytest

from inspection_core.engine import Engine
from inspection_core.io.raster import list_images
from inspection_core.learn import fit


@pytest.fixture
def speed(script):
    return script("screening_speed")


@pytest.fixture
def fitted(script, tmp_path):
    """Return good images of 96 x 96, and the model of preset fast that was fitted on them."""
    script("common").write_textures(tmp_path / "good", 4, (96, 96))
    fit(tmp_path / "good", tmp_path / "model", preset="fast", device="cpu")
    return list_images(tmp_path / "good"), Engine("cpu").load(tmp_path / "model")


def test_rates_are_those_of_a_computer(speed):
    assert 1e8 < speed.copied(1 << 22) < 1e13
    assert 1e8 < speed.multiplied() < 1e13


def test_a_stage_moves_what_it_is_given_and_what_it_gives(speed, fitted):
    paths, model = fitted
    moved = speed.least_bytes(paths, model)
    files = sum(path.stat().st_size for path in paths) / len(paths)
    memory, weights = model.predictor.memories[0], model.predictor.describer.backbone.net.parameters()
    window = 4 * 256**2  # images are looked at with this area
    patches = 4 * 32**2 * memory.vectors.shape[1]
    assert moved["hash"] == files
    assert moved["decode"] == files + 96**2
    assert moved["prepare"] == 96**2 + window
    assert moved["backbone"] == window + patches + 4 * sum(p.numel() for p in weights)
    assert moved["search"] == patches + 4 * len(memory) * (memory.basis.shape[1] + 1)
    assert moved["restore and findings"] == 96**2 * (2 * 4 + 1)


def test_operations_of_the_search_are_those_of_one_matrix_product(speed, fitted):
    paths, model = fitted
    counted, memory = speed.operations(paths[0], model), model.predictor.memories[0]
    assert counted["search"] == 2 * 32**2 * len(memory) * (memory.basis.shape[1] + 1)
    assert counted["backbone"] > 1e7


def test_every_stage_stands_beside_its_limits(speed):
    limit = {
        "operations_a_second": 1e11, "bytes_a_second": 1e10,
        "operations": {"backbone": 5e8, "search": 2e8},
        "bytes": {"decode": 1e6, "backbone": 2e6, "search": 1e6},
    }  # fmt: skip
    made, notes = speed.stage_table({"decode": 1.0, "backbone": 6.0, "search": 3.0}, limit)
    assert made["rows"] == [
        ["decode", "1.0", "10%", "", "0.1"],
        ["backbone", "6.0", "60%", "5.0", "0.2"],
        ["search", "3.0", "30%", "2.0", "0.1"],
    ]
    assert "100 GFLOP/s" in notes[0]
    assert "10.0 GB/s" in notes[0]
    assert "All stages take 10.0 ms, their limits 7.1 ms" in notes[2]


def test_what_was_wanted_stands_beside_what_there_is(speed):
    turn = {
        "ours, fast": {"ms": 12.5, "cpu_ms": 20.0},
        "anomalib PatchCore, 1 %": {"ms": 62.5, "cpu_ms": 120.0},
        "anomalib PatchCore, 10 %": {"ms": 75.0, "cpu_ms": 130.0},
    }
    result = {
        "rounds": [turn, turn],
        "auroc": {"parts": {"cpu": 0.950, "cpu/torch": 0.953}},
        "fit": {"images": 90, "wall": 8.64, "cpu": 14.2},
        "coreset": {"ours": {"seconds": 0.5, "radius": 27.0}, "peer": {"seconds": 30.0, "radius": 30.0}},
    }
    images, tenth, hundredth, coreset, auroc, fit = speed.aims(result)
    assert images == "At least 60 images a second were wanted: there are 80."
    assert tenth.endswith("was wanted: **it is 6.0 times, 6.5 by CPU time, which falls short**.")
    assert hundredth.endswith("was wanted: it is 5.0 times, 6.0 by CPU time.")
    assert coreset.endswith("it is 60 times, with 0.90 of its covering radius.")
    assert auroc.endswith("**it is lower by 0.0030 at most, which falls short**.")
    assert "90 images with `fast`: 8.6 s" in fit


def test_without_the_peer_nothing_is_said_of_it(speed):
    turn = {"ours, fast": {"ms": 12.5, "cpu_ms": 20.0}}
    notes = speed.aims({"rounds": [turn], "auroc": {}, "fit": {"images": 90, "wall": 8.0, "cpu": 14.0}})
    assert len(notes) == 2
