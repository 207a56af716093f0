"""Studies with reference masks: which files make one, and what is refused."""

import numpy as np
import pytest
from PIL import Image as Picture

from inspection_core.cases import find_cases, read_case, reference_of
from inspection_core.errors import ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.nifti import write_nifti

CHANNELS = ("pre", "FLAIR", "post")
SHAPE = (4, 6, 5)


def scan(path, channels=1, shape=SHAPE, value=None, spacing=(3.0, 1.0, 1.0)):
    array = np.arange(channels * np.prod(shape), dtype=np.int16).reshape(channels, *shape) % 7
    array = array if value is None else np.full_like(array, value)
    names = tuple(f"volume {k + 1}" for k in range(channels))
    write_nifti(path, Image(array, Geometry.from_spacing(shape, spacing), names))
    return array


def folders(tmp_path, masks="masks"):
    for name in ("images", masks):
        (tmp_path / name).mkdir()
    return tmp_path / "images", tmp_path / masks


def test_one_file_with_its_channels_last(tmp_path):
    images, masks = folders(tmp_path)
    written = scan(images / "a.nii.gz", channels=3)
    scan(masks / "a.nii.gz", value=1)
    (case,) = find_cases(tmp_path)
    image, mask = read_case(case, CHANNELS)
    assert (case.name, case.kind) == ("a", "scan")
    assert np.array_equal(image.array, written)
    assert image.channels == CHANNELS
    assert mask.dtype == np.uint8
    assert (mask == 1).all()


def test_one_file_a_channel_in_the_cards_order(tmp_path):
    images, masks = folders(tmp_path, masks="labels")
    written = [scan(images / f"b_{k:04d}.nii.gz", value=k) for k in range(3)]
    scan(masks / "b.nii.gz", value=2)
    (case,) = find_cases(tmp_path)
    image, _ = read_case(case, CHANNELS)
    assert case.kind == "channels"
    assert np.array_equal(image.array, np.concatenate(written))


def test_channels_on_another_grid_come_onto_that_of_the_first(tmp_path):
    images, masks = folders(tmp_path)
    for k in range(3):
        scan(images / f"b_{k:04d}.nii.gz", value=k, spacing=(3.0, 1.0, 1.0 + 0.1 * (k == 2)))
    scan(masks / "b.nii.gz", value=1)
    image, _ = read_case(find_cases(tmp_path)[0], CHANNELS)
    assert [float(c.max()) for c in image.array] == [0, 1, 2]
    assert any(note.startswith("post is resampled to the grid of pre (linear)") for note in image.notes)


def test_more_channels_than_the_model_takes_are_refused(tmp_path):
    images, masks = folders(tmp_path)
    for k in range(4):
        scan(images / f"b_{k:04d}.nii.gz")
    scan(masks / "b.nii.gz", value=1)
    with pytest.raises(
        ReadError, match=r"^b has _0003 too; expected the channels pre, FLAIR, post, numbered from 0000"
    ):
        read_case(find_cases(tmp_path)[0], CHANNELS)


def test_a_scan_whose_name_ends_in_four_digits_is_no_channel_where_it_has_a_mask(tmp_path):
    images, masks = folders(tmp_path)
    scan(images / "case_0003.nii.gz")
    scan(masks / "case_0003.nii.gz", value=0)
    assert [c.name for c in find_cases(tmp_path)] == ["case_0003"]


def test_slices_of_a_patient_by_number_not_by_name(tmp_path):
    images, masks = folders(tmp_path)
    for number in (1, 2, 10):
        Picture.fromarray(np.full((6, 5, 3), number, np.uint8)).save(images / f"P_1_{number}.png")
        Picture.fromarray(np.full((6, 5), 255 * (number == 10), np.uint8)).save(masks / f"P_1_{number}.png")
    (case,) = find_cases(tmp_path)
    image, mask = read_case(case, CHANNELS)
    assert case.name == "P_1"
    assert image.array[0, :, 0, 0].tolist() == [1, 2, 10]
    assert mask[:, 0, 0].tolist() == [0, 0, 1]
    assert image.geometry.unit == "px"


# name: (how the dataset is spoiled, what is said)
SPOILED = {
    "no masks folder": (lambda i, m: m.rmdir(), "should hold the folders images and masks"),
    "nothing in it": (lambda i, m: None, "no scan and no PATIENT_SLICE image"),
    "a case without a mask": (lambda i, m: scan(i / "a.nii.gz"), "1 of 1 cases .* have no mask, a first"),
    "a picture without a number": (
        lambda i, m: Picture.new("RGB", (4, 4)).save(i / "nameless.png"),
        "nameless.png is no PATIENT_SLICE name",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILED.values(), ids=SPOILED)
def test_what_is_no_dataset_is_refused_in_a_line(tmp_path, spoil, said):
    spoil(*folders(tmp_path))
    with pytest.raises(UsageError, match=said):
        find_cases(tmp_path)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    images, masks = folders(tmp_path)
    scan(images / "a.nii.gz", channels=3)
    scan(masks / "a.nii.gz", value=1, spacing=(3.0, 1.0, 1.1))
    with pytest.raises(ReadError, match="does not lie on the grid"):
        read_case(find_cases(tmp_path)[0], CHANNELS)


def test_a_case_with_other_channels_is_refused(tmp_path):
    images, masks = folders(tmp_path)
    scan(images / "a.nii.gz", channels=2)
    scan(masks / "a.nii.gz", value=1)
    with pytest.raises(
        ReadError, match=r"^a: expected the 3 channels pre, FLAIR, post\. Got 2 without names; give all 3"
    ):
        read_case(find_cases(tmp_path)[0], CHANNELS)


def test_the_shared_patients_are_found_by_split(shared_data):
    folder = shared_data / "medical" / "lgg2d"
    found = {split: find_cases(folder / split) for split in ("train", "val")}
    assert {split: (len(c), sum(len(k.images) for k in c)) for split, c in found.items()} == {
        "train": (72, 2551),
        "val": (12, 493),
    }


# name: (image, its ground truth)
REFERENCES = {
    "a scan": ("images/a.nii.gz", "masks/a.nii.gz"),
    "of another format": ("images/a.nrrd", "masks/a.nii.gz"),
    "one of its channels": ("images/a_0001.nii.gz", "labels/a.nii"),
    "a slice": ("images/p_12.png", "masks/p_12.png"),
    "MVTec's": ("test/crack/07.png", "ground_truth/crack/07_mask.png"),
    "a good part": ("test/good/07.png", None),
    "somewhere else": ("scans/a.nii.gz", None),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_ground_truth_of_one_image(tmp_path, name):
    image, truth = REFERENCES[name]
    if truth is not None:
        (tmp_path / truth).parent.mkdir(parents=True)
        (tmp_path / truth).touch()
    assert reference_of(tmp_path / image) == (None if truth is None else tmp_path / truth)
