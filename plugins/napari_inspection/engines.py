"""The engines that all viewers and tabs of this process share, and the models that they can load.

Whether a model runs here or on a server is decided as for the command line, by `inspection_core.remote.open_engine`.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError, UsageError
from inspection_core.prepare import GREY, RGB
from napari_inspection import store

if TYPE_CHECKING:
    from inspection_core.engine import InferenceEngine
    from inspection_core.image import Image
    from inspection_core.prediction import Prediction

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Place:
    """Where models are and run.

    Parameters
    ----------
    device
        Of this machine.
    url
        Of a server, which has a device of its own; empty for this machine.
    token
        For the server. It is kept in memory alone.
    ca
        PEM file with the server's certificate, where it is none that the system trusts.
    """

    device: str = "auto"
    url: str = ""
    token: str = field(default="", repr=False)
    ca: str = ""


HERE = Place()
_engines: dict[Place, InferenceEngine] = {}
_lock = threading.Lock()


def engine(place: Place = HERE, *, fresh: bool = False) -> InferenceEngine:
    """Return the process's engine for a place; torch is imported by the first call for this machine, not before.

    Parameters
    ----------
    place
        Where.
    fresh
        Forget what a server offered before.

    Raises
    ------
    DeviceError
        If the device is not here.
    UsageError
        If URL, token or certificate make no sense.
    """
    from inspection_core.remote import open_engine, read_token

    if place.url and not place.token and not read_token():
        raise UsageError("The server wants a token. Type it into the field beside the URL, then connect again.")
    with _lock:
        if place not in _engines or fresh:
            token = place.token or (read_token() if place.url else None)
            certificate = Path(place.ca) if place.ca else None
            _engines[place] = open_engine(place.url or None, device=place.device, token=token, ca=certificate)
        return _engines[place]


def offered(place: Place) -> tuple[ModelCard, ...]:
    """Ask a server which models it offers.

    Raises
    ------
    InspectionError
        As for `engine`; and if the server cannot be reached, refuses, or makes no sense.
    """
    return engine(place, fresh=True).cards()


def run(image: Image, model: str | Path, place: Place) -> Prediction:
    """Run a model on an image, wherever it is.

    Raises
    ------
    InspectionError
        As for `inspection_core.infer.predict`.
    """
    from inspection_core.infer import predict
    from inspection_core.prepare import name_channels

    loaded = engine(place).load(model)
    named = name_channels(image, loaded.card.channels)
    return patiently(lambda: predict(named, loaded)) if place.url else predict(named, loaded)


def patiently(work: Callable[[], T]) -> T:
    """Wait for work that asks nobody whether it is still wanted, such as a request; cancelling does not wait for it."""
    from inspection_core.progress import tick

    end: Future[T] = Future()

    def do() -> None:
        try:
            end.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the one who waits is told
            end.set_exception(error)

    threading.Thread(target=do, name="request", daemon=True).start()
    while True:
        tick(0, 0)
        with suppress(TimeoutError):
            return end.result(timeout=0.1)


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


def wording(task: str) -> Mapping[str, str]:
    """Return what verdicts are called: of parts OK, REVIEW and NG, of scans no finding, check and finding."""
    from inspection_core.report import WORDING

    return WORDING[task]


def card_text(card: ModelCard, place: Place = HERE) -> str:
    """Return a model's card for people: what it is for, what it cannot do, whose it is, and where it runs."""
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
    if place.url:
        lines.append(f"<b>Runs on:</b> {html.escape(place.url)}. Images go there as voxels, without names or headers.")
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


def expectation(card: ModelCard, voxels: int, place: Place = HERE) -> str:
    """Return what a run may take on an image of so many voxels, from what this model took before in this place."""
    if place.url:
        rate = store.setting("seconds_per_voxel", {}).get(_speed_key(card.id, place))
        return "Runs on the server. " + (
            f"Takes about {duration(rate * voxels)}, as measured before."
            if rate is not None
            else "How long it takes is known after the first run."
        )
    memory = voxels * (4 * (2 + len(card.classes)) + 4) / 2**30
    room = f"about {memory:.1f} GiB of memory" if memory >= 0.1 else "little memory"
    rate = store.setting("seconds_per_voxel", {}).get(_speed_key(card.id, place))
    if rate is None:
        return f"Needs {room}. How long it takes is known after the first run here."
    seconds = rate * voxels
    return f"Needs {room} and about {duration(seconds)}, as measured on this machine."


def remember_speed(card_id: str, seconds: float, voxels: int, place: Place = HERE) -> None:
    """Keep how fast a model was."""
    rates = dict(store.setting("seconds_per_voxel", {}))
    rates[_speed_key(card_id, place)] = seconds / max(1, voxels)
    store.set_setting("seconds_per_voxel", rates)


def _speed_key(card_id: str, place: Place) -> str:
    return f"{card_id} {place.url}".strip()


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min"
