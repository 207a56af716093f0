"""Models from good images: what is looked at, what is refused, and what is promised about the result."""

import os
import sys
import threading

import numpy as np
import PIL.Image
import pytest
import timm
from safetensors.torch import save_file

from inspection_core import learn
from inspection_core.engine import Engine
from inspection_core.errors import FitError, ModelError, ReadError, UsageError
from inspection_core.infer import measure, predict
from inspection_core.io.raster import list_images, read_raster
from inspection_core.learn import MAX_ENLARGEMENT, fit
from inspection_core.models.patch_memory import PatchMemoryFitter
from inspection_core.survey import WINDOW_TAILS, good_folder, look

QUICK = {"preset": "fast", "device": "cpu", "smallest_defect": 8}


def survey(folder, **options):
    return look(folder, list_images(folder), **options)


def write_16_bit(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        PIL.Image.fromarray(picture.astype(np.uint16) * 16).save(folder / f"part{i:02}.png")
    return folder


def test_unreadable_files_are_left_out_and_named(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(0), parts.brushed(1)])
    (folder / "part02.png").write_bytes(b"")
    found = survey(folder)
    assert found.names == ("part00.png", "part01.png")
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("left out: ")
    assert "part02.png is empty" in found.warnings[0]


def test_copies_count_once_and_are_named(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(s) for s in (0, 1, 0, 0)])
    found = survey(folder)
    assert found.names == ("part00.png", "part01.png")
    (warning,) = found.warnings
    assert warning.startswith("left out: 2 that are copies of others")
    assert warning.endswith("(part02.png is part00.png, part03.png is part00.png)")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(0), parts.brushed(1)])
    (folder / "part01.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    assert set(survey(folder).names) == {"part00.png", "caf\\xe9.png"}


def test_a_survey_says_what_images_have_in_common(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(0), np.stack([parts.brushed(1)] * 3, axis=-1)])
    found = survey(folder)
    assert (found.channels, found.dtype, found.window) == (("red", "green", "blue"), "uint8", (0.0, 255.0))


def test_the_hash_is_that_of_names_and_contents(parts, tmp_path):
    pictures = [parts.brushed(0), parts.brushed(1)]
    first, same = (survey(parts.write(tmp_path / n, pictures)).sha256 for n in "ab")
    assert first == same
    assert survey(parts.write(tmp_path / "c", pictures[::-1])).sha256 != first


@pytest.mark.parametrize(
    ("shots", "names"), [(1, ["00"]), (2, ["00", "11"]), (3, ["00", "06", "11"]), (99, [f"{i:02}" for i in range(12)])]
)
def test_shots_are_evenly_spaced(good_parts, shots, names):
    assert survey(good_parts, shots=shots).names == tuple(f"part{n}.png" for n in names)


def test_16_bit_images_share_one_window(parts, tmp_path):
    pictures = [parts.brushed(0), parts.brushed(1)]
    found = survey(write_16_bit(tmp_path / "good", pictures))
    tails = [np.percentile(p.astype(np.uint16) * 16, WINDOW_TAILS) for p in pictures]
    assert found.dtype == "uint16"
    assert found.window == (min(t[0] for t in tails), max(t[1] for t in tails))


def nothing(folder, parts):
    """Leave the folder empty."""


def unreadable(folder, parts):
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"")


def mixed(folder, parts):
    parts.write(folder, [parts.brushed(0), parts.brushed(0).astype(np.uint16)])


def constant(folder, parts):
    parts.write(folder, [np.full((32, 32), 7, np.uint8)] * 2)


def constant_16_bit(folder, parts):
    parts.write(folder, [np.full((32, 32), 700, np.uint16)] * 2)


# name: (what lies in the folder, message)
REFUSED = {
    "nothing": (nothing, r"^Found no PNG, JPEG, TIFF, BMP or WebP image in .*\. Give a folder of good images\.$"),
    "unreadable": (unreadable, r"^None of the 2 images in .* can be read\. The first: left out: .*0\.png is empty"),
    "mixed types": (
        mixed,
        r"^Good images have one value type\. Got uint8 in part00\.png and uint16 in part01\.png; convert them, or fit",
    ),
    "constant": (constant, r"^The good images hold one single value, 7, so there is nothing to learn from them\.$"),
    "constant, 16 bits": (constant_16_bit, r"^The good images hold one single value, 700,"),
}


