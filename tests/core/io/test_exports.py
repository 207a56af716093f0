"""Centroids of known blobs survive every export and re-import, on every kind of series.

A table: kinds of series by formats. The blobs are placed by world coordinates, so a swap, flip or half pixel on the way
in or out shows as millimetres. Where a format has a reader that is not ours (nibabel, pydicom and plain geometry), it
is read with that.
"""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from inspection_core.image import Image
from inspection_core.io.dicom_regions import COLOURS, regions_of
from inspection_core.io.dicom_seg import read_seg, write_seg
from inspection_core.io.dicom_sr import write_sr
from inspection_core.io.nifti import write_nifti
from inspection_core.io.rtstruct import read_rtstruct, write_rtstruct
from inspection_core.io.secondary_capture import write_secondary_capture

TO_FINDING_MM = {"axial": 0.01, "sagittal": 0.01, "oblique": 0.01, "flipped": 0.01, "tilted": 0.4}
"""To the centroid that the finding states. A tilted series is straightened for the model, and its results go back to
the slices taken by the nearest pixel: half of one is 0.25 x 0.4 mm."""
TO_TRUTH_MM = 0.4
"""To the blob itself: what sampling a ball on these grids costs, and a tilt."""


def centre(affine, index):
    """World centre of the indices ``(n, 3)`` under a NIfTI affine, in LPS."""
    return (affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3]) * [-1, -1, 1]


def nifti_labels(loaded, prediction, folder):
    labels, _ = regions_of(loaded, prediction)
    write_nifti(folder / "labels.nii.gz", Image(labels[None], prediction.geometry, ("label",)))
    read = nib.load(folder / "labels.nii.gz")
    return [centre(read.affine, np.argwhere(np.asarray(read.dataobj) == n)) for n in (1, 2)]


