"""DICOM in: what is there (`scan_dicom`), and one volume of it as an image (`read_dicom`)."""

from inspection_core.io.dicom.series import Inventory, Problem, Series, Volume, scan_dicom
from inspection_core.io.dicom.volume import DicomImage, choose, load_volume, read_dicom

__all__ = [
    "DicomImage",
    "Inventory",
    "Problem",
    "Series",
    "Volume",
    "choose",
    "load_volume",
    "read_dicom",
    "scan_dicom",
]
