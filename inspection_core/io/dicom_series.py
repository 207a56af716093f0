"""A volume as a series of DICOM slices, for images that were made and never scanned: phantoms, tests, teaching.

It is no way to bring a scan back to DICOM: nothing here knows the patient, the scanner or the frame of the source.
Every file says that it is synthetic, in the patient's name, in ImageType (DERIVED) and in its comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from inspection_core.errors import GeometryError
from inspection_core.geometry import FloatArray
from inspection_core.image import Image
from inspection_core.io.atomic import atomic_path
from inspection_core.prediction import RESEARCH_USE

SYNTHETIC = "SYNTHETIC^PHANTOM"


def write_series(
    folder: Path, image: Image, *, description: str, seed: str, window: tuple[float, float] = (40.0, 80.0)
) -> list[Path]:
    """Write a volume of Hounsfield units as CT slices, one file each.

    Parameters
    ----------
    folder
        Where the files go; made if it is not there.
    image
        One channel, ``(1, z, y, x)``, in mm; values are rounded to int16.
    description
        Of the series.
    seed
        UIDs follow from it, so that the same phantom is the same series wherever it is made.
    window
        ``(centre, width)`` that viewers show it with.

    Returns
    -------
    list of Path
        The files, by slice.

    Raises
    ------
    GeometryError
        If it is no volume of one channel in mm, or its axes are not at right angles.
    """
    geometry = image.geometry
    if image.array.shape[0] != 1 or geometry.ndim != 3 or geometry.unit != "mm":
        raise GeometryError(
            f"A series is one channel of a volume in mm. Got {image.array.shape[0]} channels of a "
            f"{geometry.ndim}-D grid in {geometry.unit}."
        )
    steps = geometry.affine[:3, :3] / np.array(geometry.spacing)
    if not np.allclose(steps.T @ steps, np.eye(3), atol=1e-4):
        raise GeometryError("A series' slices are at right angles to their step. Got a sheared grid; resample it.")
    values = np.clip(np.rint(image.array[0]), -32768, 32767).astype(np.int16)
    uids = {what: generate_uid(entropy_srcs=[seed, what]) for what in ("study", "series", "frame")}
    files = []
    for z, plane in enumerate(values):
        position = geometry.index_to_world((z, 0, 0))
        dataset = _slice(plane, z, position, steps, geometry.spacing, uids, seed)
        dataset.SeriesDescription = description
        dataset.WindowCenter, dataset.WindowWidth = window
        path = Path(folder) / f"slice_{z:04d}.dcm"
        with atomic_path(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
        files.append(path)
    return files


def _slice(
    plane: np.ndarray[tuple[int, int], np.dtype[np.int16]],
    z: int,
    position: FloatArray,
    steps: FloatArray,
    spacing: tuple[float, ...],
    uids: Mapping[str, str],
    seed: str,
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[seed, f"slice {z}"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.PatientName = SYNTHETIC
    dataset.PatientID = "PHANTOM"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID, dataset.StudyDate, dataset.StudyTime = "1", "20000101", "000000"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.Modality = 1, z + 1, "CT"
    dataset.Manufacturer = "inspection-suite"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids["study"], uids["series"]
    dataset.PatientPosition, dataset.Laterality, dataset.KVP, dataset.AcquisitionNumber = "HFS", "", None, 1
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uids["frame"], ""
    dataset.ImageComments = f"Synthetic phantom, no patient. {RESEARCH_USE}"
    dataset.ImagePositionPatient = [float(f"{v:.10g}") for v in position]
    dataset.ImageOrientationPatient = [float(f"{v:.10g}") for v in (*steps[:, 2], *steps[:, 1])]
    dataset.PixelSpacing = [float(f"{v:.10g}") for v in spacing[1:]]
    dataset.SliceThickness = float(f"{spacing[0]:.10g}")
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "HU"
    dataset.PixelData = plane.astype("<i2").tobytes()
    return dataset
