"""A model in another form does what it did, or is not written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inspection_core import cli, export_model
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import ModelError, UsageError
from inspection_core.evaluate import evaluate
from inspection_core.export_model import export, network, precision
from inspection_core.export_model.network import Network, SizeError, write_network
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.nifti import write_nifti
from inspection_core.learn import fit
from inspection_core.models import monai_unet, timm_unet, weights
from inspection_core.models.members import stored
from inspection_core.screen import screen

FORMS = ("torchscript", "onnx", "openvino")


@pytest.fixture
def scan(tmp_path):
    """A file with a scan of smooth noise, oblique to the network's windows in size."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(18, 21, 25)), 2)
    array = (noise / noise.std() * 400 + 400).astype(np.float32)[None]
    image = Image(array, Geometry.from_spacing((18, 21, 25), (2, 1, 1)), ("CT",))
    write_nifti(tmp_path / "scan.nii.gz", image)
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def looked_at(parts, tmp_path):
    """Two good parts and one with a hole, none of them seen when the model was made."""
    pictures = [parts.brushed(100), parts.brushed(101, 128), parts.hole(parts.brushed(102))]
    return parts.write(tmp_path / "looked_at", pictures)


def needs(form):
    for name in {"torchscript": (), "onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}[form]:
        pytest.importorskip(name)


@pytest.mark.parametrize("form", FORMS)
def test_an_anomaly_model_keeps_all_that_it_says(model, parts, looked_at, tmp_path, form):
    needs(form)
    done = export(model, form, tmp_path / "m", [looked_at])
    assert [row.verdicts[0] for row in done.compared] == [row.verdicts[1] for row in done.compared]
    assert max(row.score for row in done.compared) < 1e-4
    twin = Engine("cpu").load(tmp_path / "m")
    assert twin.card.calibration == model.card.calibration
    assert twin.card.policy == model.card.policy
    assert twin.card.weights_sha256 != model.card.weights_sha256
    image = parts.read(tmp_path, parts.hole(parts.brushed(7, 160)))  # of a size that was not looked at
    one, other = predict(image, model), predict(image, twin)
    assert one.verdict == other.verdict == "NG"
    assert one.p_value == other.p_value
    assert other.image_score == pytest.approx(one.image_score, abs=1e-4)
    assert np.abs(one.score - other.score).max() < 1e-3
    assert [f.start for f in one.findings] == [f.start for f in other.findings]
    assert [f.neighbour.image for f in one.findings] == [f.neighbour.image for f in other.findings]


def test_an_exported_anomaly_model_screens_and_is_evaluated(model, good_parts, parts, looked_at, tmp_path):
    needs("onnx")
    export(model, "onnx", tmp_path / "m", [looked_at])
    twin = Engine("cpu").load(tmp_path / "m")
    screened = screen(looked_at, twin, tmp_path / "run")
    assert sum(screened.counts.values()) == 3
    for kind, picture in (("good", parts.brushed(50)), ("hole", parts.hole(parts.brushed(51)))):
        parts.write(tmp_path / "set" / "test" / kind, [picture])
    assert evaluate(twin, tmp_path / "set")["image_auroc"] == 1


@pytest.mark.parametrize(
    ("form", "kind", "most", "smaller"),
    [
        ("onnx", "fp16", 0.02, 0.6),
        ("onnx", "int8", 1.0, 0.5),
        ("openvino", "fp16", 0.02, 0.7),
        ("openvino", "bf16", 0.2, 0.7),
        ("openvino", "int8", 1.0, 0.6),
    ],
)
def test_fewer_bits(model, looked_at, tmp_path, form, kind, most, smaller):
    needs(form)
    done = export(model, form, tmp_path / "m", [looked_at], precision=kind, allow_difference=True)
    assert 0 < max(row.score for row in done.compared) < most
    said = json.loads((tmp_path / "m" / "parity.json").read_text(encoding="utf-8"))
    assert said["precision"] == kind
    assert said["megabytes"]["export"] < smaller * said["megabytes"]["original"]
    twin = Engine("cpu").load(tmp_path / "m")
    assert twin.card.parameters["precision"] == kind
    assert twin.card.metrics["parity_images"] == 3


def test_a_difference_is_refused_or_said_on_the_card(model, looked_at, tmp_path):
    needs("onnx")
    with pytest.raises(ModelError, match=r"onnx in fp16 does not do what .*Nothing was written; --allow-difference"):
        export(model, "onnx", tmp_path / "m", [looked_at], precision="fp16", tolerance=0)
    assert not (tmp_path / "m").exists()
    done = export(model, "onnx", tmp_path / "m", [looked_at], precision="fp16", tolerance=0, allow_difference=True)
    assert "does not do what the model does" in done.warnings[-1]
    assert Engine("cpu").load(tmp_path / "m").card.limits.endswith(done.warnings[-1])


def test_into_the_folder_one_is_in(model, looked_at, tmp_path, monkeypatch):
    needs("onnx")
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    with pytest.raises(ModelError, match=r"Nothing was written"):
        export(model, "onnx", Path(), [looked_at], precision="fp16", tolerance=0)
    assert list((tmp_path / "m").iterdir()) == []
    export(model, "onnx", Path(), [looked_at])
    assert Engine("cpu").load(tmp_path / "m").card.id == model.card.id
    assert {file.name for file in tmp_path.iterdir()} == {"m", "looked_at"}


def test_a_full_disk_ends_no_process(model, looked_at, tmp_path):
    """torch's own writer would."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large"):
            export(model, "torchscript", tmp_path / "m", [looked_at])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {file.name for file in tmp_path.iterdir()} == {"looked_at"}


def test_int8_needs_images_to_take_its_ranges_from(model, good_parts, looked_at, tmp_path):
    needs("onnx")
    card = replace(model.card, training={**model.card.training, "folder": str(tmp_path / "gone")})
    moved = LoadedModel(card, model.folder, model.predictor, model.device)
    with pytest.raises(UsageError, match=r"Give some with --calibrate"):
        export(moved, "onnx", tmp_path / "m", [looked_at], precision="int8")
    done = export(
        moved, "onnx", tmp_path / "m", [looked_at], precision="int8", calibrate=[good_parts], allow_difference=True
    )
    assert len(done.compared) == 3


def test_verdicts_may_differ_within_the_tolerance_of_a_cut(model, looked_at, tmp_path):
    one = predict(_picture(looked_at), model)
    cut = one.threshold
    for score, near in ((cut + 0.01, True), (cut + 0.5, False)):
        shifted = replace(one, image_score=score, verdict="NG")
        row = export_model.compare("x", shifted, replace(shifted, verdict="REVIEW"), model.card, 0.02)
        assert row.agree is near


def _picture(folder):
    from inspection_core.io.raster import read_raster

    return read_raster(folder / "part00.png")


def test_a_network_that_was_changed_is_not_loaded(model, looked_at, tmp_path):
    needs("onnx")
    export(model, "onnx", tmp_path / "m", [looked_at])
    file = tmp_path / "m" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"model.onnx are not those that the card was written for"):
        Engine("cpu").load(tmp_path / "m")
    file.unlink()
    with pytest.raises(ModelError, match=r"model.onnx cannot be read"):
        Engine("cpu").load(tmp_path / "m")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone_multiple": 12}, r"strides 8 and 12"),
        ({"backbone_std": (1.0, 0.0, 1.0)}, r"three means and deviations"),
        ({"backbone_mean": ()}, r"three means and deviations"),
        ({"backbone_stride": 4}, r"gives .* where its card needs feature maps at stride 4"),
    ],
)
def test_a_card_that_does_not_fit_its_network(model, parts, looked_at, tmp_path, parameters, message):
    needs("onnx")
    done = export(model, "onnx", tmp_path / "m", [looked_at])
    tensors = weights.load(tmp_path / "m", done.card)
    weights.save(tmp_path / "m", replace(done.card, parameters={**done.card.parameters, **parameters}), tensors)
    with pytest.raises(ModelError, match=message):
        predict(_picture(looked_at), Engine("cpu").load(tmp_path / "m"))


def test_weights_that_name_other_files(model, looked_at, tmp_path):
    needs("onnx")
    done = export(model, "onnx", tmp_path / "m", [looked_at])
    tensors = weights.load(tmp_path / "m", done.card)
    tensors["network.../card.toml"] = tensors.pop("network.model.onnx")
    weights.save(tmp_path / "m", done.card, tensors)
    with pytest.raises(ModelError, match=r"name \['../card.toml'\] as the network's files"):
        Engine("cpu").load(tmp_path / "m")


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize(("maker", "view"), [(timm_unet, "slices"), (monai_unet, "volume")], ids=["timm", "monai"])
def test_a_network_that_was_trained_is_written_with_its_weights(maker, view, form, band, scan, tmp_path):
    """What is trained has weights that learn, which a tracer does not take for constants."""
    plain = Engine("cpu").load(band(view=view, tile=32, multiple=32)).card
    settings = {"members": 1} | ({"channels": (4, 8)} if view == "volume" else {})
    name = maker.__name__.rpartition(".")[2].replace("_", "-")
    card = replace(plain, architecture=name, parameters=settings)
    torch.manual_seed(0)
    weights.save(tmp_path / "own", card, stored([maker.build(card)]))
    needs(form)
    done = export(Engine("cpu").load(tmp_path / "own"), form, tmp_path / "m", [scan])
    assert [row.agree for row in done.compared] == [True]
    assert Engine("cpu").load(tmp_path / "m").card.architecture == form


@pytest.mark.parametrize("view", ["slices", "volume"])
@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_segments_does_what_it_did(band, scan, tmp_path, form, view):
    needs(form)
    model = Engine("cpu").load(band(view=view, tile=16, spacing=(2.0, 1.5, 1.5)))
    done = export(model, form, tmp_path / "m", [scan])
    (row,) = done.compared
    assert row.score < 1e-3
    assert row.agree
    twin = Engine("cpu").load(tmp_path / "m")
    assert twin.card.architecture == form
    assert twin.card.classes == model.card.classes
    assert twin.card.preparation == model.card.preparation  # windows of any size, as before
    assert twin.card.metrics["parity_images"] == 1
    image = Image(np.full((1, 9, 9, 9), 900, np.float32), Geometry.pixels((9, 9, 9)), ("CT",))
    assert np.array_equal(predict(image, twin).mask, predict(image, model).mask)
    said = json.loads((tmp_path / "m" / "parity.json").read_text(encoding="utf-8"))
    assert said["images"][0]["score_difference"] == pytest.approx(row.score)
    assert not list(tmp_path.glob(".*export"))


def test_a_network_of_one_size_gets_windows_of_that_size(band, scan, tmp_path, monkeypatch):
    needs("onnx")
    model = Engine("cpu").load(band(view="slices", tile=16))

    def only_fixed(network, *given):
        if network.multiple:
            raise SizeError(network.name)
        return write_network(network, *given)

    monkeypatch.setattr(export_model, "write_network", only_fixed)
    export(model, "onnx", tmp_path / "m", [scan])
    assert Engine("cpu").load(tmp_path / "m").card.preparation.window_size == (16, 16)


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_a_network_that_knows_one_size_only_is_found_out(tmp_path, form):
    needs(form)
    places = torch.rand(1, 1, 16, 16)
    learned = Network("places", lambda batch: batch + places[..., : batch.shape[2], : batch.shape[3]], (1, 16, 16),
                      ("y",), 8)  # fmt: skip
    with pytest.raises(ModelError, match=r"works at one size of input only"):
        write_network(learned, form, "fp32", tmp_path)
    write_network(replace(learned, multiple=0), form, "fp32", tmp_path)


def test_weights_that_are_too_large_for_float16(tmp_path):
    needs("onnx")
    import onnx

    large = onnx.numpy_helper.from_array(np.full((1, 1, 5, 5), 1e6, np.float32), "weight")
    sides = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 1, k, k]) for n, k in (("x", 8), ("y", 4))
    ]
    nodes = [onnx.helper.make_node("Conv", ["x", "weight"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "large", sides[:1], sides[1:], [large])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"too large for fp16. Export with --precision fp32"):
        precision.halve(tmp_path / "model.onnx")


def test_on_the_command_line(band, scan, tmp_path):
    folder = band(tile=16)
    given = [str(folder), "--to", "torchscript", "--out", str(tmp_path / "m"), "--images", str(scan)]
    done = CliRunner().invoke(cli.app, ["models", "export", *given, "--json", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'm'}: scores differ by at most ")
    assert "0 verdicts differ" in done.stdout
    said = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert said["parity"]["images"] == 1
    assert said["parity"]["score_difference"] < 1e-3


def test_with_nothing_but_a_form(model, band, tmp_path, monkeypatch):
    """The good images of the fit are compared, and the folder is named after the model; models of scans need images."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["models", "export", str(model.folder), "--to", "torchscript"])
    assert done.exit_code == 0, done.stderr
    assert f"on {len(model.card.training['names'])} images" in done.stdout
    assert (tmp_path / f"{model.folder.name}-torchscript" / "card.toml").exists()
    done = CliRunner().invoke(cli.app, ["models", "export", str(band(tile=16)), "--to", "torchscript"])
    assert done.exit_code == 2
    assert "Found none; give some with --images" in done.stderr


def test_an_export_that_differs_is_not_written(band, scan, tmp_path, monkeypatch):
    model = Engine("cpu").load(band(tile=16))
    write = export_model.write_network

    def wrong(network, *given):
        model.predictor.bands = model.predictor.bands * 1.01
        try:
            return write(network, *given)
        finally:
            model.predictor.bands = model.predictor.bands / 1.01

    monkeypatch.setattr(export_model, "write_network", wrong)
    with pytest.raises(ModelError, match=r"does not do what the model does: on .* differs by .* Nothing was written"):
        export(model, "torchscript", tmp_path / "m", [scan])
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.glob(".*export"))


