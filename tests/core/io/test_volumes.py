"""NRRD and MetaImage: exact round trips, and headers that point elsewhere."""

import numpy as np
import pytest

from inspection_core.errors import ReadError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.volumes import SUFFIXES, read_volume, write_volume


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_round_trip_is_exact(tmp_path, oblique_image, suffix, dtype):
    image = Image(oblique_image.array.astype(dtype), oblique_image.geometry, ("grey",))
    write_volume(tmp_path / f"a{suffix}", image)
    back = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, image.array)
    assert back.array.dtype == dtype
    assert back.geometry.is_close(image.geometry, 1e-12)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_channels_and_2d(tmp_path, suffix):
    image = Image(
        np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
        Geometry.from_spacing((3, 4), (0.5, 0.25), (7, 8)),
        ("volume 1", "volume 2"),
    )
    write_volume(tmp_path / f"a{suffix}", image)
    back = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, image.array)
    assert back.geometry == image.geometry


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_research_use_is_written(tmp_path, oblique_image, suffix):
    write_volume(tmp_path / f"a{suffix}", oblique_image)
    assert b"Research use only" in (tmp_path / f"a{suffix}").read_bytes()[:2000]


def _nrrd(tmp_path, header, data=b"\0" * 24):
    path = tmp_path / "a.nrrd"
    path.write_bytes(b"NRRD0004\n" + header.encode() + b"\n\n" + data)
    return path


PLAIN = "type: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little"


def test_nrrd_without_a_world_is_pixels(tmp_path):
    image = read_volume(_nrrd(tmp_path, PLAIN + "\nspacings: 2 2 2"))
    assert image.geometry.unit == "px"
    assert "--assume-mm" in image.notes[0]
    assert read_volume(_nrrd(tmp_path, PLAIN + "\nspacings: 2 2 2"), assume_mm=True).geometry.spacing == (2, 2, 2)


def test_nrrd_in_ras_is_turned_to_lps(tmp_path):
    world = "\nspace: right-anterior-superior\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)"
    image = read_volume(_nrrd(tmp_path, PLAIN + world))
    np.testing.assert_allclose(image.geometry.index_to_world([0, 0, 0]), [-10, -20, 30])
    assert image.geometry.spacing == (4, 3, 2)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "type: uchar\ndimension: 3\nsizes: 90000 90000 90000\nencoding: raw",
            "truncated, or its header is damaged: it claims",
        ),
        ("type: uchar\ndimension: 3\nsizes: 9 -9 9\nencoding: raw", "every axis has at least 1 voxel"),
        ("type: uchar\ndimension: 3\nencoding: raw", "damaged header"),
        (PLAIN + "\ndata file: ../secret.raw", "another place than one plain file beside it"),
        (PLAIN + "\ndata file: LIST", "another place than one plain file beside it"),
        (PLAIN + "\ndata file: missing.raw", "missing beside it"),
        (PLAIN + '\nspace: LPS\nspace units: "inch" "inch" "inch"', "other than millimetres"),
    ],
)
def test_nrrd_that_is_refused(tmp_path, header, words):
    with pytest.raises(ReadError, match=words):
        read_volume(_nrrd(tmp_path, header))


@pytest.mark.parametrize("target", ["../secret.raw", "/etc/hostname", "a%03d.raw 1 2 1", "LIST"])
def test_mhd_that_points_elsewhere_is_refused(tmp_path, target):
    path = tmp_path / "a.mhd"
    path.write_text(
        f"ObjectType = Image\nNDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nElementDataFile = {target}\n"
    )
    with pytest.raises(ReadError, match="another place than one plain file beside it"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_truncated(tmp_path, oblique_image, suffix):
    write_volume(tmp_path / f"a{suffix}", oblique_image, compress=False)
    raw = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(raw[:-900])
    with pytest.raises(ReadError, match="truncated"):
        read_volume(tmp_path / f"a{suffix}")


def test_not_what_the_suffix_says(tmp_path):
    for name, words in (("a.nrrd", "is not NRRD"), ("a.mha", "is not MetaImage")):
        (tmp_path / name).write_bytes(b"a letter\n")
        with pytest.raises(ReadError, match=words):
            read_volume(tmp_path / name)
    with pytest.raises(ReadError, match="Found no file"):
        read_volume(tmp_path / "b.nrrd")
