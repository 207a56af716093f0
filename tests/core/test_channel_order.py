"""Are the channels of an input in the order of training: features, threshold, and the warning in a prediction."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from inspection_core.card import CARD_NAME, Calibration, ChannelOrder, ModelCard, Policy, Preparation
from inspection_core.channel_order import channel_features, check_order, fit_channel_order, look_alike
from inspection_core.engine import Engine
from inspection_core.errors import ModelError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.models.intensity_band import make

SHAPE, NAMES = (8, 48, 40), ("pre", "flair", "post")


def head(seed: int) -> torch.Tensor:
    """Three channels of an ellipsoid: a bright rim, a dark middle, and a third like the first but rougher."""
    rng = np.random.default_rng(seed)
    y, x = (np.linspace(-1, 1, n) for n in SHAPE[1:])
    radius = np.hypot(y[:, None] / rng.uniform(0.75, 0.95), x / rng.uniform(0.75, 0.95))
    inside = np.broadcast_to(radius < 1, SHAPE)
    texture = gaussian_filter(rng.normal(size=SHAPE), (1, 2, 2)) * rng.uniform(1, 2)
    rough = gaussian_filter(rng.normal(size=SHAPE), (0, 0.7, 0.7)) * 0.4
    rim, middle = 0.6 * (radius > 0.8), 0.5 * (radius < 0.35)
    first = 1 + rim + 0.2 * texture
    channels = [inside * c for c in (first, 1 - middle + 0.2 * texture, first + rough)]
    return torch.from_numpy(np.stack(channels) + rng.normal(0, 0.01, (3, *SHAPE))).float()


@pytest.fixture(scope="module")
def check():
    return fit_channel_order([channel_features(head(seed), SHAPE) for seed in range(40)])


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
def test_any_exchange_is_said_and_by_which_channels(check, order):
    said = [check_order(head(seed)[list(order)], SHAPE, check, NAMES) for seed in range(100, 110)]
    if order == (0, 1, 2):
        assert sum(map(bool, said)) <= 2
        return
    odd = ", ".join(f"{NAMES[k]} looks like {NAMES[other]}" for k, other in enumerate(order) if k != other)
    assert (
        sum(bool(words) and words[0].startswith(f"channels look exchanged: {odd}. No more than") for words in said) >= 8
    )


def test_a_copy_in_place_of_a_missing_channel_is_no_reason_to_warn(check):
    study = head(200)
    for gone, stand_in in ((0, 2), (2, 0)):
        filled = study.clone()
        filled[gone] = filled[stand_in]
        assert check_order(filled, SHAPE, check, NAMES) == ()


def test_the_threshold_keeps_its_rate(check):
    assert (check.images, check.false_alarms) == (40, 2 / 41)
    margins = [look_alike(channel_features(head(seed), SHAPE), check)[0] for seed in range(300, 330)]
    assert min(margins) >= 0
    assert sum(m > check.threshold for m in margins) <= 5  # 30 at one in twenty: more would happen once in 100


def test_a_prediction_says_it_and_the_card_keeps_it(check, tmp_path):
    preparation = Preparation(view="volume", short_side=0, multiple=4, tile=48, normalise="mean", foreground="bright")
    card = ModelCard("heads", "1", "intensity-band", "segmentation", NAMES, "1 - P", ("hot",), preparation=preparation,
                     policy=Policy(kind="band", low=0.3, high=0.7), calibration=Calibration(order=check))  # fmt: skip
    make(tmp_path / "m", card, [(1.5, 3)])
    assert ModelCard.load(tmp_path / "m").calibration.order == check
    assert "[calibration.order]" in (tmp_path / "m" / CARD_NAME).read_text()
    model = Engine("cpu").load(tmp_path / "m")
    study = Image(head(400).numpy() * 300, Geometry.pixels(SHAPE), NAMES)
    assert not any("exchanged" in w for w in predict(study, model).warnings)
    turned = replace(study, array=study.array[[1, 0, 2]])
    assert any(
        w.startswith("channels look exchanged: pre looks like flair, flair") for w in predict(turned, model).warnings
    )


def test_nothing_is_said_without_a_check_or_with_too_few_studies(check):
    turned = head(1)[[1, 0, 2]]
    assert check_order(turned, SHAPE, ChannelOrder(), NAMES) == ()
    few = fit_channel_order([channel_features(head(seed), SHAPE) for seed in range(5)])
    assert math.isinf(few.threshold)
    assert check_order(turned, SHAPE, few, NAMES) == ()
    assert check_order(turned[:2], SHAPE, check, NAMES[:2]) == ()
    assert fit_channel_order([channel_features(head(seed)[:1], SHAPE) for seed in range(3)]) == ChannelOrder()


def test_an_empty_input_has_finite_figures():
    assert all(math.isfinite(v) for one in channel_features(torch.zeros(2, *SHAPE), SHAPE) for v in one.values())


ONE = ({"a": 1.0}, {"a": 2.0})
# name: (what is done, error, message)
BAD = {
    "two studies": (
        lambda: fit_channel_order([ONE] * 2),
        UsageError,
        r"three studies or more with the same ones\. Got 2",
    ),
    "other channels": (
        lambda: fit_channel_order([ONE, ONE, ONE[:1]]),
        UsageError,
        r"three studies or more with the same ones",
    ),
    "no rate": (lambda: fit_channel_order([ONE] * 3, 1.0), UsageError, r"false alarms is between 0 and 1\. Got 1"),
    "too few weights": (lambda: ChannelOrder(("a",), ((),)), ModelError, "a finite weight for each of 1 features"),
    "no number": (lambda: ChannelOrder(("a",), ((math.nan,),)), ModelError, "a finite weight for each of 1 features"),
    "no threshold": (lambda: ChannelOrder(threshold=-1.0), ModelError, r"is 0 or more\. Got -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    act, error, message = BAD[name]
    with pytest.raises(error, match=message):
        act()
