"""The process: where it listens, TLS, connections that lead nowhere, and two models of one name."""

import json
import socket
import ssl
import time

import pytest
import trustme

from inspection_core.engine import Engine
from inspection_core.errors import EngineError, UsageError
from inspection_core.infer import predict
from inspection_core.remote import RemoteEngine
from inspection_core.serve.limits import Limits
from inspection_core.serve.run import Place, listen, load


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Folder with a certificate for this machine, its key, and the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.private_key_pem.write_to_path(folder / "key.pem")
    for i, part in enumerate(made.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=i > 0)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@pytest.fixture
def tls(serve, blocks_model, certificate):
    place = Place("127.0.0.1", 0, certificate / "cert.pem", certificate / "key.pem")
    return serve(blocks_model, place=place, ca_certs=str(certificate / "ca.pem"))


def test_tls(tls, token, certificate, blocks_model, make_picture):
    assert tls.url.startswith("https://")
    assert tls.ask("GET", "/v1/models").status == 200
    model = RemoteEngine(tls.url, token, certificate / "ca.pem").load("blocks")
    image = make_picture()
    assert predict(image, model).score.tobytes() == predict(image, blocks_model).score.tobytes()


def test_a_certificate_that_is_not_trusted_ends_it(tls, token):
    with pytest.raises(EngineError, match=r"its certificate is not trusted .* --ca"):
        RemoteEngine(tls.url, token).load("blocks")


def test_plain_http_gets_nothing_from_tls(tls, token):
    with pytest.raises(EngineError, match="cannot be reached"):
        RemoteEngine(tls.url.replace("https", "http"), token).load("blocks")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(tls, certificate, version):
    context = ssl.create_default_context(cafile=str(certificate / "ca.pem"))
    context.minimum_version = context.maximum_version = version
    host, port = tls.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as way:
        way.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert way.recv(100).startswith(b"HTTP/1.1 200")


def test_where_a_server_may_not_listen(tmp_path, certificate):
    (tmp_path / "no.pem").write_text("no certificate")
    cases = {
        "without TLS": ({"host": "0.0.0.0"}, "--tls-cert"),  # noqa: S104
        "a name of others": ({"host": "inspect.example"}, "without TLS tokens and images would be open"),
        "no port": ({"port": 70_000}, "between 0"),
        "a key alone": ({"key": certificate / "key.pem"}, "needs its certificate"),
        "no certificate": ({"certificate": tmp_path / "no.pem"}, "no certificate and its key"),
        "no file": ({"certificate": tmp_path / "none.pem"}, "No such file"),
        "another key": (
            {"certificate": certificate / "ca.pem", "key": certificate / "key.pem"},
            "no certificate and its",
        ),
    }
    for given, text in cases.values():
        with pytest.raises(UsageError, match=text):
            Place(**given)
    Place("0.0.0.0", certificate=certificate / "cert.pem", key=certificate / "key.pem")  # noqa: S104
    Place("0.0.0.0", behind_proxy=True)  # noqa: S104


def test_a_port_that_is_taken():
    with listen(Place(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=f"Cannot listen on 127.0.0.1, port {port}: Address already in use"):
            listen(Place(port=port))


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HT", b"\x16\x03\x01"], ids=["nothing", "half", "TLS"])
def test_who_asks_nothing_is_hung_up_on(serve, blocks_model, sent):
    server = serve(blocks_model, limits=Limits(header_seconds=0.2))
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        while connection.recv(1000):  # perhaps a 400 first
            pass
        assert time.monotonic() - started < 10
    assert server.ask("GET", "/health/live").status == 200


def test_a_head_without_end_is_refused(serve, blocks_model):
    server = serve(blocks_model)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 20_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert json.loads(server.ask("GET", "/health/live").data)["status"] == "ok"


def test_two_models_of_one_name(band, tmp_path):
    first = band()
    second = tmp_path / "copy"
    second.mkdir()
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    engine = Engine("cpu")
    assert set(load([str(first), str(first)], engine)) == {"band"}
    with pytest.raises(UsageError, match="both hold a model band"):
        load([str(first), str(second)], engine)
