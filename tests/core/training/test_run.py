"""From a configuration to a model that predicts: cross-fitted slices, and volumes with patients held back."""

import json
import signal

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from inspection_core.card import ModelCard
from inspection_core.cases import find_cases, read_case
from inspection_core.cli import app
from inspection_core.engine import Engine
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.nifti import write_nifti
from inspection_core.training.loop import Run
from inspection_core.training.run import RUNS

SLICES = """
[card]
id = "toy"
version = "1"
architecture = "timm-unet"
task = "segmentation"
channels = ["pre", "FLAIR", "post"]
classes = ["ball"]
score = "probability of a ball"
[card.preparation]
view = "slices"
short_side = 32
neighbours = 1
normalise = "mean"
foreground = "bright"
crop = true
[card.policy]
kind = "band"
[card.parameters]
decoder = [8, 8, 8, 8]
flips = true
[data]
root = "data"
folders = ["train"]
words = "balls in noise"
[training]
folds = 2
batch = 4
stages = [{ size = [32, 32], samples = 16 }]
"""

VOLUMES = """
[card]
id = "toy-3d"
version = "1"
architecture = "monai-unet"
task = "segmentation"
channels = ["t1"]
classes = ["left", "right"]
score = "probability"
spacing = [1.0, 1.0, 1.0]
[card.preparation]
view = "volume"
normalise = "z-score"
multiple = 4
window_size = [8, 16, 16]
blend = "gaussian"
[card.policy]
kind = "band"
[card.parameters]
channels = [4, 8, 8]
[data]
root = "data"
folders = ["train"]
held_back = ["val"]
[training]
folds = 1
batch = 2
stages = [{ size = [8, 16, 16], samples = 8 }]
"""


def train(*arguments):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """A model of slices, trained fold by fold as on two machines, and then put together."""
    place = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (place / "data" / "train" / folder).mkdir(parents=True)
    y, x = np.ogrid[:48, :40]
    for patient in range(4):
        for number in range(1, 4):
            ball = (y - 20 - patient) ** 2 + (x - 18) ** 2 < (50 if number == 2 else 0)
            plane = rng.integers(40, 80, (48, 40, 3)) + 120 * ball[..., None]
            Picture.fromarray(plane.astype(np.uint8)).save(place / f"data/train/images/p{patient}_{number}.png")
            Picture.fromarray((255 * ball).astype(np.uint8)).save(place / f"data/train/masks/p{patient}_{number}.png")
    (place / "c.toml").write_text(SLICES)
    said = [train(place / "c.toml", "--out", place / "model", "--fold", fold) for fold in (0, 1)]
    assert not (place / "model" / "card.toml").exists()
    said.append(train(place / "c.toml", "--out", place / "model", "--json", place / "out.json"))
    return place, said


def test_the_model_predicts_as_any_other(slices):
    place, _ = slices
    model = Engine("cpu").load(place / "model")
    image, _ = read_case(find_cases(place / "data" / "train")[0], model.card.channels)
    prediction = predict(image, model)
    assert prediction.score.shape == image.geometry.shape
    assert np.isfinite(prediction.score).all()
    assert prediction.model_sha256 == model.card.weights_sha256


def test_the_card_tells_where_it_comes_from(slices):
    place, said = slices
    card = ModelCard.load(place / "model")
    assert card.parameters["members"] == 2
    assert card.training["data"] == "balls in noise"
    assert card.metrics["crossfit_patients"] == 4
    assert "cross-fitted on 4 patients" in card.calibration.method
    assert card.calibration.inputs.features
    assert "On 4 patients, each segmented by a network that did not see it" in said[-1]
    assert json.loads((place / "out.json").read_text())["metrics"]["crossfit_patients"] == 4


def test_every_patient_is_measured_once_by_a_network_that_did_not_see_it(slices):
    place, _ = slices
    rows = json.loads((place / "model" / "crossfit.json").read_text())["rows"]
    assert [r["case"] for r in sorted(rows, key=lambda r: r["case"])] == ["p0", "p1", "p2", "p3"]


def test_training_again_changes_nothing(slices):
    place, _ = slices
    before = ModelCard.load(place / "model").weights_sha256
    train(place / "c.toml", "--out", place / "model")
    assert ModelCard.load(place / "model").weights_sha256 == before


def test_a_stop_says_what_is_kept_and_costs_nothing(slices, tmp_path, monkeypatch):
    place, _ = slices
    (tmp_path / "c.toml").write_text(SLICES.replace('root = "data"', f'root = "{place}/data"'))
    step = Run._one_step

    def stopped(self, *arguments):
        signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_one_step", stopped)
        done = CliRunner().invoke(app, ["train", str(tmp_path / "c.toml"), "--out", str(tmp_path / "m")])
    assert done.exit_code == 130
    kept = "stopped after step 1 of 4 of fold 0, which is kept. Run the same command again to go on."
    assert kept in " ".join(done.stderr.split())
    train(tmp_path / "c.toml", "--out", tmp_path / "m")
    assert ModelCard.load(tmp_path / "m").weights_sha256 == ModelCard.load(place / "model").weights_sha256


def test_volumes_are_trained_with_patients_held_back(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in (("train", 3), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / folder / kind).mkdir(parents=True)
        for k in range(count):
            shape = (10, 20, 18)
            mask = np.zeros((1, *shape), np.uint8)
            mask[:, 3:7, 5:12, 2:8], mask[:, 3:7, 5:12, 10:16] = 1, 2
            array = (rng.normal(size=(1, *shape)) + 3 * mask).astype(np.float32)
            geometry = Geometry.from_spacing(shape, (1.0, 1.0, 1.0))
            write_nifti(tmp_path / f"data/{folder}/images/{folder}{k}.nii.gz", Image(array, geometry, ("t1",)))
            write_nifti(tmp_path / f"data/{folder}/masks/{folder}{k}.nii.gz", Image(mask, geometry, ("mask",)))
    (tmp_path / "c.toml").write_text(VOLUMES)
    train(tmp_path / "c.toml", "--out", tmp_path / "model")
    model = Engine("cpu").load(tmp_path / "model")
    assert model.card.metrics["crossfit_patients"] == 2
    assert "fitted on 2 patients held back" in model.card.calibration.method
    image, _ = read_case(find_cases(tmp_path / "data" / "val")[0], ("t1",))
    assert predict(image, model).mask.shape == (10, 20, 18)


# name: (arguments beside the configuration, exit status, what is said)
REFUSED = {
    "a fold that is not there": (["--fold", "2"], 2, "folds are numbered from 0 to 1. Got 2"),
    "no configuration": (["--fold", "0"], 2, "Found no configuration"),
}


@pytest.mark.parametrize(("arguments", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_is_refused_in_a_line(tmp_path, arguments, status, said):
    config = tmp_path / "c.toml"
    if "no configuration" not in said.lower():
        config.write_text(SLICES)
    result = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path / "m"), *arguments])
    assert result.exit_code == status
    assert said in " ".join(result.output.split())


def test_a_patient_in_two_folders_is_refused(slices, tmp_path):
    place, _ = slices
    config = tmp_path / "c.toml"
    root = f'root = "{place}/data"\nfolders = ["train", "train"]'
    config.write_text(SLICES.replace('root = "data"\nfolders = ["train"]', root))
    result = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert "lies in two of the data's folders" in " ".join(result.output.split())


def test_checkpoints_lie_apart_from_the_model(slices):
    place, _ = slices
    assert {p.name for p in (place / "model").iterdir()} == {"card.toml", "weights.safetensors", "crossfit.json", RUNS}
