"""Training: the same seed gives the same network, a stop costs nothing, and what cannot be trained is refused."""

import dataclasses
import signal
import threading

import numpy as np
import pytest
import torch

from inspection_core.card import ModelCard, Preparation
from inspection_core.device import Device
from inspection_core.errors import ModelError, UsageError
from inspection_core.models import members, timm_unet
from inspection_core.training import loop
from inspection_core.training.augment import Augment
from inspection_core.training.config import Augmentation, Config, Data, Optimisation, Stage, changed, read_config
from inspection_core.training.samples import Study, cut_block, cut_slice, draw, folds
from inspection_core.training.stop import stop_between_steps

CPU = Device("cpu")
CHANNELS = ("pre", "FLAIR")
CARD = ModelCard(
    "toy",
    "1",
    "timm-unet",
    "segmentation",
    CHANNELS,
    "probability",
    classes=("blob",),
    preparation=Preparation(view="slices", neighbours=1, short_side=32),
    parameters={"decoder": (8, 8, 8, 8)},
)
HOW = Augmentation(flips=(1,), neighbour_step=0.2, drop=("pre",), drop_probability=0.3, stand_in="FLAIR")
CONFIG = Config(
    CARD, Data("."), Optimisation((Stage((32, 32), 16, 1.2), Stage((32, 32), 16)), batch=4, warm_up=2, validate=1), HOW
)


def study(name="a", depth=4, side=32, seed=0):
    """A bright ball in noise, in both channels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[:depth, :side, :side]
    ball = (z - depth // 2) ** 2 * 9 + (y - 12) ** 2 + (x - 16) ** 2 < 60
    pixels = rng.random((2, depth, side, side)) * 0.3 + ball
    return Study(name, torch.from_numpy(pixels).half(), torch.from_numpy(ball.astype(np.uint8)))


def network():
    torch.manual_seed(0)
    return timm_unet.build(CARD)


def run(folder, config=CONFIG):
    return loop.Run(config, net := network(), net.encoder, folder, CPU, 0)


def weights_of(trained):
    return torch.cat([t.flatten().double() for t in trained.averaged().state_dict().values()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end."""
    folder = tmp_path_factory.mktemp("whole")
    trained = run(folder)
    trained.train([study()], [study("b", seed=1)], lambda *_: None)
    return trained


def test_one_seed_gives_one_network(whole, tmp_path):
    again = run(tmp_path)
    again.train([study()], [], lambda *_: None)
    assert torch.equal(weights_of(whole), weights_of(again))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "KEEP_EVERY", 0.0)

    def stop(_, step, __):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path).train([study()], [], stop)
    resumed = run(tmp_path)
    resumed.train([study()], [study("b", seed=1)], lambda *_: None)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    steps = [line.split(",")[0] for line in (tmp_path / loop.LOG).read_text().splitlines()[1:]]
    assert steps == [str(k) for k in range(1, 9)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_is_heeded_after_the_step_at_hand_which_is_kept(whole, tmp_path, number):
    """Long before a checkpoint would be due, at a step whose row in the log is not written yet."""

    def ask(_, step, __):
        if step == 2:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="after step 3 of 8 of fold 0, which is kept"):
        run(tmp_path).train([study()], [study("b", seed=1)], ask)
    assert signal.getsignal(number) is before
    resumed = run(tmp_path)
    resumed.train([study()], [study("b", seed=1)], lambda *_: None)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    columns = [row.split(",")[:6] for row in (tmp_path / loop.LOG).read_text().splitlines()]
    assert columns == [row.split(",")[:6] for row in (whole.folder / loop.LOG).read_text().splitlines()]


def test_a_second_signal_stops_at_once():
    with stop_between_steps() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_thread_of_its_own_takes_no_signals():
    said = []

    def work():
        with stop_between_steps() as asked:
            said.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]


