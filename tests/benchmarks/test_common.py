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
