"""What a training run is, as data: one TOML file that holds every choice."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspection_core.card import ModelCard, build
from inspection_core.errors import ModelError, UsageError


@dataclass(frozen=True)
class Stage:
    """A part of the training at one resolution.

    Parameters
    ----------
    size
        Window that the network sees, in voxels of the augmented grid, in index order.
    zoom
        Voxels of the prepared grid that become one voxel of the window, about; 1 is the resolution of inference.
    samples
        Windows that are looked at in this stage, all batches together.
    """

    size: tuple[int, ...]
    samples: int
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) not in (2, 3) or min(self.size) < 1 or self.samples < 1 or self.zoom <= 0:
            raise ModelError(
                f"A stage has a size of 2 or 3 sides, and samples and zoom above 0. Got {list(self.size)}, "
                f"{self.samples}, {self.zoom}."
            )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a sample; a 0 turns one off.

    Parameters
    ----------
    flips
        Axes that are mirrored, each with a probability of one half; 0 is the first axis of the window.
    rotate
        Largest rotation, in degrees, about the first axis; volumes turn about all three.
    scale
        Largest relative change of size.
    shift
        Largest shift, as a share of the window.
    brightness, contrast
        Largest relative change of a channel's values, and largest exponent's change of its gamma.
    noise
        Standard deviation of added noise, in units of the normalised image.
    blur
        Largest standard deviation of a Gaussian blur, in voxels.
    bias
        Largest coefficient of a smooth multiplicative field (a polynomial's exponential), as of a receive coil.
    low_resolution
        Smallest share of the resolution that a channel is reduced to and enlarged from.
    neighbour_step
        Probability that neighbours of a slice are taken two slices away, and as much that the slice itself stands for
        them, as in thinner and thicker slices.
    drop
        Channels that may be missing.
    drop_probability
        Of each of these, independently.
    stand_in
        Channel whose copy stands for a missing one half of the time, as in studies that were filled up so; otherwise
        zeros do.
    """

    flips: tuple[int, ...] = ()
    rotate: float = 15.0
    scale: float = 0.2
    shift: float = 0.05
    brightness: float = 0.2
    contrast: float = 0.3
    noise: float = 0.05
    blur: float = 1.0
    bias: float = 0.0
    low_resolution: float = 0.0
    neighbour_step: float = 0.0
    drop: tuple[str, ...] = ()
    drop_probability: float = 0.0
    stand_in: str = ""


@dataclass(frozen=True)
class Optimisation:
    """How the network is trained.

    Parameters
    ----------
    stages
        In order.
    folds
        Networks, each trained without its share of the patients; 1 trains one network on all and holds none back.
    seed
        Of every random choice: two runs of one seed on one machine give the same network.
    batch
        Samples a step.
    rate, encoder_rate
        Learning rates of AdamW at their highest, after the warm-up; both fall to 0 along a cosine.
    weight_decay, warm_up, clip
        Of AdamW; steps; largest norm of the gradient.
    average
        Decay of the moving average of the weights, which is what is kept.
    foreground
        Share of samples that are drawn from slices (or around voxels) of a class.
    dice, cross_entropy
        Weights of the two losses.
    validate
        Held-back patients that are segmented for the learning curve.
    """

    stages: tuple[Stage, ...]
    folds: int = 3
    seed: int = 0
    batch: int = 16
    rate: float = 1e-3
    encoder_rate: float = 5e-4
    weight_decay: float = 1e-2
    warm_up: int = 100
    clip: float = 5.0
    average: float = 0.995
    foreground: float = 0.6
    dice: float = 1.0
    cross_entropy: float = 1.0
    validate: int = 10

    def __post_init__(self) -> None:
        if not self.stages or self.folds < 1 or self.batch < 1:
            raise ModelError("Training needs at least one stage, fold and sample a batch.")


@dataclass(frozen=True)
class Data:
    """Where the studies lie.

    Parameters
    ----------
    root
        Folder; ``$NAME`` is taken from the environment. Relative paths are relative to the configuration.
    folders
        Below it, each with ``images`` and ``masks``; all of their studies are trained on and, with several folds,
        cross-fitted.
    held_back
        With one fold: folders of studies that are never trained on, for the learning curve and the calibration.
    words
        What the data is, for the card.
    """

    root: str
    folders: tuple[str, ...] = ("train",)
    held_back: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Config:
    """A training run.

    Parameters
    ----------
    card
        Of the model to be: everything but weights and measured figures.
    data, training, augmentation
        As above.
    """

    card: ModelCard
    data: Data
    training: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.data.held_back and self.training.folds > 1:
            raise ModelError("Several folds hold back their own patients. Take data.held_back away, or train 1 fold.")
        if self.card.preparation.view == "image" or self.card.task != "segmentation":
            raise ModelError('Training makes models with the task "segmentation" and the view "slices" or "volume".')
        axes = 2 if self.card.preparation.view == "slices" else 3
        if any(len(stage.size) != axes for stage in self.training.stages):
            raise ModelError(f"A stage's size has {axes} sides for the view {self.card.preparation.view!r}.")
        unknown = {*self.augmentation.drop, self.augmentation.stand_in} - {"", *self.card.channels}
        if unknown:
            raise ModelError(f"The augmentation names {sorted(unknown)}. The channels are {list(self.card.channels)}.")

    def folders(self, place: Path, names: Sequence[str]) -> list[Path]:
        """Return folders of the data by name; `place` is the configuration's own folder.

        Raises
        ------
        UsageError
            If a variable of the environment is not set, or a folder is not there.
        """
        root = os.path.expandvars(self.data.root)  # not set: stays as it is
        if "$" in root:
            raise UsageError(
                f"The data's root {self.data.root} names a variable that is not set. Set it, and try again."
            )
        found = [(place / root / name).resolve() for name in names]
        for folder in found:
            if not folder.is_dir():
                raise UsageError(f"Found no data at {folder}. Change data.root in the configuration, or add the data.")
        return found


def read_config(path: Path) -> Config:
    """Read a configuration.

    Raises
    ------
    UsageError
        If there is no such file, or it holds no valid configuration.
    """
    try:
        data: Mapping[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"Found no configuration at {path}. See docs/train.md for an example.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no valid TOML: {error}.") from error
    try:
        return build(Config, dict(data), str(path))
    except ModelError as error:
        raise UsageError(str(error)) from error


def changed(config: Config, **training: Any) -> Config:
    """Return a configuration with other entries of its training."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))
