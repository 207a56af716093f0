"""A model in another form does what it did, or is not written."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from inspection_core import cli, export_model
from inspection_core.engine import Engine
from inspection_core.errors import ModelError, UsageError
from inspection_core.export_model import export
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.nifti import write_nifti


@pytest.fixture
def scan(tmp_path):
    """A file with a scan of smooth noise, oblique to the network's windows in size."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(18, 21, 25)), 2)
    array = (noise / noise.std() * 400 + 400).astype(np.float32)[None]
    image = Image(array, Geometry.from_spacing((18, 21, 25), (2, 1, 1)), ("CT",))
    write_nifti(tmp_path / "scan.nii.gz", image)
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("view", ["slices", "volume"])
@pytest.mark.parametrize("target", export_model.TARGETS)
def test_an_export_does_what_the_model_does(band, scan, tmp_path, target, view):
    if target != "torchscript":
        pytest.importorskip("onnx")
        pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[target])
    model = Engine("cpu").load(band(view=view, tile=16, spacing=(2.0, 1.5, 1.5)))
    done = export(model, target, tmp_path / "m", [scan])
    (row,) = done.compared
    assert row.score < 1e-3
    assert row.verdict
    twin = Engine("cpu").load(tmp_path / "m")
    assert twin.card.architecture == target
    assert twin.card.classes == model.card.classes
    assert twin.card.metrics["parity_images"] == 1
    image = Image(np.full((1, 9, 9, 9), 900, np.float32), Geometry.pixels((9, 9, 9)), ("CT",))
    assert np.array_equal(predict(image, twin).mask, predict(image, model).mask)
    said = json.loads((tmp_path / "m" / "parity.json").read_text(encoding="utf-8"))
    assert said["images"][0]["score_difference"] == pytest.approx(row.score)
    assert not list(tmp_path.glob(".*export"))


def test_on_the_command_line(band, scan, tmp_path):
    folder = band(tile=16)
    given = [str(folder), "--to", "torchscript", "--out", str(tmp_path / "m"), "--images", str(scan)]
    done = CliRunner().invoke(cli.app, ["models", "export", *given, "--json", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'm'}: scores differ by at most ")
    said = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert said["parity"]["images"] == 1
    assert said["parity"]["score_difference"] < 1e-3


def test_an_export_that_differs_is_not_written(band, scan, tmp_path, monkeypatch):
    model = Engine("cpu").load(band(tile=16))
    write = export_model.write_network

    def wrong(model, card, target, folder):
        model.predictor.bands = model.predictor.bands * 1.01
        try:
            return write(model, card, target, folder)
        finally:
            model.predictor.bands = model.predictor.bands / 1.01

    monkeypatch.setattr(export_model, "write_network", wrong)
    with pytest.raises(ModelError, match=r"does not do what the model does: on .* differs by .* Nothing was written"):
        export(model, "torchscript", tmp_path / "m", [scan])
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.glob(".*export"))


def test_what_cannot_be_exported(model, good_parts, tmp_path):
    with pytest.raises(ModelError, match=r"is one for anomaly with the view 'image', which cannot yet"):
        export(model, "onnx", tmp_path / "m", [good_parts])


def test_requests_that_make_no_sense(band, scan, tmp_path):
    model = Engine("cpu").load(band())
    with pytest.raises(UsageError, match=r"one of torchscript, onnx, openvino\. Got 'x'"):
        export(model, "x", tmp_path / "m", [scan])
    with pytest.raises(UsageError, match=r"The tolerance is a number from 0\. Got -1"):
        export(model, "onnx", tmp_path / "m", [scan], tolerance=-1)
    with pytest.raises(UsageError, match=r"is not empty"):
        export(model, "onnx", tmp_path, [scan])
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"Found none; give some with --images"):
        export(model, "onnx", tmp_path / "m", [tmp_path / "none"])


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"Export to openvino needs onnx, openvino: pip install"):
        export_model._installed("openvino")