def test_what_cannot_be_exported(model, band, scan, looked_at, tmp_path):
    with pytest.raises(ModelError, match=r"is a intensity-band, for segmentation with the view 'image', which cannot"):
        export(Engine("cpu").load(band(view="image")), "onnx", tmp_path / "m", [scan])
    with pytest.raises(ModelError, match=r"An edge bundle reads pictures, and b is a model of scans"):
        export(Engine("cpu").load(band("b")), "edge", tmp_path / "m", [scan])
    export(model, "torchscript", tmp_path / "m", [looked_at])
    with pytest.raises(ModelError, match=r"is an export already"):
        export(Engine("cpu").load(tmp_path / "m"), "onnx", tmp_path / "n", [looked_at])


def test_requests_that_make_no_sense(band, scan, tmp_path):
    model = Engine("cpu").load(band())
    with pytest.raises(UsageError, match=r"one of torchscript, onnx, openvino, edge\. Got 'x'"):
        export(model, "x", tmp_path / "m", [scan])
    with pytest.raises(UsageError, match=r"An export to torchscript is one of fp32\. Got 'int8'"):
        export(model, "torchscript", tmp_path / "m", [scan], precision="int8")
    with pytest.raises(UsageError, match=r"The tolerance is a number from 0\. Got -1"):
        export(model, "onnx", tmp_path / "m", [scan], tolerance=-1)
    with pytest.raises(UsageError, match=r"is not empty"):
        export(model, "onnx", tmp_path, [scan])
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"Found none; give some with --images"):
        export(model, "torchscript", tmp_path / "m", [tmp_path / "none"])


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"Export to openvino needs onnx, openvino: pip install"):
        network.installed("openvino")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "edge"])
def test_real_images(shared_data, tmp_path, form):
    needs("onnx")
    root = shared_data / "industrial" / "pv_el" / "pv_cell_mono"
    fit(root, tmp_path / "model", preset="fast", shots=10, device="cpu")
    images = [sorted((root / "test" / kind).iterdir())[0] for kind in ("good", "crack", "dark")]
    done = export(Engine("cpu").load(tmp_path / "model"), form, tmp_path / "m", images)
    assert max(row.score for row in done.compared) < 1e-4
    assert all(row.verdicts[0] == row.verdicts[1] and row.p_values[0] == row.p_values[1] for row in done.compared)
