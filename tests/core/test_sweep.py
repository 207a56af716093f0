"""A network over a volume: windows, neighbours, blending, and what a network must give."""

import itertools

import numpy as np
import pytest
import torch

from inspection_core import tiling
from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.errors import GeometryError, ModelError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.normalise import Normalised
from inspection_core.prepare import prepare
from inspection_core.sweep import sweep, sweep_blocks, volume_windows, walk
from inspection_core.tiling import Blend, Stitcher, gaussian_weight, least_held, windows

CPU = Device("cpu")


def picture(*shape, seed=0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def preparation(view="volume", **given) -> Preparation:
    return Preparation(view=view, **({"multiple": 2, "tile": 6, "overlap": 0.5} | given))


def echo(batch: torch.Tensor) -> torch.Tensor:
    """A network that gives its first channel back."""
    return batch[:, :1]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("blend", ["linear", "gaussian"])
@pytest.mark.parametrize("view", ["volume", "slices"])
def test_what_says_nothing_new_leaves_no_seam(view, blend, batch):
    pixels = picture(1, 10, 12, 14)
    result = sweep(echo, pixels, Device("cpu", batch), preparation(view, blend=blend), 1, 1)
    assert np.allclose(result, pixels, atol=1e-6)


def test_slices_see_their_neighbours_lowest_first_and_the_last_is_repeated():
    pixels = torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, 2, 2) + torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
    seen = []

    def network(batch):
        seen.append(batch[0, :, 0, 0].tolist())
        return batch[:, :1]

    sweep(network, pixels, CPU, preparation("slices", neighbours=1), 1, 1)
    assert seen == [[0, 10, 0, 10, 1, 11], [0, 10, 1, 11, 2, 12], [1, 11, 2, 12, 3, 13], [2, 12, 3, 13, 3, 13]]


def test_strided_networks_give_cells():
    pixels = picture(1, 8, 8, 8)
    pool = torch.nn.functional.avg_pool3d
    result = sweep(lambda b: pool(b, 2), pixels, CPU, preparation(overlap=0.0, tile=4), 2, 1)
    assert np.allclose(result[0], pool(pixels[None], 2)[0, 0], atol=1e-6)
    flat = sweep(lambda b: torch.nn.functional.avg_pool2d(b, 2), pixels, CPU, preparation("slices"), 2, 1)
    assert flat.shape == (1, 8, 4, 4)


def test_windows_have_the_size_that_the_card_fixes():
    sizes = {
        tuple(s.stop - s.start for s in w) for w in volume_windows((8, 12, 12), preparation(window_size=(4, 8, 6)))
    }
    assert sizes == {(4, 8, 6)}
    sizes = {
        tuple(s.stop - s.start for s in w)
        for w in volume_windows((8, 12, 12), preparation("slices", window_size=(8, 6)))
    }
    assert sizes == {(1, 8, 6)}


def test_a_network_that_does_not_fit_its_card_is_named():
    with pytest.raises(
        ModelError, match=r"gives an array of shape \(1, 1, 6, 6, 6\) where its card needs \(1, 3, 6, 6, 6\)"
    ):
        sweep(echo, picture(1, 6, 6, 6), CPU, preparation(), 1, 3)


def blended(todo, shape, results, ramp, order=()) -> np.ndarray:
    """Return what a blend of windows hands out, put together; each cell comes once."""
    out = np.full((len(results[0]), *shape), np.nan, np.float32)

    def done(place, values):
        assert np.isnan(out[(slice(None), *place)]).all()
        out[(slice(None), *place)] = values

    blend = Blend(todo, shape, len(out), ramp, done, order=order)
    pairs = zip(todo, results, strict=True)
    for window, values in sorted(pairs, key=lambda pair: [pair[0][axis].start for axis in order or (0, 1, 2)]):
        blend.add(window, torch.from_numpy(values.astype(np.float32)))
    return out


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(12, 8, 10), (6, 4, 4), (13, 9, 21)])
def test_a_blend_by_blocks_is_that_of_the_whole(shape, overlap, even):
    rng = np.random.default_rng(0)
    todo = windows(shape, (6, 4, 4), overlap, 1, even)
    results = [rng.random((2, 6, 4, 4)) for _ in todo]
    whole = [Stitcher(shape, 2) for _ in range(2)]
    for window, values in zip(todo, results, strict=True):
        for stitcher, channel in zip(whole, values, strict=True):
            stitcher.add(window, channel)
    assert np.allclose(blended(todo, shape, results, 2), [s.result() for s in whole], atol=1e-6)


