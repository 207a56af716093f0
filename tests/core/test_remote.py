"""The engine of a server: what it takes for one, how patient it is, and which errors it raises."""

import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from inspection_core import remote
from inspection_core.engine import Engine
from inspection_core.errors import DeviceError, EngineError, ModelError, ReadError, UsageError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.io.wire import PREDICTION_TYPE, prediction_to_bytes
from inspection_core.prediction import Prediction
from inspection_core.remote import RemoteEngine, open_engine, read_token
from inspection_core.screen import screen

TOKEN = "a-token-for-tests-alone"  # noqa: S105
IMAGE = Image(np.zeros((1, 2, 3), np.uint8), Geometry.pixels((2, 3)), ("grey",))


class Script(http.server.BaseHTTPRequestHandler):
    """Answers what it is told to: a list of (status, headers, body) a path, the last for ever."""

    answers: dict
    asked: list

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.asked.append((self.command, self.path, self.headers, self.rfile.read(length)))
        waiting = self.answers.get(self.path, [(404, {}, b"")])
        status, headers, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def script(tmp_path, band, monkeypatch):
    """A scripted server that offers the model band; its paths' answers, and what was asked."""
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.05)
    text = (band(view="slices") / "card.toml").read_bytes()
    listed = json.dumps({"limits": {"max_bytes": 1000}, "models": [{"id": "band"}]}).encode()
    handler = type("Handler", (Script,), {"asked": [], "answers": {}})
    handler.answers = {
        "/v1/models": [(200, {}, listed)],
        "/v1/models/band": [(200, {"Content-Type": "application/toml"}, text)],
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()
        thread.join()


def said(status: int, kind: str, message: str, **headers: str):
    return status, headers, json.dumps({"error": {"type": kind, "message": message}}).encode()


def prediction(**changes) -> bytes:
    made = Prediction(
        IMAGE.geometry, np.zeros((2, 3), np.float16), np.zeros((2, 3), np.uint8), (), 0.0, None, "OK", 0.7,
        "band", "1", "?", "cpu float32",
    )  # fmt: skip
    return prediction_to_bytes(replace(made, **changes))


def predicting(script, *answers, image=IMAGE):
    script.answers["/v1/models/band/predict"] = list(answers)
    return predict(image, RemoteEngine(script.url, TOKEN).load("band"))


def test_without_a_url_it_is_this_machine():
    assert isinstance(open_engine(device="cpu"), Engine)
    assert isinstance(open_engine("http://127.0.0.1:1", token=TOKEN), RemoteEngine)


# name: URL
BAD_URLS = {
    "no scheme": "127.0.0.1:8000",
    "another scheme": "ftp://127.0.0.1",
    "no host": "https://",
    "with a password": "https://user:secret@inspect.example",
    "with a question": "https://inspect.example/?a=b",
    "an odd port": "https://inspect.example:port",
    "plain to another machine": "http://inspect.example",
    "plain to another address": "http://192.0.2.1:8000",
    "looks like this machine": "http://127.0.0.1.example",
}


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
def test_no_url_of_a_server(url):
    with pytest.raises(UsageError) as error:
        RemoteEngine(url, TOKEN)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://inspect.example:8443/", "http://localhost:1", "http://[::1]:1", "http://127.1.2.3"]
)
def test_urls_of_servers(url):
    assert RemoteEngine(url, TOKEN).url == url.rstrip("/")


@pytest.mark.parametrize("token", [None, "", "two words", "ä" * 20, "a\r\nX-Evil: 1"])
def test_no_token(token):
    with pytest.raises(UsageError, match="token"):
        RemoteEngine("http://127.0.0.1:1", token)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(remote.TOKEN_VARIABLE, raising=False)
    assert read_token() is None
    monkeypatch.setenv(remote.TOKEN_VARIABLE, " abc\n")
    assert read_token() == "abc"
    (tmp_path / "token").write_text("def\n")
    assert read_token(tmp_path / "token") == "def"
    (tmp_path / "empty").write_text("\n")
    for name, text in (("empty", "holds no token"), ("none", "cannot be read")):
        with pytest.raises(UsageError, match=text):
            read_token(tmp_path / name)


def test_a_certificate_that_is_none(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(UsageError, match="no PEM file"):
            RemoteEngine("https://inspect.example", TOKEN, tmp_path / name)


def test_models_are_asked_for_once(script):
    engine = RemoteEngine(script.url, TOKEN)
    assert [card.id for card in engine.cards()] == ["band"]
    assert engine.load("band") is engine.load("band")
    assert [path for _, path, *_ in script.asked].count("/v1/models/band") == 1
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for _, _, headers, _ in script.asked)
    with pytest.raises(ModelError, match=r"offers the models band\. Got 'other'"):
        engine.load("other")
    with pytest.raises(ModelError, match="is named by its id"):
        engine.load("models/band")


