"""Results told to others: once they have them, and again when they were away."""

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from inspection_core import publish
from inspection_core.errors import UsageError
from inspection_core.io.store import Row, RunStore
from inspection_core.publish import Folder, JsonLines, Mqtt, Publisher, Webhook, sink

MESSAGES = ['{"path": "a.png", "verdict": "OK"}', '{"path": "sub/../b.png", "verdict": "NG"}']


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def webhook():
    """A receiver on loopback: ``received`` texts, ``headers``, and a ``status`` to answer with."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if server.status < 300:
                server.received.append(text)
            server.headers.append(dict(self.headers))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.headers, server.status = [], [], 204
    server.url = f"http://127.0.0.1:{server.server_port}/results"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_json_lines_are_appended(tmp_path):
    path = tmp_path / "deep" / "out.jsonl"
    for _ in range(2):
        JsonLines(path).send(MESSAGES)
    assert path.read_text().splitlines() == MESSAGES * 2
    path.write_text('{"path": "a.p')  # cut off by a crash
    JsonLines(path).send(MESSAGES)
    assert path.read_text().splitlines() == ['{"path": "a.p', *MESSAGES]


def test_a_folder_gets_one_file_an_image_inside_it(tmp_path):
    for _ in range(2):
        Folder(tmp_path / "out").send(MESSAGES)
    written = sorted((tmp_path / "out").iterdir())
    assert [p.name.rpartition("-")[0] for p in written] == ["a", "b"]
    assert [json.loads(p.read_text()) for p in written] == [json.loads(text) for text in MESSAGES]


def test_a_webhook_gets_each_message_with_its_token(webhook, monkeypatch):
    monkeypatch.setenv("INSPECTION_WEBHOOK_TOKEN", "s3cret")
    one = Webhook(webhook.url)
    one.send(MESSAGES)
    assert webhook.received == MESSAGES
    assert webhook.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in one.name


def test_mqtt_reaches_a_real_broker(tmp_path):
    broker = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if broker is None:
        pytest.skip("no mosquitto; install Debian's mosquitto")
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    port = free_port()
    (tmp_path / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([broker, "-c", tmp_path / "conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        received, ready = [], threading.Event()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda c, *_: c.subscribe("line3/results", qos=1)
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = lambda c, data, message: received.append(message.payload.decode())

        def connected():
            try:
                client.connect("127.0.0.1", port)
            except OSError:
                return False
            return True

        wait_for(connected)
        client.loop_start()
        assert ready.wait(120)
        one = sink(f"mqtt://127.0.0.1:{port}/line3/results")
        assert isinstance(one, Mqtt)
        one.send(MESSAGES)
        wait_for(lambda: len(received) == 2)
        assert received == MESSAGES
        one.close()
        client.disconnect()
        client.loop_stop()
    finally:
        process.terminate()
        process.wait()


def test_a_receiver_that_is_away_gets_all_of_it_later(webhook, monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "WAITS", (0.01, 0.05))
    said = []
    webhook.status = 503
    with RunStore(tmp_path) as store, Publisher(store, [Webhook(webhook.url)], said.append) as publisher:
        for i, text in enumerate(MESSAGES):
            store.put(Row(f"{i}.png", "1", "failed"), messages=publisher.wrap(text))
        publisher.wake()
        wait_for(lambda: len(webhook.headers) > 3)
        assert publisher.left() == {webhook.url: 2}
        webhook.status = 200
        wait_for(lambda: publisher.left() == {webhook.url: 0})
        wait_for(lambda: len(said) == 2)
    assert webhook.received == MESSAGES
    assert "takes no messages" in said[0]
    assert "takes messages again" in said[1]


def test_what_nobody_took_is_sent_by_the_next_run(monkeypatch, tmp_path):
    monkeypatch.setattr(publish, "WAITS", (0.01, 0.05))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with RunStore(tmp_path / "run") as store:
        with Publisher(store, [Folder(blocked)], lambda text: None) as publisher:
            store.put(Row("a.png", "1", "failed"), messages=publisher.wrap(MESSAGES[0]))
            publisher.wake()
            wait_for(lambda: publisher.left() == {f"folder:{blocked}": 1})
        blocked.unlink()
        with Publisher(store, [Folder(blocked)], lambda text: None) as publisher:
            wait_for(lambda: publisher.left() == {f"folder:{blocked}": 0})
    assert len(list(Path(blocked).iterdir())) == 1


BAD = [
    "",
    "nothing",
    "file:///etc/passwd",
    "jsonl:",
    "ftp://host/x",
    "mqtt://host",
    "mqtt://host/line/+",
    "mqtt://host/line/#",
    "http://",
]


@pytest.mark.parametrize("text", BAD)
def test_places_that_make_no_sense(text):
    with pytest.raises(UsageError, match="--publish"):
        sink(text)


def test_a_password_is_not_part_of_a_name():
    assert sink("mqtt://user:hunter2@host/topic").name == "mqtt://host:1883/topic"
    assert sink("https://user:hunter2@host/hook?key=abc").name == "https://host/hook"
