"""A folder of studies as a work list: thumbnails, screening, verdicts in the trade's words, sorted and filtered."""

import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from qtpy.QtCore import Qt

from napari_inspection.samples import model_of_phantom
from napari_inspection.thumbnails import small


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder of three patients: two DICOM series with lesions, and a NIfTI file with none."""
    from dataclasses import replace

    import numpy as np

    from inspection_core.io.dicom_series import write_series
    from inspection_core.io.nifti import write_nifti
    from inspection_core.phantom_ct import make_phantom

    folder = tmp_path_factory.mktemp("studies")
    image = make_phantom((16, 40, 36), (10.0, 5.0, 5.0)).image
    for name in ("study_1", "study_2"):
        write_series(folder / name / "ct", image, description="Made-up head", seed=name)
    calm = np.minimum(image.array, 40)
    (folder / "study_3").mkdir()
    write_nifti(folder / "study_3" / "calm.nii.gz", replace(image, array=calm.astype(image.array.dtype)))
    return folder


@pytest.fixture
def listed(panel, until, studies):
    model_of_phantom()
    panel.running.picker.refresh()
    panel.running.picker.box.setCurrentText("phantom-lesions 1")
    panel.session.list([studies])
    until(lambda: panel.opening.model.rowCount() == 3)
    return panel


def test_rows_say_which_study_and_have_thumbnails(listed, until):
    model = listed.opening.model
    names = {model.data(model.index(row, 1)) for row in range(3)}
    assert names == {"CT series 1\nstudy_1/ct", "CT series 1\nstudy_2/ct", "calm.nii.gz\nstudy_3"}
    for row in range(3):
        model.data(model.index(row, 0), Qt.ItemDataRole.DecorationRole)
        until(lambda row=row: model.data(model.index(row, 0), Qt.ItemDataRole.DecorationRole) is not None)


def test_a_thumbnail_of_a_series_reads_one_slice(listed, monkeypatch):
    from inspection_core.io.dicom import volume

    decoded = []
    real = volume.open_pixels
    monkeypatch.setattr(volume, "open_pixels", lambda file: decoded.append(file) or real(file))
    monkeypatch.setattr(volume, "plain_frames", lambda *_: None)
    monkeypatch.setattr(volume, "packed_frame", lambda *_: None)
    item = next(i for i in listed.opening.model.items if i.kind == "dicom")
    picture = small(item, 48)
    assert picture.shape == (40, 36, 3)
    assert picture.max() > 100
    assert {file.blob.path.name for file in decoded} == {"slice_0008.dcm"}, "the one in the middle of sixteen"


def test_screening_fills_the_list_in_the_words_of_the_trade(listed, until):
    panel, screening = listed, listed.running.screening
    screening.screen_button.click()
    until(lambda: panel.session.job.finished)
    assert screening.counts.text() == "1 no finding, 0 check, 2 finding, 0 failed."
    assert screening.report.is_file()
    rows = panel.opening.rows
    panel.opening.table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    assert [rows.index(row, 2).data() for row in range(3)] == ["finding", "finding", "no finding"]
    assert panel.opening.filter.itemText(2) == "no finding"
    panel.opening.filter.setCurrentText("no finding")
    assert rows.rowCount() == 1
    panel.opening.filter.setCurrentText("finding")
    assert rows.rowCount() == 2
    panel.opening.step(1)
    until(lambda: panel.session.case is not None)
    assert panel.opening.place_of_case() is not None
    screening.screen_button.click()  # nothing is left to do
    until(lambda: panel.session.job.finished)
    assert screening.counts.text() == "1 no finding, 0 check, 2 finding, 0 failed."


def test_pause_and_go_on(listed, until, second_waits):
    panel, screening = listed, listed.running.screening
    screening.screen_button.click()
    until(second_waits.reached.is_set)
    assert screening.pause_button.isEnabled()
    screening.pause_button.click()
    second_waits.go.set()
    until(lambda: panel.session.job.finished)
    assert panel.messages.label.text() == "Paused. What is done is kept; Screen list goes on from there."
    screening.screen_button.click()
    until(lambda: panel.session.job.finished)
    assert "2 finding" in screening.counts.text()


@pytest.fixture
def pair(home, tmp_path):
    """Two cases of two numbered files, of which "one" has a finding, and a model of two channels."""
    import numpy as np

    from inspection_core.card import ModelCard, Policy, Preparation
    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.io.nifti import write_nifti
    from inspection_core.models.intensity_band import make
    from napari_inspection import store

    geometry = Geometry.from_spacing((6, 20, 20), (2.0, 1.0, 1.0))
    (tmp_path / "cases").mkdir()
    for case, value in (("one", 1000), ("two", 0)):
        for channel in range(2):
            array = np.zeros((1, *geometry.shape), np.int16)
            array[0, 2:4, 5:9, 5:9] = value
            write_nifti(tmp_path / "cases" / f"{case}_{channel:04d}.nii.gz", Image(array, geometry, ("MR",)))
    card = ModelCard(
        "pair", "1", "intensity-band", "segmentation", ("T1", "FLAIR"), "1 - P(background)", classes=("tumour",),
        preparation=Preparation(view="slices", normalise="window", window=(0.0, 1000.0), multiple=8, tile=32),
        policy=Policy(kind="band", low=0.3, high=0.7),
    )  # fmt: skip
    make(store.models_folder() / "pair", card, ((0.5, 2.0),))
    return tmp_path / "cases"


def test_a_model_of_several_sequences_makes_the_list_one_of_studies(panel, until, pair):
    """One row a case, and a row opens as one image."""
    panel.running.picker.refresh()
    panel.running.picker.box.setCurrentText("pair 1")
    panel.session.list([pair])
    until(lambda: panel.opening.model.rowCount() == 4)
    panel.running.screening.screen_button.click()
    until(lambda: panel.session.job.finished)
    assert panel.messages.kind == "info", panel.messages.label.text()
    model = panel.opening.model
    assert model.rowCount() == 2
    assert [model.data(model.index(row, 2)) for row in range(2)] == ["finding", "no finding"]


def test_a_model_of_several_sequences_runs_on_the_study_that_is_shown(panel, viewer, until, pair):
    """And on no other of the list: its findings would be taken for those of the scan that was looked at."""
    import numpy as np

    from napari_inspection import store

    def run():
        panel.session.run(store.models_folder() / "pair")
        until(lambda: panel.session.idle)

    panel.session.list([pair])
    until(lambda: panel.opening.model.rowCount() == 4)
    for row, name in ((3, "two"), (1, "one")):
        panel.opening.open_row(row)
        until(lambda name=name: panel.session.idle and panel.session.case.name == f"{name}_0001.nii.gz")
        run()
        assert panel.session.case.name == name, panel.messages.label.text()
        assert len(panel.session.desk.findings) == (name == "one")
    (pair / "one_0000.nii.gz").unlink()
    panel.session.list([pair])
    until(lambda: panel.opening.model.rowCount() == 3)
    panel.opening.open_row(0)
    until(lambda: panel.session.idle and panel.session.case.name == "one_0001.nii.gz")
    run()
    assert panel.session.desk is None
    assert panel.messages.label.text().startswith(
        "one_0001.nii.gz is part of no whole study in the list. The model takes"
    )
    viewer.add_image(np.zeros((6, 20, 20), np.int16), name="mine")
    run()
    assert panel.session.desk is None
    assert panel.messages.label.text().startswith("mine is part of no whole study in the list.")