@pytest.mark.parametrize("ramp", [None, 2])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_axes_and_any_pieces_give_the_same(order, ramp, monkeypatch):
    """Windows that are moved back at the border too, so that three meet in one cell."""
    shape, rng = (13, 9, 21), np.random.default_rng(0)
    todo = windows(shape, (6, 4, 4), 0.5, 1, even=False)
    results = [rng.random((2, 6, 4, 4)) for _ in todo]
    expected = blended(todo, shape, results, ramp)
    monkeypatch.setattr(tiling, "PIECE", 20)
    assert np.allclose(blended(todo, shape, results, ramp, order), expected, atol=1e-6)


def test_the_order_that_holds_least_is_taken():
    """Of a volume, the longest axis outermost, also where another has a lone window; slices stay in their order."""
    todo = windows((64, 16, 32), (16, 16, 16), 0.5)
    assert least_held(todo, (64, 16, 32))[0] == 0
    assert least_held(windows((16, 32, 64), (16,) * 3, 0.5), (16, 32, 64))[0] == 2

    def held(order):
        blend = Blend(todo, (64, 16, 32), 1, None, lambda place, values: None, order=order)
        return sum(stage._waiting.numel() for stage in blend._stages)

    orders = list(itertools.permutations(range(3)))
    assert held(least_held(todo, (64, 16, 32))) == min(held(order) for order in orders)
    assert walk((8, 64, 64), preparation("slices")) == (0, 1, 2)


@pytest.mark.parametrize(("overlap", "size"), [(0.5, 8), (0.6, 8), (0.25, 12)])
def test_a_gaussian_blend_is_that_of_monai(overlap, size):
    """Where windows lie, how they are weighed, and what comes out; random results, so that all of it counts."""
    from monai.inferers import SlidingWindowInferer

    shape = (19, 24, 30)
    todo = windows(shape, (size,) * 3, overlap, 1, even=False)
    results = [np.random.default_rng(k).normal(size=(3, size, size, size)) for k in range(len(todo))]
    given = iter(results)
    inferer = SlidingWindowInferer((size,) * 3, sw_batch_size=1, overlap=overlap, mode="gaussian")
    expected = inferer(torch.zeros(1, 1, *shape), lambda _: torch.from_numpy(next(given))[None].float())
    assert next(given, None) is None
    assert np.allclose(blended(todo, shape, results, None), expected[0], atol=1e-5)


@pytest.mark.parametrize("ramp", [None, 2])
def test_sums_that_wait_as_float16_cost_little(ramp, monkeypatch):
    shape, rng = (16, 12, 12), np.random.default_rng(0)
    todo = windows(shape, (8, 8, 8), 0.5, 1)
    results = [rng.dirichlet((0.2,) * 4, (8, 8, 8)).transpose(3, 0, 1, 2) for _ in todo]
    exact = blended(todo, shape, results, ramp)
    monkeypatch.setattr(tiling, "HALF_ABOVE", 0)
    assert 0 < np.abs(blended(todo, shape, results, ramp) - exact).max() < 1e-3


def test_only_what_windows_still_change_is_held():
    """Of 64 layers of windows, the blend holds less than one."""
    shape = (512, 16, 16)
    todo = windows(shape, (16, 16, 16), 0.5)
    blend = Blend(todo, shape, 1, None, lambda place, values: None)
    held = sum(stage._waiting.numel() for stage in blend._stages)
    assert held <= 8 * 16 * 16


def test_a_gaussian_is_highest_in_the_middle_and_never_zero():
    weight = gaussian_weight((slice(4, 12), slice(0, 9))).astype(np.float32)
    assert weight.shape == (8, 9)
    assert weight[3:5, 4].min() == weight.max()
    assert weight.min() > 0


def test_a_gap_between_windows_is_refused():
    window = (slice(0, 2), slice(0, 2), slice(0, 2))
    with pytest.raises(GeometryError, match="must cover the whole grid"):
        Blend([window], (4, 2, 2), 1, None, lambda place, values: None)


