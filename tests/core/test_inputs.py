"""What a user points at: pictures, scan files, cases of several files, and their names."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from inspection_core.errors import GeometryError, ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.inputs import Choices, list_inputs, open_input
from inspection_core.io.nifti import write_nifti
from inspection_core.io.scans import write_scan
from inspection_core.studies import for_channels

MR = ("T1", "FLAIR", "T1c")


def write(path, value=0, shape=(3, 4, 5), spacing=(2.0, 1.0, 1.0), channels=1, unit="mm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((channels, *shape), value, np.int16)
    array[:, 0, 0, 0] = np.arange(channels) + 1
    names = tuple(f"volume {k + 1}" for k in range(channels))
    write_scan(path, Image(array, replace(Geometry.from_spacing(shape, spacing), unit=unit), names))
    return path


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    return path


def kinds(listing):
    return [(i.kind, i.name) for i in listing.inputs]


def test_a_folder_of_pictures_and_scans(tmp_path):
    picture(tmp_path / "b" / "part.png")
    write(tmp_path / "brain.nii.gz")
    write(tmp_path / "chest.nrrd")
    write(tmp_path / ".hidden" / "a.nii")
    (tmp_path / "notes.txt").write_text("a note")
    listing = list_inputs([tmp_path])
    assert kinds(listing) == [("picture", "part"), ("scan", "brain"), ("scan", "chest")]
    assert listing.refused == ()


def test_equal_stems_keep_their_suffix_and_a_path_given_twice_is_one(tmp_path):
    paths = [write(tmp_path / "a.nii.gz"), write(tmp_path / "a.mha"), picture(tmp_path / "a.png")]
    listing = list_inputs([*paths, tmp_path])
    assert sorted(kinds(listing)) == [("picture", "a.png"), ("scan", "a.mha"), ("scan", "a.nii")]


def test_what_is_no_file_is_left_to_the_reader_which_says_so(tmp_path):
    (item,) = list_inputs([tmp_path / "absent.png"]).inputs
    with pytest.raises(ReadError, match=r"absent\.png does not exist"):
        open_input(item, ("grey",))


def test_a_file_of_another_kind_is_left_to_the_reader_of_pictures(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (item,) = list_inputs([tmp_path / "a.txt"]).inputs
    with pytest.raises(ReadError, match=r"a\.txt"):
        open_input(item, ("grey",))


def test_an_empty_folder_holds_nothing(tmp_path):
    assert list_inputs([tmp_path]).inputs == ()


def test_files_of_one_case_become_its_channels_in_order(tmp_path):
    for k in range(3):
        write(tmp_path / f"p1_{k:04d}.nii.gz", value=10 * k)
    write(tmp_path / "p2_0000.nii.gz")
    listing = for_channels(list_inputs([tmp_path]), MR)
    (item,) = listing.inputs
    image = open_input(item, MR).image
    assert (item.name, image.channels, image.name) == ("p1", MR, "p1.nii.gz")
    assert image.array[:, 1, 1, 1].tolist() == [0, 10, 20]
    assert listing.refused == (
        (
            str(tmp_path / "p2"),
            (
                "p2 lacks FLAIR (p2_0001.nii.gz), T1c (p2_0002.nii.gz); the model takes T1, FLAIR, T1c, numbered from "
                "0000 in this order. Add it, or say which scan it is with --channel NAME=SCAN."
            ),
        ),
    )


def test_one_file_of_a_case_stands_for_all(tmp_path):
    paths = [write(tmp_path / f"p1_{k:04d}.mha") for k in range(3)]
    (item,) = for_channels(list_inputs(paths[1:2]), MR).inputs
    assert item.files == tuple(paths)


def test_a_model_of_one_channel_takes_each_file_by_itself(tmp_path):
    write(tmp_path / "p1_0000.nii.gz")
    assert kinds(for_channels(list_inputs([tmp_path]), ("CT",))) == [("scan", "p1_0000")]


def test_4d_files_get_the_models_names(tmp_path):
    write(tmp_path / "a.nii.gz", channels=3)
    (item,) = for_channels(list_inputs([tmp_path]), MR).inputs
    image = open_input(item, MR).image
    assert image.channels == MR
    assert image.notes[-1] == "channels have no names in the file: taken in order as T1, FLAIR, T1c"


@pytest.mark.parametrize("names", [("0000", "0001", "0002"), ("t1", "flair", "t1c")])
def test_channels_on_another_grid_come_onto_that_of_the_first(tmp_path, names):
    """However the files of a case are named: one with finer rows, one stored in another order."""
    wanted = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5)
    grid = Geometry.from_spacing(wanted.shape, (2.0, 1.0, 1.0))
    fine = Geometry.from_spacing((4, 5, 5), (2.0, 0.5, 1.0))
    between = np.stack([wanted[:, 0], wanted[:, :2].mean(1), wanted[:, 1], wanted[:, 1:].mean(1), wanted[:, 2]], axis=1)
    turned = grid.transposed((2, 0, 1)).flipped(1)
    stored = {"0": (wanted, grid), "1": (between, fine), "2": (np.flip(wanted.transpose(2, 0, 1), 1), turned)}
    for name, (array, geometry) in zip(names, stored.values(), strict=True):
        write_nifti(tmp_path / f"p_{name}.nii.gz", Image(np.ascontiguousarray(array)[None], geometry, ("grey",)))
    (item,) = for_channels(list_inputs([tmp_path]), MR).inputs
    image = open_input(item, MR).image
    back = image.geometry  # files may be read in another order than they were written in
    assert back.shape == (4, 3, 5)
    np.testing.assert_allclose(image.array[2], image.array[0], atol=1e-4)
    np.testing.assert_allclose(image.array[1, 1:-1], image.array[0, 1:-1], atol=0.3 * 5)
    said = [note.split(";")[0] for note in image.notes if "resampled" in note]
    assert said == [f"{c} is resampled to the grid of T1 (linear)" for c in ("FLAIR", "T1c")]


def test_channels_of_no_known_spacing_are_not_brought_onto_each_other(tmp_path):
    for k in range(3):
        write(tmp_path / f"p_{k:04d}.nii", shape=(3, 4, 5 + (k == 2)), unit="px")
    (item,) = for_channels(list_inputs([tmp_path]), MR).inputs
    with pytest.raises(GeometryError, match=r"^T1c lies on another grid than T1\. Only .* with --assume-mm\.$"):
        open_input(item, MR)
    assert open_input(item, MR, Choices(assume_mm=True)).image.channels == MR


def test_more_numbered_files_than_the_model_takes_are_refused(tmp_path):
    for k in range(4):
        write(tmp_path / f"p_{k:04d}.nii.gz")
    listing = for_channels(list_inputs([tmp_path]), MR)
    assert listing.inputs == ()
    ((_, words),) = listing.refused
    assert words.startswith("p has p_0003.nii.gz too, and the model takes 3 channels, T1, FLAIR, T1c, numbered from")


def test_a_channel_file_that_holds_several_is_refused(tmp_path):
    for k in range(3):
        write(tmp_path / f"p_{k:04d}.nii", channels=1 + (k == 1))
    (item,) = for_channels(list_inputs([tmp_path]), MR).inputs
    with pytest.raises(ReadError, match=r"FLAIR: p_0001\.nii holds 2 volumes; a channel is one"):
        open_input(item, MR)


def test_the_header_is_kept_for_results_but_where_it_would_deny_the_unit(tmp_path):
    import nibabel as nib

    path = write(tmp_path / "a.nii")
    (item,) = list_inputs([path]).inputs
    assert open_input(item, ("CT",)).header is not None
    file = nib.load(path)
    file.header.set_xyzt_units("unknown")
    nib.save(nib.Nifti1Image(np.asarray(file.dataobj), file.affine, file.header), tmp_path / "b.nii")
    (item,) = list_inputs([tmp_path / "b.nii"]).inputs
    assert open_input(item, ("CT",)).header is not None
    assert open_input(item, ("CT",), Choices(assume_mm=True)).header is None
