"""Servers in this process, on a real socket, with models that take no time to make."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import urllib3

from inspection_core.card import Calibration, ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import LoadedModel
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.models import Scores
from inspection_core.serve.app import make_app
from inspection_core.serve.limits import Limits
from inspection_core.serve.run import Place, listen, make_server
from inspection_core.serve.tokens import Tokens

TOKEN = "a-token-for-tests-alone"  # noqa: S105


class Blocks:
    """Scores each block of 8 x 8 pixels by its mean.

    With a gate it waits there, as a slow network would; told to, it fails.
    """

    stride, offset = 8, 3.5

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, batch: torch.Tensor) -> Scores:
        self.batches.append(tuple(batch.shape))
        self.entered.release()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return Scores(F.avg_pool2d(batch[:, :1], 8)[:, 0])

    def to(self, device: Device) -> None:
        pass


def blocks(tmp_path, batch: int = 1, name: str = "blocks") -> LoadedModel:
    card = ModelCard(
        name,
        "1",
        "blocks",
        "anomaly",
        ("grey",),
        "mean of a block",
        preparation=Preparation(short_side=0, multiple=8, tile=64),
        policy=Policy(max_false_alarms=0.1, review=0.2),
        calibration=Calibration("made up", tuple(np.linspace(0.1, 0.5, 40)), tuple(np.linspace(0.2, 0.6, 40)), 0.6),
        training={"folder": "/somewhere/private", "images": 40},
        weights_sha256="0" * 64,
    )
    return LoadedModel(card, tmp_path, Blocks(), Device("cpu", batch))


@dataclass
class Running:
    """A server that runs, and a client."""

    url: str
    app: Any
    http: urllib3.PoolManager

    def ask(self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str) -> Any:
        """Ask once; header names are written with underscores."""
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        return self.http.request(method, self.url + path, body=body, headers=sent, retries=False, timeout=30)


@contextmanager
def running(models: list[LoadedModel], limits: Limits, place: Place, **client: Any) -> Iterator[Running]:
    app = make_app({m.card.id: m for m in models}, Tokens({"tests": TOKEN}), limits)
    server = make_server(app, place, limits)
    with listen(place) as sock, urllib3.PoolManager(maxsize=8, **client) as http:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield Running(place.url(sock.getsockname()[1]), app, http)
        finally:
            server.should_exit = True
            thread.join(30)
            app.state.pool.shutdown()
            assert not thread.is_alive()


@pytest.fixture
def blocks_model(tmp_path) -> LoadedModel:
    return blocks(tmp_path)


@pytest.fixture
def serve():
    """Start servers: ``serve(model, ..., limits)`` gives a running one."""
    with ExitStack() as stack:

        def start(*models: LoadedModel, limits: Limits | None = None, place: Place | None = None, **client: Any):
            return stack.enter_context(running(list(models), limits or Limits(), place or Place(port=0), **client))

        yield start


def picture(seed: int = 0, size: tuple[int, int] = (32, 48)) -> Image:
    array = np.random.default_rng(seed).integers(0, 256, (1, *size), dtype=np.uint8)
    return Image(array, Geometry.pixels(size), ("grey",))


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def make_blocks():
    return blocks


@pytest.fixture
def token():
    return TOKEN
