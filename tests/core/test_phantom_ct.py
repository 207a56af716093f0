"""The phantom: no patient, lesions where they are said to be, and a model that finds them."""

import numpy as np
import pytest

from inspection_core.engine import Engine
from inspection_core.errors import GeometryError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.dicom import read_dicom, scan_dicom
from inspection_core.io.dicom_series import write_series
from inspection_core.phantom_ct import LESIONS, make_phantom, make_phantom_model

SMALL = {"shape": (28, 88, 80), "spacing": (6.0, 2.4, 2.4)}


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(**SMALL)


def test_its_model_finds_every_lesion(phantom, tmp_path):
    make_phantom_model(tmp_path / "phantom-lesions")
    prediction = predict(phantom.image, Engine("cpu").load(tmp_path / "phantom-lesions"))
    for centre, _, _ in LESIONS:
        place = tuple(np.rint(phantom.image.geometry.world_to_index(centre)).astype(int))
        assert prediction.mask[place] == 1, centre
    both = (prediction.mask > 0) & (phantom.truth > 0)
    assert 2 * both.sum() / ((prediction.mask > 0).sum() + phantom.truth.sum()) > 0.95


def test_only_the_noise_depends_on_the_seed(phantom):
    other = make_phantom(**SMALL, seed=1)
    assert np.array_equal(other.truth, phantom.truth)
    assert np.array_equal(make_phantom(**SMALL).image.array, phantom.image.array)
    assert not np.array_equal(other.image.array, phantom.image.array)


def test_as_a_series_it_is_read_back_to_the_voxel(phantom, tmp_path):
    files = write_series(tmp_path, phantom.image, description="Made-up head", seed="test")
    assert len(files) == 28
    (series,) = scan_dicom(tmp_path).series
    assert series.verdict == "regular stack"
    assert series.summary()["description"] == "Made-up head"
    back = read_dicom(tmp_path)
    np.testing.assert_array_equal(back.image.array, phantom.image.array)
    assert back.image.geometry.is_close(phantom.image.geometry)
    assert (back.units, back.windows) == ("HU", ((40.0, 80.0),))


def test_the_same_phantom_is_the_same_series(phantom, tmp_path):
    for name in ("one", "two"):
        write_series(tmp_path / name, phantom.image, description="Made-up head", seed="test")
    assert (tmp_path / "one/slice_0003.dcm").read_bytes() == (tmp_path / "two/slice_0003.dcm").read_bytes()


# name: (image, message)
REFUSED = {
    "pixels": (
        Image(np.zeros((1, 2, 3, 4), np.int16), Geometry.pixels((2, 3, 4)), ("a",)),
        "A series is one channel of a volume in mm. Got 1 channels of a 3-D grid in px.",
    ),
    "sheared": (
        Image(
            np.zeros((1, 2, 3, 4), np.int16),
            Geometry((2, 3, 4), np.array([[0, 0, 1, 0], [0.3, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]), "mm"),
            ("a",),
        ),
        "A series' slices are at right angles to their step. Got a sheared grid; resample it.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    image, message = REFUSED[name]
    with pytest.raises(GeometryError) as caught:
        write_series(tmp_path, image, description="", seed="test")
    assert str(caught.value) == message
