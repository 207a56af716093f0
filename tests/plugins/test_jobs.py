"""What runs off the main thread, and what the user is told of its end."""

import threading

import pytest

from inspection_core.errors import ReadError
from inspection_core.progress import tick
from napari_inspection.jobs import Jobs


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ReadError("part.png holds no image."), "part.png holds no image."),
        (MemoryError(), "Memory ran out. Close other programs or large layers, then run again."),
        (ValueError("PATIENT^NAME"), "An unforeseen error stopped this (ValueError in test_jobs.py, line "),
    ],
)
def test_a_fault_in_the_end_of_a_job_is_one_line_in_the_panel(qtbot, error, line):
    jobs, said = Jobs(), []
    jobs.said.connect(lambda kind, text: said.append((kind, text)))

    def done(result):
        raise error

    with qtbot.capture_exceptions() as faults:
        jobs.start("Opening", lambda: 1, done)
        qtbot.waitUntil(lambda: any(kind == "error" for kind, _ in said))
    ((_, text),) = [one for one in said if one[0] == "error"]
    assert text.startswith(line)
    assert "PATIENT" not in text
    assert len(faults) == (0 if isinstance(error, ReadError) else 1)  # a fault of ours is seen elsewhere too
    assert jobs.idle


def test_the_last_of_some_quick_steps_is_told_while_the_next_one_takes_long(qtbot):
    jobs, told, go = Jobs(), [], threading.Event()
    jobs.working.connect(lambda name, done, total, left: told.append((done, total)))

    def work():
        for step in range(4):
            tick(step, 9)
        go.wait(60)

    jobs.start("Screening", work, lambda result: None)
    try:
        qtbot.waitUntil(lambda: (3, 9) in told, timeout=20_000)
    finally:
        go.set()
    qtbot.waitUntil(lambda: jobs.idle)
