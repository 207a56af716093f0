"""Bundles at work: their own way from an image to a mask, and the mask on the image's own grid."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inspection_core.engine import Engine, host_of
from inspection_core.errors import ModelError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.nifti import read_nifti, write_nifti


def load(folder, **more):
    return Engine("cpu").load(f"bundle:{folder}", **more)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def turned(image, axes=(0, 1, 2), flips=()):
    """Return the same scan, stored in another order of its voxels."""
    grid, array = image.geometry.transposed(axes), image.array.transpose(0, *(a + 1 for a in axes))
    for axis in flips:
        grid, array = grid.flipped(axis), np.flip(array, axis + 1)
    return Image(array, grid, image.channels)


def test_a_mask_comes_back_on_the_grid_of_an_oblique_anisotropic_and_flipped_scan(make, tmp_path):
    image, inside = make.ball()
    prediction = predict(image, load(make.spleen(tmp_path / "spleen")))
    assert prediction.mask.shape == image.geometry.shape == inside.shape
    assert dice(prediction.mask > 0, inside) > 0.94  # planes are 4.7 mm apart
    (finding,) = prediction.findings
    centre = image.geometry.index_to_world(np.argwhere(inside).mean(axis=0))
    assert np.linalg.norm(np.array(finding.centroid_world) - centre) < 0.5
    assert finding.label == "spleen"
    assert not finding.calibrated
    assert prediction.verdict == "REVIEW"  # what its confidence is worth was not measured


ORDERS = {"turned": ((2, 0, 1), ()), "flipped": ((0, 1, 2), (0, 1, 2)), "both": ((1, 0, 2), (2,))}


@pytest.mark.parametrize(("axes", "flips"), ORDERS.values(), ids=ORDERS)
def test_in_which_order_a_file_stores_its_voxels_makes_no_difference(make, tmp_path, axes, flips):
    image, _ = make.ball()
    model = load(make.unet(tmp_path / "unet"))
    plain, other = predict(image, model), predict(turned(image, axes, flips), model)
    back = np.flip(other.mask, flips).transpose(np.argsort(axes)) if flips else other.mask.transpose(np.argsort(axes))
    assert 0 < (plain.mask > 0).mean() < 1
    assert (plain.mask == back).mean() > 0.999


def monai_itself(folder, path):
    """Run a bundle on a file as MONAI does."""
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch, list_data_collate

    data = json.loads((folder / "configs/inference.json").read_text(encoding="utf-8"))
    after = data["postprocessing"]["transforms"]
    data["postprocessing"]["transforms"] = [t for t in after if t["_target_"] != "SaveImaged"]
    parser = ConfigParser(data)
    network = parser.get_parsed_content("network")
    state = torch.load(folder / "models/model.pt", weights_only=True)
    network.load_state_dict(state.get("model", state))
    network.eval()
    batch = list_data_collate([parser.get_parsed_content("preprocessing")({"image": str(path)})])
    with torch.no_grad():
        batch["pred"] = parser.get_parsed_content("inferer")(batch["image"], network)
    after = parser.get_parsed_content("postprocessing")
    return np.asarray(after(decollate_batch(batch)[0])["pred"])[0].T


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize("kind", ["spleen", "unet"])
def test_the_same_as_monai_itself(make, tmp_path, kind):
    image, _ = make.ball(oblique=False)  # else MONAI's grid depends on the rounding of the header
    folder = getattr(make, kind)(tmp_path / kind)
    write_nifti(tmp_path / "scan.nii.gz", image)
    theirs = monai_itself(folder, tmp_path / "scan.nii.gz")
    ours = predict(image, load(folder)).mask
    assert 0 < theirs.mean() < 1
    assert (ours == theirs).mean() > 0.9999


def test_from_a_file_of_single_precision_as_from_the_scan_itself(make, tmp_path):
    image, _ = make.ball()
    model = load(make.unet(tmp_path / "unet"))
    write_nifti(tmp_path / "scan.nii.gz", image)
    read = read_nifti(tmp_path / "scan.nii.gz")
    assert not np.array_equal(read.geometry.affine, image.geometry.affine)
    assert (predict(read, model).mask == predict(image, model).mask).mean() > 0.9999


def brats(make, folder, after):
    """Write a bundle in the manner of the zoo's BraTS: four sequences, three parts that lie in each other."""
    channels = ["T1c", "T1", "T2", "FLAIR"]
    network, state = make.threshold_net(3, [(0, 0.5), (3, 0.5), (2, 0.5)], channels=4)
    before = [{"_target_": "LoadImaged", "keys": "image"},
              {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": [0] * 4, "divisor": [100] * 4,
               "channel_wise": True}]  # fmt: skip
    conf = make.config(network, before, after)
    meta = make.metadata(channels, ["Tumor core", "Whole tumor", "Enhancing tumor"], ["8*n"] * 3)
    return make.write(folder, conf, meta, state), channels


SIGMOID = [
    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
     "meta_keys": "pred_meta_dict", "nearest_interp": False, "to_tensor": True},
    {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
]  # fmt: skip
NUMBERS = {
    "_target_": "Lambdad",
    "keys": "pred",
    "func": "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))",
}
NESTED = {
    "numbers of its own": ([*SIGMOID, NUMBERS], ("Tumor core", "Whole tumor", "Enhancing tumor"), [2, 1, 3]),
    "a channel a class": (SIGMOID, ("Tumor core", "Whole tumor", "Enhancing tumor"), [2, 1, 3]),
}


@pytest.mark.parametrize(("after", "classes", "expected"), NESTED.values(), ids=NESTED)
def test_parts_that_lie_in_each_other_keep_their_names(make, tmp_path, after, classes, expected):
    folder, channels = brats(make, tmp_path / "brats", after)
    model = load(folder)
    assert model.card.classes == classes
    assert "which orientation it expects" in model.card.limits
    array = np.zeros((4, 20, 22, 24), np.float32)
    array[3, 4:16, 4:16, 4:16] = 100  # whole tumour
    array[0, 6:12, 6:12, 6:12] = 100  # core in it
    array[2, 8:10, 8:10, 8:10] = 100  # enhancing in the core
    mixed = [2, 0, 3, 1]  # found by name
    image = Image(array[mixed], Geometry.from_spacing((20, 22, 24), (1, 1, 1)), tuple(channels[c] for c in mixed))
    prediction = predict(image, model)
    assert [prediction.mask[p, p, p] for p in (4, 6, 8)] == expected
    overlap = any("overlap" in w for w in prediction.warnings)
    assert overlap == (after is SIGMOID)


@pytest.mark.parametrize("back", [True, False], ids=["inverted", "left on the network's grid"])
def test_a_file_for_each_sequence(make, tmp_path, back):
    network, state = make.threshold_net(3, [(0, None), (1, 0.5)], channels=2)
    keys = {"keys": ["t1", "t2"]}
    before = [
        {"_target_": "LoadImaged", **keys},
        {"_target_": "EnsureChannelFirstd", **keys},
        {"_target_": "Orientationd", **keys, "axcodes": "RAS"},
        {"_target_": "Spacingd", **keys, "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", **keys, "a_min": -100, "a_max": 100, "b_min": 0, "b_max": 1},
        {"_target_": "ConcatItemsd", **keys, "name": "image"},
    ]
    invert = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "t1",
              "nearest_interp": False, "to_tensor": True}  # fmt: skip
    after = [*([invert] if back else []), {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    conf = make.config(network, before, after)
    make.write(tmp_path / "m", conf, make.metadata(["T1", "T2"], ["background", "x"], [96] * 3), state)
    image, inside = make.ball(channels=("T2", "T1"))
    array = image.array.copy()
    array[1] = -100  # nothing to be seen in T1
    prediction = predict(Image(array, image.geometry, ("T2", "T1")), load(tmp_path / "m"))
    assert dice(prediction.mask > 0, inside) > 0.9


def endoscope(make, folder):
    """Write a 2-D bundle in the manner of the zoo's endoscopic tool: what is red is one."""
    network, state = make.threshold_net(2, [(0, None), (0, 0.5)], channels=3)
    keys = {"keys": ["image"]}
    before = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": -1},
        {"_target_": "Resized", **keys, "spatial_size": [64, 48], "mode": ["bilinear"]},
        {"_target_": "ScaleIntensityd", **keys},
    ]
    after = [
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
         "meta_key_postfix": "meta_dict", "nearest_interp": False, "to_tensor": True},
        {"_target_": "AsDiscreted", "argmax": True, "to_onehot": 2, "keys": ["pred"]},
        {"_target_": "Lambdad", "keys": ["pred"], "func": "$lambda x : x[1:]"},
        make.SAVE,
    ]  # fmt: skip
    conf = make.config(network, before, after, {"_target_": "SimpleInferer"})
    meta = make.metadata(["R", "G", "B"], ["background", "tool"], [64, 48])
    return make.write(folder, conf, meta, state)


