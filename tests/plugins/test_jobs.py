"""What runs off the main thread, and what the user is told of its end."""

import pytest

from inspection_core.errors import ReadError
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
