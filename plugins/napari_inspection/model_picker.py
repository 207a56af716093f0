"""Choosing a model, here or on a server, with its card."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QLineEdit, QTextBrowser, QVBoxLayout, QWidget

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError
from inspection_core.image import Image
from napari_inspection import engines, store
from napari_inspection.engines import Place
from napari_inspection.session import Session
from napari_inspection.widgets import button, row

NONE = (
    "No model yet. Choose the folder of one with Add, fit one from good images below, or open a sample: "
    "the phantom brings its own."
)
NOT_CONNECTED = "Type the server's URL and your token, then press Connect. Its models are listed here."
NOTHING_OFFERED = "The server offers no model. Ask whoever runs it."
SERVER = "a server"


class ModelPicker(QWidget):
    """Where to run, a list of the models there, and the card of the one that is chosen.

    Parameters
    ----------
    session
        Runs the questions to a server off the main thread, and says what went wrong.
    """

    chosen = Signal(object)
    """The card, or None."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.where = QComboBox()
        self.where.addItems([*engines.DEVICES, SERVER])
        self.where.setToolTip("Where to compute: auto takes a GPU where there is one; a server has its own models")
        self.where.setAccessibleName("Runs on")
        self.url = QLineEdit(str(store.setting("server_url", "")))
        self.url.setPlaceholderText("https://HOST:PORT")
        self.url.setAccessibleName("URL of the server")
        self.url.setToolTip("The server's URL; plain http only for this machine")
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setAccessibleName("Token for the server")
        self.token.setPlaceholderText("token")
        self.token.setToolTip("Your token for the server, else that in INSPECTION_TOKEN; it is never written to disk")
        self.ca = str(store.setting("server_ca", ""))
        self.connect_button = button("Connect", "Ask the server for its models", self.connect_to_server)
        self.certificate = button("Certificate …", "", self.ask_certificate)
        self.server = QWidget()
        lines = QVBoxLayout(self.server)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.addLayout(row(self.url, self.certificate))
        lines.addLayout(row(self.token, self.connect_button))
        self.box = QComboBox()
        self.box.setToolTip("Which model to run")
        self.box.setAccessibleName("Model")
        self.box.setMinimumContentsLength(12)
        self.add_button = button("Add …", "Add a folder with a model, or with several", self.ask)
        self.refresh_button = button("Refresh", "Look for models again", self.look_again)
        self.card_view = QTextBrowser()
        self.card_view.setOpenExternalLinks(True)
        self.card_view.setMinimumHeight(150)
        self.card_view.setAccessibleName("Model card")
        self.card_view.setToolTip("What the model is for, what it cannot do, and under which licence it is")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row(QLabel("Runs on"), self.where, 1))
        layout.addWidget(self.server)
        layout.addLayout(row(self.box, 1, self.add_button, self.refresh_button))
        layout.addWidget(self.card_view)
        self._models: list[tuple[Path | str, ModelCard | ModelError]] = []
        self._place = engines.HERE
        self._empty = NONE
        self._tell_certificate()
        self.box.currentIndexChanged.connect(lambda *_: self._show())
        self.where.currentTextChanged.connect(lambda *_: self._on_where())
        for field in (self.url, self.token):
            field.returnPressed.connect(self.connect_to_server)
        self._on_where()

    @property
    def place(self) -> Place:
        """Where the models that are listed run."""
        return self._place

    @property
    def model(self) -> Path | str | None:
        """The model that is chosen: its folder, or its id on the server."""
        at = self.box.currentIndex()
        return self._models[at][0] if 0 <= at < len(self._models) else None

    @property
    def card(self) -> ModelCard | None:
        """Its card, if it can be read."""
        at = self.box.currentIndex()
        card = self._models[at][1] if 0 <= at < len(self._models) else None
        return card if isinstance(card, ModelCard) else None

    def refresh(self, prefer: Path | None = None) -> None:
        """List this machine's models anew; the choice stays, or becomes `prefer`. A server is not asked by this."""
        if prefer is not None and self.where.currentText() == SERVER:
            self.where.setCurrentText(engines.DEVICES[0])
        if self.where.currentText() != SERVER:
            self._fill([*engines.known_models()], prefer)

    def look_again(self) -> None:
        """List the models anew, wherever they are."""
        if self.where.currentText() == SERVER:
            self.connect_to_server()
        else:
            self.refresh()

    def connect_to_server(self) -> None:
        """Ask the server for its models, off the main thread."""
        url = self.url.text().strip()
        if not url:
            self.session.say("error", "Type the server's URL first, such as https://HOST:PORT.")
            return
        place = Place(url=url, token=self.token.text().strip(), ca=self.ca)

        def done(cards: tuple[ModelCard, ...]) -> None:
            store.set_setting("server_url", url)
            if self.where.currentText() != SERVER:  # the user went elsewhere meanwhile
                return
            self._place, self._empty = place, NOTHING_OFFERED
            self._fill([(card.id, card) for card in cards])
            self.session.say("info", f"Connected. The server offers {len(cards)} models.")

        self.session.start("Asking the server", lambda: engines.patiently(lambda: engines.offered(place)), done)

    def ask_certificate(self) -> None:
        """Let the user choose a certificate; cancelling means the system's."""
        name, _ = QFileDialog.getOpenFileName(self, "The server's certificate", filter="PEM (*.pem *.crt);;All (*)")
        self.trust(name)

    def trust(self, name: str) -> None:
        """Trust the certificate in a file; an empty name means those that the system trusts."""
        self.ca = name
        store.set_setting("server_ca", name)
        self._tell_certificate()

    def choose_for(self, image: Image) -> None:
        """Choose the first model that fits an image, unless the chosen one does."""
        cards = [card if isinstance(card, ModelCard) else None for _, card in self._models]
        if self.card is None or engines.misfit(self.card, image):
            at = next((k for k, card in enumerate(cards) if card is not None and not engines.misfit(card, image)), None)
            if at is not None:
                self.box.setCurrentIndex(at)

    def add(self, folder: Path) -> None:
        """Remember a folder, and choose the first model in it."""
        engines.add_folder(folder)
        self.refresh()
        for at, (place, _) in enumerate(self._models):
            if isinstance(place, Path) and place.resolve().is_relative_to(folder.resolve()):
                self.box.setCurrentIndex(at)
                break

    def ask(self) -> None:
        """Let the user choose a folder."""
        name = QFileDialog.getExistingDirectory(self, "Folder of a model")
        if name:
            self.add(Path(name))

    def _on_where(self) -> None:
        """List the models of the place that was chosen; those of a server once it was asked."""
        remote = self.where.currentText() == SERVER
        self.server.setVisible(remote)
        self.add_button.setEnabled(not remote)
        self._place = engines.HERE if remote else Place(self.where.currentText())
        self._empty = NOT_CONNECTED if remote else NONE
        if remote:
            self._fill([])
        else:
            self.refresh()

    def _fill(self, models: list[tuple[Path | str, ModelCard | ModelError]], prefer: Path | str | None = None) -> None:
        before = prefer or self.model
        self._models = models
        self.box.blockSignals(True)
        self.box.clear()
        for model, card in models:
            name = (
                f"{card.id} {card.version}" if isinstance(card, ModelCard) else f"{Path(model).name} (cannot be used)"
            )
            self.box.addItem(name)
        self.box.setCurrentIndex(next((k for k, (model, _) in enumerate(models) if model == before), 0))
        self.box.blockSignals(False)
        self._show()

    def _tell_certificate(self) -> None:
        trusted = f"Trusts {Path(self.ca).name}" if self.ca else "Trusts what the system trusts"
        self.certificate.setToolTip(f"{trusted}; choose a PEM file for a server with a certificate of its own")

    def _show(self) -> None:
        at = self.box.currentIndex()
        card = self._models[at][1] if 0 <= at < len(self._models) else None
        if isinstance(card, ModelCard):
            self.card_view.setHtml(engines.card_text(card, self._place))
        else:
            self.card_view.setPlainText(str(card) if card is not None else self._empty)
        self.chosen.emit(card if isinstance(card, ModelCard) else None)
