"""The API: models listed, images predicted on, health and metrics. Everything but health needs a token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, FastAPI, HTTPException, Path, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from inspection_core import __version__
from inspection_core.card import ModelCard
from inspection_core.engine import LoadedModel
from inspection_core.errors import DeviceError, InspectionError, ModelError
from inspection_core.prediction import RESEARCH_USE
from inspection_core.serve.figures import CONTENT_TYPE, Figures
from inspection_core.serve.gate import Gate, Place, too_large
from inspection_core.serve.limits import Limits, RefusalError
from inspection_core.serve.shared import SharedModel
from inspection_core.serve.tokens import Tokens
from inspection_core.serve.work import GIVEN, JSON_TYPE, TAKEN, Answer, answer

log = logging.getLogger("inspection_core.serve")

DRAIN_SECONDS = 5.0
UNKNOWN_BYTES = 1 << 20
"""Bytes of an upload without a token that are read, and let go, before the refusal."""
PIECE = 1 << 18
"""Bytes of an answer that are handed to the socket at a time, so that a slow client is noticed."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ErrorBody(BaseModel):
    """Why a request was refused."""

    type: str = Field(description="A word for programs: a reason, or the class of the error.")
    message: str = Field(description="One line for people.")


class ErrorAnswer(BaseModel):
    """Every answer that is not 200."""

    error: ErrorBody


class Health(BaseModel):
    """Whether the server is well."""

    status: Literal["ok", "busy", "stopping"]


class ModelEntry(BaseModel):
    """A model that is offered."""

    id: str
    version: str
    sha256: str = Field(description="Of the weights.")
    task: Literal["anomaly", "segmentation"]
    channels: list[str]
    classes: list[str]
    view: Literal["image", "slices", "volume"]
    licence: str
    intended_use: str
    device: str


class LimitsEntry(BaseModel):
    """What an upload may be."""

    max_bytes: int
    max_pixels: int


class ModelList(BaseModel):
    """All models that are offered."""

    version: str = Field(description="Of the suite.")
    note: str
    limits: LimitsEntry
    models: list[ModelEntry]


class PredictionAnswer(BaseModel):
    """As ``findings.json``; see the guide."""

    schema_version: int
    source: None
    model: dict[str, str]
    unit: Literal["mm", "px"]
    image_score: float
    p_value: float | None
    threshold: float | None
    verdict: Literal["OK", "REVIEW", "NG"]
    findings: list[dict[str, Any]]
    warnings: list[str]
    note: str


