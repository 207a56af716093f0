"""Models of a server in the viewer: asked for, run, cancelled, refused, each with one clear line."""

import socket
import threading
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("qtpy", reason="needs the extra [viewer]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")

from napari_inspection import engines, store
from napari_inspection.model_picker import NOT_CONNECTED, SERVER

TOKEN = "a-token-for-tests-alone"  # noqa: S105


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of this process, on a real socket, that offers the phantom's model."""
    from inspection_core.engine import Engine
    from inspection_core.phantom_ct import make_phantom_model
    from inspection_core.serve.app import make_app
    from inspection_core.serve.limits import Limits
    from inspection_core.serve.run import Place, listen, make_server
    from inspection_core.serve.tokens import Tokens

    folder = tmp_path_factory.mktemp("models") / "phantom-lesions"
    make_phantom_model(folder)
    model = Engine("cpu").load(folder)
    place, limits = Place(port=0), Limits()
    app = make_app({model.card.id: model}, Tokens({"tests": TOKEN}), limits)
    running = make_server(app, place, limits)
    with ExitStack() as stack:
        sock = stack.enter_context(listen(place))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
        thread.start()
        yield place.url(sock.getsockname()[1])
        running.should_exit = True
        thread.join(30)
        app.state.pool.shutdown()


@pytest.fixture
def picker(panel, monkeypatch):
    """The picker, where a server is about to be chosen."""
    monkeypatch.delenv("INSPECTION_TOKEN", raising=False)
    picker = panel.running.picker
    picker.where.setCurrentText(SERVER)
    yield picker
    picker.where.setCurrentText("auto")
    picker.url.clear()
    picker.token.clear()
    picker.trust("")


def test_connect_and_run(panel, picker, server, until, phantom_file):
    assert picker.card is None
    assert picker.card_view.toPlainText() == NOT_CONNECTED
    assert not panel.running.run.isEnabled()
    panel.session.list([phantom_file])
    until(lambda: panel.session.case is not None)
    picker.url.setText(server)
    picker.token.setText(TOKEN)
    picker.connect_button.click()
    until(lambda: picker.card is not None)
    assert panel.messages.label.text() == "Connected. The server offers 1 models."
    assert picker.model == "phantom-lesions"
    assert f"Runs on: {server}" in picker.card_view.toPlainText()
    assert panel.running.expect.text().startswith("Runs on the server.")
    panel.running.run.click()
    until(lambda: panel.session.desk is not None)
    desk = panel.session.desk
    assert desk.review.prediction.model_id == "phantom-lesions"

    from inspection_core.infer import predict
    from napari_inspection.samples import model_of_phantom

    job = panel.session.job
    panel.session.opened.emit(panel.session.case)
    assert panel.session.job is job, "opening another case asks no server"
    picker.refresh_button.click()
    until(lambda: panel.session.job is not job and panel.session.job.finished)
    assert picker.model == "phantom-lesions"
    here = predict(panel.session.case.image, engines.engine(engines.Place("cpu")).load(model_of_phantom()))
    np.testing.assert_array_equal(desk.review.prediction.mask, here.mask)
    assert "as measured before" in panel.running.expect.text()


def test_the_token_is_not_kept_and_may_come_from_the_environment(panel, picker, server, until, monkeypatch, home):
    picker.url.setText(server)
    picker.connect_button.click()
    until(lambda: panel.session.job.finished)
    assert panel.messages.label.text() == (
        "The server wants a token. Type it into the field beside the URL, then connect again."
    )
    monkeypatch.setenv("INSPECTION_TOKEN", TOKEN)
    picker.connect_button.click()
    until(lambda: picker.card is not None)
    assert store.setting("server_url") == server
    assert not any(TOKEN in path.read_text(errors="ignore") for path in home.rglob("*") if path.is_file())


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# name: (url, token, words that the one line holds)
REFUSED = {
    "no url": ("", TOKEN, "Type the server's URL first"),
    "no server": ("nobody", TOKEN, "cannot be reached: nothing listens there"),
    "wrong token": ("server", "another-token-altogether", "refuses (HTTP 401)"),
    "no such scheme": ("ftp://host", TOKEN, "An engine is a URL such as https://HOST:PORT"),
    "plain http elsewhere": ("http://inspect.example", TOKEN, "would show token and images"),
    "two words": ("server", "two words", "A token is one word"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_wrong_is_one_line_and_the_panel_works_on(panel, picker, server, until, name):
    url, token, words = REFUSED[name]
    picker.url.setText({"server": server, "nobody": f"http://127.0.0.1:{closed_port()}"}.get(url, url))
    picker.token.setText(token)
    picker.connect_button.click()
    until(lambda: panel.messages.kind == "error")
    line = panel.messages.label.text()
    assert words in line
    assert "\n" not in line
    assert TOKEN not in line
    assert picker.card is None
    picker.url.setText(server)
    picker.token.setText(TOKEN)
    picker.connect_button.click()
    until(lambda: picker.card is not None)


def test_cancel_does_not_wait_for_the_answer(panel, until):
    asked, answer = threading.Event(), threading.Event()

    def work():
        asked.set()
        answer.wait(60)

    panel.session.start("Asking", lambda: engines.patiently(work), lambda _: None)
    until(asked.is_set)
    panel.stop.click()
    until(lambda: panel.session.job.finished)
    assert not answer.is_set()
    assert panel.messages.label.text() == "Cancelled. Nothing was changed."
    answer.set()


def test_back_on_this_machine_its_models_are_there_again(panel, picker, home):
    from napari_inspection.samples import model_of_phantom

    folder = model_of_phantom()
    picker.where.setCurrentText("cpu")
    assert picker.place == engines.Place("cpu")
    assert folder in [model for model, _ in picker._models]
    assert picker.add_button.isEnabled()
    assert not picker.server.isVisibleTo(picker)