def nifti_score(loaded, prediction, folder):
    write_nifti(folder / "score.nii.gz", Image(prediction.score[None], prediction.geometry, ("score",)))
    read = nib.load(folder / "score.nii.gz")
    parts, _ = ndimage.label(np.asarray(read.dataobj) > 0.5, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    return [centre(read.affine, np.argwhere(parts == n)) for n in np.argsort(-sizes) + 1]


def seg(kind, alone=False):
    def there_and_back(loaded, prediction, folder):
        write_seg(folder / "seg.dcm", loaded, prediction, kind=kind, grid="image" if alone else "slices")
        image = read_seg(folder / "seg.dcm", None if alone else loaded)
        return [image.geometry.index_to_world(np.argwhere(image.array[c] > 0.4)).mean(axis=0) for c in (0, 1)]

    return there_and_back


def rtstruct(loaded, prediction, folder):
    write_rtstruct(folder / "rt.dcm", loaded, prediction)
    image = read_rtstruct(folder / "rt.dcm", loaded)
    return [image.geometry.index_to_world(np.argwhere(image.array[c])).mean(axis=0) for c in (0, 1)]


def area_and_centre(points, normal):
    """Area and centroid of a plane polygon in space, by triangles from its first point."""
    a, b = points[1:-1] - points[0], points[2:] - points[0]
    areas = np.cross(a, b) @ normal / 2
    return abs(areas.sum()), points[0] + (areas[:, None] * (a + b) / 3).sum(axis=0) / areas.sum()


def mean_of(polygons, normal):
    areas, centres = zip(*(area_and_centre(p, normal) for p in polygons), strict=True)
    return np.average(centres, axis=0, weights=areas)


def rtstruct_points(loaded, prediction, folder):
    write_rtstruct(folder / "rt.dcm", loaded, prediction)
    out = []
    for drawn in pydicom.dcmread(folder / "rt.dcm").ROIContourSequence:
        polygons = [np.array(c.ContourData, float).reshape(-1, 3) for c in drawn.ContourSequence]
        out.append(mean_of(polygons, loaded.volume.first.normal))
    return out


def headers_by_uid(folder):
    return {h.SOPInstanceUID: h for h in (pydicom.dcmread(p) for p in folder.iterdir())}


def placed(header, row, column):
    """World position of a pixel by the header of its image alone, as PS3.3 C.7.6.2.1.1 says."""
    along_row, along_column = np.split(np.array(header.ImageOrientationPatient, float), 2)
    down, right = np.array(header.PixelSpacing, float)
    steps = np.multiply.outer(row, along_column) * down + np.multiply.outer(column, along_row) * right
    return np.array(header.ImagePositionPatient, float) + steps


def sr_regions(loaded, prediction, folder):
    write_sr(folder / "sr.dcm", loaded, prediction)
    headers = headers_by_uid(folder / "series")
    (groups,) = (i for i in pydicom.dcmread(folder / "sr.dcm").ContentSequence if "ContentSequence" in i)
    out = []
    for group in groups.ContentSequence:
        polygons = []
        for item in (i for i in group.ContentSequence if i.ValueType == "SCOORD"):
            points = np.array(item.GraphicData, float).reshape(-1, 2)
            header = headers[item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
            polygons.append(placed(header, points[:-1, 1] - 0.5, points[:-1, 0] - 0.5))
        out.append(mean_of(polygons, loaded.volume.first.normal))
    return out


def sr_of_seg(loaded, prediction, folder):
    """The SR leads to the SEG by number; the SEG's segment has the place."""
    regions = write_seg(folder / "seg.dcm", loaded, prediction)
    write_sr(folder / "sr.dcm", loaded, prediction, folder / "seg.dcm", regions)
    (groups,) = (i for i in pydicom.dcmread(folder / "sr.dcm").ContentSequence if "ContentSequence" in i)
    image = read_seg(folder / "seg.dcm", loaded)
    out = []
    for group in groups.ContentSequence:
        (item,) = (i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeMeaning == "Referenced Segment")
        assert (
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == pydicom.dcmread(folder / "seg.dcm").SOPInstanceUID
        )
        channel = item.ReferencedSOPSequence[0].ReferencedSegmentNumber - 1
        out.append(image.geometry.index_to_world(np.argwhere(image.array[channel])).mean(axis=0))
    return out


def secondary_capture(loaded, prediction, folder):
    """What the coloured outlines enclose, at the place that each picture's header gives it."""
    write_secondary_capture(folder / "sc", loaded, prediction)
    points = [[], []]
    for header in headers_by_uid(folder / "sc").values():
        for n in (0, 1):
            line = (header.pixel_array == COLOURS[n]).all(axis=-1)
            line[header.Rows - 60 :] = False  # the band
            row, column = np.nonzero(ndimage.binary_fill_holes(line) & ~line)
            points[n].append(placed(header, row, column))
    return [np.concatenate(p).mean(axis=0) for p in points]


FORMATS = {
    "NIfTI labels": nifti_labels,
    "NIfTI score map": nifti_score,
    "SEG, binary": seg("BINARY"),
    "SEG, fractional": seg("FRACTIONAL"),
    "SEG, label map": seg("LABELMAP"),
    "SEG, read without its series": seg("BINARY", alone=True),
    "RTSTRUCT": rtstruct,
    "RTSTRUCT, its points": rtstruct_points,
    "SR with contours": sr_regions,
    "SR with a SEG": sr_of_seg,
    "secondary capture": secondary_capture,
}


@pytest.fixture(scope="module")
def cases(exports, tmp_path_factory):
    """Each kind of series, written, read and predicted on once."""
    made = {}
    for kind in exports.KINDS:
        folder = tmp_path_factory.mktemp(kind)
        loaded, centres = exports.two_balls(kind, folder)
        made[kind] = loaded, exports.predicted(loaded), centres, folder
    return made


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", TO_FINDING_MM)
def test_centroids_survive(cases, kind, name):
    loaded, prediction, centres, folder = cases[kind]
    found = FORMATS[name](loaded, prediction, folder)
    stated = [f.centroid_world for f in prediction.findings]
    np.testing.assert_allclose(found, stated, atol=TO_FINDING_MM[kind])
    np.testing.assert_allclose(found, centres, atol=TO_TRUTH_MM)
