"""Bundles from a zoo: whole and with the published hash, or not at all. The zoo is a server on this machine."""

import hashlib
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from inspection_core import zoo
from inspection_core.errors import ModelError, UsageError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A zoo with one bundle in two versions; it drops connections, and forgets ranges, as it is told."""
    monkeypatch.setattr(zoo, "PAUSE", 0.0)
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("spleen/configs/metadata.json", "{}")
        file.writestr("spleen/models/model.pt", bytes(range(256)) * 4_000)
    state = SimpleNamespace(body=archive.read_bytes(), drops=0, ranges=True, asked=[], status=None, location=None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked.append((self.path, self.headers.get("Range")))
            if self.path == "/index.json":
                return self.send(200, json.dumps(state.index).encode())
            if state.location:
                self.send_response(302)
                self.send_header("Location", state.location)
                return self.end_headers()
            if state.status:
                return self.send(state.status, b"")
            start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if state.ranges else 0
            if start >= len(state.body):
                return self.send(416, b"")
            return self.send(206 if start else 200, state.body[start:])

        def send(self, status, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if state.drops and self.path != "/index.json":
                state.drops -= 1
                data = data[: len(data) // 2]
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{running.server_port}"
    entry = {"source": f"{url}/spleen.zip", "checksum": hashlib.sha1(state.body, usedforsecurity=False).hexdigest()}
    state.index = {"spleen_v0.9.0": {}, "spleen_v0.10.1": entry, "brats_mri_v0.1.0": entry}
    state.url = f"{url}/index.json"
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield state
    running.shutdown()
    running.server_close()
    thread.join()


def test_the_newest_version_comes_whole(server, tmp_path):
    seen = []
    path, entry = zoo.get("spleen", tmp_path / "m", index=server.url, progress=lambda *n: seen.append(n))
    assert path == tmp_path / "m" / "spleen.zip"
    assert path.read_bytes() == server.body
    assert entry.version == "0.10.1"  # above 0.9.0
    assert seen[-1] == (len(server.body),) * 2
    assert list(path.parent.iterdir()) == [path]
    zoo.get("spleen", tmp_path / "m", index=server.url)
    assert [p for p, _ in server.asked].count("/spleen.zip") == 1  # it is here already


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_connection_that_drops_goes_on(server, tmp_path, ranges):
    server.drops, server.ranges = 2, ranges
    path, _ = zoo.get("spleen", tmp_path, index=server.url)
    assert path.read_bytes() == server.body
    asked = [r for p, r in server.asked if p == "/spleen.zip"]
    assert asked[0] is None
    assert asked[1] == f"bytes={len(server.body) // 2}-"
    assert len(asked) == 3


def test_a_command_given_again_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "TRIES", 1)
    server.drops = 1
    with pytest.raises(ModelError, match=r"broke off\. \d+ bytes are kept; the same command goes on from there"):
        zoo.get("spleen", tmp_path / "m", index=server.url)
    path, _ = zoo.get("spleen", tmp_path / "m", index=server.url)
    assert path.read_bytes() == server.body
    assert server.asked[-1][1] == f"bytes={len(server.body) // 2}-"


def test_a_part_that_was_whole_already(server, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".spleen_v0.10.1.part").write_bytes(server.body)
    assert zoo.get("spleen", tmp_path / "m", index=server.url)[0].read_bytes() == server.body


def test_something_else_than_is_published(server, tmp_path):
    server.body = server.body[:-1] + b"x"
    with pytest.raises(ModelError, match=r"is not what the zoo publishes: expected SHA-1 .*It was removed"):
        zoo.get("spleen", tmp_path / "m", index=server.url)
    assert list((tmp_path / "m").iterdir()) == []


def test_an_archive_that_cannot_be_trusted(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("../evil", "x")
    server.body = (tmp_path / "evil.zip").read_bytes()
    server.index["spleen_v0.10.1"]["checksum"] = hashlib.sha1(server.body, usedforsecurity=False).hexdigest()
    with pytest.raises(ModelError, match="names a place outside of itself"):
        zoo.get("spleen", tmp_path / "m", index=server.url)
    assert list((tmp_path / "m").iterdir()) == []


def test_another_version_is_not_overwritten(server, tmp_path):
    (tmp_path / "spleen.zip").write_bytes(b"older")
    with pytest.raises(UsageError, match=r"is another version of spleen\. Move it away"):
        zoo.get("spleen", tmp_path, index=server.url)


def test_a_server_that_fails(server, tmp_path):
    server.status = 404
    with pytest.raises(ModelError, match="cannot be downloaded: 404"):
        zoo.get("spleen", tmp_path, index=server.url)
    server.status = 503
    with pytest.raises(ModelError, match="0 bytes are kept"):
        zoo.get("spleen", tmp_path, index=server.url)


def test_a_server_that_sends_one_elsewhere(server, tmp_path):
    server.location = "http://127.0.0.2:1/x"
    with pytest.raises(ModelError, match="over https"):
        zoo.get("spleen", tmp_path, index=server.url)


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/x", "http://example.org/x", "file:///etc/passwd"])
def test_only_https_is_asked(place):
    with pytest.raises(ModelError, match=r"Bundles are downloaded over https\. Got"):
        zoo._safe(place)


def test_no_zoo(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be reached at http://127\.0\.0\.1:9/.*copy a bundle here"):
        zoo.get("spleen", tmp_path, index="http://127.0.0.1:9/index.json")


# name: (bundle, version, message)
UNKNOWN = {
    "name": ("spleen_ct", "", r"has no bundle 'spleen_ct'\. It has 2, such as spleen\."),
    "version": ("spleen", "1.0", r"has no version '1\.0' of spleen\. It has 0\.9\.0, 0\.10\.1"),
    "no address": ("spleen_v0.9.0", "", r"gives no address and SHA-1 for spleen 0\.9\.0"),
}


@pytest.mark.parametrize(("name", "version", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_the_zoo_does_not_have(server, name, version, message):
    with pytest.raises(ModelError, match=message):
        zoo.choose(server.index, name, version)


@pytest.mark.parametrize("text", [b"{", b"[]"])
def test_a_list_that_is_none(server, tmp_path, text, monkeypatch):
    monkeypatch.setattr(server, "index", json.loads(text) if text == b"[]" else "{")
    with pytest.raises(ModelError, match="is no list of bundles"):
        zoo.get("spleen", tmp_path, index=server.url)
