"""Where the viewer keeps what is its own: the user's settings, sample images, and reviews under way."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any

import platformdirs

from inspection_core.io.atomic import write_text

HOME_VARIABLE = "INSPECTION_HOME"
"""Folder to use in place of the user's own; for tests, and for stations that share one."""


def home() -> Path:
    """Return the folder of everything below."""
    given = os.environ.get(HOME_VARIABLE)
    return Path(given) if given else platformdirs.user_data_path("inspection-suite", appauthor=False)


def samples_folder() -> Path:
    """Return where sample images are put."""
    return _made(home() / "samples")


def models_folder() -> Path:
    """Return where models made in the viewer are put."""
    return _made(home() / "models")


def reviews_folder() -> Path:
    """Return where reviews under way are kept."""
    return _made(home() / "reviews")


def user() -> str:
    """Return who reviews: as set in the viewer, else the name of the login."""
    named = str(setting("reviewer", ""))
    if named:
        return named
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's list
        return "reviewer"


def setting(name: str, default: Any = None) -> Any:
    """Return one of the user's settings."""
    return _settings().get(name, default)


def set_setting(name: str, value: Any) -> None:
    """Keep one of the user's settings."""
    write_text(home() / "settings.json", json.dumps({**_settings(), name: value}, indent=2) + "\n")


def _settings() -> dict[str, Any]:
    try:
        found = json.loads((home() / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or damaged: settings can be made again
        return {}
    return found if isinstance(found, dict) else {}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
