"""Scans on their way to a network: channels by name, normalisation, spacing, and what is refused."""

import dataclasses

import numpy as np
import pytest

from inspection_core.card import ModelCard, Preparation
from inspection_core.errors import ModelError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.prepare import MAX_ASPECT, match_channels, name_channels, prepare

SHAPE = (4, 6, 8)
MR = ("T1", "FLAIR", "T1c")


def scan(*volumes, channels=("grey",), spacing=(2.0, 1.0, 1.0), unit="mm") -> Image:
    array = np.stack(volumes) if volumes else np.zeros((1, *SHAPE), np.int16)
    geometry = Geometry.from_spacing(array.shape[1:], spacing, unit=unit)
    return Image(array, geometry, channels)


def card_of(channels=("CT",), spacing=(), **preparation) -> ModelCard:
    given = {"window": (0.0, 100.0), "short_side": 0, "multiple": 1, "view": "volume"} | preparation
    return ModelCard("m", "1", "x", "segmentation", channels, "s", spacing=spacing, preparation=Preparation(**given))


def values(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-50, 200, shape).astype(np.int16)


def test_a_window_is_mapped_and_clipped_only_if_asked():
    image = scan(values())
    assert np.allclose(prepare(image, card_of()).pixels[0], image.array[0] / 100, atol=1e-6)
    assert np.allclose(prepare(image, card_of(clip=True)).pixels[0], np.clip(image.array[0] / 100, 0, 1), atol=1e-6)


def test_z_scores_of_all_and_of_what_is_not_zero():
    array = values()
    array[:, :3] = 0
    pixels = prepare(scan(array), card_of(normalise="z-score")).pixels[0].numpy()
    assert abs(pixels.mean()) < 1e-5
    assert abs(pixels.std() - 1) < 1e-5
    pixels = prepare(scan(array), card_of(normalise="z-score", foreground="nonzero")).pixels[0].numpy()
    assert (pixels[array == 0] == 0).all()
    assert abs(pixels[array != 0].mean()) < 1e-5
    assert abs(pixels[array != 0].std() - 1) < 1e-5


@pytest.mark.parametrize("foreground", ["all", "nonzero"])
@pytest.mark.parametrize("normalise", ["window", "z-score", "percentile"])
def test_the_order_in_memory_changes_no_bit(normalise, foreground):
    """Files store their voxels in many orders; what comes from a server's client is in C order."""
    array = np.random.default_rng(0).normal(1000, 300, (7, 45, 83)).astype(np.float32)
    card = card_of(normalise=normalise, foreground=foreground)
    plain = prepare(scan(array), card).pixels.numpy().tobytes()
    for axes in ((2, 1, 0), (1, 0, 2), (0, 2, 1)):
        stored = np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))
        assert prepare(scan(stored), card).pixels.numpy().tobytes() == plain
    gaps = np.zeros((7, 45, 2 * 83), np.float32)
    gaps[..., ::2] = array
    assert prepare(scan(gaps[..., ::2]), card).pixels.numpy().tobytes() == plain


def test_a_caller_may_ask_for_less_memory():
    array = np.zeros((4, 8, 8), np.float32)
    assert prepare(scan(array), card_of(), most=4 * 8 * 8).pixels.shape == (1, 4, 8, 8)
    with pytest.raises(ReadError, match="too large"):
        prepare(scan(array), card_of(), most=4 * 8 * 8 - 1)


