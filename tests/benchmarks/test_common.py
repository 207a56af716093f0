"""What the benchmarks share, and the page that is made from their results."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def common(monkeypatch):
    module = load("common")
    monkeypatch.setitem(sys.modules, "common", module)
    return module


def test_a_page_holds_what_the_json_says_and_nothing_else_changes(common, tmp_path):
    cells = common.table("Volumes", ["what", "seconds"], [["ours", common.spread([1.0, 3.0, 2.0])]])
    common.write_json(tmp_path / "volumes.json", common.machine(), [cells], notes=["A note."])
    page = "before\n\n<!-- bench: volumes -->\nold\n<!-- end -->\n\n<!-- bench: other -->\nkept\n<!-- end -->\n"
    text, done = load("tables").filled(page, tmp_path)
    assert done == ["volumes"]
    assert "| ours | 2.00 (1.00 to 3.00) |" in text
    assert "- A note." in text
    assert "old" not in text
    assert text.endswith("<!-- bench: other -->\nkept\n<!-- end -->\n")
    assert load("tables").filled(text, tmp_path)[0] == text


def test_a_machine_is_known(common):
    facts = common.machine(("numpy", "no-such-package"))
    assert facts["versions"] == {"numpy": np.__version__, "no-such-package": ""}
    assert facts["cores"] >= 1
    assert str(common.ROOT) not in json.dumps(facts)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted on Linux")
def test_a_peak_is_what_the_work_took(common):
    _, once = common.measured(lambda: np.ones(64 << 20, np.uint8).sum())
    _, after = common.measured(lambda: None)
    assert 60 < once["peak_mib"] < 100
    assert after["peak_mib"] < 10


def test_a_script_that_fails_says_of_what(common, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, json\nprint(json.dumps({'sum': sum(map(int, sys.argv[1:]))}))\n")
    assert common.in_process(script, 1, 2)["sum"] == 3
    assert "invalid literal" in common.in_process(script, "x")["error"]


def test_ratios_are_formed_within_a_round(common):
    assert common.ratios([{"s": 4.0}, {"error": "x"}, {"s": 9.0}], [{"s": 2.0}, {"s": 1.0}, {"s": 3.0}], "s") == [2, 3]


def test_a_script_that_does_not_end_is_ended(common, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)\n")
    assert common.in_process(script, limit=1) == {"error": "no end within 1 s"}


def test_a_command_names_no_place_of_this_machine(common, monkeypatch):
    monkeypatch.setenv("INSPECTION_DATA", "/somewhere/data")
    given = [f"{common.ROOT}/benchmarks/start.py", "--out", "x.json", "--set", "/somewhere/data/cells", "--peer",
             "/opt/peer/bin/python", "--growing", ""]  # fmt: skip
    words = common._words(given)
    assert words == ["benchmarks/start.py", "--set", "$INSPECTION_DATA/cells", "--peer", "python", "--growing", "''"]


def test_what_is_lacking_names_the_extra(common):
    assert common.lacking("json", extra="bench") == ""
    assert common.lacking("json", "no_such_module", extra="bench") == "needs no_such_module, of the extra [bench]"


def test_textures_are_all_different(common, tmp_path):
    common.write_textures(tmp_path / "images", 3, (16, 24))
    contents = [path.read_bytes() for path in sorted((tmp_path / "images").iterdir())]
    assert len(set(contents)) == 3


def test_results_are_published_with_their_plots(common, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    lines = {"ours": [(1, 2.0), (10, 30.0)]}
    drawn = [common.plot("growth", "images", "seconds", lines), common.plot("room", "images", "MiB", lines, True)]
    common.write_json(tmp_path / "results" / "growing.json", common.machine(), [], plots=drawn)
    page = tmp_path / "docs" / "performance.md"
    (page.parent / "images").mkdir(parents=True)
    page.write_text("<!-- bench: growing -->\n<!-- end -->\n")
    monkeypatch.setattr(sys, "argv", ["tables.py", str(tmp_path / "results"), "--page", str(page)])
    assert load("tables").main() == 0
    assert "![seconds against images](images/growth.svg)\n![MiB against images](images/room.svg)" in page.read_text()
    assert all((page.parent / "images" / f"{name}.svg").read_text().startswith("<?xml") for name in ("growth", "room"))
    published = page.parent / "benchmarks" / "growing.json"
    assert published.read_bytes() == (tmp_path / "results" / "growing.json").read_bytes()
