"""One HTML file that answers for a screening: what was found, at which false-alarm rate, by which model.

The file holds its own style, script and data, asks the network for nothing (a content security policy forbids it),
and opens from a disk. Up to `EMBED_LIMIT` images their pictures are inside; beyond that they lie beside it. Text from
outside, file names above all, reaches the page through Jinja2's escaping or as JSON that the script writes into text
nodes: never as markup.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import jinja2
import numpy as np
from markupsafe import Markup

from inspection_core import __version__
from inspection_core.card import ModelCard, Preparation
from inspection_core.io.atomic import write_bytes
from inspection_core.metrics import clopper_pearson
from inspection_core.prediction import RESEARCH_USE

EMBED_LIMIT = 200
"""Most images whose pictures go into the file itself; 200 of them make about 20 MB."""

GOOD = "good"
"""Known label of an image without a defect, as in MVTec-style folders."""

VERDICTS = ("NG", "REVIEW", "OK")
WORDING: Mapping[str, Mapping[str, str]] = {
    "anomaly": {"NG": "NG", "REVIEW": "REVIEW", "OK": "OK"},
    "segmentation": {"NG": "finding", "REVIEW": "check", "OK": "no finding"},
}
"""What a verdict is called, by the card's task."""

MIME = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
}
NAMES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO", "f1": "F1"}
LISTED_FAILURES = 200
BINS = (16, 64)
"""Fewest and most bars of the histogram; between them, twice the root of the number of scores."""


@dataclass(frozen=True)
class Crop:
    """A finding cut out, and the nearest good patch at the same magnification.

    Parameters
    ----------
    finding
        Id of the finding.
    picture, neighbour
        Picture files; `neighbour` is None where the model keeps no good patches.
    """

    finding: int
    picture: Path
    neighbour: Path | None = None


