"""A bundle's metadata as a model card: what it takes, what it gives, and what its makers say of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inspection_core.card import ModelCard, Policy, Preparation, Scalar
from inspection_core.errors import ModelError, printable
from inspection_core.models.bundle import config
from inspection_core.models.bundle.files import META, Files

ARCHITECTURE = "monai-bundle"
MAX_CHANNELS = 1_000
TEXT = 2_000
"""Letters of a text of strangers that go on a card."""

POLICY = Policy(kind="band", low=1e-6, high=1.0)
"""Every finding is for someone to look at: what a bundle's confidence is worth was not measured here."""

SCORE = (
    "1 - P(background), or the highest probability of any class where a bundle's classes overlap; the mask is what the "
    "bundle's own post-processing makes of it; not calibrated"
)
LIMITS = (
    "A bundle made by others: its figures are its makers' own and were not measured here. "
    "Confidences are not calibrated, so that every finding is for someone to look at."
)
_LICENCES = (
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("MIT", r"\bMIT License\b|Permission is hereby granted, free of charge"),
    ("CC-BY-NC-SA-4.0", r"Attribution-NonCommercial-ShareAlike 4\.0"),
    ("CC-BY-NC-4.0", r"Attribution-NonCommercial 4\.0"),
    ("CC-BY-SA-4.0", r"Attribution-ShareAlike 4\.0"),
    ("CC-BY-4.0", r"Attribution 4\.0 International"),
    ("BSD-3-Clause", r"Redistribution and use in source and binary forms[\s\S]*Neither the name"),
)
_RGB = {"r": "red", "g": "green", "b": "blue", "red": "red", "green": "green", "blue": "blue"}
_GENERIC = re.compile(r"image\d*|img|input|channel ?0?|", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """What a bundle's metadata says of its network.

    Parameters
    ----------
    channels
        Names of the input's channels, in order.
    outputs
        Name of each channel of the output, in order.
    ndim
        Spatial axes of the input, 2 or 3; 0 where the metadata do not say.
    background
        Whether the first channel of the output is the background.
    """

    channels: tuple[str, ...]
    outputs: tuple[str, ...]
    ndim: int

    @property
    def background(self) -> bool:
        """Whether the output's first channel is the background."""
        return bool(self.outputs) and _background(self.outputs[0])


def read(files: Files) -> dict[str, Any]:
    """Return a bundle's metadata.

    Raises
    ------
    ModelError
        If they are no JSON table.
    """
    data = config.parse(files.text(META), f"{META} of {files.path}")
    if not isinstance(data, dict):
        raise ModelError(f"{META} of {files.path} must be a table of entries. Got {type(data).__name__}.")
    return data


def network_format(data: Mapping[str, Any], where: str) -> Format:
    """Return what ``network_data_format`` says.

    Raises
    ------
    ModelError
        If the network does not take one image and give one segmentation.
    """
    both = _dict(data.get("network_data_format"))
    given, made = _dict(both.get("inputs")), _dict(both.get("outputs"))
    if not given or not made:
        raise ModelError(f"{where} lacks network_data_format with inputs and outputs; it says what channels are.")
    output = _dict(made.get("pred") or next(iter(made.values())))
    kind = str(output.get("format", "segmentation")).lower()
    if kind not in ("segmentation", "label", "labels", "probabilities", "probability", "logits", "image", "mask"):
        raise ModelError(
            f"The bundle's output is {kind!r}. Bundles that segment can be run; others, such as classification, "
            "detection and generation, cannot."
        )
    channels: list[str] = []
    ndim = 0
    for entry in map(_dict, given.values()):
        modality = _short(entry.get("modality"))
        names = _numbered(entry.get("channel_def"), entry.get("num_channels"), modality or "channel")
        if len(names) == 1 and _GENERIC.fullmatch(names[0]):
            names = [modality or "image"]
        channels += [_RGB.get(n.lower(), n) if len(names) == 3 else n for n in names]
        shape = entry.get("spatial_shape")
        ndim = ndim or (len(shape) if isinstance(shape, list) and len(shape) in (2, 3) else 0)
    outputs = _numbered(output.get("channel_def"), output.get("num_channels"), "class")
    if len(set(channels)) != len(channels):
        channels = [f"{name} {k}" for k, name in enumerate(channels, start=1)]
    return Format(tuple(channels), tuple(outputs), ndim)


def _numbered(names: Any, count: Any, word: str) -> list[str]:
    """Return the names of channels 0, 1, ...; those that are missing are called by their number."""
    table = {str(k): _short(v) for k, v in _dict(names).items()}
    last = max((int(k) + 1 for k in table if k.isdigit() and int(k) < MAX_CHANNELS), default=0)
    number = count if isinstance(count, int) and 0 < count < MAX_CHANNELS else 0
    total = max(last, number, 1)
    return [table.get(str(k)) or (word if total == 1 else f"{word} {k}") for k in range(total)]


def _background(name: str) -> bool:
    return name.strip().lower() in ("background", "bg", "everything else", "unlabeled", "unlabelled")


def card(
    files: Files,
    data: Mapping[str, Any],
    form: Format,
    classes: tuple[str, ...],
    weights: str,
    *,
    settings: str,
    view: str,
    oriented: bool,
    trust: bool,
) -> ModelCard:
    """Return a card for a bundle.

    Parameters
    ----------
    files, data, form
        The bundle, its metadata, and what they say of the network.
    classes
        Names of the labels of its mask, label 1 first.
    weights
        Name of its file of weights.
    settings
        Name of its configuration, whose hash goes on the card too: with another one it is another model.
    view
        ``"image"`` of 2-D networks that take pictures, else ``"volume"``.
    oriented
        Whether its preprocessing turns scans to an orientation.
    trust
        Whether it runs code of its own.
    """
    said = {k: _short(data.get(k), TEXT) for k in ("task", "description", "intended_use", "authors", "data_source")}
    limits = LIMITS
    if view == "volume" and not oriented:
        limits += " It does not say which orientation it expects: scans are given to it as they are stored."
    if trust:
        limits += " It was run with --trust-bundle: its own code took part."
    training: dict[str, Scalar | tuple[Scalar, ...]] = {k: v for k, v in said.items() if v and k != "intended_use"}
    references = data.get("references")
    if isinstance(references, list):
        training["references"] = tuple(_short(r, TEXT) for r in references[:20])
    for key in ("monai_version", "pytorch_version"):
        if data.get(key):
            training[key] = _short(data[key])
    metrics: dict[str, Scalar | tuple[Scalar, ...]] = {
        _short(k): v
        for k, v in _dict(data.get("eval_metrics")).items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }
    return ModelCard(
        id=re.sub(r"[\\/\s]+", "-", _short(data.get("name")) or files.name).strip("-.") or "bundle",
        version=_short(data.get("version")) or "unknown",
        architecture=ARCHITECTURE,
        task="segmentation",
        channels=form.channels,
        score=SCORE,
        classes=classes,
        preparation=Preparation(view="image" if view == "image" else "volume", normalise="percentile"),
        policy=POLICY,
        parameters={"inference_sha256": files.sha256(settings), "trusted": trust},
        intended_use=said["intended_use"] or "Not stated by the bundle. Research use only, not for diagnosis.",
        limits=limits,
        licence=licence(files, data),
        training=training,
        metrics=metrics,
        weights=weights.rpartition("/")[2],
        weights_sha256=files.sha256(weights),
    )


def licence(files: Files, data: Mapping[str, Any]) -> str:
    """Return a bundle's licence: its name where it is a known one, else the text's first line; and of the data."""
    found = []
    names = {n.rpartition("/")[2].lower().partition(".")[0]: n for n in sorted(files.names, reverse=True)}
    for key, what in (("license", ""), ("licence", ""), ("data_license", "data: "), ("model_license", "weights: ")):
        if key in names:
            text = files.text(names[key])
            known = next((n for n, pattern in _LICENCES if re.search(pattern, text[:4_000], re.IGNORECASE)), "")
            first = next((line.strip() for line in text.splitlines() if line.strip()), "")
            found.append(f"{what}{known or _short(first, 200)}, see {names[key]}")
    if data.get("license"):
        found.insert(0, _short(data["license"], 200))
    if data.get("copyright"):
        found.append(_short(data["copyright"], 200))
    return "; ".join(found) or "not stated by the bundle"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(value: Any, limit: int = 100) -> str:
    """Return text of strangers as one line of at most `limit` letters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
