"""The process: models loaded, socket bound, TLS, and uvicorn until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import UsageError
from inspection_core.remote import is_loopback
from inspection_core.serve.app import make_app
from inspection_core.serve.limits import Limits
from inspection_core.serve.tokens import Tokens

STOP_SECONDS = 30
"""How long requests in work may take once the server is told to stop."""
KEEP_ALIVE_SECONDS = 15
MAX_REQUEST_HEAD = 16 << 10


@dataclass(frozen=True)
class Place:
    """Where a server listens.

    Parameters
    ----------
    host, port
        Address, and port; 0 takes a free one.
    certificate, key
        PEM files for TLS; the key may be in the certificate's file.
    behind_proxy
        Whether TLS ends at a proxy before this server, so that plain HTTP to other machines is meant.

    Raises
    ------
    UsageError
        If others could reach it without TLS, or the certificate makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"A port is between 0, which takes a free one, and 65535. Got {self.port}.")
        if self.certificate is None:
            if self.key is not None:
                raise UsageError("A key for TLS needs its certificate: give --tls-cert too.")
            if not is_loopback(self.host) and not self.behind_proxy:
                raise UsageError(
                    f"On {self.host} other machines reach the server, and without TLS tokens and images would be open "
                    "to all on the way. Give --tls-cert and --tls-key; or --behind-proxy, where TLS ends before it."
                )
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror or type(error).__name__
            raise UsageError(
                f"{self.certificate} and {self.key or 'it'} are no certificate and its key, in PEM, without a "
                f"passphrase: {why}."
            ) from error

    def url(self, port: int) -> str:
        """Return the URL, with the port that was taken."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificate else 'http'}://{host}:{port}"


def load(names: Sequence[str], engine: Engine) -> dict[str, LoadedModel]:
    """Load the models that will be offered, given as folders or ids; return them by id.

    Raises
    ------
    ModelError
        If one is missing or damaged.
    UsageError
        If two have one id.
    """
    found: dict[str, LoadedModel] = {}
    for name in names:
        model = engine.load(name)
        other = found.setdefault(model.card.id, model)
        if other is not model:
            raise UsageError(
                f"{other.folder} and {model.folder} both hold a model {model.card.id}: a server offers one of a name."
            )
    return found


def listen(place: Place) -> socket.socket:
    """Bind the server's socket.

    Raises
    ------
    UsageError
        If the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        return socket.create_server((place.host, place.port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {place.host}, port {place.port}: {error.strerror}. Give another --host or --port."
        ) from error


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on who opens a connection and sends no request, or sends one letter by letter."""

    seconds = 15.0

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(self.seconds, self._look, None)

    def shutdown(self) -> None:
        """Hang up on an idle client when the server stops; TLS would wait half a minute for its goodbye."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().shutdown()

    def _look(self, before: object) -> None:
        if self.transport.is_closing():
            return
        cycle = self.cycle
        waits = cycle is None or cycle.response_complete
        if waits and cycle is before:  # no request since the last look
            self.transport.close()
        else:
            self.loop.call_later(self.seconds, self._look, cycle)


def make_server(app: FastAPI, place: Place, limits: Limits) -> uvicorn.Server:
    """Return uvicorn for an application, with everything bounded."""
    protocol = type("Protocol", (PatientProtocol,), {"seconds": limits.header_seconds})
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,  # ours names no path
            server_header=False,
            proxy_headers=False,
            ssl_certfile=place.certificate,
            ssl_keyfile=place.key,
            limit_concurrency=limits.connections,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=MAX_REQUEST_HEAD,
        )
    )


class _Server(uvicorn.Server):
    """uvicorn, which tells the application that it is stopping."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking images, and end once those in work are done."""
        app: Any = self.config.app
        app.state.gate.stopping = True
        super().handle_exit(sig, frame)


def serve(
    models: dict[str, LoadedModel],
    tokens: Tokens,
    place: Place,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in work are finished first.

    Parameters
    ----------
    ready
        Called with the URL once the server listens.

    Raises
    ------
    UsageError
        If it cannot listen there.
    """
    limits = limits or Limits()
    app = make_app(models, tokens, limits)
    server = make_server(app, place, limits)
    with listen(place) as sock, _sigterm_as_interrupt():
        ready(place.url(sock.getsockname()[1]))
        try:
            server.run(sockets=[sock])
        except KeyboardInterrupt:  # uvicorn raises the signal again after a clean end
            logging.getLogger(__name__).info("stopped")
        finally:
            app.state.pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