@dataclass(frozen=True)
class ReportItem:
    """One image of the report.

    Parameters
    ----------
    path
        As in ``results.csv``, relative to the screened folder.
    status
        ``"done"`` or ``"failed"``; a failed image has neither score nor verdict.
    score, p_value, verdict
        Of the whole image; `p_value` is None without conformal calibration.
    seconds
        Time that the image took.
    error
        Why it failed, in plain words.
    findings
        As in ``findings.json``; ``neighbour`` with ``image``, ``centre`` ``(y, x)`` and ``distance`` is shown if there.
    picture, plain
        Picture files of one size, with and without overlay; the reader flips between them.
    crops
        Pictures of single findings.
    truth
        Known label, such as ``"good"`` or ``"crack"``; None where nothing is known.
    warnings
        Plain words for the reader.
    """

    path: str
    status: str = "done"
    score: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    seconds: float | None = None
    error: str = ""
    findings: tuple[Mapping[str, Any], ...] = ()
    picture: Path | None = None
    plain: Path | None = None
    crops: tuple[Crop, ...] = ()
    truth: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report tells.

    Parameters
    ----------
    title, subtitle
        What was screened, such as the name of the folder.
    card
        The model that did it.
    items
        Images in any order; read once.
    threshold, review_threshold
        Image scores above which the verdict is NG, and REVIEW; infinite where no score, or any score, gets there.
    certified_rate
        Share of good images for which the calibration guarantees a bound; see `inspection_core.threshold.Cuts`.
    metrics
        Measured figures as `inspection_core.evaluate.evaluate` gives them: ``recall_interval``, with ``low`` and
        ``high``, is shown with ``recall``.
    notes
        What the reader should know, such as how the data were split and the images' licence.
    warnings
        What the reader must know; shown at the top.
    command
        Command line that made the results.
    scale
        Scores at which the pictures' overlay begins and saturates; one scale for all pictures of a run.
    wording
        What the verdicts are called, by ``"OK"``, ``"REVIEW"`` and ``"NG"``; by the card's task if not given.
    reliability
        Reliability diagram, an SVG file, shown with the figures; see `inspection_core.reliability`.
    created
        When; now, if not given.
    counts
        Number of all images by verdict and ``"failed"``, where `items` are not all of them.
    unlisted
        Scores of the others, for the histogram.
    """

    title: str
    card: ModelCard
    items: Iterable[ReportItem]
    threshold: float
    review_threshold: float | None = None
    certified_rate: float | None = None
    subtitle: str = ""
    metrics: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    command: str = ""
    scale: tuple[float, float] | None = None
    wording: Mapping[str, str] | None = None
    reliability: Path | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: Mapping[str, int] | None = None
    unlisted: Sequence[float] = ()


def write_report(path: Path, data: ReportData, embed_limit: int = EMBED_LIMIT) -> Path:
    """Write the report to `path`, whole or not at all, and return its path.

    Parameters
    ----------
    path
        The HTML file. Pictures that are not embedded are linked relative to its folder: keep them under it.
    data
        What to tell.
    embed_limit
        With more images than this, pictures are linked instead of embedded.

    Notes
    -----
    A picture file that is missing costs a warning in the report, not the report.
    """
    path = Path(path)
    items = list(data.items)
    pictures = _Pictures(path.parent.absolute(), embed=len(items) <= embed_limit)
    rows = [_row(item, pictures) for item in items]
    reliability = pictures.source(data.reliability)
    warnings = list(data.warnings)
    if pictures.missing:
        warnings.append(f"Picture files that could not be found and are not shown: {pictures.missing}.")
    wording = dict(data.wording or WORDING[data.card.task])
    calibration = data.card.calibration
    histogram = _histogram(items, calibration.scores, data.threshold, data.review_threshold, data.unlisted)
    content = {
        "items": rows,
        "words": wording,
        "threshold": _number(data.threshold),
        "review": _number(data.review_threshold),
        "scores_n": len(calibration.scores),
        "peaks_n": len(calibration.peaks),
        "scale": [_number(value) for value in data.scale] if data.scale else None,
        "histogram": histogram,
    }
    script, plotly = _template_text("report.js"), _plotly()
    template = _environment().get_template("report.html.j2")
    html = template.render(
        data=data,
        card=data.card,
        wording=wording,
        counts=_counts(items) if data.counts is None else {"all": sum(data.counts.values()), **data.counts},
        truth=_truth_table(items),
        failures=[item for item in items if item.status == "failed"],
        listed=LISTED_FAILURES,
        metrics=_figures(data.metrics or {}),
        card_metrics=_figures(data.card.metrics),
        training=_figures(data.card.training),
        parameters=_figures(data.card.parameters),
        size=_size(data.card.preparation),
        warnings=warnings,
        histogram=histogram,
        reliability=reliability,
        has_p=any(item.p_value is not None for item in items),
        research_use=RESEARCH_USE,
        software=f"inspection-suite {__version__}",
        script=Markup(script),  # noqa: S704  the package's own file
        script_hash=_csp_hash(script),
        style=Markup(_template_text("report.css")),  # noqa: S704  the package's own file
        plotly=Markup(base64.b64encode(gzip.compress(plotly.encode(), 6, mtime=0)).decode()),  # noqa: S704  base64
        plotly_hash=_csp_hash(plotly),
        content=_json_for_script(content),
    )
    # Names that are no valid Unicode hold lone surrogates, which UTF-8 has no bytes for.
    write_bytes(path, html.encode("utf-8", errors="replace"))
    return path


class _Pictures:
    """Turns picture files into what an ``<img>`` can show, and counts those that are missing."""

    def __init__(self, folder: Path, embed: bool) -> None:
        self.folder = folder
        self.embed = embed
        self.missing = 0

    def source(self, picture: Path | None) -> str:
        if picture is None:
            return ""
        mime = MIME.get(picture.suffix.lower())
        if mime is None or not picture.is_file():
            self.missing += 1
            return ""
        if self.embed:
            return f"data:{mime};base64,{base64.b64encode(picture.read_bytes()).decode()}"
        try:
            relative = os.path.relpath(picture.absolute(), self.folder)
        except ValueError:  # another drive, on Windows
            return picture.absolute().as_uri()
        return quote_from_bytes(os.fsencode(relative.replace(os.sep, "/")))


def _row(item: ReportItem, pictures: _Pictures) -> list[Any]:
    """Return an item as the array that ``report.js`` takes apart, in the same order."""
    return [
        item.path,
        item.status,
        _number(item.score),
        _number(item.p_value),
        item.verdict or "",
        _number(item.seconds),
        item.error,
        item.truth,
        pictures.source(item.picture),
        pictures.source(item.plain),
        list(item.warnings),
        [_finding(finding) for finding in item.findings],
        [[crop.finding, pictures.source(crop.picture), pictures.source(crop.neighbour)] for crop in item.crops],
    ]


def _finding(finding: Mapping[str, Any]) -> list[Any]:
    neighbour = finding.get("neighbour")
    return [
        finding.get("id"),
        str(finding.get("label", "")),
        [_number(value) for value in finding.get("centroid_index") or ()],
        _number(finding.get("size")),
        str(finding.get("size_unit", "")),
        _number(finding.get("peak")),
        _number(finding.get("p_value")),
        _number(finding.get("confidence")),
        neighbour
        and [
            str(neighbour.get("image", "")),
            [_number(value) for value in neighbour.get("centre") or ()],
            _number(neighbour.get("distance")),
        ],
        bool(finding.get("calibrated", False)),
    ]


def _size(preparation: Preparation) -> str:
    """Return the inference size in words; see `inspection_core.prepare` for what comes before what."""
    if preparation.short_side:
        return f"short side {preparation.short_side} px"
    if preparation.side:
        low, high = preparation.scales
        limits = f", scaled by {low:.3g} to {high:.3g}" if (low, high) != (0.0, math.inf) else ""
        return f"area of {preparation.side:g} x {preparation.side:g} px{limits}"
    return f"scale {preparation.scale:.4g}"


def _number(value: float | None) -> float | None:
    """Return `value` with six significant digits, or None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _counts(items: Sequence[ReportItem]) -> dict[str, int]:
    done = Counter(item.verdict for item in items if item.status != "failed")
    return {"all": len(items), **{v: done[v] for v in VERDICTS}, "failed": len(items) - done.total()}


