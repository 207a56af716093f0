"""Models in memory, and one prepared image on its way through one of them."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core import engine
from inspection_core.card import CARD_NAME, ModelCard, Preparation
from inspection_core.device import Device, choose
from inspection_core.engine import Engine, LoadedModel, find, list_models, plan, run_images, run_windows
from inspection_core.errors import DeviceError, ModelError
from inspection_core.models import Scores

CARD = ModelCard("m", "1", "blocks", "anomaly", ("grey",), "s", preparation=Preparation(multiple=16, tile=64))
CPU = Device("cpu")
GPU = Device("meta", batch=4)
"""Stands for a GPU: torch knows the name on every machine."""


class Blocks:
    """Scores each block of 8 x 8 pixels by its mean; the nearest reference is that mean, rounded."""

    stride, offset = 8, 3.5

    def __init__(self, fails_on: tuple[str, ...] = ()) -> None:
        self.fails_on = fails_on
        self.batches: list[tuple[int, ...]] = []
        self.device = CPU

    def __call__(self, batch: torch.Tensor) -> Scores:
        self.batches.append(tuple(batch.shape))
        if self.device.name in self.fails_on:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        means = F.avg_pool2d(batch[:, :1], 8)[:, 0]
        return Scores(means, means.round().long())

    def to(self, device: Device) -> None:
        self.device = device


def picture(height: int, width: int) -> torch.Tensor:
    return 100 * torch.rand((1, height, width), generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5]), st.integers(1, 5))
def test_tiles_give_what_the_whole_gives(rows, columns, overlap, batch):
    pixels = picture(16 * rows, 16 * columns)
    whole = run_windows(Blocks(), pixels, CPU, 4096, overlap, 16)
    tiled = run_windows(Blocks(), pixels, Device("cpu", batch), 64, overlap, 16)
    assert np.allclose(tiled.score, whole.score, rtol=1e-6)
    assert np.array_equal(tiled.neighbour, whole.neighbour)


@pytest.mark.parametrize("batch", [1, 4])
def test_images_in_company_get_what_they_get_alone(batch):
    device = Device("cpu", batch)
    sizes = [(64, 64), (64, 192), (32, 64), (64, 64), (160, 160)]
    images = [picture(*size) + i for i, size in enumerate(sizes)]
    predictor = Blocks()
    together = run_images(predictor, images, device, 64, 0.25, 16)
    assert {b[0] for b in predictor.batches} == {batch}
    for pixels, grid in zip(images, together, strict=True):
        alone = run_windows(Blocks(), pixels, device, 64, 0.25, 16)
        assert grid.score.tobytes() == alone.score.tobytes()
        assert np.array_equal(grid.neighbour, alone.neighbour)
    count = sum(len(plan(size, 64, 0.25, 16)) for size in sizes)
    assert len(predictor.batches) <= count if batch == 1 else len(predictor.batches) < count / 2


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_always_have_one_size(batch):
    predictor = Blocks()
    run_windows(predictor, picture(64, 192), Device("cpu", batch), 64, 0.25, 16)
    assert len(predictor.batches) > 1 or batch == 4
    assert set(predictor.batches) == {(batch, 1, 64, 64)}


def test_windows_of_several_images_share_batches_and_change_nothing():
    images = [picture(64, 64), picture(64, 192), picture(32, 32), picture(64, 64)]
    predictor, device = Blocks(), Device("cpu", batch=4)
    together = run_images(predictor, images, device, 64, 0.25, 16)
    shapes = [b[1:] for b in predictor.batches]
    assert shapes.count((1, 64, 64)) < sum(len(plan(p.shape[1:], 64, 0.25, 16)) for p in images)  # fewer than windows
    assert {b[0] for b in predictor.batches} == {4}
    for pixels, grid in zip(images, together, strict=True):
        alone = run_windows(Blocks(), pixels, device, 64, 0.25, 16)
        assert np.array_equal(grid.score, alone.score)
        assert np.array_equal(grid.neighbour, alone.neighbour)


def test_a_model_without_a_memory_has_no_neighbours():
    class Plain(Blocks):
        def __call__(self, batch: torch.Tensor) -> Scores:
            return Scores(super().__call__(batch).map)

    assert run_windows(Plain(), picture(64, 64), CPU, 64, 0.25, 16).neighbour is None


# name: (shape, tile, windows, their size)
PLANS = {
    "fits": ((64, 64), 64, 1, (64, 64)),
    "long, but no larger than a tile": ((32, 128), 64, 1, (32, 128)),
    "large": ((64, 160), 64, 3, (64, 64)),
    "large both ways": ((160, 160), 64, 9, (64, 64)),
    "tile of no whole multiple": ((64, 64), 63, 4, (48, 48)),
}


@pytest.mark.parametrize(("shape", "tile", "count", "size"), PLANS.values(), ids=PLANS)
def test_plan(shape, tile, count, size):
    windows = plan(shape, tile, 0.25, 16)
    assert len(windows) == count
    assert {tuple(s.stop - s.start for s in w) for w in windows} == {size}


def test_out_of_memory_ends_on_the_cpu_and_says_so(tmp_path):
    predictor = Blocks(fails_on=("meta",))
    grid, rung = LoadedModel(CARD, tmp_path, predictor, GPU).run(picture(64, 64))
    assert rung == CPU
    assert [b[0] for b in predictor.batches] == [4, 1, 1, 1]
    assert np.array_equal(grid.score, run_windows(Blocks(), picture(64, 64), CPU, 64, 0.25, 16).score)


def test_the_next_image_tries_the_device_again(tmp_path):
    predictor = Blocks(fails_on=("meta",))
    model = LoadedModel(CARD, tmp_path, predictor, GPU)
    for _ in range(2):
        model.run(picture(64, 64))
    assert [b[0] for b in predictor.batches] == [4, 1, 1, 1] * 2


def test_a_device_too_full_to_go_back_to_costs_no_result(tmp_path):
    """Another program took the GPU's memory: what was computed on the CPU stands."""

    class Evicted(Blocks):
        def to(self, device: Device) -> None:
            if device.name == "meta":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().to(device)

    _, rung = LoadedModel(CARD, tmp_path, Evicted(), GPU).run(picture(64, 64))
    assert rung == CPU


