"""The demo on real solar cells, made small; without its sample package it says what to install."""

import importlib.util
import json
import webbrowser

import pytest
from typer.testing import CliRunner

from inspection_core import cli, demo
from inspection_core.errors import UsageError

needs_cells = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None,
    reason='elpv-dataset is not installed: pip install "inspection-suite[samples]"',
)


@needs_cells
def test_cells_are_monocrystalline_and_sure():
    folder, good, defect = demo.cells()
    assert (len(good), len(set(good) & set(defect))) == (588, 0)
    assert len(defect) == 313
    assert all((folder / name).is_file() for name in (good[0], defect[-1]))


@needs_cells
def test_a_small_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "N_TRAIN", 12)
    monkeypatch.setattr(demo, "N_TEST_GOOD", 4)
    monkeypatch.setattr(demo, "N_TEST_DEFECT", 4)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("--no-open opens nothing"))
    out, result = tmp_path / "demo", tmp_path / "result.json"
    arguments = ["demo", "--out", str(out), "--preset", "fast", "--no-open", "--device", "cpu", "--json", str(result)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "image AUROC" in done.stdout
    assert "4 good and 4 defective cells never seen in fitting" in done.stdout
    assert "CC BY-NC-SA 4.0" in done.stderr
    data = json.loads(result.read_text(encoding="utf-8"))
    assert data["status"] == "ok"
    assert 0 <= data["image_auroc"] <= 1
    page = (out / "run" / "report.html").read_text(encoding="utf-8")
    assert "Training: 12 good cells" in page
    assert "CC BY-NC-SA 4.0" in page
    assert (out / "run" / "results.csv").is_file()
    assert "CC BY-NC-SA 4.0" in (out / "model" / "card.toml").read_text(encoding="utf-8")


def test_without_the_sample_package(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r'The demo needs its sample images: pip install "inspection-suite\[samples\]"'
    ):
        demo.cells()
    done = CliRunner().invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("mark", ["card.toml", "run.db"])
def test_parts_of_an_earlier_demo_are_replaced(tmp_path, mark):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / mark).write_text("", encoding="utf-8")
    demo._clear(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_other_folders_of_the_user_are_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is there already and not from a demo\. Give another folder for --out\."):
        demo._clear(tmp_path / "model")
    assert (tmp_path / "model" / "thesis.tex").is_file()


def test_the_report_opens_only_where_there_is_a_display(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(opened.append(url)) or True)
    monkeypatch.setattr(demo.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = demo.Demo(tmp_path / "report.html", (), {}, (), ())
    assert not done.open_in_browser()
    monkeypatch.setenv("DISPLAY", ":0")
    assert done.open_in_browser()
    assert opened == [(tmp_path / "report.html").as_uri()]
