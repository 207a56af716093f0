"""The API over a real socket: who gets in, what is refused, and what the answers say."""

import io
import json
import re
import socket
import tempfile
import threading
import time
import zlib

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save

from inspection_core.card import ModelCard
from inspection_core.errors import DeviceError, ModelError
from inspection_core.infer import predict
from inspection_core.io.results import dump, findings_json
from inspection_core.io.wire import IMAGE_TYPE, PREDICTION_TYPE, image_to_bytes, prediction_from_bytes
from inspection_core.serve.limits import Limits

PREDICT = "/v1/models/blocks/predict"


def png(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, kind)
    return file.getvalue()


def post(server, body, kind=IMAGE_TYPE, path=PREDICT, **headers):
    return server.ask("POST", path, body, Content_Type=kind, **headers)


def refused(answer, status: int, kind: str) -> str:
    """Check the form of a refusal; return its message."""
    assert answer.status == status, answer.data
    error = json.loads(answer.data)["error"]
    assert error["type"] == kind
    assert "\n" not in error["message"]
    return error["message"]


# name: (method, path)
PRIVATE = {
    "models": ("GET", "/v1/models"),
    "card": ("GET", "/v1/models/blocks"),
    "predict": ("POST", PREDICT),
    "no such model": ("POST", "/v1/models/other/predict"),
    "metrics": ("GET", "/metrics"),
    "schema": ("GET", "/openapi.json"),
}


def test_without_the_token_there_is_health_alone(serve, blocks_model, token):
    server = serve(blocks_model)
    for method, path in PRIVATE.values():
        for given in (None, "", token[:-1], token + "a", token.upper(), "ä"):
            answer = server.ask(method, path, b"", token=given)
            refused(answer, 401, "token")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        refused(server.ask(method, path, b"", token=None, Authorization=f"Basic {token}"), 401, "token")
    for path in ("/health/live", "/health/ready"):
        assert json.loads(server.ask("GET", path, token=None).data) == {"status": "ok"}
    for path in ("/docs", "/redoc", "/", "/v1", "/../../etc/passwd"):
        refused(server.ask("GET", path), 404, "http")
    refused(server.ask("DELETE", "/v1/models"), 405, "http")


def test_models_and_their_cards(serve, blocks_model):
    server = serve(blocks_model, limits=Limits(max_bytes=1000))
    listed = json.loads(server.ask("GET", "/v1/models").data)
    assert [m["id"] for m in listed["models"]] == ["blocks"]
    assert listed["limits"]["max_bytes"] == 1000
    assert "not for diagnosis" in listed["note"]
    text = server.ask("GET", "/v1/models/blocks").data.decode()
    assert "/somewhere" not in text  # the folder that it was made from
    card = ModelCard.from_toml(text)
    assert card.calibration == blocks_model.card.calibration
    assert card.training == {"images": 40}


@pytest.mark.parametrize("name", ["other", "..", "%2e%2e%2f%2e%2e%2fetc", "%00", "a" * 150, "%3Cb%3E", "/etc/passwd"])
def test_a_request_names_an_offered_model_and_nothing_else(serve, blocks_model, name):
    server = serve(blocks_model)
    for answer in (server.ask("GET", f"/v1/models/{name}"), post(server, b"", path=f"/v1/models/{name}/predict")):
        assert answer.status == 404
        assert b"<b>" not in answer.data
        assert b"passwd" not in answer.data


def test_the_answer_is_what_the_model_says_here(serve, blocks_model, make_blocks, make_picture, tmp_path):
    server, image = serve(blocks_model), make_picture()
    local = predict(image, make_blocks(tmp_path))
    answer = post(server, image_to_bytes(image), Accept=PREDICTION_TYPE)
    assert answer.headers["Content-Type"] == PREDICTION_TYPE
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    sent = prediction_from_bytes(answer.data, image)
    assert sent.score.tobytes() == local.score.tobytes()
    assert sent.mask.tobytes() == local.mask.tobytes()
    assert dump(findings_json(sent)) == dump(findings_json(local))
    for accept in ("*/*", "application/json", "text/html, application/json;q=0.5"):
        assert post(server, image_to_bytes(image), Accept=accept).data.decode() == dump(findings_json(local))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WebP"])
def test_a_picture_may_come_as_it_is(serve, blocks_model, make_picture, kind):
    server, image = serve(blocks_model), make_picture()
    file = io.BytesIO()
    PIL.Image.fromarray(image.array[0]).save(file, kind, **({"lossless": True} if kind == "WebP" else {}))
    plain = json.loads(post(server, image_to_bytes(image)).data)
    assert (
        json.loads(post(server, file.getvalue(), f"image/{kind.lower()}").data)["image_score"] == plain["image_score"]
    )


