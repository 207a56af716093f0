"""A server as users start it: a process of its own, and the command line with and without ``--engine``."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from inspection_core.cli import app
from inspection_core.engine import Engine
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.inputs import Choices, list_inputs, open_input
from inspection_core.io.scans import write_scan
from inspection_core.remote import RemoteEngine

TOKEN = "a-token-for-tests-alone"  # noqa: S105


@pytest.fixture
def process(fitted, band, tmp_path, monkeypatch):
    """URL of a server with a model of parts and one of volumes; afterwards it is told to stop, and must do so well."""
    monkeypatch.setenv("INSPECTION_TOKEN", TOKEN)
    command = [
        sys.executable,
        "-m",
        "inspection_core",
        "serve",
        fitted.folder,
        band(),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*map(str, command), "--json", str(tmp_path / "serve.json")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        line = server.stdout.readline()
        assert line.startswith("Serving band, "), (tmp_path / "log").read_text()
        yield next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        server.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=300)
        assert (server.returncode, rest) == (0, "Stopped.\n")
        assert json.loads((tmp_path / "serve.json").read_text())["status"] == "ok"
    finally:
        server.kill()
        server.communicate()
    log = (tmp_path / "log").read_text()
    assert "POST /v1/models/{model}/predict 200" in log
    for secret in (TOKEN, "part0", "Traceback"):
        assert secret not in log


def run(*arguments) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files; that of compressed ones unpacked, because gzip notes the name while writing."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in found.items()}


def test_the_same_to_the_bit(process, fitted, band, parts, tmp_path):
    pictures = parts.write(tmp_path / "in", [parts.brushed(50), parts.hole(parts.brushed(51))])
    array = np.random.default_rng(0).normal(0, 300, (9, 40, 37)).astype(np.int16)
    array[3:6, 5:20, 6:22] = 1000
    volume = tmp_path / "scan.nii.gz"
    write_scan(volume, Image(array[None], Geometry.from_spacing(array.shape, (2.0, 1.0, 1.0)), ("CT",)))
    sent = {"parts": (pictures, fitted.folder, "png,coco"), "volume": (volume, band(), "nifti,png")}
    for name, (path, folder, formats) in sent.items():
        model = Engine("cpu").card(folder).id
        here, there = tmp_path / f"{name}-here", tmp_path / f"{name}-there"
        said = run("predict", path, "-m", folder, "-o", here, "--format", formats, "--device", "cpu")
        assert (
            run("predict", path, "-m", model, "-o", there, "--format", formats, "--engine", process).replace(
                str(there), str(here)
            )
            == said
        )
        assert len(files(here)) >= 3
        assert files(there) == files(here)
    # What files do not hold.
    item, *_ = list_inputs([volume], Choices()).inputs
    image = open_input(item, ("CT",), Choices()).image
    local = predict(image, Engine("cpu").load(band()))
    remote = predict(image, RemoteEngine(process, TOKEN).load("band"))
    assert remote.score.dtype == local.score.dtype
    assert remote.score.tobytes() == local.score.tobytes()
    assert remote.mask.tobytes() == local.mask.tobytes()
    assert remote.findings == local.findings
    assert len(local.findings) >= 1
    assert (remote.image_score, remote.p_value, remote.warnings) == (local.image_score, local.p_value, local.warnings)
    run("screen", pictures, "-m", fitted.folder, "-o", tmp_path / "run-here", "--device", "cpu")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    name = fitted.card.id
    run("screen", pictures, "-m", name, "-o", tmp_path / "run-there", "--engine", process, "--token-file", token)
    here, there = ((tmp_path / f"run-{which}" / "results.csv").read_text() for which in ("here", "there"))
    assert rows(here) == rows(there)


def rows(table: str) -> list[list[str]]:
    """Return the cells but for the seconds."""
    return [[cell for i, cell in enumerate(line.split(",")) if i != 6] for line in table.splitlines()]


# name: (arguments, part of the one line)
USAGE = {
    "no token": (["serve", "MODEL"], "A server needs a token"),
    "open to others": (["serve", "MODEL", "--host", "0.0.0.0"], "without TLS"),  # noqa: S104
    "a token file of nobody": (["serve", "MODEL", "--token-file", "none"], "cannot be read"),
    "a token for nobody": (["predict", "IN", "-m", "m", "-o", "o", "--token-file", "x"], "Give its --engine URL too"),
    "two devices": (
        ["screen", ".", "-m", "m", "-o", "o", "--engine", "http://127.0.0.1:1", "--device", "cpu"],
        "--device is about this machine",
    ),
    "no token for it": (["screen", ".", "-m", "m", "-o", "o", "--engine", "http://127.0.0.1:1"], "wants a token"),
}


@pytest.mark.parametrize(("arguments", "text"), USAGE.values(), ids=USAGE)
def test_usage(arguments, text, monkeypatch, band, tmp_path):
    monkeypatch.delenv("INSPECTION_TOKEN", raising=False)
    if "0.0.0.0" in arguments:  # noqa: S104
        monkeypatch.setenv("INSPECTION_TOKEN", TOKEN)
    write_scan(tmp_path / "in.nii.gz", Image(np.zeros((1, 2, 2, 2), "u1"), Geometry.pixels((2, 2, 2)), ("CT",)))
    places = {"MODEL": str(band()), "IN": str(tmp_path / "in.nii.gz")}
    done = CliRunner().invoke(app, [places.get(a, a) for a in arguments])
    assert done.exit_code == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_is_not_there_is_one_line(monkeypatch, tmp_path, parts):
    monkeypatch.setenv("INSPECTION_TOKEN", TOKEN)
    pictures = parts.write(tmp_path / "in", [parts.brushed(0)])
    done = CliRunner().invoke(
        app, ["predict", str(pictures), "-m", "m", "-o", str(tmp_path / "o"), "--engine", "http://127.0.0.1:1"]
    )
    assert done.exit_code == 1
    assert done.stderr.startswith(
        "inspection predict: The server http://127.0.0.1:1 cannot be reached: nothing listens"
    )
    assert len(done.stderr.splitlines()) == 1
