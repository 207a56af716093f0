"""Runs as a whole: how they stand, how two differ, and other thresholds on their scores."""

import csv
import json
from dataclasses import replace

import pytest

from inspection_core.card import Calibration, ModelCard, Policy
from inspection_core.errors import UsageError
from inspection_core.io.store import Row, RunStore
from inspection_core.rethreshold import new_policy, rethreshold
from inspection_core.runs import compare, list_runs, summary
from inspection_core.session import now
from inspection_core.tables import Filter

SCORES = tuple(float(n) for n in range(1, 1000))
"""Of good images: the largest k make the rates k / 1000."""

CARD = ModelCard(
    "cells",
    "1",
    "patch-memory",
    "anomaly",
    ("grey",),
    "distance",
    policy=Policy(max_false_alarms=0.05, review=0.1),
    calibration=Calibration("cross", SCORES, SCORES, 500.0),
)
PEAKS = {"a.png": [905.0, 960.0], "b.png": [997.5], "c.png": [], "d/e.png": [930.0]}
IMAGES = {"a.png": (955.0, "NG"), "b.png": (998.0, "NG"), "c.png": (10.0, "OK"), "d/e.png": (930.0, "REVIEW")}


def rows(**changes):
    made = []
    for path, (score, verdict) in IMAGES.items():
        findings = [{"id": i, "label": "defect", "peak": peak} for i, peak in enumerate(PEAKS[path], 1)]
        details = {"findings": findings, "crops": [[f["id"], "x", None] for f in findings]}
        made.append(Row(path, "1-1", "done", score, 0.1, verdict, len(findings), 0.5, None, details, "c" + path))
    made.append(Row("z.png", "0-0", "failed", error="z.png is empty."))
    return [replace(row, **changes.get(row.path, {})) for row in made]


def make(folder, card=CARD, **changes):
    with RunStore(folder) as store:
        store.claim({"model": f"{card.id} {card.version} abc", "folder": "/parts"})
        store.note({"card": card.to_toml(), "started": now(), "finished": now(), "inputs": "5"})
        store.put(*rows(**changes))
    return folder


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "run")


def table(folder):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: line for line in csv.DictReader(file)}


# rate asked for: (verdicts of a, b, d/e; findings of a)
RATES = {
    0.005: (("OK", "NG", "OK"), 0),
    0.02: (("OK", "NG", "OK"), 0),
    0.03: (("REVIEW", "NG", "OK"), 1),
    0.05: (("NG", "NG", "REVIEW"), 2),
    0.1: (("NG", "NG", "NG"), 2),
}


@pytest.mark.parametrize("rate", RATES)
def test_verdicts_at_another_rate_are_those_of_a_new_run(rate, run):
    done = rethreshold(run, new_policy(CARD.policy, rate))
    shown = table(run / f"rethreshold-{rate:g}")
    verdicts, found = RATES[rate]
    assert tuple(shown[p]["verdict"] for p in ("a.png", "b.png", "d/e.png")) == verdicts
    assert int(shown["a.png"]["n_findings"]) == found
    assert shown["z.png"]["status"] == "failed"
    assert {shown[p]["score"] for p in IMAGES} == {str(score) for score, _ in IMAGES.values()}
    assert sum(done.counts.values()) == sum(done.changes.values()) == 5
    with RunStore(run) as store:
        assert list(store.rows()) == rows()  # the run stays as it is


def test_a_lower_threshold_says_that_findings_are_missing(run):
    assert "Screen again for more" in rethreshold(run, new_policy(CARD.policy, 0.2)).warnings[-1]


def test_a_rate_that_cannot_be_certified_is_said_to_be_so(run):
    assert "cannot be certified" in rethreshold(run, new_policy(CARD.policy, 0.0001)).warnings[0]