def test_no_room_anywhere_is_one_clear_error(tmp_path):
    model = LoadedModel(CARD, tmp_path, Blocks(fails_on=("meta", "cpu")), GPU)
    with pytest.raises(DeviceError, match=r"^Memory ran out on every rung \(meta with a batch of 4, .*cpu"):
        model.run(picture(64, 64))


def test_a_model_is_loaded_once_for_all_threads(fitted):
    shared = Engine("cpu")
    found = []
    threads = [threading.Thread(target=lambda: found.append(shared.load(fitted.folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(model is found[0] for model in found)
    assert found[0].card == fitted.card
    assert found[0].device == choose("cpu")


def test_an_embedded_model_is_found_by_its_id(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "EMBEDDED_CARDS", tmp_path)
    (tmp_path / "screws").mkdir()
    assert find("screws") == tmp_path / "screws"
    with pytest.raises(
        ModelError,
        match=r"^A model is a folder, or the id of one that comes with the suite \(screws\)\. Got 'nails'; "
        r"make a model with `inspection fit`\.$",
    ):
        find("nails")


def test_where_no_model_comes_with_the_suite(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "EMBEDDED_CARDS", tmp_path / "none")
    with pytest.raises(ModelError, match=r"\(none yet\)\. Got '\.\./other/nails'"):
        find("../other/nails")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"Found no card\.toml in .*; make a model with `inspection fit`"):
        Engine("cpu").load(tmp_path)


def test_models_are_listed_with_those_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "EMBEDDED_CARDS", tmp_path / "embedded")
    for place, text in {
        "embedded/e": CARD.to_toml(),
        "mine/a": CARD.to_toml(),
        "mine/deep/b": "id = ",
        "mine/far/too/deep": CARD.to_toml(),
    }.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / CARD_NAME).write_text(text, encoding="utf-8")
    listed = {p.relative_to(tmp_path).as_posix(): card for p, card in list_models(tmp_path / "mine")}
    assert list(listed) == ["embedded/e", "mine/a", "mine/deep/b"]
    assert listed["mine/a"] == CARD
    assert isinstance(listed["mine/deep/b"], ModelError)
    assert "is no valid TOML" in str(listed["mine/deep/b"])
