"""File > Open Sample: each gives a layer, as napari wants it, and fills the panel."""

import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")


def test_a_phantom_that_its_own_model_can_run_on(panel, viewer):
    (layer,) = viewer.open_sample("inspection-suite", "phantom")
    assert layer.name == "synthetic phantom"
    assert panel.session.case is not None
    assert panel.running.picker.card.id == "phantom-lesions"
    assert panel.running.run.isEnabled()


def test_a_dicom_series_takes_the_place_of_the_case_before(panel, viewer):
    viewer.open_sample("inspection-suite", "phantom")
    (layer,) = viewer.open_sample("inspection-suite", "dicom")
    assert [ly.name for ly in viewer.layers] == [layer.name] == ["CT series 1"]
    assert panel.session.case.opened.dicom is not None
    assert panel.opening.model.rowCount() == 1
    assert panel.opening.place_of_case() == 0


def test_solar_cells_are_listed_at_once_and_screened_with_a_model_fitted_to_the_good_ones(
    panel, viewer, until, monkeypatch
):
    pytest.importorskip("elpv_dataset", reason="needs the extra [samples]")
    from napari_inspection import samples

    monkeypatch.setattr(samples, "CELLS", {"train/good": 6, "test/good": 2, "test/defect": 2})
    (layer,) = viewer.open_sample("inspection-suite", "cells")
    assert panel.opening.model.rowCount() == 4
    assert panel.session.case.name == layer.name
    until(lambda: len(panel.opening.model.results) == 4, 900_000)
    assert panel.running.picker.card.id == "solar-cells"
    assert panel.running.screening.counts.text().endswith("0 failed.")