def test_the_log_tells_the_learning_curve(whole):
    rows = (whole.folder / loop.LOG).read_text().splitlines()
    assert rows[0] == ",".join(loop.COLUMNS)
    assert len(rows) == 1 + 8
    assert all(0 <= float(row.split(",")[5]) <= 1 for row in rows[1:])


def test_a_checkpoint_of_another_configuration_is_not_gone_on_with(whole):
    other = changed(CONFIG, rate=0.5)
    with pytest.raises(UsageError, match="another configuration"):
        run(whole.folder, other).train([study()], [], lambda *_: None)


def test_words_on_the_card_do_not_make_it_another_configuration(whole):
    other = dataclasses.replace(CONFIG, card=dataclasses.replace(CARD, limits="none known"))
    run(whole.folder, other).train([study()], [], lambda *_: None)


def test_a_broken_checkpoint_is_refused_in_a_line(tmp_path):
    (tmp_path / loop.CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"cannot be read .* Remove it to begin anew"):
        run(tmp_path).train([study()], [], lambda *_: None)


# Samples --------------------------------------------------------------------------------------------------------------


def test_each_patient_is_drawn_alike_and_the_share_with_a_class_is_kept():
    empty = dataclasses.replace(study("none"), labels=torch.zeros(4, 32, 32, dtype=torch.uint8))
    studies = [study("a", depth=12), study("b", depth=40), empty]
    drawn = draw(studies, 3000, 0.6, True, np.random.default_rng(0))
    lit = [w for w in drawn if studies[w.study].labels[w.centre[0]].any()]
    assert len(lit) == 1800
    counts = np.bincount([w.study for w in lit], minlength=3)
    assert counts[2] == 0
    assert abs(counts[0] - counts[1]) < 150


def test_blocks_are_drawn_around_voxels_of_a_class():
    drawn = draw([study()], 10, 1.0, False, np.random.default_rng(0))
    assert all(study().labels[w.centre] for w in drawn)


def test_a_slice_at_the_end_repeats_the_outermost():
    pixels, label = cut_slice(study(), 0, 1, 2)
    assert pixels.shape == (2, 3, 32, 32)
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    assert label.shape == (1, 32, 32)


def test_a_block_is_moved_into_the_volume():
    pixels, label = cut_block(study(side=32), (0, 31, 16), (2, 8, 8))
    assert pixels.shape == (2, 2, 8, 8)
    assert label.shape == (1, 2, 8, 8)
    assert torch.equal(pixels[0], study().pixels[0, :2, 24:, 12:20].float())


def test_folds_are_of_one_size_and_leave_nobody_out():
    parts = folds([str(k) for k in range(11)], 3, 0)
    assert sorted(i for part in parts for i in part) == list(range(11))
    assert {len(p) for p in parts} == {3, 4}


# Augmentation ---------------------------------------------------------------------------------------------------------


def test_without_changes_a_sample_is_as_inference_sees_it():
    none = Augmentation(rotate=0, scale=0, shift=0, brightness=0, contrast=0, noise=0, blur=0)
    change = Augment(none, Stage((32, 32), 1), CHANNELS)
    pixels, label = cut_slice(study(), 2, 1, 1)
    change.seed(0)
    got, labels = change(pixels, label)
    wanted = pixels.movedim(1, 0).flatten(0, 1)  # plane by plane, the lowest first
    assert torch.allclose(got, wanted, atol=1e-5)
    assert torch.equal(labels, label.long())


def test_image_and_label_move_together():
    how = Augmentation(flips=(0, 1), brightness=0, contrast=0, noise=0, blur=0)
    change = Augment(how, Stage((32, 32), 1), CHANNELS)
    change.seed(3)
    for _ in range(5):
        got, labels = change(*cut_slice(study(), 2, 1, 1))
        inside, outside = got[2][labels[0] > 0], got[2][labels[0] == 0]
        assert inside.mean() > outside.mean() + 0.7