def test_pictures(make, tmp_path):
    model = load(endoscope(make, tmp_path / "tool"))
    assert (model.card.classes, model.card.channels) == (("tool",), ("red", "green", "blue"))
    array = np.zeros((3, 60, 100), np.uint8)
    array[0, 20:40, 10:50] = 255
    prediction = predict(Image(array, Geometry.pixels((60, 100)), ("red", "green", "blue")), model)
    assert dice(prediction.mask > 0, array[0] > 0) > 0.95
    assert prediction.findings[0].size_unit == "px"


def test_a_network_for_pictures_takes_a_scan_slice_by_slice(make, tmp_path):
    network, state = make.threshold_net(2, [(0, None), (0, 0.5)])
    before = [*make.LOAD, {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -100, "a_max": 100,
                           "b_min": 0, "b_max": 1}]  # fmt: skip
    after = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    conf = make.config(network, before, after, {"_target_": "SimpleInferer"})
    make.write(tmp_path / "m", conf, make.metadata(["image"], ["background", "x"], [64, 64]), state)
    image, inside = make.ball()
    assert np.array_equal(predict(image, load(tmp_path / "m")).mask > 0, inside)


ENDS = {
    "labels first, then back": [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": 1},
        {"_target_": "Invertd", "keys": "pred", "transform": "$copy.deepcopy(@preprocessing)", "orig_keys": "image",
         "nearest_interp": True, "to_tensor": True},
    ],
    "left on the network's grid": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
    "no labels made": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    "nothing at all": [],
}  # fmt: skip


@pytest.mark.parametrize("after", ENDS.values(), ids=ENDS)
def test_whatever_the_end_is(make, tmp_path, after):
    network, state = make.threshold_net(3, [(0, None), (0, 0.5)])
    conf = make.config(network, make.SPLEEN_BEFORE, after)
    make.write(tmp_path / "m", conf, make.metadata(["image"], ["background", "spleen"], [96] * 3), state)
    image, inside = make.ball()
    prediction = predict(image, load(tmp_path / "m"))
    assert dice(prediction.mask > 0, inside) > 0.9
    assert prediction.score[inside].mean() > 0.8
    assert prediction.score[~inside].mean() < 0.1


@pytest.mark.parametrize("softmax", [True, False], ids=["probabilities", "as the network gives them"])
def test_beyond_what_a_bundle_cut_away_is_background(make, tmp_path, softmax):
    network, state = make.threshold_net(3, [(0, None), (0, 0.5)])
    before = [
        *make.LOAD,
        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "select_fn": "$lambda x: x > 50"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1},
    ]
    after = make.SPLEEN_AFTER if softmax else make.SPLEEN_AFTER[1:]
    conf = make.config(network, before, after)
    make.write(tmp_path / "m", conf, make.metadata(["image"], ["background", "spleen"], [96] * 3), state)
    image, inside = make.ball()
    prediction = predict(image, load(tmp_path / "m"))
    assert np.array_equal(prediction.mask > 0, inside)
    assert prediction.score[inside].min() > 0.9
    assert prediction.score[~inside].max() < 0.1


