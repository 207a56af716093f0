"""A network over a volume: windows, neighbours, blending, and what a network must give."""

import numpy as np
import pytest
import torch

from inspection_core.card import Preparation
from inspection_core.device import Device
from inspection_core.errors import GeometryError, ModelError
from inspection_core.sweep import sweep, volume_windows
from inspection_core.tiling import SlabStitcher, Stitcher, gaussian_weight, windows

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


def test_a_slab_stitcher_does_what_the_whole_one_does():
    shape, rng = (12, 8, 10), np.random.default_rng(0)
    whole, slabs = Stitcher(shape, 2), SlabStitcher(shape, 2, 2)
    for window in windows(shape, (6, 4, 4), 0.5, 2):
        values = rng.random([s.stop - s.start for s in window])
        whole.add(window, values)
        slabs.add(window, np.stack([values, 1 - values]))
    assert np.allclose(slabs.result(), [whole.result(), 1 - whole.result()], atol=1e-6)


def test_a_gaussian_is_highest_in_the_middle_and_never_zero():
    weight = gaussian_weight((slice(4, 12), slice(0, 9))).astype(np.float32)
    assert weight.shape == (8, 9)
    assert weight[3:5, 4].min() == weight.max()
    assert weight.min() > 0


class TestRefused:
    def test_windows_out_of_order(self):
        stitcher = SlabStitcher((4, 2, 2), 1, None)
        for z in (0, 2):
            stitcher.add((slice(z, z + 2), slice(0, 2), slice(0, 2)), np.ones((1, 2, 2, 2)))
        with pytest.raises(GeometryError, match=r"Windows come by their first plane\. Got 0 after 2"):
            stitcher.add((slice(0, 2), slice(0, 2), slice(0, 2)), np.ones((1, 2, 2, 2)))

    def test_a_gap(self):
        stitcher = SlabStitcher((4, 2, 2), 1, None)
        stitcher.add((slice(0, 2), slice(0, 2), slice(0, 2)), np.ones((1, 2, 2, 2)))
        with pytest.raises(GeometryError, match="must cover the whole grid"):
            stitcher.result()