BEARER = HTTPBearer(auto_error=False, description="The token that the server's administrator gave.")
REASONS = {
    400: "Not understood.",
    401: "No token, or a wrong one.",
    404: "No such model.",
    406: "No such type of answer.",
    408: "The upload took too long.",
    413: "The upload is too large.",
    415: "No such type of upload.",
    422: "The image cannot be read, or is none for this model.",
    429: "Too fast; see Retry-After.",
    500: "The model failed.",
    503: "Busy; see Retry-After.",
    507: "The image does not fit in memory.",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": ErrorAnswer, "description": REASONS[s]} for s in statuses}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
ModelId = Annotated[str, Path(description="Id of a model, as listed.", max_length=200)]


def make_app(models: Mapping[str, LoadedModel], tokens: Tokens, limits: Limits | None = None) -> FastAPI:
    """Return the server's application.

    Parameters
    ----------
    models
        By id: all that will ever be offered. A request names one of these and nothing else.
    tokens
        Who may ask.
    limits
        How much is taken.
    """
    limits = limits or Limits()
    figures = Figures()
    workers = max((limits.workers_on(m.device) for m in models.values()), default=1)
    gate = Gate(limits, workers)
    figures.watch(gate)
    shared = {name: _shared(model, limits, figures) for name, model in models.items()}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="inspection")

    app = FastAPI(
        title="Inspection server",
        version=__version__,
        description=RESEARCH_USE,
        docs_url=None,  # the page would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
    )
    app.state.gate = gate
    app.state.pool = pool
    app.add_middleware(cast("Any", _Watched), figures=figures)
    _say_errors(app, figures)

    async def authorised(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)] = None
    ) -> None:
        client = tokens.client(given.credentials) if given is not None else None
        if client is None:
            await _drain(request, UNKNOWN_BYTES)
            raise RefusalError(401, "token", "A token is needed: send Authorization: Bearer TOKEN.")
        request.state.client_name = client
        try:
            gate.count(client)
        except RefusalError:
            await _drain(request, limits.max_bytes)
            raise

    @app.get("/health/live", tags=["health"])
    async def live() -> Health:
        """Say that the process answers."""
        return Health(status="ok")

    @app.get("/health/ready", tags=["health"], responses={503: {"model": Health, "description": "Not ready."}})
    async def ready(response: Response) -> Health:
        """Say whether the next image would be taken."""
        why = gate.why_not_ready()
        if why is None:
            return Health(status="ok")
        response.status_code = 503
        return Health(status=cast("Any", why))

    private = APIRouter(dependencies=[Security(authorised)], responses=_refusals(401, 429))

    @private.get(
        "/metrics",
        tags=["health"],
        response_class=Response,
        responses={200: {"description": "Prometheus's text format.", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        """Give metrics in Prometheus's text format."""
        return Response(figures.text(), headers={"Content-Type": CONTENT_TYPE})

    @private.get("/openapi.json", include_in_schema=False)
    async def schema() -> JSONResponse:
        return JSONResponse(_description(app, shared))

    @private.get("/v1/models", tags=["models"])
    async def list_models() -> ModelList:
        """List the models that are offered, and what an upload may be."""
        return ModelList(
            version=__version__,
            note=RESEARCH_USE,
            limits=LimitsEntry(max_bytes=limits.max_bytes, max_pixels=limits.max_pixels),
            models=[_entry(model) for model in shared.values()],
        )

    @private.get(
        "/v1/models/{model}",
        tags=["models"],
        response_class=Response,
        responses=_refusals(404, 422)
        | {200: {"description": "The card, as TOML.", "content": {"application/toml": {}}}},
    )
    async def show_model(model: ModelId) -> Response:
        """Give a model's card, as TOML; without the folder that it was made from, which is this machine's business."""
        card = _named(shared, model).card
        training = {k: v for k, v in card.training.items() if k != "folder"}
        return Response(replace(card, training=training).to_toml(), media_type="application/toml")

    @private.post(
        "/v1/models/{model}/predict",
        tags=["models"],
        response_class=Response,
        responses=_refusals(404, 406, 408, 413, 415, 422, 500, 503, 507)
        | {200: {"model": PredictionAnswer, "description": "The prediction.", "content": {GIVEN[1]: _BINARY}}},
        openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(TAKEN, _BINARY)}},
    )
    async def predict(model: ModelId, request: Request) -> Response:
        """Predict on one image: an array with its geometry, or a picture as a file.

        The answer is ``findings.json``. With ``Accept: application/vnd.inspection.prediction`` it has the score map
        and the mask too.
        """
        try:
            network = _named(shared, model)
            taken, given = _taken(request), _given(request)
            if int(request.headers.get("content-length") or 0) > limits.max_bytes:
                raise too_large(limits)
            place = gate.place()
        except RefusalError:
            await _drain(request, limits.max_bytes)
            raise
        try:
            parts = await _receive(request, place, limits)
            asked = time.perf_counter()
            async with gate.turn():
                waited = time.perf_counter() - asked
                if await request.is_disconnected():  # while it waited; nobody would read the answer
                    raise RefusalError(400, "gone", "The client has gone.")
                done = await asyncio.get_running_loop().run_in_executor(
                    pool, _answer, parts, taken, given, network, limits.max_pixels
                )
            figures.predicted(done.prediction, waited)
            place.answer(len(done.body))
            return _Held(done.body, given, place, limits.send_seconds)
        except BaseException:
            place.give_back()
            raise

    app.include_router(private)
    return app


def _description(app: FastAPI, models: Mapping[str, SharedModel]) -> dict[str, Any]:
    """Return the description of the API, with the ids that a model may have here."""
    schema = app.openapi()
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "model":
                    parameter["schema"] |= {"enum": sorted(models)}
    return schema


def _answer(parts: list[bytes], taken: str, given: str, model: LoadedModel, max_pixels: int) -> Answer:
    """Predict; of an error that nobody foresaw the log gets kind and place, not the text, which may quote an image."""
    try:
        return answer(parts, taken, given, model, max_pixels)
    except InspectionError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a network raises
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{FilePath(f.filename).name}:{f.lineno}" for f in reversed(frames))
        log.error("a prediction failed: %s at %s", type(error).__name__, place)
        raise RefusalError(500, "internal", "The server made an error; its log says more.") from None


def _shared(model: LoadedModel, limits: Limits, figures: Figures) -> SharedModel:
    return SharedModel.of(model, limits.max_input, figures.batches.labels(model.card.id).observe)


def _named(models: Mapping[str, SharedModel], name: str) -> SharedModel:
    if name not in models:
        raise RefusalError(404, "model", "No such model is offered. GET /v1/models lists them.")
    return models[name]


def _entry(model: LoadedModel) -> ModelEntry:
    card: ModelCard = model.card
    return ModelEntry(
        id=card.id,
        version=card.version,
        sha256=card.weights_sha256,
        task=card.task,
        channels=list(card.channels),
        classes=list(card.classes),
        view=card.preparation.view,
        licence=card.licence,
        intended_use=card.intended_use,
        device=str(model.device),
    )


def _taken(request: Request) -> str:
    """Return the media type of an upload."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "encoding", "Uploads are not compressed on the way. Send them as they are.")
    if kind not in TAKEN:
        raise RefusalError(415, "type", f"An upload is one of {', '.join(TAKEN)}.")
    return kind


def _given(request: Request) -> str:
    """Return the media type of the answer: the first that the client accepts."""
    accepted = [a.partition(";")[0].strip().lower() for a in request.headers.get("accept", "*/*").split(",")]
    for kind in accepted:
        if kind in GIVEN:
            return kind
    if any(kind in ("*/*", "application/*", "") for kind in accepted):
        return JSON_TYPE
    raise RefusalError(406, "accept", f"The answer is one of {', '.join(GIVEN)}.")


async def _receive(request: Request, place: Place, limits: Limits) -> list[bytes]:
    """Take in an upload, piece by piece; each is counted before it is kept."""
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(limits.upload_seconds):
            more = True
            while more:
                piece, more = await _piece(request)
                try:
                    place.hold(len(piece))
                except RefusalError:
                    parts.clear()
                    if more:
                        await _drain(request, limits.max_bytes)
                    raise
                parts.append(piece)
    except TimeoutError:
        raise RefusalError(408, "slow", f"The upload took more than {limits.upload_seconds:g} s.") from None
    return parts


async def _piece(request: Request) -> tuple[bytes, bool]:
    """Return the next piece of an upload, and whether there are more."""
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _drain(request: Request, most: int) -> None:
    """Read what is still coming and let it go, for a while: a client that is cut off while it sends sees no answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            more = True
            while more and most > 0:
                piece, more = await _piece(request)
                most -= len(piece)


class _Held(Response):
    """An answer that keeps its request's place until the client has taken it, piece by piece."""

    def __init__(self, body: bytes, media_type: str, place: Place, seconds: float) -> None:
        super().__init__(body, media_type=media_type)
        self._place = place
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for first in range(0, len(self.body), PIECE):
                piece = bytes(self.body[first : first + PIECE])
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                await asyncio.wait_for(send(message), self._seconds)
            await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), self._seconds)
        except TimeoutError:
            log.warning("a client did not take its answer within %g s", self._seconds)
        finally:
            self._place.give_back()


