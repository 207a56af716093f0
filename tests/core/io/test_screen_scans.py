"""Screening scans: every series is an input, and each gets its DICOM SEG."""

import pickle

import numpy as np

from inspection_core import pipeline
from inspection_core.engine import Engine
from inspection_core.inspector import Inspector, Task
from inspection_core.io.dicom_seg import read_seg
from inspection_core.screen import screen
from inspection_core.session import Options, list_folder


def test_a_night_of_studies(dicom, band, tmp_path):
    studies = tmp_path / "studies"
    bright = np.zeros((8, 20, 18), np.int16)
    bright[3:6, 5:10, 6:12] = 1000
    for k in range(2):
        dicom.write_series(studies / f"case{k}", bright, SeriesInstanceUID=f"1.2.9.{k}", SeriesNumber=k + 1)
    dicom.write_series(studies / "gap", bright, keep={0, 1, 2, 5, 6, 7}, SeriesInstanceUID="1.2.9.7", SeriesNumber=7)
    model, run = Engine("cpu").load(band()), tmp_path / "run"
    options = Options(("dicom-seg", "masks"))
    done = screen(studies, model, run, options=options)
    rows = {row.path.partition(" (series ")[0]: row for row in done.rows}
    assert set(rows) == {"case0", "case1", "gap"}
    assert rows["gap"].status == "failed"
    assert "is not loaded" in rows["gap"].error
    for name in ("case0", "case1"):
        row = rows[name]
        assert (row.status, row.verdict, row.n_findings) == ("done", "NG", 1)
        seg = run / "results" / row.path / "seg.dcm"
        assert int(read_seg(seg).array.sum()) == 90
        assert (run / "masks" / f"{row.path}.nii.gz").is_file()
        assert (run / row.details["picture"]).is_file()
    assert screen(studies, model, run, options=options).new == 0

    # As a cluster does it: tasks go to another process.
    listing = list_folder(studies, run, model.card, options)
    tasks = pickle.loads(pickle.dumps([Task(*listing[i]) for i in range(len(listing.scans))]))  # noqa: S301 - our own
    there = []
    elsewhere = Inspector(model, tmp_path / "there", studies, formats=options.files)
    pipeline.run(tasks, elsewhere.stages(there.extend), depth=1)
    assert {row.path: (row.score, row.content) for row in there} == {
        row.path: (row.score, row.content) for row in rows.values() if row.status == "done"
    }
