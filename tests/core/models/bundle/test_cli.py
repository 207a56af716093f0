"""Bundles on the command line."""

import json

import pytest
from typer.testing import CliRunner

from inspection_core import cli, zoo
from inspection_core.io.nifti import read_nifti, write_nifti


def run(*arguments):
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception  # a traceback for the user
    return done.exit_code, done.stdout, done.stderr


def test_a_scan_through_a_bundle(make, tmp_path):
    image, inside = make.ball()
    write_nifti(tmp_path / "scan.nii.gz", image)
    bundle = make.pack(make.spleen(tmp_path / "spleen"), tmp_path / "spleen.zip")
    code, shown, said = run(
        "predict",
        tmp_path / "scan.nii.gz",
        "--model",
        f"bundle:{bundle}",
        "--out",
        tmp_path / "out",
        "--format",
        "nifti",
    )
    assert (code, said) == (0, "")
    assert "check" in shown
    mask = read_nifti(tmp_path / "out" / "scan" / "mask.nii.gz")
    assert mask.geometry.is_close(read_nifti(tmp_path / "scan.nii.gz").geometry)
    assert (mask.array[0] > 0)[inside].mean() > 0.9
    found = json.loads((tmp_path / "out" / "scan" / "findings.json").read_text(encoding="utf-8"))
    assert [f["label"] for f in found["findings"]] == ["spleen"]
    assert found["model"]["id"] == "spleen"


def test_the_card_is_shown(make, tmp_path):
    code, shown, _ = run("models", "show", f"bundle:{make.spleen(tmp_path / 'spleen')}")
    assert code == 0
    assert 'licence = "Apache-2.0, see LICENSE; Copyright (c) Nobody"' in shown
    assert "not to be used for diagnostic purposes" in shown


def test_a_bundle_with_code_is_one_line(make, tmp_path):
    folder = make.spleen(tmp_path / "m")
    path = folder / "configs/inference.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["postprocessing"]["transforms"].append({"_target_": "Lambdad", "keys": "pred", "func": "$os.system"})
    path.write_text(json.dumps(data), encoding="utf-8")
    write_nifti(tmp_path / "scan.nii.gz", make.ball()[0])
    code, shown, said = run("predict", tmp_path / "scan.nii.gz", "--model", f"bundle:{folder}", "--out", tmp_path / "o")
    assert (code, shown) == (1, "")
    assert said.startswith("inspection predict: configs/inference.json of ")
    assert "uses 'os.system', which is not among what bundles may use" in said
    assert said.count("\n") == 1


def test_nothing_there(tmp_path):
    code, _, said = run("models", "show", f"bundle:{tmp_path / 'x'}")
    assert code == 1
    assert "where nothing is. Give the path of its folder or file." in said


def test_get(make, tmp_path, monkeypatch):
    archive = make.pack(make.spleen(tmp_path / "spleen"), tmp_path / "spleen.zip")
    entry = zoo.Entry("spleen", "0.3.1", "https://x/y.zip", "0" * 40)
    asked = []

    def get(name, out, **more):
        asked.append((name, out, more["version"], more["index"]))
        more["progress"](1, 2)
        return archive, entry

    monkeypatch.setattr(zoo, "get", get)
    code, shown, _ = run("models", "get", "spleen", "--out", tmp_path, "--json", tmp_path / "r.json")
    assert code == 0
    assert f"--model bundle:{archive}" in shown
    assert asked == [("spleen", tmp_path, "", zoo.INDEX)]
    assert json.loads((tmp_path / "r.json").read_text())["bundle"]["version"] == "0.3.1"


CARD = """
id = "net"
version = "1"
architecture = "onnx"
task = "segmentation"
channels = ["CT"]
score = "x"
classes = ["a"]
[preparation]
view = "volume"
multiple = 8
[policy]
kind = "band"
[parameters]
activation = "softmax"
"""


def test_add(networks, tmp_path):
    file = networks.KINDS["onnx"](tmp_path, networks.convolution(1, 2, 3), 1)
    (tmp_path / "card.toml").write_text(CARD, encoding="utf-8")
    code, shown, _ = run("models", "add", file, "--card", tmp_path / "card.toml", "--out", tmp_path / "m")
    assert (code, shown) == (0, f"Model net (onnx): {tmp_path / 'm'}\n")
    assert run("models", "show", tmp_path / "m")[0] == 0
    code, _, said = run("models", "add", file, "--card", tmp_path / "card.toml", "--out", tmp_path / "m")
    assert code == 2
    assert "is not empty. Give a new folder with --out." in said


@pytest.mark.parametrize("missing", ["file", "card"])
def test_add_without(tmp_path, missing):
    there = tmp_path / "there"
    there.write_text("x", encoding="utf-8")
    file, card = (tmp_path / "not", there) if missing == "file" else (there, tmp_path / "not")
    code, _, said = run("models", "add", file, "--card", card, "--out", tmp_path / "m")
    assert code == 2
    assert "is no file. Give a network's file, and a card with --card." in said