class TestBackground:
    @staticmethod
    def lump(shape=(48, 64, 160)) -> torch.Tensor:
        pixels = torch.zeros(1, *shape)
        pixels[0, 4:20, 8:30, 140:155] = picture(16, 22, 15) + 0.1
        return pixels

    @staticmethod
    def soft(batch: torch.Tensor) -> torch.Tensor:
        """A network whose result depends on the whole window, and is not 0 where its input is."""
        near = torch.nn.functional.avg_pool3d(batch, 5, 1, 2)
        return near + 0.1 + batch.mean(dim=(1, 2, 3, 4), keepdim=True)

    def test_it_is_not_looked_at_and_all_else_is_the_same(self):
        pixels, seen = self.lump(), []

        def network(batch):
            seen.append(len(batch))
            return self.soft(batch)

        given = {"tile": 16, "multiple": 8, "overlap": 0.5}
        whole = sweep(network, pixels, CPU, preparation(**given), 1, 1)
        all_windows, seen[:] = len(seen), []
        part = sweep(network, pixels, CPU, preparation(skip_background=True, **given), 1, 1)
        assert len(seen) < all_windows / 3
        inside = part[0] != 0
        assert inside[4:20, 8:30, 140:155].all()
        assert not inside[:, :, :100].any()
        assert np.array_equal(part[0][inside], whole[0][inside])

    def test_nothing_at_all_is_all_background(self):
        empty = sweep(self.soft, torch.zeros(1, 20, 20, 20), CPU, preparation(skip_background=True, tile=8), 1, 1)
        assert not empty.any()

    @pytest.mark.parametrize("batch", [1, 3])
    def test_batches_hold_only_windows_that_are_looked_at(self, batch):
        given = {"tile": 16, "multiple": 8, "overlap": 0.5, "skip_background": True}
        one = sweep(self.soft, self.lump(), CPU, preparation(**given), 1, 1)
        assert np.allclose(sweep(self.soft, self.lump(), Device("cpu", batch), preparation(**given), 1, 1), one)


