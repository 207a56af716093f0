"""DICOM SR after TID 1500: the figures of each finding, beside the SEG that shows it. Made with highdicom.

A report is UNVERIFIED until a named reviewer signs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inspection_core import __version__
from inspection_core.errors import ReadError, UsageError
from inspection_core.io.dicom.frames import DAMAGE
from inspection_core.io.dicom.volume import DicomImage
from inspection_core.io.dicom_regions import (
    CATEGORY,
    MAKER,
    SITES,
    Region,
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
RATIO = Code("1", "UCUM", "no units")
VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")


def write_sr(
    path: Path,
    source: DicomImage,
    prediction: Prediction,
    seg_path: Path,
    regions: Sequence[Region],
    *,
    site: str = "",
    reviewer: str = "",
    organization: str = "",
) -> None:
    """Write the measurements of findings as a TID 1500 report that refers to their SEG.

    Parameters
    ----------
    path
        File to write.
    source, prediction
        As given to `write_seg`.
    seg_path, regions
        The SEG written, and what `write_seg` returned. Regions without a finding (painted by a person) have no figures
        and are left out.
    site
        Anatomical site where known, such as ``"brain"``.
    reviewer, organization
        Who signs, as ``"Family^Given"``, and for whom. With both the report is VERIFIED, else UNVERIFIED.

    Raises
    ------
    UsageError
        If only one of reviewer and organization is given, there is no finding, or sizes are not in millimetres.
    ReadError
        If the SEG cannot be read.
    """
    if bool(reviewer) != bool(organization):
        raise UsageError("A signed report names both its reviewer and the organization. Got only one of them.")
    measured = [(r, r.finding) for r in regions if r.finding is not None]
    if not measured:
        raise UsageError("There is no measured finding to report; write the segments one a finding (by='finding').")
    if prediction.geometry.unit != "mm":
        raise UsageError("A report needs sizes in millimetres, and this image has none.")
    with quiet():
        try:
            seg = hd.seg.segread(Path(seg_path))
        except DAMAGE as error:
            raise ReadError(f"{Path(seg_path).name} is no DICOM SEG, or is damaged ({type(error).__name__}).") from None
        groups = [_group(seg, region, finding, prediction, source, site) for region, finding in measured]
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
            evidence=[seg, *source_headers(source)],
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


def _group(
    seg: hd.seg.Segmentation, region: Region, finding: Finding, prediction: Prediction, source: DicomImage, site: str
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    figures = [
        (LONG_AXIS, finding.long_axis, codes.UCUM.Millimeter),
        (SHORT_AXIS, finding.short_axis, codes.UCUM.Millimeter),
    ]
    if finding.size_unit == "mm3":
        figures.insert(0, (VOLUME, finding.size, codes.UCUM.CubicMillimeter))
    figures += [(MEAN_CONFIDENCE, finding.mean, RATIO), (PEAK_CONFIDENCE, finding.peak, RATIO)]
    model = hd.sr.AlgorithmIdentification(
        name=prediction.model_id,
        version=prediction.model_version,
        parameters=[f"weights_sha256 {prediction.model_sha256}", RESEARCH_USE],
    )
    place = SITES.get(site.lower())
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=region.tracking_uid, identifier=f"{region.label} {region.number}"[:64]
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=region.number,
            source_series=hd.sr.SourceSeriesForSegmentation(source.volume.file.series_uid),
        ),
        finding_type=type_of(region.label),
        finding_category=CATEGORY,
        algorithm_id=model,
        finding_sites=[hd.sr.FindingSite(anatomic_location=place)] if place is not None else None,
        measurements=[hd.sr.Measurement(name=name, value=_decimal(value), unit=unit) for name, value, unit in figures],
    )


def _decimal(value: float) -> float:
    """Return a number that fits DICOM's sixteen characters."""
    return float(f"{float(value):.8g}")