def test_percentiles_of_each_channel():
    a, b = values(seed=1), (values(seed=2) * 7).astype(np.int16)
    card = card_of(MR[:2], normalise="percentile", percentiles=(10.0, 90.0), clip=True)
    pixels = prepare(scan(a, b, channels=MR[:2]), card).pixels.numpy()
    for array, channel in zip((a, b), pixels, strict=True):
        low, high = np.percentile(array, (10, 90))
        assert np.allclose(channel, np.clip((array - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize("normalise", ["z-score", "percentile", "mean"])
@pytest.mark.parametrize("foreground", ["all", "nonzero", "bright"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_flat_scan_stays_finite(normalise, foreground, value):
    card = card_of(normalise=normalise, foreground=foreground)
    assert prepare(scan(np.full(SHAPE, value, np.int16)), card).pixels.isfinite().all()


def head(noise=3, seed=0) -> np.ndarray:
    """A bright box in dark noise: planes 1 to 4 of 6, rows 5 to 24 of 30, columns 8 to 21 of 28."""
    array = np.random.default_rng(seed).integers(0, noise + 1, (6, 30, 28))
    array[1:5, 5:25, 8:22] += 100
    return array.astype(np.int16)


BRIGHT = {"normalise": "mean", "foreground": "bright", "crop": True}


def test_a_head_is_cut_out_of_its_noise_and_has_a_mean_of_1():
    place = prepare(scan(head()), card_of(**BRIGHT)).placement
    assert (place.start, place.size) == ((1, 5, 8), (4, 20, 14))
    pixels = prepare(scan(head()), card_of(**BRIGHT | {"crop": False})).pixels[0].numpy()
    inside = np.zeros(pixels.shape, bool)
    inside[1:5, 5:25, 8:22] = True
    assert abs(pixels[inside].mean() - 1) < 1e-6
    assert pixels[~inside].max() < 0.05


@pytest.mark.parametrize("gain", [0.01, 40.0])
def test_another_scale_and_offset_of_the_intensities_changes_nothing(gain):
    image = scan(head().astype(np.float32))
    other = scan(head().astype(np.float32) * gain + 500)
    card = card_of(**BRIGHT)
    assert np.allclose(prepare(image, card).pixels, prepare(other, card).pixels, atol=1e-4)


def test_the_head_is_where_most_channels_are_bright():
    half_empty, noisy = np.zeros((6, 30, 28), np.int16), head()
    noisy[0, 0, 0] = 5000  # a spike is no head
    place = prepare(scan(head(), half_empty, noisy, channels=MR), card_of(MR, **BRIGHT)).placement
    assert (place.start, place.size) == ((1, 5, 8), (4, 20, 14))


def test_an_empty_scan_is_left_whole():
    prepared = prepare(scan(np.zeros((6, 30, 28), np.int16)), card_of(**BRIGHT))
    assert prepared.placement.size == (6, 30, 28)
    assert not prepared.pixels.any()


def test_what_is_not_finite_is_zero_and_said():
    array = values().astype(np.float32)
    array[0, 0, :2] = np.nan, np.inf
    prepared = prepare(scan(array), card_of(normalise="z-score"))
    assert prepared.pixels.isfinite().all()
    assert prepared.warnings == ("2 voxels are not finite: taken as 0",)


# name: (spacing of the card, further preparation, shape on its grid)
SIZES = {
    "as it is": ((), {}, (4, 6, 8)),
    "spacing": ((1.0, 2.0, 0.5), {}, (8, 3, 16)),
    "an axis kept": ((0.0, 2.0, 2.0), {}, (4, 3, 4)),
    "scale": ((), {"scale": 2.0}, (8, 12, 16)),
    "slices keep their number": ((), {"scale": 2.0, "view": "slices"}, (4, 12, 16)),
    "slices of a short side": ((), {"short_side": 12, "view": "slices"}, (4, 12, 16)),
    "padded to multiples": ((), {"multiple": 16}, (16, 16, 16)),
    "padded to a window": ((), {"window_size": (8, 6, 10)}, (8, 6, 10)),
    "slices are padded in their plane": ((), {"multiple": 16, "view": "slices"}, (4, 16, 16)),
    "slices of a window": ((), {"window_size": (9, 9), "view": "slices"}, (4, 9, 9)),
}


@pytest.mark.parametrize(("spacing", "given", "shape"), SIZES.values(), ids=SIZES)
def test_sizes(spacing, given, shape):
    assert prepare(scan(), card_of(spacing=spacing, **given)).shape == shape


def test_a_strip_stays_a_strip():
    image = scan(np.zeros((2, 1, 400), np.int16))
    assert prepare(image, card_of(view="slices", short_side=32)).shape[2] <= MAX_ASPECT * 32


def test_shrinking_is_anti_aliased_on_every_axis():
    """A pattern of single planes, rows or columns averages out; it would be black or white without."""
    for axis in range(3):
        array = (np.indices((32, 32, 32))[axis] % 2 * 100).astype(np.int16)
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 4.0
        pixels = prepare(scan(array, spacing=(1.0, 1.0, 1.0)), card_of(spacing=tuple(spacing))).pixels[0]
        assert np.abs(np.moveaxis(pixels.numpy(), axis, 0)[1:-1] - 0.5).max() < 0.1


def test_without_a_spacing_a_scan_is_not_scaled_and_that_is_said():
    prepared = prepare(scan(unit="px"), card_of(spacing=(1.0, 2.0, 0.5)))
    assert prepared.shape == SHAPE
    assert prepared.warnings == ("no spacing is known: not scaled to the model's 1 x 2 x 0.5 mm, results may be poor",)


def test_a_picture_is_one_slice():
    image = Image(np.zeros((1, 6, 8), np.uint8), Geometry.pixels((6, 8)), ("grey",))
    prepared = prepare(image, card_of(view="slices", neighbours=2))
    assert prepared.pixels.shape == (1, 1, 6, 8)


def test_channels_are_found_by_name_in_any_order_and_case():
    a, b, c = values(seed=1), values(seed=2), values(seed=3)
    image = scan(a, b, c, channels=("flair", "t1C", "T1"))
    array, said = match_channels(image, MR)
    assert np.array_equal(array, np.stack([c, a, b]))
    assert said == ()
    array, said = match_channels(image, ("FLAIR",))
    assert np.array_equal(array, a[None])
    assert said == ("channels not used: t1C, T1",)


def test_channels_without_names_are_taken_in_order_and_that_is_said():
    image = name_channels(scan(values(), values(), values(), channels=tuple(f"volume {k}" for k in (1, 2, 3))), MR)
    assert image.channels == MR
    assert image.notes == ("channels have no names in the file: taken in order as T1, FLAIR, T1c",)
    other = scan(values(), values(), channels=("volume 1", "volume 2"))
    assert name_channels(other, MR) is other
    named = scan(values(), values(), values(), channels=("a", "b", "c"))
    assert name_channels(named, MR) is named


# name: (image, card, message)
REFUSED = {
    "a missing channel, by name": (
        scan(values(), values(), channels=("T1", "T1c")),
        card_of(MR),
        r"expected the 3 channels T1, FLAIR, T1c\. Got 2, T1, T1c \(FLAIR missing\); give all 3 in this order",
    ),
    "one channel of several": (scan(), card_of(MR), r"Got 1 without a name; give all 3 in this order"),
    "another channel": (
        scan(channels=("T2",)),
        card_of(("T1",)),
        r"expected the channel T1\. Got 1, T2; convert",
    ),
    "a picture": (
        Image(np.zeros((1, 6, 8), np.uint8), Geometry.pixels((6, 8)), ("grey",)),
        card_of(),
        r"^image: the model m takes volumes\. Got a 2-D image; give the whole series\.$",
    ),
    "another type": (scan(), card_of(dtype="uint8"), r"was made from uint8 images .* Got int16"),
    "an absurd spacing": (scan(), card_of(spacing=(1e-3, 1e-3, 1e-3)), r"too large\. Check the spacing in the file"),
}


@pytest.mark.parametrize(("image", "card", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(image, card, message):
    with pytest.raises(ReadError, match=message):
        prepare(image, card)


# name: (entries, message)
BAD_CARDS = {
    "view": ({"view": "cube"}, r"A view is one of \['image', 'slices', 'volume'\]\. Got 'cube'\."),
    "orientation": ({"orientation": "LPL"}, r"one letter each of L or R, P or A, and S or I, .* Got 'LPL'\."),
    "neighbours": ({"neighbours": 1}, r'Neighbours are 0 or more, and of the view "slices"\. Got 1\.'),
    "window size": ({"window_size": (4, 4)}, r"The window of the view 'volume' has 3 sides, .* Got \[4, 4\]\."),
    "percentiles": ({"percentiles": (9.0, 5.0)}, r"0 <= low < high <= 100\. Got \(9\.0, 5\.0\)\."),
    "blend": ({"blend": "max"}, r"blend is one of \['linear', 'gaussian'\]\. Got 'max'\."),
    "normalise": ({"normalise": "none"}, r"normalise is one of \['window', 'z-score', 'percentile', 'mean'\]"),
    "foreground": ({"foreground": "brain"}, r"foreground is one of \['all', 'nonzero', 'bright'\]"),
}


@pytest.mark.parametrize(("given", "message"), BAD_CARDS.values(), ids=BAD_CARDS)
def test_cards_that_make_no_sense(given, message):
    with pytest.raises(ModelError, match=message):
        card_of(**given)


def test_a_spacing_has_three_numbers():
    with pytest.raises(
        ModelError, match=r"A spacing is three numbers of mm, 0 to keep an axis, or empty\. Got \(1\.0,\)"
    ):
        card_of(spacing=(1.0,))


def test_the_card_of_a_scan_model_survives_toml():
    card = card_of(MR, (0.0, 1.0, 1.0), view="slices", neighbours=2, normalise="z-score", window_size=(256, 256))
    card = dataclasses.replace(card, site="brain")
    assert ModelCard.from_toml(card.to_toml()) == card