def test_logits_are_averaged_where_the_card_says_so():
    """Two windows that overlap: the softmax of the mean of their logits, not the mean of their probabilities."""
    logits = [torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    given = iter(logits)
    blocks = {}

    def done(place, values):
        blocks[place[0].start] = values.copy()

    way = preparation(average="logits", window_size=(6, 6, 6), overlap=0.5, blend="gaussian")
    sweep_blocks(lambda b: next(given).softmax(dim=1), picture(1, 8, 6, 6), CPU, way, 1, 3, done, classes=3)
    weight = [torch.from_numpy(gaussian_weight((slice(0, 6),) * 3))[a:b] for a, b in ((2, 6), (0, 4))]
    mean = (logits[0][0, :, 2:6] * weight[0] + logits[1][0, :, 0:4] * weight[1]) / (weight[0] + weight[1])
    found = np.concatenate([blocks[k] for k in sorted(blocks)], axis=1)
    assert np.allclose(found[:, 2:6], mean.softmax(dim=0)[1:], atol=1e-5)


def test_of_many_classes_those_that_are_nearly_even_are_told_apart(monkeypatch):
    """Organs far above the background and close to each other, with sums that wait as float16."""
    classes, way = 12, preparation(average="logits", window_size=(8, 8, 8), overlap=0.5, blend="gaussian")
    volume = 0.01 * torch.randn(classes, 16, 12, 12, generator=torch.Generator().manual_seed(0)) + 20
    volume[0] = 0
    exact = volume.double().softmax(dim=0)[1:].numpy()
    monkeypatch.setattr(tiling, "HALF_ABOVE", 0)

    def off(many):
        found = np.zeros(exact.shape, np.float32)

        def done(place, values):
            found[(slice(None), *place)] = values

        monkeypatch.setattr("inspection_core.sweep.MANY", many)
        sweep_blocks(torch.clone, volume, CPU, way, 1, classes, done, classes, logits=True)
        return np.abs(found - exact).max()

    assert off(many=8) < 1e-5
    assert off(many=classes) > 1e-3


def test_a_smaller_tile_is_a_rung_of_its_own():
    way = preparation(tile=12, multiple=2)
    assert {w[0].stop - w[0].start for w in volume_windows((24, 24, 24), way)} == {12}
    assert {w[0].stop - w[0].start for w in volume_windows((24, 24, 24), way, shrink=2)} == {6}
    fixed = preparation(window_size=(8, 8, 8))
    assert volume_windows((24, 24, 24), fixed, shrink=2) == volume_windows((24, 24, 24), fixed)


def test_torch_blends_with_one_core_and_computes_with_all():
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(3)
    try:

        def network(batch):
            seen.append(torch.get_num_threads())
            return batch[:, :1]

        way = preparation(window_size=(6, 6, 6))
        sweep_blocks(network, picture(1, 8, 6, 6), CPU, way, 1, 1, lambda *_: seen.append(torch.get_num_threads()))
        assert set(seen[::2]) == {3}
        assert set(seen[1::2]) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_volume_begins_anew_on_each_rung(tmp_path):
    """Memory runs out half way with a batch of two; with one window at a time nothing of that run is left."""
    shape = (12, 16, 20)
    way = preparation(window_size=(8, 8, 8), multiple=1, short_side=0)
    card = ModelCard(
        "m", "1", "x", "segmentation", ("CT",), "s", classes=("a",), preparation=way, policy=Policy(kind="band")
    )

    class OneAtATime:
        stride, offset, calls = 1, 0.0, 0

        def __call__(self, batch):
            self.calls += 1
            if len(batch) > 1 and self.calls == 3:
                raise MemoryError
            return torch.cat([1 - batch, batch], dim=1)

        def to(self, device):
            pass

    pixels = np.random.default_rng(0).random((1, *shape), np.float32)
    prepared = prepare(Image(pixels, Geometry.from_spacing(shape, (1, 1, 1)), ("CT",)), card)
    expected, _ = LoadedModel(card, tmp_path, OneAtATime(), CPU).run_classes(prepared)
    found, rung = LoadedModel(card, tmp_path, OneAtATime(), Device("cpu", 2)).run_classes(prepared)
    assert rung.batch == 1
    assert np.array_equal(found.score, expected.score)
    assert np.array_equal(found.mask, expected.mask)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_number_of_threads_changes_no_bit(average, scale, tmp_path, monkeypatch):
    """Also where sums wait as float16, and where a plane of the scan is interpolated between two layers."""
    monkeypatch.setattr(tiling, "PIECE", 50)
    monkeypatch.setattr(tiling, "HALF_ABOVE", 1000)
    way = preparation(window=(0.0, 1.0), window_size=(8, 8, 8), multiple=1, short_side=0, average=average, scale=scale,
                      blend="gaussian")  # fmt: skip
    card = ModelCard(
        "m", "1", "x", "segmentation", ("CT",), "s", classes=("a", "b"), preparation=way, policy=Policy(kind="band")
    )

    class Levels:
        stride, offset = 1, 0.0

        def __call__(self, batch):
            return torch.cat([batch, 1 - batch, torch.full_like(batch, 0.6)], dim=1).softmax(dim=1)

        def to(self, device):
            pass

    pixels = np.random.default_rng(0).random((1, 24, 20, 28), np.float32)
    prepared = prepare(Image(pixels, Geometry.from_spacing(pixels.shape[1:], (1, 1, 1)), ("CT",)), card)
    found = []
    for threads in (1, 2, 4):
        monkeypatch.setattr("inspection_core.device.blenders", lambda device, threads=threads: threads)
        one, _ = LoadedModel(card, tmp_path, Levels(), CPU).run_classes(prepared)
        found.append((one.score.tobytes(), one.mask.tobytes()))
    assert found[0] == found[1] == found[2]
    assert len(set(found[0][1])) == 3


@pytest.mark.parametrize("neighbours", [0, 1])
@pytest.mark.parametrize("view", ["volume", "slices"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_scan_that_is_normalised_on_demand_gives_what_its_tensor_does(view, neighbours, skip):
    """Windows of every layer, along whichever axis is the outermost."""
    for shape in ((18, 8, 10), (8, 18, 10), (8, 10, 18)):
        array = np.random.default_rng(0).integers(0, 200, (2, *shape)).astype(np.int16)
        array[:, 5:] = 0
        size = (6, 6, 6) if view == "volume" else (6, 6)
        way = preparation(view, window=(0.0, 100.0), window_size=size, multiple=1, short_side=0,
                          neighbours=neighbours * (view == "slices"), skip_background=skip)  # fmt: skip
        card = ModelCard("m", "1", "x", "segmentation", ("T1", "T2"), "s", preparation=way)
        prepared = prepare(Image(array, Geometry.from_spacing(shape, (1, 1, 1)), card.channels), card)
        assert isinstance(prepared.voxels, Normalised)

        def blur(batch):
            conv = torch.nn.functional.conv3d if batch.ndim == 5 else torch.nn.functional.conv2d
            kernel = torch.linspace(0, 1, batch.shape[1] * 3 ** (batch.ndim - 2)).reshape(
                1, batch.shape[1], *(3,) * (batch.ndim - 2)
            )
            return conv(batch, kernel, padding=1)

        expected = sweep(blur, prepared.pixels, CPU, way, 1, 1)
        assert np.array_equal(sweep(blur, prepared.volume, CPU, way, 1, 1), expected)