def test_a_missing_channel_is_zero_or_a_copy_of_its_stand_in():
    how = Augmentation((), 0, 0, 0, 0, 0, 0, 0, drop=("pre",), drop_probability=1.0, stand_in="FLAIR")
    change = Augment(how, Stage((32, 32), 1), CHANNELS)
    change.seed(0)
    kinds = set()
    for _ in range(12):
        got, _ = change(*cut_slice(study(), 2, 1, 1))
        pre, flair = got[::2], got[1::2]
        kinds.add("zero" if not pre.any() else "copy" if torch.equal(pre, flair) else "other")
    assert kinds == {"zero", "copy"}


@pytest.mark.parametrize("how", [{"bias": 0.5}, {"low_resolution": 0.3}], ids=lambda how: next(iter(how)))
@pytest.mark.parametrize("size", [(32, 32), (6, 32, 32)], ids=["slice", "block"])
def test_coil_and_resolution_change_values_and_no_place(how, size):
    none = {"rotate": 0, "scale": 0, "shift": 0, "brightness": 0, "contrast": 0, "noise": 0, "blur": 0}
    change = Augment(Augmentation(**none, **how), Stage(size, 1), CHANNELS)
    pixels, label = cut_slice(study(), 2, 1, 1) if len(size) == 2 else cut_block(study(depth=6), (3, 16, 16), size)
    same = Augment(Augmentation(**none), Stage(size, 1), CHANNELS)(pixels, label)
    change.seed(0)
    drawn = [change(pixels, label) for _ in range(20)]
    assert any(not torch.equal(got, same[0]) for got, _ in drawn)
    assert all(torch.equal(labels, same[1]) for _, labels in drawn)
    assert all(torch.isfinite(got).all() for got, _ in drawn)


# Configuration --------------------------------------------------------------------------------------------------------

MINIMAL = """
[card]
id = "toy"
version = "1"
architecture = "timm-unet"
task = "segmentation"
channels = ["pre", "FLAIR"]
score = "p"
[card.preparation]
view = "slices"
[data]
root = "."
[training]
stages = [{ size = [32, 32], samples = 8 }]
"""

# name: (text, what is said)
WRONG = {
    "no TOML": ("[card", "no valid TOML"),
    "unknown entry": (MINIMAL + "epochs = 3\n", r"unknown entries \['epochs'\]"),
    "no stages": (MINIMAL.replace("stages = [{ size = [32, 32], samples = 8 }]", "stages = []"), "at least one stage"),
    "sides": (MINIMAL.replace("[32, 32]", "[32, 32, 32]"), "has 2 sides"),
    "an unknown channel": (MINIMAL + '[augmentation]\ndrop = ["T2"]\n', "names .'T2'."),
    "folds and patients held back": (MINIMAL.replace('root = "."', 'root = "."\nheld_back = ["val"]'), "hold back"),
    "view": (MINIMAL.replace('"slices"', '"image"'), 'the view "slices" or "volume"'),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_is_refused_in_a_line(tmp_path, text, said):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_config(tmp_path / "c.toml")


def test_a_root_from_the_environment_must_be_set(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "c.toml").write_text(MINIMAL.replace('"."', '"$NOT_SET/x"'))
    config = read_config(tmp_path / "c.toml")
    with pytest.raises(UsageError, match="variable that is not set"):
        config.folders(tmp_path, config.data.folders)


def test_the_shipped_configurations_are_valid():
    from pathlib import Path

    files = sorted((Path(__file__).parents[3] / "configurations").glob("*.toml"))
    assert {read_config(f).card.id for f in files} == {"tumour-lgg-mri", "hippocampus-example"}


def test_networks_of_another_shape_are_refused():
    tensors = network().state_dict()
    with pytest.raises(ModelError, match="do not fit the network that the card describes"):
        members.fill(timm_unet.UNet(6, 3, decoder=(8, 8, 8, 8)), tensors)
