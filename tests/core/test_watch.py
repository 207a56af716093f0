"""A folder that is watched: each image once, as soon as it is complete and no sooner."""

import contextlib
import json
import shutil
import sys
import threading
import time

import pytest

from inspection_core.io.store import RunStore
from inspection_core.publish import JsonLines
from inspection_core.watch import Pace, watch

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell that a file was closed")


@contextlib.contextmanager
def watching(folder, model, run, **options):
    """Watch in a thread; yields a list of rows as they come, and at the end ``outcome`` is in its `end`."""

    class Seen(list):
        end = None

    seen, stop = Seen(), threading.Event()

    def work():
        seen.end = watch(folder, model, run, stop=stop, told=seen.append, **options)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def paths(seen):
    return sorted(row.path for row in seen)


@pytest.fixture
def drop(tmp_path):
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


MODES = {"told by the system": {}, "by looking": {"events": False, "look": 0.1}}


@pytest.mark.parametrize("mode", [pytest.param(m, marks=LINUX if "system" in m else ()) for m in MODES])
def test_what_is_there_what_comes_and_what_is_moved_in(mode, drop, pictures, bright, tmp_path):
    shutil.copy(pictures / "part00.png", drop / "before.png")
    with watching(drop, bright, tmp_path / "run", settle=0.2, **MODES[mode]) as seen:
        wait_for(lambda: paths(seen) == ["before.png"])
        shutil.copy(pictures / "part01.png", drop / "came.png")
        (drop / "notes.txt").write_text("none")
        (pictures / "part02.png").rename(drop / "moved.png")
        (drop / ".hidden.png.part").write_bytes(b"x")
        wait_for(lambda: len(seen) == 3)
        time.sleep(0.3)
        assert paths(seen) == ["before.png", "came.png", "moved.png"]
    done = seen.end
    assert (done.done, sum(done.counts.values()), done.counts["failed"]) == (3, 3, 0)
    assert done.figures["latency"].keys() == {"p50", "p95", "p99"}
    assert {p.name for p in done.outputs} == {"results.csv", "results.parquet", "report.html"}


@LINUX
def test_a_file_that_is_still_written_is_not_taken(drop, pictures, bright, tmp_path):
    whole = (pictures / "part03.png").read_bytes()
    with watching(drop, bright, tmp_path / "run", settle=60, look=60) as seen:
        time.sleep(0.3)
        with (drop / "slow.png").open("wb") as file:
            for first in range(0, len(whole), 200):
                file.write(whole[first : first + 200])
                file.flush()
                time.sleep(0.02)
            assert list(seen) == []
        wait_for(lambda: len(seen) == 1)
    assert (seen[0].status, seen[0].verdict) == ("done", "NG")


def test_an_image_that_is_written_again_is_done_again(drop, pictures, bright, tmp_path):
    with watching(drop, bright, tmp_path / "run", settle=0.1, look=0.1) as seen:
        shutil.copyfile(pictures / "part00.png", drop / "a.png")
        wait_for(lambda: seen and seen[-1].verdict == "NG")
        shutil.copyfile(pictures / "part01.png", drop / "a.png")
        wait_for(lambda: seen[-1].verdict == "OK")
    with RunStore(tmp_path / "run") as store:
        assert [row.verdict for row in store.rows()] == ["OK"]


def test_a_watch_goes_on_where_it_stopped_and_ends_when_idle(drop, pictures, bright, tmp_path):
    shutil.copy(pictures / "part00.png", drop / "a.png")
    told = tmp_path / "told.jsonl"
    options = {"settle": 0.05, "look": 0.1, "idle": 0.5, "sinks": [JsonLines(told)]}
    assert watch(drop, bright, tmp_path / "run", **options).done == 1
    shutil.copy(pictures / "part01.png", drop / "b.png")
    (drop / "bad.png").write_bytes(b"no picture")
    again = watch(drop, bright, tmp_path / "run", **options)
    assert again.done == 2
    assert again.counts == {"OK": 1, "REVIEW": 0, "NG": 1, "failed": 1}
    assert again.unsent == {}
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == ["a.png", "b.png", "bad.png"]
    assert {line["path"]: line["status"] for line in lines}["bad.png"] == "failed"


def test_figures_of_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    pace = Pace()
    pace.arrived("a", 100.0)
    pace.arrived("b", 100.0)
    now[0] = 103.0
    assert pace.lag() == (2, 3.0)
    pace.finished(["a"])
    pace.dropped("b")
    assert pace.lag() == (0, 0.0)
    assert pace.figures() == {"latency": {"p50": 3.0, "p95": 3.0, "p99": 3.0}, "longest": 3.0, "most_waiting": 2}
