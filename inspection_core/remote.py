"""Models on a server, in place of those in this process: the other `inspection_core.engine.InferenceEngine`.

Images are read here, and go as arrays with their geometry (`inspection_core.io.wire`); neither names of files nor
header text leave this machine. A busy server is asked again when it says; other failures are an `EngineError` of one
line.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from inspection_core import __version__
from inspection_core.card import ModelCard
from inspection_core.engine import Engine, InferenceEngine
from inspection_core.errors import EngineError, GeometryError, InspectionError, ModelError, ReadError, UsageError
from inspection_core.image import Image
from inspection_core.io.wire import ERRORS, IMAGE_TYPE, PREDICTION_TYPE, image_to_bytes, prediction_from_bytes
from inspection_core.prediction import Prediction

if TYPE_CHECKING:
    import urllib3

TOKEN_VARIABLE = "INSPECTION_TOKEN"  # noqa: S105 - the variable's name
CONNECT_SECONDS = 10
ANSWER_SECONDS = 600
"""A large volume on a CPU takes minutes, and nothing is sent meanwhile."""

PATIENCE_SECONDS = 300
"""How long a busy server is asked again."""

LONGEST_PAUSE = 30
MAX_TEXT = 1 << 24
"""Bytes of an answer that is text."""


def open_engine(
    url: str | None = None, *, device: str = "auto", token: str | None = None, ca: Path | None = None
) -> InferenceEngine:
    """Return the engine of a server, or of this process where no URL is given.

    Parameters
    ----------
    url
        Such as ``https://inspect.example:8443``, or ``http://127.0.0.1:8000`` on this machine.
    device
        For this process, as for `inspection_core.device.choose`; a server has its own.
    token
        For the server; see `read_token`.
    ca
        PEM file with the certificate to trust, where it is none that the system trusts.

    Raises
    ------
    UsageError
        If URL, token or certificate make no sense.
    DeviceError
        If the device asked for is unknown or absent.
    """
    return Engine(device) if url is None else RemoteEngine(url, token, ca)


def read_token(file: Path | None = None) -> str | None:
    """Return the token in a file's first line, else in the variable INSPECTION_TOKEN, else None.

    A token never stands on the command line, where every user of the machine could read it.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"The token file {file} cannot be read: {why}.") from None
    if not lines or not lines[0].strip():
        raise UsageError(f"The token file {file} holds no token in its first line. Put it there, alone.")
    return lines[0].strip()


