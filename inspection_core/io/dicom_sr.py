"""DICOM SR after TID 1500: the figures of each finding, with the SEG that shows it or with its contours.

Made with highdicom. A report is UNVERIFIED until a named reviewer signs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inspection_core import __version__
from inspection_core.errors import ReadError, UsageError
from inspection_core.io.contours import contours_of
from inspection_core.io.dicom.values import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.dicom_regions import (
    CATEGORY,
    MAKER,
    SITES,
    Region,
    check_source,
    regions_of,
    save,
    series_number,
    source_headers,
    type_of,
)
from inspection_core.io.quiet import quiet
from inspection_core.prediction import RESEARCH_USE, Finding, Prediction

PRIVATE = "99INSPECTION"
MEAN_CONFIDENCE = Code("mean-confidence", PRIVATE, "Mean confidence of the model inside")
PEAK_CONFIDENCE = Code("peak-confidence", PRIVATE, "Peak confidence of the model inside")
LESION = Code("lesion-probability", PRIVATE, "Calibrated probability of a true lesion")
RATIO = Code("1", "UCUM", "no units")
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")


def write_sr(
    path: Path,
    source: DicomImage,
    prediction: Prediction,
    seg_path: Path | None = None,
    regions: Sequence[Region] | None = None,
    *,
    mask: NDArray[np.uint8] | None = None,
    edited: bool = False,
    classes: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
    site: str = "",
    reviewer: str = "",
    organization: str = "",
) -> tuple[Region, ...]:
    """Write the measurements of findings as a TID 1500 report.

    Parameters
    ----------
    path
        File to write.
    source, prediction
        As given to `write_seg`.
    seg_path, regions
        The SEG written and what `write_seg` returned: each group of figures refers to its segment. Without them each
        is placed by its contours on the source images.
    mask, classes, findings
        See `inspection_core.io.dicom_regions.regions_of`; not used where `regions` are given.
    edited
        Whether a person changed the mask: the algorithm's parameters say so.
    site
        Anatomical site where known, such as ``"brain"``.
    reviewer, organization
        Who signs, as ``"Family^Given"``, and for whom. With both the report is VERIFIED, else UNVERIFIED.

    Returns
    -------
    tuple of Region
        What was reported.

    Raises
    ------
    UsageError
        If only one of reviewer and organization is given, there is no finding, a region was changed and not measured
        again, or sizes are not in millimetres.
    ReadError
        If the SEG cannot be read.
    """
    if bool(reviewer) != bool(organization):
        raise UsageError("A signed report names both its reviewer and the organization. Got only one of them.")
    if prediction.geometry.unit != "mm":
        raise UsageError("A report needs sizes in millimetres, and this image has none.")
    if (seg_path is None) != (regions is None):
        raise UsageError("A report on a SEG needs both its path and the regions that `write_seg` returned.")
    check_source(source, prediction, "a report")
    planes: NDArray[Any] | None = None
    if regions is None:
        labels, regions = regions_of(source, prediction, mask, "finding", classes, findings)
        planes = source.to_slices(labels)
    measured = [(r, r.finding) for r in regions if r.finding is not None]
    if not measured:
        raise UsageError("There is no measured finding to report; write the segments one a finding (by='finding').")
    if len(measured) < len(regions):
        raise UsageError(
            f"{len(regions) - len(measured)} of {len(regions)} regions were painted or changed, so no figures hold "
            "for them; measure the corrected mask with `find_labelled` and pass its findings."
        )
    with quiet():
        seg = _segmentation(seg_path) if seg_path is not None else None
        groups = []
        for region, finding in measured:
            where = _segment(seg, region, source) if seg is not None else _outlines(planes, region, source)
            groups.append(_group(where, region, finding, prediction, edited, site))
        device = hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), manufacturer_name=MAKER, model_name=prediction.model_id[:64], name=RESEARCH_USE
        )
        observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        sr = hd.sr.Comprehensive3DSR(
            evidence=[*([seg] if seg is not None else []), *source_headers(source)],
            content=report[0],
            series_instance_uid=hd.UID(),
            series_number=series_number(source, 901),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            is_complete=bool(reviewer),
            is_verified=bool(reviewer),
            verifying_observer_name=reviewer or None,
            verifying_organization=organization or None,
            series_description=f"{prediction.model_id[:24]}: {RESEARCH_USE}"[:64],
            software_versions=__version__[:64],
            manufacturer_model_name=prediction.model_id[:64],
            device_serial_number=(prediction.model_sha256 or "0")[:64],
        )
        save(sr, path)
    return tuple(regions)


def _segmentation(path: Path) -> hd.seg.Segmentation:
    try:
        return hd.seg.segread(Path(path))
    except DAMAGE as error:
        raise ReadError(f"{Path(path).name} is no DICOM SEG, or is damaged ({type(error).__name__}).") from None


def _segment(seg: hd.seg.Segmentation, region: Region, source: DicomImage) -> dict[str, Any]:
    """Return the reference to a region's segment."""
    return {
        "referenced_segment": hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=region.number,
            source_series=hd.sr.SourceSeriesForSegmentation(source.volume.file.series_uid),
        )
    }


def _outlines(planes: NDArray[Any] | None, region: Region, source: DicomImage) -> dict[str, Any]:
    """Return a region's contours on the source images, where the corner of the first pixel is (0, 0)."""
    out = []
    inside = np.asarray(planes) == region.number
    for z in np.flatnonzero(inside.any(axis=(1, 2))):
        frame = source.volume.frames[0][z]
        image = hd.sr.SourceImageForRegion(
            frame.file.sop_class, frame.file.sop_uid, [frame.number + 1] if frame.file.frames > 1 else None
        )
        for points in contours_of(inside[z]):
            closed = np.concatenate([points, points[:1]])[:, ::-1] + 0.5
            out.append(hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, closed, image))
    return {"referenced_regions": out}


def _group(
    where: dict[str, Any], region: Region, finding: Finding, prediction: Prediction, edited: bool, site: str
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    figures = [
        (LONG_AXIS, finding.long_axis, codes.UCUM.Millimeter),
        (SHORT_AXIS, finding.short_axis, codes.UCUM.Millimeter),
    ]
    if finding.size_unit == "mm3":
        figures.insert(0, (VOLUME, finding.size, codes.UCUM.CubicMillimeter))
    figures += [(MEAN_CONFIDENCE, finding.mean, RATIO), (PEAK_CONFIDENCE, finding.peak, RATIO)]
    if finding.calibrated and finding.p_value is None:
        figures.append((LESION, finding.confidence, RATIO))
    model = hd.sr.AlgorithmIdentification(
        name=prediction.model_id,
        version=prediction.model_version,
        parameters=[
            f"weights_sha256 {prediction.model_sha256}",
            *(["outlines edited by a person"] if edited else []),
            RESEARCH_USE,
        ],
    )
    place = SITES.get(site.lower())
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=region.tracking_uid, identifier=f"{region.label} {region.number}"[:64]
        ),
        **where,
        finding_type=type_of(region.label),
        finding_category=CATEGORY,
        algorithm_id=model,
        finding_sites=[hd.sr.FindingSite(anatomic_location=place)] if place is not None else None,
        measurements=[hd.sr.Measurement(name=name, value=_decimal(value), unit=unit) for name, value, unit in figures],
    )


def _decimal(value: float) -> float:
    """Return a number that fits DICOM's sixteen characters."""
    return float(f"{float(value):.8g}")
