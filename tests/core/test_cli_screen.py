"""Commands on runs: what they print, and the JSON of each."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inspection_core import cli
from inspection_core.cli_screen import command_line

COMMON = {"schema_version", "command", "status", "inputs", "outputs", "errors", "warnings"}
OWN = {
    "screen": {"counts", "new", "seconds"},
    "watch": {"counts", "new", "latency", "longest", "most_waiting", "unsent"},
    "rethreshold": {"counts", "changes"},
    "runs list": {"runs"},
    "runs show": {"run", "images"},
    "runs compare": {
        "identical",
        "n_different",
        "only_first",
        "only_second",
        "largest_difference",
        "changes",
        "different",
    },
}


@pytest.fixture
def run(tmp_path):
    """Run a command; return exit code, output, messages and the JSON that it wrote."""

    def command(*arguments):
        path = tmp_path / "result.json"
        path.unlink(missing_ok=True)
        done = CliRunner().invoke(cli.app, [*map(str, arguments), "--json", str(path)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert set(data) - COMMON <= OWN[data["command"]]
        if data["status"] == "ok":
            assert set(data) == COMMON | OWN[data["command"]]
        return done.exit_code, done.stdout, done.stderr, data

    return command


def test_from_a_screening_to_other_thresholds(run, pictures, bright, tmp_path):
    (pictures / "bad.png").write_bytes(b"")
    first, second = tmp_path / "runs" / "first", tmp_path / "runs" / "second"
    for out in (first, second):
        code, shown, _, data = run("screen", pictures, "-m", bright.folder, "-o", out, "--format", "masks,jsonl")
        assert code == 0
        assert shown.startswith("4 OK, 0 REVIEW, 2 NG, 1 failed of 7 images")
        assert data["errors"][0]["path"] == "bad.png"

    code, shown, _, data = run("runs", "list", tmp_path / "runs")
    assert code == 0
    assert [Path(one["folder"]).name for one in data["runs"]] == ["first", "second"]

    code, shown, _, data = run(
        "runs", "show", first, "--verdict", "NG", "--out", tmp_path / "ng", "--format", "csv,jsonl"
    )
    assert code == 0
    assert [image["path"] for image in data["images"]] == ["part00.png", "part03.png"]
    assert re.search(r"NG      score (1|0\.9999)  1 findings  part03\.png", shown)  # joined windows may round
    assert len((tmp_path / "ng" / "results.csv").read_text().splitlines()) == 3

    code, shown, _, data = run("runs", "compare", first, second)
    assert (code, data["identical"]) == (0, True)
    assert "All inputs have equal results, bit for bit." in shown

    code, shown, _, data = run("rethreshold", first, "--low", 0.5, "--high", 1)
    assert code == 0
    assert shown.startswith("2 from NG to REVIEW")
    assert data["counts"] == {"OK": 4, "REVIEW": 2, "NG": 0, "failed": 1}


def test_a_watch_that_ends_when_idle(run, pictures, bright, tmp_path):
    told = tmp_path / "told.jsonl"
    options = ("--idle", 0.3, "--settle", 0.05, "--poll", 0.1, "--publish", f"jsonl:{told}")
    code, shown, said, data = run("watch", pictures, "-m", bright.folder, "-o", tmp_path / "run", *options)
    assert code == 0
    assert (data["new"], data["unsent"]) == (6, {})
    assert "6 images; from complete file to verdict: median" in shown
    assert said.startswith("watching ")
    assert len(told.read_text().splitlines()) == 6


BAD = {
    "no run": (["runs", "show", "."], 2, "holds no run. Give the folder"),
    "compare no run": (["runs", "compare", ".", "."], 2, "holds no run"),
    "rethreshold no run": (["rethreshold", ".", "--max-false-alarms", "0.1"], 2, "holds no run"),
    "unknown format": (["screen", ".", "-m", "x", "-o", "o", "--format", "bmp"], 2, "Formats are csv, parquet"),
    "unknown pictures": (["screen", ".", "-m", "x", "-o", "o", "--pictures", "some"], 2, "Got 'some'"),
    "workers without ray": (["screen", ".", "-m", "x", "-o", "o", "--workers", "2"], 2, "--workers is the number"),
    "watch nothing": (["watch", "absent", "-m", "x", "-o", "o"], 2, "absent is no folder"),
    "publish nowhere": (["watch", ".", "-m", "x", "-o", "o", "--publish", "x"], 2, "--publish takes jsonl:FILE"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_line(case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, wanted, words = BAD[case]
    code, _, said, data = run(*arguments)
    assert (code, said.count("\n"), data["status"]) == (wanted, 1, "failed")
    assert words in said


def test_a_command_is_told_without_the_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "screen", "my parts", "--database", "postgresql://me:hunter2@host/db"])
    assert command_line() == "inspection screen 'my parts' --database postgresql://me@host/db"


@pytest.mark.skipif(os.name != "posix", reason="signals as services send them")
def test_sigterm_stops_in_good_order(pictures, bright, tmp_path):
    command = ["-m", "inspection_core", "watch", pictures, "-m", bright.folder, "-o", tmp_path / "run"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert "part0" in process.stdout.readline()  # it is at work
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "stopped; writing the tables and the report." in said
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / ".running").exists()