@pytest.mark.parametrize("prefix", ["", "spleen_v0.3.1/"])
def test_an_archive_is_as_good_as_a_folder(make, tmp_path, prefix):
    folder = make.unet(tmp_path / "unet")
    archive = make.pack(folder, tmp_path / "unet.zip", prefix)
    image, _ = make.ball()
    inside, outside = load(archive), load(folder)
    assert inside.card.to_dict() == outside.card.to_dict()
    assert np.array_equal(predict(image, inside).mask, predict(image, outside).mask)


def test_yaml_reads_as_json_does(make, tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = make.spleen(tmp_path / "m")
    path = folder / "configs/inference.json"
    path.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(path.read_text())), encoding="utf-8")
    before = load(folder).card
    path.unlink()
    after = load(folder).card
    assert replace(after, parameters=before.parameters) == before
    assert after.parameters["inference_sha256"] != before.parameters["inference_sha256"]


def test_the_card_says_what_the_bundle_says_of_itself(make, tmp_path):
    card = load(make.spleen(tmp_path / "spleen")).card
    assert (card.id, card.version, card.channels, card.classes) == ("spleen", "0.3.1", ("CT",), ("spleen",))
    assert card.intended_use == "This is an example, not to be used for diagnostic purposes"
    assert card.licence == "Apache-2.0, see LICENSE; Copyright (c) Nobody"
    assert card.metrics["mean_dice"] == 0.96
    assert "not measured here" in card.limits
    assert len(card.weights_sha256) == 64


def test_each_bundle_is_loaded_once(make, tmp_path):
    engine = Engine("cpu")
    folder = make.spleen(tmp_path / "m")
    first = engine.load(f"bundle:{folder}")
    assert engine.load(f"bundle:{folder}") is first
    assert engine.card(f"bundle:{folder}") == first.card
    (folder / "LICENSE").write_text("MIT License\n", encoding="utf-8")
    assert engine.load(f"bundle:{folder}") is not first


def test_only_known_prefixes_are_taken_for_one(tmp_path, monkeypatch):
    assert (host_of("bundle:x"), host_of("C:x"), host_of("x")) == ("bundle", "", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle:x").mkdir()
    assert host_of("bundle:x") == ""


def test_a_prefix_that_was_forgotten(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    with pytest.raises(ModelError, match=rf"configs/metadata\.json: name it as bundle:{folder}\.$"):
        Engine("cpu").load(folder)


def test_a_picture_for_a_bundle_of_volumes(make, tmp_path):
    image = Image(np.zeros((1, 9, 9), np.uint8), Geometry.pixels((9, 9)), ("grey",))
    with pytest.raises(ReadError, match=r"takes volumes\. Got a 2-D image; give the series"):
        predict(image, load(make.spleen(tmp_path / "m")))


def test_what_is_not_finite_and_has_no_spacing_is_said(make, tmp_path):
    array = np.full((1, 20, 20, 20), -100, np.float32)
    array[0, 0, 0, :3] = np.nan
    prediction = predict(Image(array, Geometry.pixels((20, 20, 20)), ("CT",)), load(make.spleen(tmp_path / "m")))
    assert "3 voxels are not finite: taken as 0" in prediction.warnings
    assert any("no spacing is known" in w for w in prediction.warnings)
    assert (prediction.verdict, prediction.findings) == ("OK", ())


def test_another_number_of_channels_than_the_metadata_say(make, tmp_path):
    network, state = make.threshold_net(3, [(0, None), (0, 0.5), (0, 0.9)])
    conf = make.config(network, make.SPLEEN_BEFORE, make.SPLEEN_AFTER)
    make.write(tmp_path / "m", conf, make.metadata(["image"], ["background", "spleen"], [96] * 3), state)
    with pytest.raises(ModelError, match=r"gives 3 channels, and its metadata name 2"):
        predict(make.ball()[0], load(tmp_path / "m"))
