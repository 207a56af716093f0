"""Window presets for CT, by centre and width in Hounsfield units, as reading rooms use them."""

from __future__ import annotations

from collections.abc import Mapping

PRESETS: Mapping[str, tuple[float, float]] = {
    "Brain": (40, 80),
    "Stroke": (35, 35),
    "Lung": (-600, 1500),
    "Bone": (480, 2500),
    "Soft tissue": (40, 400),
    "Liver": (60, 150),
    "Angio": (300, 600),
}
"""Centre and width."""


def limits(centre: float, width: float) -> tuple[float, float]:
    """Return the values that become black and white."""
    return centre - width / 2, centre + width / 2
