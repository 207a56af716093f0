"""The runner of an edge bundle says what the suite says, without the suite."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core import learn
from inspection_core.engine import Engine
from inspection_core.errors import ModelError
from inspection_core.export_model import edge, export
from inspection_core.findings import find
from inspection_core.geometry import Geometry
from inspection_core.infer import predict
from inspection_core.io.raster import read_raster
from inspection_core.models import weights
from inspection_core.models.backbone import Backbone
from inspection_core.models.views import blurred

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("inspection_core", "torch", "scipy", "skimage", "safetensors", "imagecodecs"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("inspect_parts", edge.TEMPLATES / edge.RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(model, parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    looked_at = parts.write(folder / "looked_at", [parts.brushed(100), parts.hole(parts.brushed(101))])
    export(model, "edge", folder / "m", [looked_at])
    return folder / "m"


def run(folder, *arguments):
    command = [sys.executable, "-I", "-c", ALONE, str(folder / edge.RUNNER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_alone_it_says_what_the_suite_says_and_goes_on_after_bad_files(bundle, model, parts, tmp_path):
    picture = parts.hole(parts.brushed(7, 128))
    folder = tmp_path / "pictures"
    parts.write(folder, [picture, parts.brushed(8)])
    PIL.Image.fromarray(picture).save(folder / "part2.tif")
    PIL.Image.fromarray(np.stack([picture, 255 - picture, picture], -1)).save(folder / "part3.bmp")
    turned = PIL.Image.Exif()
    turned[274] = 6
    PIL.Image.fromarray(picture[:90]).save(folder / "part4.jpg", exif=turned)
    (folder / "part5.png").write_bytes((folder / "part00.png").read_bytes()[:400])
    (folder / "part6.png").write_text("no picture", encoding="utf-8")
    PIL.Image.fromarray(picture.astype(np.uint16)).save(folder / "part7.png")
    code, rows, said = run(bundle, folder, tmp_path / "gone.png")
    assert (code, said) == (1, "")
    failed = {row["path"].rsplit("/", 1)[-1]: row["error"] for row in rows if row["status"] == "failed"}
    assert sorted(failed) == ["gone.png", "part5.png", "part6.png", "part7.png"]
    assert "no such file" in failed["gone.png"]
    assert "damaged" in failed["part5.png"]
    assert "is no PNG" in failed["part6.png"]
    assert "holds uint16, and the model was made from uint8" in failed["part7.png"]
    done = [row for row in rows if row["status"] == "done"]
    assert len(done) == 5
    for row in done:
        one = predict(read_raster(row["path"]), model)
        assert row["score"] == pytest.approx(one.image_score, abs=1e-4), row["path"]
        assert (row["verdict"], row["p_value"]) == (one.verdict, one.p_value)
        boxes = [[list(f.start), list(f.stop)] for f in one.findings]
        assert [f["box_index"] for f in row["findings"]] == boxes
    assert {p.name for p in bundle.iterdir()} >= {"README.md", "edge.json", "model.onnx", "requirements.txt"}
    assert Engine("cpu").load(bundle).card.calibration == model.card.calibration


def test_a_bundle_that_was_changed_does_not_start(bundle, tmp_path):
    changed = tmp_path / "m"
    changed.mkdir()
    for file in bundle.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "model.onnx").write_bytes(b"")
    code, rows, said = run(changed, tmp_path / "x.png")
    assert (code, rows) == (2, [])
    assert said.startswith("error: model.onnx is not the file that edge.json was written for")


def test_nothing_to_inspect_is_said(bundle, tmp_path):
    code, rows, said = run(bundle, tmp_path)
    assert (code, rows, said) == (2, [], f"error: no picture in {tmp_path}\n")


def test_a_full_disk_is_told_in_one_line(bundle, parts, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    folder = parts.write(tmp_path / "pictures", [parts.brushed(7)])
    code, rows, said = run(bundle, folder, "--out", "/dev/full")
    assert (code, rows) == (1, [])
    assert said.startswith("error: a result cannot be written: ")
    assert said.count("\n") == 1


def test_who_reads_the_lines_may_go(bundle, parts, tmp_path):
    folder = parts.write(tmp_path / "pictures", [parts.brushed(7)] * 2)
    command = [sys.executable, "-I", str(bundle / edge.RUNNER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as going:
        going.stdout.close()
        assert going.stderr.read() == ""
    assert going.returncode == 1


def test_a_picture_too_large_for_the_memory_does_not_end_the_run(runner, bundle, parts, tmp_path, capsys, monkeypatch):
    folder = parts.write(tmp_path / "pictures", [parts.brushed(7), parts.brushed(8)])
    inspect, seen = runner.Model.inspect, []

    def short(self, pixels):
        seen.append(1)
        if len(seen) == 1:
            raise MemoryError
        return inspect(self, pixels)

    monkeypatch.setattr(runner.Model, "inspect", short)
    assert runner.main(["--model", str(bundle), str(folder)]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["status"], first["error"], second["status"]) == ("failed", "does not fit in memory", "done")


def test_what_is_missing_is_named(bundle):
    lacking = "import sys; sys.modules['onnxruntime'] = None; " + ALONE.replace("\nimport", "import", 1)
    command = [sys.executable, "-I", "-c", lacking, str(bundle / edge.RUNNER), "x.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: import of onnxruntime halted")
    assert done.stderr.endswith("Install what requirements.txt beside this file names.\n")


def test_pictures_go_through_the_runner_a_few_at_a_time(model, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(edge, "ROUND", 2)
    calls = []
    run_alone = edge._run
    monkeypatch.setattr(
        edge, "_run", lambda folder, paths, scratch: calls.append(paths) or run_alone(folder, paths, scratch)
    )
    looked_at = parts.write(tmp_path / "looked_at", [parts.brushed(100 + k) for k in range(3)])
    done = export(model, "edge", tmp_path / "m", [looked_at])
    assert [len(paths) for paths in calls] == [2, 1]
    assert max(row.score for row in done.compared) < 1e-4


def test_an_export_says_why_its_bundle_does_not_run(model, parts, tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    for name in edge.FILES:
        (tmp_path / "templates" / name).write_text("import sys; sys.exit('error: no room')", encoding="utf-8")
    monkeypatch.setattr(edge, "TEMPLATES", tmp_path / "templates")
    looked_at = parts.write(tmp_path / "looked_at", [parts.brushed(100)])
    with pytest.raises(ModelError, match=r"edge bundle does not run: error: no room"):
        export(model, "edge", tmp_path / "m", [looked_at])


def test_colour_two_views_and_tiles(parts, tmp_path, monkeypatch):
    """Everything that the small grey model does not have."""
    views = ((1.0, 3.0, 3.0, False), (0.7, 0.0, 1.0, True))
    preset = learn.PRESETS["fast"]
    given = {**preset.settings, "views": views, "memory": 256, "dim": 0}
    monkeypatch.setitem(learn.PRESETS, "fast", replace(preset, settings=given, size=128))
    colour = [np.stack([parts.brushed(3 * k + c, 110) for c in range(3)], -1) for k in range(5)]
    made = learn.fit(parts.write(tmp_path / "good", colour[:4]), tmp_path / "model", preset="fast", device="cpu")
    tensors = weights.load(made.folder, made.card)
    weights.save(made.folder, replace(made.card, preparation=replace(made.card.preparation, tile=96)), tensors)
    looked_at = parts.write(tmp_path / "looked_at", [parts.hole(colour[4].copy()), colour[4][:80]])
    (one, other) = export(Engine("cpu").load(made.folder), "edge", tmp_path / "m", [looked_at]).compared
    assert max(one.score, other.score) < 1e-4
    assert max(one.mask, other.mask) < 1e-3


def test_every_kind_of_file_is_read_as_the_suite_reads_it(runner, parts, tmp_path):
    grey = parts.brushed(0, 40)
    rgb = np.stack([grey, 255 - grey, np.roll(grey, 7)], -1)
    image = PIL.Image.fromarray
    kinds = {
        "grey.png": image(grey),
        "grey16.png": image(grey.astype(np.uint16) * 200),
        "grey16.tif": image(grey.astype(np.uint16) * 200),
        "float.tif": image(grey.astype(np.float32) / 7),
        "alpha.png": image(np.dstack([rgb, grey])),
        "grey_alpha.png": image(grey).convert("LA"),
        "palette.png": image(rgb).quantize(16),
        "grey_palette.png": image(grey).convert("P"),
        "one_bit.png": image(grey).convert("1"),
        "colour.jpg": image(rgb),
        "grey.jpg": image(grey),
        "colour.webp": image(rgb),
        "colour.bmp": image(rgb),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
        read, known = runner.read(tmp_path / name), read_raster(tmp_path / name).array
        assert read.dtype == known.dtype, name
        assert np.array_equal(read, known), name
    (tmp_path / "wrong.jpg").write_bytes((tmp_path / "grey.png").read_bytes())
    with pytest.raises(runner.PictureError, match="not what its suffix says"):
        runner.read(tmp_path / "wrong.jpg")
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "signed.tif", grey.astype(np.int8), photometric="minisblack")
    with pytest.raises(runner.PictureError, match="holds int8"):
        runner.read(tmp_path / "signed.tif")
    (tmp_path / "folder.png").mkdir()
    assert "folder.png" not in {path.name for path in runner.list_pictures([tmp_path])}


sides = st.integers(2, 70)  # torch mistakes planes of one column, given or wanted


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides)
def test_resizing_is_torchs(runner, y, x, h, w):
    image = np.random.default_rng(y * x).normal(size=(2, y, x)).astype(np.float32)
    for mine, smooth in ((runner.shrink, True), (runner.enlarge, False)):
        known = F.interpolate(torch.from_numpy(image)[None], (h, w), mode="bilinear", antialias=smooth)[0].numpy()
        assert np.abs(mine(image, (h, w)) - known).max() < 1e-4  # torch finds places in float32


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides)
def test_bytes_are_resized_as_torch_does_to_the_bit(runner, y, x, h, w):
    image = np.random.default_rng(y * x).integers(0, 256, (3, y, x)).astype(np.uint8)
    known = F.interpolate(torch.from_numpy(image)[None], (h, w), mode="bilinear", antialias=True)[0].numpy()
    assert np.array_equal(runner.shrink(image, (h, w)), known)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 4.0, 10.0])
def test_blurring_is_the_suites(runner, sigma):
    image = torch.rand(3, 33, 50)
    known = blurred(image[None], sigma)[0].numpy()
    assert np.abs(runner.blur(image.numpy(), sigma) - known).max() < 1e-6


@pytest.mark.parametrize("border", [True, False])
def test_joining_levels_is_the_suites(runner, border):
    levels = [torch.rand(1, 4, 12, 16), torch.rand(1, 5, 6, 8)]
    known = Backbone.join(None, levels, border)[0].numpy()
    assert np.abs(runner.join([level[0].numpy() for level in levels], border) - known).max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), sides, sides, st.floats(0.2, 0.9))
def test_regions_are_the_suites(runner, seed, y, x, low):
    scores = np.random.default_rng(seed).random((y, x)).astype(np.float32)
    _, known = find(scores, low, 0.9, Geometry.pixels((y, x)))
    found = runner.regions(scores, low, 0.9)
    assert sorted(([*f.start], [*f.stop], f.size, f.peak) for f in known) == sorted(
        (*f["box_index"], f["size"], f["peak"]) for f in found
    )
