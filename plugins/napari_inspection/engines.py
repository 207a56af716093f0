"""The one engine that all viewers and tabs of this process share, and the models that it can load."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError
from inspection_core.prepare import GREY, RGB
from napari_inspection import store

if TYPE_CHECKING:
    from inspection_core.engine import Engine
    from inspection_core.image import Image

_engines: dict[str, Engine] = {}
_lock = threading.Lock()


def engine(device: str = "auto") -> Engine:
    """Return the process's engine for a device; torch is imported by the first call, not before.

    Raises
    ------
    DeviceError
        If the device is not here.
    """
    from inspection_core.engine import Engine

    with _lock:
        if device not in _engines:
            _engines[device] = Engine(device)
        return _engines[device]


def known_models() -> list[tuple[Path, ModelCard | ModelError]]:
    """Return the models to choose from: the suite's, those made in the viewer, and those in added folders."""
    from inspection_core.engine import list_models

    folders = [store.models_folder(), *(Path(f) for f in store.setting("model_folders", []))]
    found: dict[Path, ModelCard | ModelError] = {}
    for folder in folders:
        for place, card in list_models(folder):
            found.setdefault(place, card)
    return list(found.items())


def add_folder(folder: Path) -> None:
    """Remember a folder to look for models in."""
    folders = [f for f in store.setting("model_folders", []) if f != str(folder)]
    store.set_setting("model_folders", [str(folder), *folders][:20])


def card_text(card: ModelCard) -> str:
    """Return a model's card for people: what it is for, what it cannot do, whose it is."""
    kind = {"anomaly": "finds what differs from good images", "segmentation": "outlines " + ", ".join(card.classes)}
    lines = [
        f"<b>{card.id}</b>, version {card.version}: {kind[card.task]}",
        f"<b>Takes:</b> {', '.join(card.channels)}",
        f"<b>Use:</b> {card.intended_use or 'not stated'}",
        f"<b>Limits:</b> {card.limits or 'not stated'}",
        f"<b>Licence:</b> {card.licence or 'not stated'}",
    ]
    if card.metrics:
        lines.append("<b>Measured:</b> " + "; ".join(f"{k} {v}" for k, v in list(card.metrics.items())[:6]))
    lines.append("Research use only, not for diagnosis.")
    return "<br>".join(lines)


def misfit(card: ModelCard, image: Image) -> str:
    """Return why a model cannot run on an image, by its axes and number of channels, or an empty line."""
    if card.preparation.view == "image" and image.ndim == 3:
        return "This model is for images, not for scans. Choose another."
    if card.preparation.view == "volume" and image.ndim == 2:
        return "This model is for volumes, not for single images. Choose another."
    colours = card.channels == RGB and image.channels == GREY  # grey serves for all three
    if len(card.channels) > len(image.channels) and not colours:
        return f"This model takes the channels {', '.join(card.channels)}. Choose another, or open the whole study."
    return ""


def expectation(card: ModelCard, voxels: int) -> str:
    """Return what a run may take on an image of so many voxels, from what this model took before on this machine."""
    memory = voxels * (4 * (2 + len(card.classes)) + 4) / 2**30
    room = f"about {memory:.1f} GiB of memory" if memory >= 0.1 else "little memory"
    rate = store.setting("seconds_per_voxel", {}).get(card.id)
    if rate is None:
        return f"Needs {room}. How long it takes is known after the first run here."
    seconds = rate * voxels
    return f"Needs {room} and about {duration(seconds)}, as measured on this machine."


def remember_speed(card_id: str, seconds: float, voxels: int) -> None:
    """Keep how fast a model was."""
    rates = dict(store.setting("seconds_per_voxel", {}))
    rates[card_id] = seconds / max(1, voxels)
    store.set_setting("seconds_per_voxel", rates)


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min"
