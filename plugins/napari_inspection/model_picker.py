"""Choosing a model, with its card."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QTextBrowser, QVBoxLayout, QWidget

from inspection_core.card import ModelCard
from inspection_core.errors import ModelError
from inspection_core.image import Image
from napari_inspection import engines
from napari_inspection.widgets import button, row

NONE = (
    "No model yet. Choose the folder of one with Add, fit one from good images below, or open a sample: "
    "the phantom brings its own."
)


class ModelPicker(QWidget):
    """A list of models, and the card of the one that is chosen."""

    chosen = Signal(object)
    """The card, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.box = QComboBox()
        self.box.setToolTip("Which model to run")
        self.box.setAccessibleName("Model")
        self.box.setMinimumContentsLength(12)
        self.card_view = QTextBrowser()
        self.card_view.setOpenExternalLinks(True)
        self.card_view.setMinimumHeight(150)
        self.card_view.setAccessibleName("Model card")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(
            row(
                self.box,
                1,
                button("Add …", "Add a folder with a model, or with several", self.ask),
                button("Refresh", "Look for models again", self.refresh),
            )
        )
        layout.addWidget(self.card_view)
        self._models: list[tuple[Path, ModelCard | ModelError]] = []
        self.box.currentIndexChanged.connect(lambda *_: self._show())
        self.refresh()

    @property
    def folder(self) -> Path | None:
        """Folder of the model that is chosen."""
        at = self.box.currentIndex()
        return self._models[at][0] if 0 <= at < len(self._models) else None

    @property
    def card(self) -> ModelCard | None:
        """Its card, if it can be read."""
        at = self.box.currentIndex()
        card = self._models[at][1] if 0 <= at < len(self._models) else None
        return card if isinstance(card, ModelCard) else None

    def refresh(self, prefer: Path | None = None) -> None:
        """Look for models again; the choice stays, or becomes `prefer`."""
        before = prefer or self.folder
        self._models = engines.known_models()
        self.box.blockSignals(True)
        self.box.clear()
        for folder, card in self._models:
            name = f"{card.id} {card.version}" if isinstance(card, ModelCard) else f"{folder.name} (cannot be used)"
            self.box.addItem(name)
        at = next((k for k, (folder, _) in enumerate(self._models) if before is not None and folder == before), 0)
        self.box.setCurrentIndex(at)
        self.box.blockSignals(False)
        self._show()

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
            if place.resolve().is_relative_to(folder.resolve()):
                self.box.setCurrentIndex(at)
                break

    def ask(self) -> None:
        """Let the user choose a folder."""
        name = QFileDialog.getExistingDirectory(self, "Folder of a model")
        if name:
            self.add(Path(name))

    def _show(self) -> None:
        at = self.box.currentIndex()
        card = self._models[at][1] if 0 <= at < len(self._models) else None
        if isinstance(card, ModelCard):
            self.card_view.setHtml(engines.card_text(card))
        else:
            self.card_view.setPlainText(str(card) if card is not None else NONE)
        self.chosen.emit(card if isinstance(card, ModelCard) else None)
