"""Opening: what is ours, one file at once, folders and archives in the list, and what is said of each."""

import shutil
import zipfile

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")

from napari_inspection import files


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A small series whose files have no suffix."""
    from inspection_core.io.dicom_series import write_series
    from inspection_core.phantom_ct import make_phantom

    folder = tmp_path_factory.mktemp("study") / "series"
    image = make_phantom((8, 24, 20), (20.0, 9.0, 9.0)).image
    for path in write_series(folder, image, description="Made-up head", seed="open"):
        path.rename(path.with_suffix(""))
    return folder


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for k in range(3):
        PIL.Image.fromarray(np.full((20, 30), 40 * k, np.uint8)).save(folder / f"part{k}.png")
    return folder


class TestOurs:
    def test_by_name_by_content_or_not(self, series, parts, tmp_path):
        (tmp_path / "notes").write_text("no image")
        (tmp_path / "table.csv").write_text("a,b")
        ours = [series, series / "slice_0000", parts / "part0.png", parts]
        assert all(files.get_reader(str(path)) is not None for path in ours)
        assert files.get_reader([str(parts / "part0.png"), str(parts / "part1.png")]) is not None
        others = [tmp_path / "notes", tmp_path / "table.csv", tmp_path / "missing.png"]
        assert all(files.get_reader(str(path)) is None for path in others)


def test_a_file_becomes_a_layer_with_true_size_and_place(viewer, panel, phantom_file):
    (layer,) = viewer.open(str(phantom_file), plugin="inspection-suite")
    assert layer.data.shape == (24, 60, 56)
    np.testing.assert_allclose(layer.scale, (7.0, 3.5, 3.5))
    np.testing.assert_allclose(layer.translate, (-80.5, -103.25, -96.25))
    assert [str(u) for u in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("z", "y", "x")
    assert panel.session.case is not None, "the panel takes what was opened past it"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_study_opens_in_the_panel(viewer, panel, until, series, tmp_path, kind):
    path = series.parent
    if kind == "zip":
        path = tmp_path / "study.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in series.iterdir():
                archive.write(file, file.name)
    assert viewer.open(str(path), plugin="inspection-suite") == []
    until(lambda: panel.session.case is not None)
    (layer,) = viewer.layers
    assert layer.name == "CT series 1"
    assert layer.contrast_limits == [0, 80], "the file's own window"
    model = panel.opening.model
    assert "regular stack" in model.data(model.index(0, 4))


def test_a_study_with_something_wrong_says_so_in_plain_words(viewer, panel, until, series, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(series, study / "whole")
    broken = study / "broken"
    from inspection_core.io.dicom_series import write_series
    from inspection_core.phantom_ct import make_phantom

    written = write_series(
        broken, make_phantom((9, 24, 20), (20.0, 9.0, 9.0)).image, description="Made-up head", seed="gap"
    )
    written[4].unlink()
    panel.session.list([study])
    until(lambda: panel.session.listing is not None and panel.opening.model.rowCount() == 2)
    model = panel.opening.model
    words = {model.data(model.index(row, 2)): model.data(model.index(row, 4)) for row in range(2)}
    assert "missing" in words["refused"]
    row = next(r for r in range(2) if panel.opening.rows.index(r, 2).data() == "refused")
    panel.opening.open_row(row)
    assert panel.messages.kind == "error"
    assert "missing" in panel.messages.label.text()


class TestWorkList:
    def test_next_and_previous(self, viewer, panel, until, parts):
        panel.session.list([parts])
        until(lambda: panel.opening.model.rowCount() == 3)
        for key, by, want in (("next", 1, "part0.png"), ("next", 1, "part1.png"), ("back", -1, "part0.png")):
            panel.opening.step(by)
            until(lambda want=want: panel.session.case is not None and panel.session.case.name == want)
            assert [layer.name for layer in viewer.layers] == [want], key

    def test_thumbnails_come(self, panel, until, parts):
        panel.session.list([parts])
        until(lambda: panel.opening.model.rowCount() == 3)
        model = panel.opening.model
        assert model.data(model.index(0, 0), 1) is None  # Qt.DecorationRole: asked for, not there yet
        until(lambda: model.data(model.index(0, 0), 1) is not None)

    def test_filter_and_sort(self, panel, until, parts):
        from inspection_core.io.store import Row

        panel.session.list([parts])
        until(lambda: panel.opening.model.rowCount() == 3)
        for at, (score, verdict) in enumerate([(1.0, "OK"), (3.0, "NG"), (2.0, "REVIEW")]):
            panel.opening.put_result(at, Row(f"part{at}.png", "", "done", score, 0.1, verdict, 0), {})
        panel.opening.table.sortByColumn(3, panel.opening.table.horizontalHeader().sortIndicatorOrder().DescendingOrder)
        shown = [panel.opening.rows.index(row, 1).data() for row in range(3)]
        assert shown == ["part1.png", "part2.png", "part0.png"]
        panel.opening.filter.setCurrentText("NG")
        assert panel.opening.rows.rowCount() == 1
        assert "1 of 3 shown: 1 OK, 1 REVIEW, 1 NG" in panel.opening.count.text()


def test_an_empty_folder_says_what_to_do(panel, until, tmp_path):
    (tmp_path / "empty").mkdir()
    panel.session.list([tmp_path / "empty"])
    until(lambda: panel.messages.kind == "error")
    assert panel.messages.label.text() == "Found no image and no scan in empty. Give a file or folder of images."
    assert panel.opening.hint.isVisibleTo(panel)


def test_a_damaged_file_is_one_line_and_the_panel_works_on(panel, until, phantom_file, tmp_path):
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(phantom_file.read_bytes()[:900])
    panel.session.list([damaged])
    until(lambda: panel.messages.kind == "error")
    assert "\n" not in panel.messages.label.text()
    panel.session.list([phantom_file])
    until(lambda: panel.session.case is not None)


def test_scans_open_here_by_default_only_when_asked(napari):
    from napari.settings import get_settings

    settings = get_settings().plugins
    before = dict(settings.extension2reader)
    settings.extension2reader = {**before, "*.zip": "other"}
    try:
        assert files.open_by_default() == len(files.OWN) - 1
        assert settings.extension2reader["*.nii.gz"] == "inspection-suite"
        assert settings.extension2reader["*.zip"] == "other"
    finally:
        settings.extension2reader = before
