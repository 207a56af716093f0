"""What the tests of readers and writers share: where the shared real images lie, and small scans made on the spot."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from inspection_core.findings import find
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.io.dicom import read_dicom
from inspection_core.prediction import Prediction

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """Folder of the shared scans; set INSPECTION_DATA where it is not beside the project."""
    folder = Path(os.environ.get("INSPECTION_DATA") or ROOT.parent / "shared" / "data") / "medical"
    if not folder.is_dir():
        pytest.skip(f"shared scans not found in {folder}; set INSPECTION_DATA to the folder that holds `medical`")
    return folder


OBLIQUE = np.array([[0.9, 0.1, -0.3], [-0.05, 0.95, 0.2], [0.25, -0.2, 0.93]])
OBLIQUE = np.linalg.qr(OBLIQUE)[0] * np.sign(np.diag(np.linalg.qr(OBLIQUE)[1]))
"""A rotation about all three axes, columns x, y, z."""


def oblique_geometry(shape=(7, 9, 11), spacing=(3.0, 0.8, 0.5), origin=(-31.25, 12.5, 40.0)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = (OBLIQUE * np.asarray(spacing)[::-1])[:, ::-1]
    affine[:3, 3] = origin
    return Geometry(shape, affine, "mm")


@pytest.fixture
def oblique_image() -> Image:
    """Every voxel has its own value, so that any swap or flip of axes shows."""
    geometry = oblique_geometry()
    array = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(1, *geometry.shape)
    return Image(array, geometry, ("grey",))


def slice_dataset(pixels, position, orientation=(1, 0, 0, 0, 1, 0), spacing=(0.5, 0.8), **tags):
    """One DICOM slice in memory; any tag may be given by keyword, and None takes it out."""
    pixels = np.ascontiguousarray(pixels)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2" if tags.get("Modality", "CT") == "CT" else "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID = generate_uid()
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "Secret^Sally", "PID-424242"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.SeriesNumber, ds.StudyID = "20200101", "120000", 3, "1"
    ds.AccessionNumber, ds.ReferringPhysicianName = "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    ds.FrameOfReferenceUID = "1.2.3.3"
    ds.ImageOrientationPatient = [float(f"{v:.12g}") for v in orientation]
    ds.ImagePositionPatient = [float(f"{v:.10g}") for v in position]
    ds.PixelSpacing = list(spacing)
    ds.SliceThickness = 2.5
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
TURNED = tuple(np.concatenate([OBLIQUE[:, 0], OBLIQUE[:, 1]]))


def write_series(folder, array, orientation=AXIAL, origin=(-20.0, -30.0, 40.0), spacing=(0.5, 0.8), step=2.5,
                 drift=(0.0, 0.0), names=None, keep=None, **tags):  # fmt: skip
    """Write ``(z, y, x)`` as a series whose file names and InstanceNumbers run against the positions.

    `drift` moves each slice within its plane, in mm along rows and columns (a gantry tilt); `keep` leaves slices out.
    A tag given as a function takes the slice's index.
    """
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    for k, plane in enumerate(array):
        if keep is not None and k not in keep:
            continue
        position = np.array(origin) + k * (step * normal + drift[0] * column + drift[1] * row)
        given = {n: v(k) if callable(v) else v for n, v in tags.items()}
        ds = slice_dataset(plane, position, orientation, spacing, InstanceNumber=len(array) - k, **given)
        save(ds, folder / (names(k) if names else f"{(k * 7) % len(array):03d}_{k}.dcm"))
    return folder


def series_affine(orientation=AXIAL, origin=(-20.0, -30.0, 40.0), spacing=(0.5, 0.8), step=2.5, drift=(0.0, 0.0)):
    """Affine ``(z, y, x) -> LPS`` of what `write_series` writes with the same words."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    affine = np.eye(4)
    affine[:3, 0] = step * np.cross(row, column) + drift[0] * column + drift[1] * row
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = row * spacing[1]
    affine[:3, 3] = origin
    return affine


def numbered(shape=(6, 9, 11), dtype=np.int16):
    """Every voxel its own value."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def blob_at(affine, shape, centre, radius):
    """A ball placed by world coordinates, whatever the grid: 1000 inside, 0 outside."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return np.where(np.linalg.norm(world - np.asarray(centre), axis=-1) <= radius, 1000, 0).astype(np.int16)


@pytest.fixture(scope="session")
def dicom():
    """The makers of DICOM above, as one object: ``dicom.write_series(...)``."""
    return SimpleNamespace(
        AXIAL=AXIAL, SAGITTAL=SAGITTAL, CORONAL=CORONAL, TURNED=TURNED, slice_dataset=slice_dataset, save=save,
        write_series=write_series, series_affine=series_affine, numbered=numbered, blob_at=blob_at,
    )  # fmt: skip


# What the tests of exports share --------------------------------------------------------------------------------------

KINDS = {
    "axial": {},
    "sagittal": {"orientation": SAGITTAL},
    "oblique": {"orientation": TURNED},
    "flipped": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "tilted": {"drift": (2.5 * np.tan(np.radians(14)), 0.0)},
}


def predicted(loaded, label="tumour", **changes):
    """A prediction that is right: the score is the picture itself."""
    score = (loaded.image.array[0] / 1000).astype(np.float32).clip(0, 1)
    mask, findings = find(score, 0.5, 0.6, loaded.image.geometry, label=label)
    given = {
        "geometry": loaded.image.geometry, "score": score, "mask": mask, "findings": findings, "image_score": 1.0,
        "p_value": None, "verdict": "NG", "threshold": 0.5, "model_id": "demo", "model_version": "1",
        "model_sha256": "ab" * 32, "device": "cpu",
    }  # fmt: skip
    return Prediction(**(given | changes))


def two_balls(kind, folder, **tags):
    """Write a series of a kind with two balls, a large and a small one; return it read, and where they are.

    The balls lie on no axis or plane of symmetry of the grid, so that any swap or flip of axes shows.
    """
    grid = KINDS[kind]
    affine = series_affine(**grid)
    centres = [affine[:3, :3] @ i + affine[:3, 3] for i in ([4, 12, 11], [8, 28, 25])]
    shape = (12, 40, 36)
    array = blob_at(affine, shape, centres[0], 4.2) + blob_at(affine, shape, centres[1], 3.1)
    write_series(folder / "series", array, **grid, **tags)
    return read_dicom(folder / "series"), np.array(centres)


def centroid(image, channel):
    """World centre of what a channel marks."""
    index = np.argwhere(image.array[channel] > 0.4)
    return image.geometry.index_to_world(index).mean(axis=0)


def tool(name):
    """Path of a program that others wrote; without it the test is skipped by its name."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def exports():
    """The helpers above, as one object: ``exports.two_balls(...)``."""
    return SimpleNamespace(KINDS=KINDS, predicted=predicted, two_balls=two_balls, centroid=centroid, tool=tool)