@pytest.mark.parametrize(("write", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_images(parts, tmp_path, write, message):
    write(tmp_path, parts)
    with pytest.raises(FitError, match=message):
        survey(tmp_path)


# name: (folders that there are, the one with good images)
FOLDERS = {
    "MVTec-style": (["train/good", "test/good"], "train/good"),
    "good beside others": (["good", "bad"], "good"),
    "plain": ([], "."),
}


@pytest.mark.parametrize(("made", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_good_folder(tmp_path, made, expected):
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    assert good_folder(tmp_path) == tmp_path / expected


@pytest.mark.parametrize("part", ["test", "ground_truth"])
def test_a_folder_of_defects_is_not_taken_for_good(tmp_path, part):
    (tmp_path / part).mkdir()
    with pytest.raises(FitError, match=r"has test images but no train/good\. Give the folder that holds good images"):
        good_folder(tmp_path)


@pytest.mark.parametrize("below", ["screws", "screws/2026"])
def test_a_folder_of_whole_sets_is_not_taken_for_good(tmp_path, below):
    (tmp_path / below / "train" / "good").mkdir(parents=True)
    (tmp_path / below / "test" / "pit").mkdir(parents=True)
    with pytest.raises(FitError, match=rf"holds 1 whole set .*\({below}\).* Give one of them, such as .*{below}\.$"):
        good_folder(tmp_path)


# name: (options, error, message)
OPTIONS = {
    "preset": ({"preset": "best"}, UsageError, r"^A preset is one of fast, accurate\. Got 'best'\.$"),
    "no false alarms": (
        {"max_false_alarms": 0.0},
        UsageError,
        r"^The share of false alarms is between 0 and 1\. Got 0\.0\.$",
    ),
    "all false alarms": ({"max_false_alarms": 1.0}, UsageError, r"Got 1\.0\.$"),
    "shots": ({"shots": 0}, UsageError, r"^The number of shots is at least 1\. Got 0\.$"),
    "defect": ({"smallest_defect": 0}, UsageError, r"^The smallest defect has a size above 0 pixels\. Got 0\.$"),
    "defect that is no number": ({"smallest_defect": float("nan")}, UsageError, r"above 0 pixels\. Got nan\.$"),
    "defect without end": ({"smallest_defect": float("inf")}, UsageError, r"above 0 pixels\. Got inf\.$"),
    "seed below 0": ({"seed": -1}, UsageError, r"^A seed is a whole number from 0 to 2\*\*63 - 1\. Got -1\.$"),
    "seed too large": ({"seed": 1 << 63}, UsageError, r"^A seed is a whole number from 0 to"),
    "architecture": ({"architecture": "none"}, ModelError, r"^The architecture 'none' is unknown\. Known are: patch-"),
    "backbone": ({"backbone": "no_such_net"}, ModelError, r"^timm knows no network 'no_such_net'"),
}


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS.values(), ids=OPTIONS)
def test_refused_options(good_parts, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        fit(good_parts, tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_a_place_that_cannot_be_written_is_found_before_the_work(good_parts, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        fit(good_parts, tmp_path / "file" / "m", progress=lambda *stage: pytest.fail(f"work was begun: {stage}"))


@pytest.mark.parametrize("kind", ["file", "full folder"])
def test_a_model_is_never_overwritten(good_parts, tmp_path, kind):
    out = tmp_path / "m"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    with pytest.raises(UsageError, match=r"is there already\. Give a new folder: a model is never changed in place\.$"):
        fit(good_parts, out)


def test_the_card_tells_how_the_model_was_made(fitted, good_parts):
    training = fitted.card.training
    assert training["names"] == tuple(f"part{i:02}.png" for i in range(12))
    assert training["data_sha256"] == survey(good_parts).sha256
    assert (training["preset"], training["seed"], training["suspects"]) == ("fast", 0, fitted.suspects)
    assert len(fitted.card.calibration.scores) == len(fitted.card.calibration.peaks) == 12
    assert fitted.card.preparation.scale == 1.0  # a smallest defect of 8 pixels fills one cell of 8 pixels


def test_streaks_do_not_look_good_when_turned_by_90(fitted):
    assert not {"turned by 90", "turned by 270"} & set(fitted.card.training["turns"])


def test_grains_look_good_from_every_side(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.cast_iron(seed) for seed in range(4)])
    assert len(fit(folder, tmp_path / "m", **QUICK).card.training["turns"]) == 5


def test_two_fits_are_equal_to_the_last_bit_and_other_seeds_are_not(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(seed, 64) for seed in range(3)])
    first, again, other = (fit(folder, tmp_path / f"m{i}", seed=s, **QUICK).card for i, s in enumerate((0, 0, 1)))
    assert first.weights_sha256 == again.weights_sha256
    assert first.calibration == again.calibration
    assert other.weights_sha256 != first.weights_sha256


@pytest.mark.parametrize("lanes", [2, 4])
def test_folds_side_by_side_give_the_model_of_one_after_the_other(parts, tmp_path, monkeypatch, lanes):
    folder = parts.write(tmp_path / "good", [parts.cast_iron(seed, 64 + 8 * (seed % 2)) for seed in range(9)])
    made = []
    for at_once in (1, lanes):
        monkeypatch.setattr(PatchMemoryFitter, "lanes", at_once)
        (tmp_path / str(at_once)).mkdir()
        made.append(fit(folder, tmp_path / str(at_once) / "m", **QUICK))
    assert made[0].card == made[1].card  # with the hash of the weights, the calibration and the suspects


def test_an_error_in_a_fold_ends_the_fit(good_parts, tmp_path, monkeypatch):
    def broken(image, model):
        if image.name == "part07.png":
            raise ReadError("part07.png is gone.")
        return measure(image, model)

    monkeypatch.setattr(PatchMemoryFitter, "lanes", 2)
    monkeypatch.setattr(learn, "measure", broken)
    with pytest.raises(ReadError, match=r"^part07\.png is gone\.$"):
        fit(good_parts, tmp_path / "m", **QUICK)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fold")]


def test_progress_is_told_in_the_calling_thread_and_counts_to_the_end(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(PatchMemoryFitter, "lanes", 2)
    told = []
    folder = parts.write(tmp_path / "good", [parts.cast_iron(seed, 64) for seed in range(3)])
    fit(folder, tmp_path / "m", **QUICK, progress=lambda *step: told.append((threading.current_thread(), *step)))
    assert {thread for thread, *_ in told} == {threading.current_thread()}
    for stage in ("reading", "features", "turned copies", "calibrating"):
        assert [(done, total) for _, name, done, total in told if name == stage] == [(1, 3), (2, 3), (3, 3)]


def test_one_image_is_enough_and_every_verdict_is_review(parts, good_parts, tmp_path):
    made = fit(good_parts, tmp_path / "m", shots=1, **QUICK)
    assert made.card.calibration.scores == ()
    assert "uncalibrated" in made.warnings[0]
    prediction = predict(parts.read(tmp_path, parts.hole(parts.brushed(50))), Engine("cpu").load(tmp_path / "m"))
    assert (prediction.verdict, prediction.p_value) == ("REVIEW", None)


def test_a_defect_among_the_good_ones_is_reported(parts, tmp_path):
    pictures = [parts.brushed(seed, 64) for seed in range(9)]
    pictures[4] = parts.hole(pictures[4], at=(20, 30))
    made = fit(parts.write(tmp_path / "good", pictures), tmp_path / "m", **QUICK)
    assert made.suspects == made.card.training["suspects"] == ("part04.png",)
    assert "look at these good images, they are unlike the others: part04.png" in made.warnings


def test_16_bit_models_keep_their_window_and_a_rate_too_small_is_said(parts, tmp_path):
    folder = write_16_bit(tmp_path / "good", [parts.brushed(seed, 64) for seed in range(3)])
    made = fit(folder, tmp_path / "m", max_false_alarms=0.05, **QUICK)
    assert made.card.preparation.window == survey(folder).window
    assert any("0.05 cannot be certified from 3 good images" in w for w in made.warnings)
    model = Engine("cpu").load(tmp_path / "m")
    assert predict(read_raster(folder / "part00.png"), model).image_score > 0
    with pytest.raises(ReadError, match=r"was made from uint16 images .* Got uint8"):
        predict(parts.read(tmp_path, parts.brushed(0)), model)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_another_backbone_from_a_local_file(parts, tmp_path, name):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    folder = parts.write(tmp_path / "good", [parts.brushed(seed, 64) for seed in range(2)])
    made = fit(folder, tmp_path / "m", backbone=name, backbone_weights=path, **QUICK)
    assert made.card.parameters["backbone"] == name
    path.unlink()  # the model is whole without it
    prediction = predict(parts.read(tmp_path, parts.brushed(9, 64)), Engine("cpu").load(tmp_path / "m"))
    assert np.isfinite(prediction.score).all()


def test_images_are_not_enlarged_without_end(parts, tmp_path):
    folder = parts.write(tmp_path / "good", [parts.brushed(0, 16)])
    made = fit(folder, tmp_path / "m", **QUICK | {"smallest_defect": 0.1})
    assert made.card.preparation.scale == MAX_ENLARGEMENT


@pytest.mark.slow
@pytest.mark.data
def test_real_parts(shared_data, tmp_path):
    """Twenty good images of a ball screw tell defects from good parts, most of the time."""
    root = shared_data / "industrial" / "ball_screw" / "ball_screw"
    fit(root, tmp_path / "m", preset="fast", shots=20)
    model = Engine().load(tmp_path / "m")

    def scores(paths):
        return np.array([predict(read_raster(p), model).image_score for p in paths])

    paths = list_images(root / "test")
    good = scores([p for p in paths if p.parent.name == "good"][:20])
    bad = scores([p for p in paths if p.parent.name != "good"][::3][:20])
    assert np.mean(bad[:, None] > good) > 0.8
