"""Small generated parts, and one model fitted from them, for every test of the core."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.ndimage import gaussian_filter

from inspection_core import inspector
from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.engine import Engine, LoadedModel
from inspection_core.image import Image
from inspection_core.io.raster import read_raster
from inspection_core.learn import Fitted, fit
from inspection_core.models.intensity_band import make
from inspection_core.testing import bright_model


def brushed(seed: int, size: int = 96) -> np.ndarray:
    """Make a grey uint8 picture of brushed metal: streaks along x, never twice the same."""
    noise = np.random.default_rng(seed).normal(size=(size, size))
    streaks = gaussian_filter(noise, (0.8, 6), mode="wrap")
    return np.clip(128 + 30 * streaks / streaks.std(), 0, 255).astype(np.uint8)


def cast_iron(seed: int, size: int = 96) -> np.ndarray:
    """Make a grey uint8 picture of cast iron: grains that look alike from every side."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.5, mode="wrap")
    return np.clip(128 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def hole(picture: np.ndarray, at: tuple[int, int] = (30, 60), side: int = 14) -> np.ndarray:
    """Return the picture with a bright square that has a dark core: a defect if there ever was one."""
    broken = picture.copy()
    white = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else picture.max()
    y, x = at
    broken[y : y + side, x : x + side] = white
    broken[y + side // 4 : y + side // 2, x + side // 4 : x + side // 2] = 0
    return broken


@dataclass(frozen=True)
class Parts:
    """What tests make pictures with."""

    brushed = staticmethod(brushed)
    cast_iron = staticmethod(cast_iron)
    hole = staticmethod(hole)

    @staticmethod
    def write(folder: Path, pictures: list[np.ndarray]) -> Path:
        """Write pictures as part00.png, part01.png, ...; return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pictures):
            PIL.Image.fromarray(picture).save(folder / f"part{i:02}.png")
        return folder

    @staticmethod
    def read(folder: Path, picture: np.ndarray) -> Image:
        """Return a picture as the suite reads it from a file."""
        path = folder / "picture.png"
        PIL.Image.fromarray(picture).save(path)
        return read_raster(path)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small pictures gain nothing from more, and lose much where other programs keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def parts() -> Parts:
    return Parts()


@pytest.fixture(scope="session")
def good_parts(tmp_path_factory, parts) -> Path:
    """Twelve good images of 96 x 96 pixels."""
    return parts.write(tmp_path_factory.mktemp("good"), [parts.brushed(seed) for seed in range(12)])


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, good_parts) -> Fitted:
    """A patch-memory made from the good parts, with the fast preset. Read it, never change its folder."""
    folder = tmp_path_factory.mktemp("models") / "brushed"
    # A smallest defect of one cell keeps the images' own size, which makes this quick.
    return fit(good_parts, folder, preset="fast", device="cpu", max_false_alarms=0.1, smallest_defect=8)


@pytest.fixture(scope="session")
def model(fitted) -> LoadedModel:
    """That model, loaded."""
    return Engine("cpu").load(fitted.folder)


@pytest.fixture(scope="session")
def bright(tmp_path_factory) -> LoadedModel:
    """A model that marks bright pixels of grey pictures: no network, for tests of the machinery around one."""
    folder = tmp_path_factory.mktemp("models") / "bright"
    bright_model(folder, tile=64, low=0.8)
    return Engine("cpu").load(folder)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Six grey pictures of 32 x 32 pixels, part00 to part05; part00 and part03 have a bright square."""
    generator = np.random.default_rng(0)
    made = [generator.integers(0, 180, (32, 32)).astype(np.uint8) for _ in range(6)]
    for picture in made[::3]:
        picture[8:16, 8:16] = 250
    return Parts.write(tmp_path / "pictures", made)


@pytest.fixture
def band(tmp_path):
    """Make models that segment: ``band(view="slices")`` gives a folder; 1000 is its tumour, 0 is not."""

    def model(name="band", channels=("CT",), classes=("tumour",), bands=((0.5, 2.0),), spacing=(), parameters=None,
              **preparation):  # fmt: skip
        given = {"window": (0.0, 1000.0), "short_side": 0, "multiple": 4, "tile": 32, "view": "volume"} | preparation
        card = ModelCard(
            id=name,
            version="1",
            architecture="intensity-band",
            task="segmentation",
            channels=channels,
            score="1 - P(background)",
            classes=classes,
            spacing=spacing,
            preparation=Preparation(**given),
            policy=Policy(kind="band", low=0.3, high=0.7),
            parameters=parameters or {},
        )
        make(tmp_path / name, card, bands)
        return tmp_path / name

    return model


@pytest.fixture
def second_is_interrupted(monkeypatch):
    """Interrupt the network once, at ``part01.png``, which may be in it before the first image is."""
    real, once = inspector.forward, ["part01.png"]

    def forward(group, model):
        for name in [one.image.name for one in group]:
            if name in once:
                once.remove(name)
                raise KeyboardInterrupt
        return real(group, model)

    monkeypatch.setattr(inspector, "forward", forward)