class _Watched:
    """Counts and logs every request by its route; adds what every answer carries."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500  # told by what is around this
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - start
            self._figures.requests.labels(route, str(status)).inc()
            self._figures.seconds.labels(route).observe(seconds)
            client = scope.get("state", {}).get("client_name", "-")
            log.info("%s %s %d %.3f s %s", scope["method"], route, status, seconds, client)


def _say_errors(app: FastAPI, figures: Figures) -> None:
    """Give every error the same form; none quotes what was sent, and none that was not foreseen says what happened."""

    def said(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"type": kind, "message": message}}, status, dict(headers or {}))

    @app.exception_handler(RefusalError)
    async def refused(_: Request, error: RefusalError) -> JSONResponse:
        figures.refusals.labels(error.reason).inc()
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return said(error.status, error.reason, error.message, headers)

    @app.exception_handler(InspectionError)
    async def failed(_: Request, error: InspectionError) -> JSONResponse:
        status = 507 if isinstance(error, DeviceError) else 500 if isinstance(error, ModelError) else 422
        figures.refusals.labels(type(error).__name__).inc()
        return said(status, type(error).__name__, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        figures.refusals.labels("gone").inc()
        return said(400, "gone", "The client has gone.")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return said(422, "request", "The request does not fit the description in /openapi.json.")

    @app.exception_handler(StarletteHTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return said(error.status_code, "http", str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        figures.refusals.labels("internal").inc()
        return said(500, "internal", "The server made an error; its log says more.")