def _truth_table(items: Sequence[ReportItem]) -> list[dict[str, Any]]:
    """Return known labels against verdicts, good ones first, with the share called NG and its 95% interval."""
    labels = Counter(item.truth for item in items if item.truth is not None)
    table = []
    for label in sorted(labels, key=lambda name: (name != GOOD, -labels[name], name)):
        counts = _counts([item for item in items if item.truth == label])
        done = counts["all"] - counts["failed"]
        row: dict[str, Any] = {"label": label, "good": label == GOOD, **counts}
        if done:
            row["share"] = counts["NG"] / done
            row["interval"] = clopper_pearson(counts["NG"], done)
        table.append(row)
    return table


def _histogram(
    items: Sequence[ReportItem],
    calibration: Sequence[float],
    threshold: float,
    review: float | None,
    unlisted: Sequence[float] = (),
) -> dict[str, Any] | None:
    """Return counts a bin for the calibration scores and the screened images, by known label where there is one.

    The NG threshold is the edge of a bin, so that every bar lies on one side of it. Scores far outside, which would
    squeeze the rest into one bar, are counted in the last bin.
    """
    groups: dict[str, list[float]] = {}
    labelled = any(item.truth is not None for item in items)
    for item in sorted(items, key=lambda item: item.truth != GOOD):
        name = (item.truth or "label unknown") if labelled else "screened images"
        if item.score is not None and math.isfinite(item.score):
            groups.setdefault(name, []).append(item.score)
    if len(unlisted):
        groups.setdefault("label unknown" if labelled else "screened images", []).extend(unlisted)
    parts = [("calibration, good", [s for s in calibration if math.isfinite(s)]), *groups.items()]
    scores = np.concatenate([np.asarray(values, dtype=np.float64) for _, values in parts])
    if not scores.size:
        return None
    cuts = [cut for cut in (threshold, review) if cut is not None and math.isfinite(cut)]
    low, high = float(min([scores.min(), *cuts])), float(max([scores.max(), *cuts]))
    q1, q3 = np.quantile(scores, [0.25, 0.75])
    far = max([*cuts, q3]) + 20 * (q3 - q1)
    folded = int((scores > far).sum()) if q3 > q1 else 0
    high = float(far) if folded else high
    width = (high - low) / float(np.clip(2 * math.sqrt(scores.size), *BINS)) or 1.0
    anchor = threshold if math.isfinite(threshold) else low
    first, last = math.floor((low - anchor) / width + 1e-9), math.ceil((high - anchor) / width - 1e-9)
    edges = anchor + width * np.arange(first, max(last, first + 1) + 1)
    counts = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist() for _, values in parts]
    return {
        "edges": [_number(edge) for edge in edges],
        "groups": [
            {"name": name, "calibration": k == 0, "counts": n}
            for k, ((name, _), n) in enumerate(zip(parts, counts, strict=True))
            if sum(n)
        ],
        "folded": folded,
    }


def _figures(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested mapping as flat (name, text) pairs for reading, each figure with its interval if it has one."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = prefix + NAMES.get(key, key.replace("_", " "))
        interval = values.get(f"{key}_interval") or values.get(f"{key.removesuffix('_rate')}_interval")
        if key.endswith("_interval") or (
            isinstance(value, (list, tuple)) and (not value or isinstance(value[0], Mapping))
        ):
            continue  # said with its figure; or rows, which have tables of their own
        if isinstance(value, Mapping):
            pairs.extend(_figures(value, f"{name}, "))
        elif interval and value is not None:
            # A card's tables hold lists of numbers, an evaluation names them.
            low, high = (interval["low"], interval["high"]) if isinstance(interval, Mapping) else interval
            pairs.append((name, f"{_text(value)} (95% interval {_text(low)} to {_text(high)})"))
        else:
            pairs.append((name, _text(value)))
    return pairs


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not defined"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value)
    return str(value)


def _json_for_script(content: Mapping[str, Any]) -> Markup:
    """Return JSON that no HTML parser can take for markup: it holds no ``<``, ``>`` or ``&``, only their escapes."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII: no U+2028, no lone surrogates
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704  escaped in the line above


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # plotly is not needed to import this module

    return str(get_plotlyjs())


def _template_text(name: str) -> str:
    # Line ends as an HTML parser reads them, or the hash in the content security policy would not match.
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").replace("\r\n", "\n")
    return f"\n{text}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("inspection_core", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _text
    environment.filters["percent"] = lambda share: f"{100 * share:.3g}%"
    environment.filters["share"] = lambda share: "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"
    environment.filters["cut"] = lambda score: (
        _text(score) if math.isfinite(score) else "no score" if score > 0 else "any score"
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment
