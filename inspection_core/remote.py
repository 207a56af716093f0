"""Models on a server, in place of those in this process: the other `inspection_core.engine.InferenceEngine`."""

from __future__ import annotations

from pathlib import Path

from inspection_core.engine import Engine, InferenceEngine


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
        For the server.
    ca
        PEM file with the certificate to trust, where it is none that the system trusts.

    Raises
    ------
    EngineError
        If the URL makes no sense.
    """
    if url is None:
        return Engine(device)
    raise NotImplementedError(url, token, ca)
