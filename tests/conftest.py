"""Fixtures for every test."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared real images: INSPECTION_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("INSPECTION_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the shared real images; {folder} does not exist, set INSPECTION_DATA to their folder")
    return folder