class RemoteEngine:
    """The models of one server; an `inspection_core.engine.InferenceEngine`. Threads may share it.

    Parameters
    ----------
    url
        ``https://HOST[:PORT][/PREFIX]``. Plain http is for this machine alone: elsewhere it would show token and images
        to everyone on the way.
    token
        As the server's administrator gave it.
    ca
        PEM file with the certificate to trust, where it is none that the system trusts.

    Raises
    ------
    UsageError
        If one of them makes no sense.
    """

    def __init__(self, url: str, token: str | None, ca: Path | None = None) -> None:
        self.url = _checked(url)
        if not token:
            raise UsageError(
                f"The server {self.url} wants a token. Set {TOKEN_VARIABLE}, or name a file that holds it with "
                "--token-file."
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("A token is one word of ASCII letters, digits and signs. Got another; copy it again.")
        self._pool = _pool(ca)
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": f"inspection-suite/{__version__}"}
        self._models: dict[str, RemoteModel] = {}
        self._most_bytes = 0
        self._lock = threading.Lock()

    def cards(self) -> tuple[ModelCard, ...]:
        """Return the cards of the models that the server offers.

        Raises
        ------
        EngineError
            If the server cannot be reached, refuses, or makes no sense.
        """
        return tuple(self.card(name) for name in self._offer())

    def card(self, model: str | Path, *, trust: bool = False) -> ModelCard:
        """Return the card of a model that the server offers, by its id; as for `load`."""
        return self.load(model).card

    def load(self, model: str | Path, *, trust: bool = False) -> RemoteModel:
        """Return a model that the server offers, by its id; a second call gives the same object.

        Raises
        ------
        ModelError
            If the server offers no such model.
        EngineError
            If the server cannot be reached, refuses, or makes no sense.
        """
        name = str(model)
        with self._lock:
            if name not in self._models:
                offered = self._offer()
                if name not in offered:
                    raise ModelError(
                        f"The server {self.url} offers the models {', '.join(offered) or '(none)'}. Got {name!r}; on a "
                        "server, a model is named by its id."
                    )
                _, _, text = self.ask("GET", f"/v1/models/{quote(name, safe='')}")
                try:
                    card = ModelCard.from_toml(text.decode("utf-8"), f"the card of {name} on {self.url}")
                except (UnicodeDecodeError, ModelError) as error:
                    raise EngineError(f"The server {self.url} sent a card that cannot be read: {error}") from error
                training = {k: v for k, v in card.training.items() if k != "folder"}  # a folder of another machine
                self._models[name] = RemoteModel(self, replace(card, training=training), self._most_bytes)
            return self._models[name]

    def _offer(self) -> tuple[str, ...]:
        """Return the ids of the server's models."""
        _, _, text = self.ask("GET", "/v1/models")
        try:
            listed = json.loads(text)
            self._most_bytes = int(listed["limits"]["max_bytes"])
            return tuple(str(m["id"]) for m in listed["models"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise EngineError(f"{self.url} answers, but not as an inspection server does. Check the URL.") from None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        most: int = MAX_TEXT,
    ) -> tuple[int, str, bytes]:
        """Send a request, again while the server is busy; return status, content type and body.

        Only an answer of 200, or an error about the image or the model, is returned or raised as such.

        Parameters
        ----------
        most
            Bytes of the answer that are taken.

        Raises
        ------
        EngineError
            If the server cannot be reached, refuses, or stays busy.
        InspectionError
            If the server says so of the image: of the type that the model would raise here.
        """
        import urllib3

        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._pool.request(
                    method,
                    self.url + path,
                    body=body,
                    headers=self._headers | (headers or {}),
                    preload_content=False,
                    redirect=False,  # a token goes nowhere else
                )
                data = _body(answer, most)
            except urllib3.exceptions.HTTPError as error:
                raise EngineError(f"The server {self.url} cannot be reached: {_why(error)}") from error
            if answer.status == 200:
                if data is None or answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise EngineError(f"The server {self.url} sent more than it should, or compressed. Check the URL.")
                return 200, answer.headers.get("Content-Type", "").partition(";")[0], data
            pause = _pause(answer)
            if pause is None or time.monotonic() + pause > give_up:
                raise self._refusal(answer.status, data or b"")
            time.sleep(pause)

    def _refusal(self, status: int, data: bytes) -> InspectionError:
        """Return the error that an answer stands for."""
        try:
            said = json.loads(data)["error"]
            kind, message = str(said["type"]), str(said["message"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return EngineError(f"The server {self.url} refuses (HTTP {status}) and does not say why. Check the URL.")
        if status in (422, 507) and kind in ERRORS:
            return ERRORS[kind](message)
        advice = " Check the token." if status in (401, 403) else ""
        return EngineError(f"The server {self.url} refuses (HTTP {status}): {message}{advice}")


class RemoteModel:
    """A model on a server; an `inspection_core.engine.RemoteModel`.

    Parameters
    ----------
    engine
        The server.
    card
        The model's card.
    most_bytes
        Largest image that the server takes.
    """

    def __init__(self, engine: RemoteEngine, card: ModelCard, most_bytes: int) -> None:
        self._engine = engine
        self._card = card
        self._most_bytes = most_bytes

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    def predict(self, image: Image) -> Prediction:
        """Return what `inspection_core.infer.predict` gives on the server, with the way there in its timings.

        Raises
        ------
        InspectionError
            As there.
        EngineError
            If the server cannot be reached, refuses, or makes no sense.
        """
        start = time.perf_counter()
        body = image_to_bytes(image)
        if len(body) > self._most_bytes:
            raise ReadError(
                f"{image.name}: the server takes images of up to {self._most_bytes} bytes. Got {len(body)}; cut the "
                "image, run the model here, or ask for a larger --max-bytes."
            )
        voxels = image.array[0].size
        try:
            _, kind, data = self._engine.ask(
                "POST",
                f"/v1/models/{quote(self._card.id, safe='')}/predict",
                body,
                {"Content-Type": IMAGE_TYPE, "Accept": PREDICTION_TYPE},
                most=9 * voxels + (1 << 28),  # scores of up to 8 bytes, a mask, and findings
            )
        except (ReadError, GeometryError) as error:  # the server knows no name
            text = str(error)
            raise type(error)(f"{image.name}: {text.removeprefix('image: ')}") from error
        if kind != PREDICTION_TYPE:
            raise EngineError(f"{self._engine.url} answers, but not as an inspection server does. Check the URL.")
        try:
            prediction = prediction_from_bytes(data, image)
        except (ReadError, GeometryError) as error:
            raise EngineError(f"The server {self._engine.url} sent what is no prediction: {error}") from error
        if prediction.model_sha256 != self._card.weights_sha256:
            raise EngineError(
                f"The server {self._engine.url} has another version of {self._card.id} now. Start again, so that all "
                "results are of one model."
            )
        way = time.perf_counter() - start - sum(prediction.timings.values())
        return replace(prediction, timings={**prediction.timings, "way": way})


def _checked(url: str) -> str:
    """Return a URL without its last slash, or say what is wrong with it."""
    parts = urlsplit(url)
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    odd = parts.query or parts.fragment or parts.username is not None or parts.password is not None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or odd:
        raise UsageError("An engine is a URL such as https://HOST:PORT, without user, password and query. Got another.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UsageError(
            f"http://{parts.hostname} would show token and images to everyone on the way. Use https, or a tunnel to "
            "this machine."
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _pool(ca: Path | None) -> urllib3.PoolManager:
    import urllib3

    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=str(ca))
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"{ca} is no PEM file with a certificate: {error.strerror or 'no certificate'}."
            ) from error
    # An answer that is lost on the way may be asked for again: to predict changes nothing.
    retries = urllib3.Retry(
        total=None,
        connect=3,
        read=1,
        redirect=0,
        status=0,
        other=0,
        backoff_factor=0.5,
        allowed_methods=None,
        respect_retry_after_header=False,  # `ask` does
    )
    return urllib3.PoolManager(
        maxsize=16,
        ssl_context=context,
        retries=retries,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
    )


def _body(answer: urllib3.BaseHTTPResponse, most: int) -> bytes | None:
    """Return the body of an answer, or None if it is longer than `most` bytes; one that breaks off is an error."""
    pieces, rest = [], most
    while piece := answer.read(1 << 20, decode_content=False):
        rest -= len(piece)
        if rest < 0:
            answer.close()
            return None
        pieces.append(piece)
    answer.release_conn()
    return b"".join(pieces)


def _pause(answer: urllib3.BaseHTTPResponse) -> float | None:
    """Return the seconds after which a busy server wants to be asked again, or None if it is not busy."""
    after = answer.headers.get("Retry-After", "")
    if answer.status not in (429, 503) or not after.isdecimal():
        return None
    return min(max(int(after[:4]), 0.1), LONGEST_PAUSE)


def _why(error: BaseException) -> str:
    """Return the reason of an error of urllib3, which wraps it several times, as one short line."""
    reasons = [error]
    while True:
        last = reasons[-1]
        inner = [e for e in (getattr(last, "reason", None), *last.args) if isinstance(e, BaseException)]
        if not inner:
            break
        reasons.append(inner[0])
    for reason in reversed(reasons):
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({reason.verify_message}). Name the right one with --ca."
        if isinstance(reason, ssl.SSLError):
            return "it does not speak TLS as expected. Check https and the port."
        if text := REASONS.get(type(reason).__name__):
            return f"{text}. Check the URL, and that the server runs."
    return f"{type(reasons[-1]).__name__}. Check the URL, and that the server runs."


REASONS = {
    "ConnectTimeoutError": "no answer in time",
    "ReadTimeoutError": "no answer in time",
    "NameResolutionError": "its name is unknown",
    "NewConnectionError": "nothing listens there",
    "ConnectionRefusedError": "nothing listens there",
    "RemoteDisconnected": "the connection broke off",
    "ProtocolError": "the connection broke off",
    "IncompleteRead": "the answer broke off",
}
"""What the classes of urllib3's errors mean."""