def test_a_slow_answer_is_waited_for(script):
    timeout = RemoteEngine(script.url, TOKEN)._pool.connection_pool_kw["timeout"]
    assert (timeout.total, timeout.connect_timeout, timeout.read_timeout) == (None, 10, 600)


def test_a_busy_server_is_asked_again(script):
    sha = RemoteEngine(script.url, TOKEN).card("band").weights_sha256
    busy = said(503, "queue", "64 requests are before this one.", **{"Retry-After": "1"})
    fast = said(429, "rate", "A client may ask 1 times a second.", **{"Retry-After": "0"})
    good = (200, {"Content-Type": PREDICTION_TYPE}, prediction(model_sha256=sha))
    result = predicting(script, busy, fast, busy, good)
    assert result.verdict == "OK"
    assert "way" in result.timings
    assert sum(path.endswith("/predict") for _, path, *_ in script.asked) == 4


def test_patience_ends(script, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0)
    with pytest.raises(EngineError, match=r"refuses \(HTTP 503\): 64 requests are before this one"):
        predicting(script, said(503, "queue", "64 requests are before this one.", **{"Retry-After": "1"}))


LARGE = Image(np.zeros((1, 40, 40), np.uint8), Geometry.pixels((40, 40)), ("grey",))
# name: (answer, error, a part of its text)
ANSWERS = {
    "no image": (
        said(422, "ReadError", "image: the model takes volumes"),
        ReadError,
        "^image: the model takes volumes",
    ),
    "no memory": (said(507, "DeviceError", "Memory ran out"), DeviceError, "Memory ran out"),
    "no token": (
        said(401, "token", "A token is needed."),
        EngineError,
        "HTTP 401.: A token is needed. Check the token",
    ),
    "a bad network": (said(500, "ModelError", "odd network"), EngineError, "HTTP 500.: odd network"),
    "no reason": (said(503, "stopping", "The server is stopping."), EngineError, "is stopping"),
    "an error of its own making": (said(422, "SystemExit", "bye"), EngineError, "bye"),
    "several lines": (said(422, "ReadError", "a\nb\x1b[31m"), ReadError, r"image: a b\\x1b"),
    "html": ((404, {}, b"<html>"), EngineError, "does not say why. Check the URL"),
    "elsewhere": ((302, {"Location": "http://127.0.0.1:1/"}, b""), EngineError, "HTTP 302"),
    "another type": ((200, {"Content-Type": "text/html"}, b"<html>"), EngineError, "not as an inspection server"),
    "no prediction": ((200, {"Content-Type": PREDICTION_TYPE}, b"xx"), EngineError, "sent what is no prediction"),
    "another model": (
        (200, {"Content-Type": PREDICTION_TYPE}, prediction()),
        *(EngineError, "has another version of band now"),
    ),
    "compressed": (
        (200, {"Content-Type": PREDICTION_TYPE, "Content-Encoding": "gzip"}, b"xx"),
        *(EngineError, "more than it should, or compressed"),
    ),
    "cut off": (
        (200, {"Content-Type": PREDICTION_TYPE, "Content-Length": "100"}, b"xx"),
        *(EngineError, "cannot be reached: the"),
    ),
}


@pytest.mark.parametrize(("answer", "error", "text"), ANSWERS.values(), ids=ANSWERS)
def test_answers_that_are_no_prediction(script, answer, error, text):
    with pytest.raises(error, match=text) as raised:
        predicting(script, answer)
    assert TOKEN not in str(raised.value)


def test_an_answer_without_end_is_not_taken(script):
    script.answers["/v1/models"] = [(200, {}, bytes(1000))]
    with pytest.raises(EngineError, match="more than it should"):
        RemoteEngine(script.url, TOKEN).ask("GET", "/v1/models", most=100)


def test_what_the_server_would_refuse_is_not_sent(script):
    with pytest.raises(ReadError, match="takes images of up to 1000 bytes"):
        predicting(script, said(413, "size", "too large"), image=LARGE)
    assert not any(path.endswith("/predict") for _, path, *_ in script.asked)


def test_another_server(script):
    script.answers["/v1/models"] = [(200, {}, b'{"hello": "world"}')]
    with pytest.raises(EngineError, match="not as an inspection server does"):
        RemoteEngine(script.url, TOKEN).cards()


def test_nobody_there():
    with pytest.raises(EngineError, match="cannot be reached: nothing listens there"):
        RemoteEngine("http://127.0.0.1:1", TOKEN).cards()


def test_a_server_that_fails_stops_a_run_and_fails_no_image(script, tmp_path, parts):
    """The images that it did not get to are not counted as failed; the same command does them later."""
    folder = parts.write(tmp_path / "in", [parts.brushed(0, 16)] * 2)
    model = RemoteEngine(script.url, TOKEN).load("band")
    script.answers["/v1/models/band/predict"] = [said(401, "token", "A token is needed.")]
    with pytest.raises(EngineError, match="A token is needed"):
        screen(folder, model, tmp_path / "run")
    assert not (tmp_path / "run" / "results.csv").exists()
