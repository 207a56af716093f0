"""PET: from activity to standardised uptake value by body weight.

After the vendor-neutral pseudo-code of the QIBA FDG-PET profile (SUVbw = activity x weight / decayed dose), for series
in Bq/ml whose decay was corrected to the start of the scan. Anything else is refused: a wrong SUV is worse than none.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from inspection_core.errors import ReadError
from inspection_core.io.dicom.values import item, number, text, words

UNITS = frozenset(
    ["CNTS", "NONE", "CM2", "CM2ML", "PCNT", "CPS", "MGMINML", "UMOLMINML", "MLMING", "MLG", "1CM", "UMOLML",
     "PROPCNTS", "PROPCPS", "MLMINML", "MLML", "STDDEV"]
)  # fmt: skip
"""Further units of PS3.3 C.8.9.1.1.3; anything else may be a text of any kind, so it is not shown."""


ENHANCED = frozenset(["1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"])
"""Enhanced PET, and legacy PET converted to it. Writers do not agree whether dose is in Bq or in MBq (PS3.3 C.8.22)."""


def suv_factor(dataset: Dataset, scan_start: datetime | None = None) -> float:
    """Return the factor that turns Bq/ml into g/ml (SUVbw).

    Parameters
    ----------
    dataset
        Header of any slice.
    scan_start
        Start of the scan where it is known to be earlier than SeriesTime says, such as the earliest acquisition.

    Raises
    ------
    ReadError
        If the header lacks what is needed; the text names it.
    """
    if text(dataset, "SOPClassUID") in ENHANCED:
        raise ReadError(
            "SUV is computed for PET of one file a slice. This is enhanced multi-frame PET, which states units, dose "
            "and decay in other places; read it without SUV."
        )
    units = text(dataset, "Units")
    if units == "GML":
        return 1.0
    if units != "BQML":
        raise ReadError(
            "SUV needs activity in BQML (or GML, which is SUV already). This series is in "
            f"{(units if units in UNITS else 'another unit') if units else 'no unit'}."
        )
    corrected = words(dataset, "CorrectedImage")
    if "DECY" not in corrected or "ATTN" not in corrected:
        raise ReadError("SUV needs images corrected for attenuation and decay (CorrectedImage with ATTN and DECY).")
    tracer = item(dataset, "RadiopharmaceuticalInformationSequence")
    dose, half_life = number(tracer, "RadionuclideTotalDose"), number(tracer, "RadionuclideHalfLife")
    weight = number(dataset, "PatientWeight")
    values = {"RadionuclideTotalDose": dose, "RadionuclideHalfLife": half_life, "PatientWeight": weight}
    lacking = [name for name, value in values.items() if value is None or value <= 0]
    if lacking or dose is None or half_life is None or weight is None:
        raise ReadError(f"SUV needs {', '.join(lacking)} in the header, above 0.")
    decay = text(dataset, "DecayCorrection").upper()
    if decay == "ADMIN":
        return weight * 1000.0 / dose
    if decay != "START":
        said = "NONE" if decay == "NONE" else "otherwise" if decay else "nothing"
        raise ReadError(f"SUV needs decay corrected to START or ADMIN. The header says {said}.")
    start = scan_start or moment(text(dataset, "SeriesDate"), text(dataset, "SeriesTime"))
    injected = moment(
        text(tracer, "RadiopharmaceuticalStartDateTime")[:8], text(tracer, "RadiopharmaceuticalStartDateTime")[8:]
    )
    if injected is None and start is not None:
        injected = moment(start.strftime("%Y%m%d"), text(tracer, "RadiopharmaceuticalStartTime"))
        if injected is not None and injected > start:  # injected before midnight
            injected -= timedelta(days=1)
    if start is None or injected is None or not timedelta(0) <= start - injected < timedelta(days=2):
        raise ReadError("SUV needs the times of injection and of the scan, in that order and within two days.")
    seconds = (start - injected).total_seconds()
    return float(weight * 1000.0 / (dose * 2.0 ** (-seconds / half_life)))


def moment(date: str, time: str) -> datetime | None:
    """Return a DICOM date and time, or None where they are not valid."""
    match = re.match(r"^(\d{2})(\d{2})?(\d{2})?(?:\.(\d{1,6}))?", time)
    if not re.fullmatch(r"\d{8}", date) or not match:
        return None
    hour, minute, second = (int(g or 0) for g in match.groups()[:3])
    try:
        return datetime(
            int(date[:4]),
            int(date[4:6]),
            int(date[6:]),
            hour,
            minute,
            min(second, 59),
            int((match[4] or "0").ljust(6, "0")),
        )
    except ValueError:
        return None
