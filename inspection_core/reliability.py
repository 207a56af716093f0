"""A reliability diagram as SVG: what was predicted against what came true. It lies beside a card or in a report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from inspection_core.io.atomic import write_text
from inspection_core.prediction import RESEARCH_USE
from inspection_core.segmentation_metrics import ReliabilityBin, expected_error

FILE = "reliability.svg"
"""Its name in a model's folder."""
SIDE, MARGIN, GAP = 260, 56, 40
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def write_reliability(path: Path, panels: Sequence[tuple[str, Sequence[ReliabilityBin]]], note: str = "") -> Path:
    """Write one panel beside the other.

    Parameters
    ----------
    path
        The SVG file.
    panels
        Title and bins of each; without bins a panel says that there is nothing to show.
    note
        What the data are, in words; below the panels.
    """
    width = MARGIN + len(panels) * (SIDE + MARGIN + GAP) - GAP
    height = 2 * MARGIN + SIDE + 36
    look = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {look} fill="#222" role="img">',
        f"<title>Reliability: {escape('; '.join(title for title, _ in panels))}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for k, (title, table) in enumerate(panels):
        parts += _panel(MARGIN + k * (SIDE + MARGIN + GAP), MARGIN, title, table)
    words = f"{note} {RESEARCH_USE}".strip()
    parts.append(f'<text x="{MARGIN}" y="{height - 10}" font-size="11" fill="#555">{escape(words)}</text>')
    write_text(path, "\n".join([*parts, "</svg>"]) + "\n")
    return path


def _panel(left: float, top: float, title: str, table: Sequence[ReliabilityBin]) -> list[str]:
    bottom, right = top + SIDE, left + SIDE
    error, total = expected_error(table), sum(b.count for b in table)
    said = "nothing to show" if error is None else f"ECE {error:.3f}, {total:,} in {len(table)} bins"
    parts = [
        f'<text x="{left}" y="{top - 28}" font-weight="bold">{escape(title)}</text>',
        f'<text x="{left}" y="{top - 10}">{said}</text>',
        f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{top}" stroke="#999" stroke-dasharray="4 4"/>',
        f'<text x="{left + SIDE / 2}" y="{bottom + 34}" text-anchor="middle">predicted probability</text>',
        f'<text transform="translate({left - 38} {top + SIDE / 2}) rotate(-90)" text-anchor="middle">came true</text>',
    ]
    for tick in TICKS:
        x, y = left + tick * SIDE, bottom - tick * SIDE
        parts.append(f'<text x="{x:g}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>')
    points = [(left + b.predicted * SIDE, bottom - b.observed * SIDE, b) for b in table]
    if points:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="1.5"/>')
    most = max((b.count for b in table), default=1)
    for x, y, b in points:
        radius = 2.5 + 6 * (b.count / most) ** 0.5
        told = f"predicted {b.predicted:.3f}, came true {b.observed:.3f}, {b.count:,}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#0072b2" fill-opacity="0.6">'
            f"<title>{told}</title></circle>"
        )
    return parts