def test_filters_and_formats(run, tmp_path):
    wanted = Filter(frozenset({"NG", "failed"}), match="?.png")
    policy = new_policy(CARD.policy, 0.1)
    done = rethreshold(run, policy, out=tmp_path / "out", wanted=wanted, formats=("csv", "jsonl"))
    assert [p.name for p in done.outputs] == ["results.csv", "results.jsonl", "report.html"]
    assert list(table(tmp_path / "out")) == ["a.png", "b.png", "z.png"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["NG", "NG", None]


BAD = {
    "nothing": ({}, CARD.policy, "Say which rate"),
    "a band for a rate": ({"low": 0.2}, CARD.policy, "decides by p-value: say --max-false-alarms"),
    "a rate for a band": ({"max_false_alarms": 0.1}, Policy("band", low=0.3, high=0.7), "say --low and --high"),
    "nothing for a band": ({}, Policy("band", low=0.3, high=0.7), "Say which thresholds"),
}


@pytest.mark.parametrize("case", BAD)
def test_thresholds_that_make_no_sense(case):
    given, policy, words = BAD[case]
    with pytest.raises(UsageError, match=words):
        new_policy(policy, **given)


def test_a_band_moves(tmp_path):
    card = ModelCard("t", "1", "unet", "segmentation", ("CT",), "s", policy=Policy("band", low=0.3, high=0.7))
    low = {path: {"score": score / 1000} for path, (score, _) in IMAGES.items()}
    run = make(tmp_path / "run", card, **low)
    rethreshold(run, new_policy(card.policy, low=0.94, high=0.97))
    shown = table(run / "rethreshold-0.94-0.97")
    assert [shown[p]["verdict"] for p in IMAGES] == ["REVIEW", "NG", "OK", "OK"]
    assert shown["a.png"]["n_findings"] == "2"


FILTERS = {
    "all": (Filter(), 5),
    "verdict": (Filter(frozenset({"REVIEW"})), 1),
    "score": (Filter(min_score=950), 2),
    "p": (Filter(max_p=0.05), 0),
    "name": (Filter(match="d/*"), 1),
}


@pytest.mark.parametrize("case", FILTERS)
def test_filters(case):
    wanted, count = FILTERS[case]
    assert sum(wanted.wants(row) for row in rows()) == count


def test_a_verdict_that_does_not_exist():
    with pytest.raises(UsageError, match=r"A verdict is OK, REVIEW, NG or failed\. Got 'bad'"):
        Filter(frozenset({"bad"}))


# Lists and comparisons -----------------------------------------------------------------------------------------------


def test_runs_below_a_folder(tmp_path, run):
    make(tmp_path / "line3" / "monday")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.db").write_text("my shopping list, which is longer than a header " * 9)
    found, wrong = list_runs(tmp_path)
    assert [one.folder for one in found] == [str(tmp_path / "line3" / "monday"), str(tmp_path / "run")]
    assert found[0].counts == {"OK": 1, "REVIEW": 1, "NG": 2, "failed": 1}
    assert (found[0].state, found[0].model, found[0].inputs) == ("finished", "cells 1", 5)
    assert len(wrong) == 1
    assert "is no database of a run" in wrong[0]


def test_a_run_that_is_worked_on_and_one_that_stopped(run):
    with RunStore(run) as store:
        store.note({"finished": ""})
        assert summary(run).state == "stopped"
        with store.locked():
            assert summary(run).state == "running"


def test_no_run_there(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        summary(tmp_path)


def test_equal_runs(run, tmp_path):
    other = make(tmp_path / "other", **{"a.png": {"seconds": 9.0, "fingerprint": "2-2"}})
    done = compare(run, other)
    assert done.identical
    assert done.notes == []


def test_how_runs_differ(run, tmp_path):
    other = make(tmp_path / "other", **{"a.png": {"score": 955.5, "verdict": "OK"}, "b.png": {"path": "new.png"}})
    done = compare(run, other)
    assert not done.identical
    assert (done.only_first, done.only_second, done.n_different, done.largest) == (1, 1, 1, 0.5)
    assert done.different == [{"path": "a.png", "verdicts": ["NG", "OK"], "scores": [955.0, 955.5]}]
    assert done.changes["NG", "OK"] == 1
    assert done.changes["failed", "failed"] == 1
