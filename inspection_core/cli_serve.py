"""The command ``inspection serve``, and the options of commands that take a server in place of this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inspection_core.errors import UsageError

if TYPE_CHECKING:
    from inspection_core.engine import InferenceEngine

EngineUrl = Annotated[
    str | None,
    typer.Option("--engine", metavar="URL", help="Take the models of this server; its token is in INSPECTION_TOKEN."),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Take the server's token from this file instead.")
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="Certificate of the server to trust, if the system does not."),
]


def chosen_engine(url: str | None, token_file: Path | None, ca: Path | None, device: str) -> InferenceEngine:
    """Return the engine that the options ask for."""
    from inspection_core.remote import open_engine, read_token

    if url is None:
        if token_file or ca:
            raise UsageError("--token-file and --ca are about a server. Give its --engine URL too.")
        return open_engine(device=device)
    if device != "auto":
        raise UsageError("--device is about this machine, and the server of --engine has its own. Leave one out.")
    return open_engine(url, token=read_token(token_file), ca=ca)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("serve")(serve)


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Model folders or ids: all that will be offered.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Tokens, a line each: TOKEN, or NAME TOKEN."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate (chain), PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="TLS ends at a proxy: plain HTTP to other machines is meant.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    max_bytes: Annotated[int, typer.Option(help="Largest upload.")] = 256 << 20,
    held_bytes: Annotated[int, typer.Option(help="All uploads that are held at once.")] = 1 << 30,
    max_pixels: Annotated[int, typer.Option(help="Most values of an image, all channels.")] = 100_000_000,
    max_input: Annotated[int, typer.Option(help="Most values of a network's input after resizing.")] = 1 << 28,
    queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 64,
    workers: Annotated[int, typer.Option(help="Requests in work at once; 0 takes the cores.")] = 0,
    rate: Annotated[float, typer.Option(help="Requests a second of one client; twice as many at once.")] = 100.0,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="PATH", help="Machine-readable result at the end; - is standard output."),
    ] = None,
) -> None:
    """Serve models to viewers and scripts on other machines. Refuses to start without a token."""
    from inspection_core.cli import console, outcome

    with outcome("serve", json) as result:
        if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
            raise UsageError('The server needs more: pip install "inspection-suite[serve]".')
        from inspection_core.engine import Engine
        from inspection_core.serve.limits import Limits
        from inspection_core.serve.run import Place, load
        from inspection_core.serve.run import serve as run
        from inspection_core.serve.tokens import read_tokens

        result.inputs.extend(models)
        tokens = read_tokens(token_file, os.environ)
        place = Place(host, port, tls_cert, tls_key, behind_proxy)
        limits = Limits(
            max_bytes=max_bytes,
            held_bytes=max(held_bytes, max_bytes),
            max_pixels=max_pixels,
            max_input=max_input,
            queue=queue,
            workers=workers,
            rate=rate,
            burst=max(1, round(2 * rate)),
        )
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        loaded = load(models, Engine(device))

        def ready(url: str) -> None:
            result.extra["url"] = url
            result.extra["models"] = sorted(loaded)
            console().print(
                f"Serving {', '.join(sorted(loaded))} on {url} to {len(tokens.names)} clients. Ctrl-C stops."
            )

        run(loaded, tokens, place, limits, ready)
        console().print("Stopped.")