def bomb() -> bytes:
    """Return a PNG of a few kilobytes that claims 15,000 x 15,000 pixels, and holds them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = (15_000).to_bytes(4, "big")
    header, data = chunk(b"IHDR", size + size + bytes([8, 0, 0, 0, 0])), zlib.compress(bytes(15_001 * 100))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image_to_bytes_of(array, affine, channels=("grey",), unit="px") -> bytes:
    text = json.dumps({"version": 1, "unit": unit, "channels": list(channels)}).encode()
    return save({"image": array, "affine": affine, "about": np.frombuffer(text, np.uint8)})


TINY = image_to_bytes_of(np.zeros((1, 4, 4), np.uint8), np.eye(3))
# name: (body, content type, other headers, status, type, part of the message)
REFUSED = {
    "no type": (TINY, "", {}, 415, "type", "An upload is one of"),
    "json": (b"{}", "application/json", {}, 415, "type", "An upload is one of"),
    "gif": (b"GIF89a", "image/gif", {}, 415, "type", "An upload is one of"),
    "compressed on the way": (TINY, IMAGE_TYPE, {"Content_Encoding": "gzip"}, 415, "encoding", "not compressed"),
    "wants html": (TINY, IMAGE_TYPE, {"Accept": "text/html"}, 406, "accept", "The answer is one of"),
    "nothing": (b"", IMAGE_TYPE, {}, 422, "ReadError", "cut off"),
    "text as an image": (b"hello" * 9, IMAGE_TYPE, {}, 422, "ReadError", "cut off, or something else"),
    "an empty picture": (b"", "image/png", {}, 422, "ReadError", "image is empty"),
    "half a picture": (png(np.zeros((9, 9), np.uint8))[:40], "image/png", {}, 422, "ReadError", "image is truncated"),
    "another picture": (png(np.zeros((9, 9), np.uint8)), "image/tiff", {}, 422, "ReadError", "is a PNG file by its"),
    "a bomb": (bomb(), "image/png", {}, 422, "ReadError", "claims 15000 x 15000 pixels. At most"),
    "too many pixels": (png(np.zeros((999, 1002), np.uint8)), "image/png", {}, 422, "ReadError", "1000000 in all"),
    "too many values": (
        image_to_bytes_of(np.zeros((1, 1000, 1001), np.uint8), np.eye(3)),
        *(IMAGE_TYPE, {}, 422, "ReadError", "up to 1000000 values"),
    ),
    "a volume for a model of images": (
        image_to_bytes_of(np.zeros((1, 4, 4, 4), np.uint8), np.eye(4)),
        *(IMAGE_TYPE, {}, 422, "ReadError", "takes 2-D images"),
    ),
    "other channels": (
        image_to_bytes_of(np.zeros((2, 4, 4), np.uint8), np.eye(3), ("<script>", "b\n")),
        *(IMAGE_TYPE, {}, 422, "ReadError", "expected the channel grey"),
    ),
    "an affine that is none": (
        image_to_bytes_of(np.zeros((1, 4, 4), np.uint8), np.zeros((3, 3))),
        *(IMAGE_TYPE, {}, 422, "GeometryError", "affine"),
    ),
    "too many bytes": (bytes(3 << 20), IMAGE_TYPE, {}, 413, "size", "up to 2097152 bytes"),
    "too many bytes, unannounced": (iter([bytes(1 << 20)] * 3), IMAGE_TYPE, {}, 413, "size", "up to 2097152 bytes"),
}


def test_refused(serve, blocks_model, make_picture):
    server = serve(blocks_model, limits=Limits(max_bytes=2 << 20, max_pixels=1_000_000))
    for name, (body, kind, headers, status, reason, text) in REFUSED.items():
        answer = post(server, body, kind, **headers)
        message = refused(answer, status, reason)
        assert text in message, name
        assert tempfile.gettempdir() not in message, name
        until(lambda: server.app.state.gate.places == server.app.state.gate.held == 0)
    assert blocks_model.predictor.batches == []
    assert post(server, image_to_bytes(make_picture())).status == 200


def test_what_the_network_would_see_is_bounded(serve, band):
    from inspection_core.engine import Engine

    model = Engine("cpu").load(band(spacing=(1.0, 1.0, 1.0)))
    server = serve(model, limits=Limits(max_input=1 << 20))
    body = image_to_bytes_of(np.zeros((1, 8, 8, 8), np.int16), np.diag([200.0, 200, 200, 1]), ("CT",), "mm")
    assert "too large" in refused(post(server, body, path="/v1/models/band/predict"), 422, "ReadError")


ERRORS = {
    "memory": (DeviceError("no room"), 507, "DeviceError", "no room"),
    "model": (ModelError("odd network"), 500, "ModelError", "odd network"),
    "unforeseen": (ZeroDivisionError("Doe^John"), 500, "internal", "The server made an error; its log says more."),
}


@pytest.mark.parametrize(("error", "status", "kind", "text"), ERRORS.values(), ids=ERRORS)
def test_a_model_that_fails(serve, blocks_model, make_picture, caplog, error, status, kind, text):
    server = serve(blocks_model)
    blocks_model.predictor.error = error
    assert refused(post(server, image_to_bytes(make_picture())), status, kind) == text
    blocks_model.predictor.error = None
    assert post(server, image_to_bytes(make_picture())).status == 200
    until(lambda: server.app.state.gate.places == 0)
    assert "Doe" not in caplog.text  # a name that an unforeseen error quotes
    assert ("ZeroDivisionError at conftest.py:" in caplog.text) == (kind == "internal")


def test_past_its_queue_the_server_refuses_and_says_when_to_come_again(serve, blocks_model, make_picture):
    server = serve(blocks_model, limits=Limits(workers=1, queue=2))
    body, answers = image_to_bytes(make_picture()), []
    blocks_model.predictor.gate.clear()
    threads = [threading.Thread(target=lambda: answers.append(post(server, body))) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: server.app.state.gate.places == 3)
    started = time.monotonic()
    answer = post(server, body)
    assert "3 requests are before" in refused(answer, 503, "queue")
    assert time.monotonic() - started < 5  # at once, not after the others
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    busy = server.ask("GET", "/health/ready", token=None)
    assert (busy.status, json.loads(busy.data)) == (503, {"status": "busy"})
    assert server.ask("GET", "/health/live", token=None).status == 200
    blocks_model.predictor.gate.set()
    for thread in threads:
        thread.join(30)
    assert [a.status for a in answers] == [200] * 3
    assert server.ask("GET", "/health/ready", token=None).status == 200
    text = server.ask("GET", "/metrics").data.decode()
    assert 'inspection_refusals_total{reason="queue"} 1.0' in text
    assert 'inspection_requests_total{route="/v1/models/{model}/predict",status="200"} 3.0' in text


def until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_all_uploads_together_are_bounded(serve, blocks_model, make_picture):
    body = image_to_bytes(make_picture())
    server = serve(blocks_model, limits=Limits(workers=1, max_bytes=len(body) + 10, held_bytes=2 * len(body) - 1))
    blocks_model.predictor.gate.clear()
    thread = threading.Thread(target=post, args=(server, body))
    thread.start()
    assert blocks_model.predictor.entered.acquire(timeout=30)
    assert "fill the server's memory" in refused(post(server, body), 503, "memory")
    blocks_model.predictor.gate.set()
    thread.join(30)
    until(lambda: server.app.state.gate.held == 0)  # given back after the answer has gone


def test_too_fast(serve, blocks_model):
    server = serve(blocks_model, limits=Limits(rate=0.01, burst=2))
    for _ in range(2):
        assert server.ask("GET", "/v1/models").status == 200
    answer = post(server, bytes(1 << 20))
    refused(answer, 429, "rate")
    assert answer.headers["Retry-After"] == "30"


def begun(server, token: str) -> socket.socket:
    """Return a connection on which an upload of 1000 bytes has begun, with three of them."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(
        f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: {IMAGE_TYPE}\r\n"
        "Content-Length: 1000\r\n\r\nabc".encode()
    )
    return connection


def test_a_slow_upload_loses_its_place(serve, blocks_model, token):
    server = serve(blocks_model, limits=Limits(upload_seconds=0.3))
    with begun(server, token) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    until(lambda: server.app.state.gate.places == server.app.state.gate.held == 0)


def test_a_client_that_goes_leaves_nothing_behind(serve, blocks_model, token):
    server = serve(blocks_model)
    with begun(server, token):
        until(lambda: server.app.state.gate.held == 3)
    until(lambda: server.app.state.gate.places == server.app.state.gate.held == 0)
    assert server.ask("GET", "/health/ready").status == 200


def test_metrics_are_prometheus_text_with_labels_of_ours_alone(serve, blocks_model, make_picture):
    server = serve(blocks_model)
    post(server, image_to_bytes(make_picture()))
    server.ask("GET", "/nothing/<script>here")
    server.ask("BREW", "/v1/models")
    text = server.ask("GET", "/metrics").data.decode()
    assert re.search(r'inspection_predictions_total\{model="blocks",verdict="(OK|REVIEW|NG)"\} 1\.0', text)
    for step in ("wait", "prepare", "infer", "restore", "findings"):
        assert f'inspection_step_seconds_count{{model="blocks",step="{step}"}} 1.0' in text
    assert 'inspection_batch_images_count{model="blocks"} 1.0' in text
    assert "inspection_ready 1.0" in text
    assert "process_resident_memory_bytes" in text
    assert "<script" not in text
    assert "nothing" not in text
    assert "BREW" not in text


def test_the_api_describes_itself(serve, blocks_model):
    schema = json.loads(serve(blocks_model).ask("GET", "/openapi.json").data)
    predict_path = "/v1/models/{model}/predict"
    public = {"/health/live", "/health/ready"}
    assert set(schema["paths"]) == public | {"/metrics", "/v1/models", "/v1/models/{model}", predict_path}
    operation = schema["paths"][predict_path]["post"]
    assert IMAGE_TYPE in operation["requestBody"]["content"]
    assert {"200", "401", "413", "422", "429", "503"} <= set(operation["responses"])
    assert operation["security"]
