"""What a model is, as data: everything needed to prepare its input and to read its output, in one TOML file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import tomli_w

from inspection_core.errors import ModelError

CARD_NAME = "card.toml"
SCHEMA_VERSION = 1
Scalar = str | int | float | bool
T = TypeVar("T")
VIEWS = {"image": 2, "slices": 2, "volume": 3}
"""What a network looks at, and the number of axes of its input."""
BLENDS = ("linear", "gaussian")
SPACINGS = ("even", "fixed")
AVERAGES = ("probabilities", "logits")
RESIZES = ("float32", "uint8")
NORMALISATIONS = ("window", "z-score", "percentile", "mean")
FOREGROUNDS = ("all", "nonzero", "bright")
WORLD_AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
"""World axis of each letter; L, P and S are its positive direction."""


class Table(dict[str, Any]):
    """A table that refuses writing, and yet can be pickled and copied: cards travel between processes."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a table of a frozen object does not support item assignment")

    __setitem__ = __delitem__ = update = clear = pop = popitem = setdefault = _refuse
    __ior__ = _refuse

    def __reduce__(self) -> tuple[type[Table], tuple[dict[str, Any]]]:
        return Table, (dict(self),)


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the network's input.

    Parameters
    ----------
    window
        Raw intensities mapped to 0 and 1, recorded when the model was made: never taken from the image at hand, or
        two images of one brightness would look alike. Values outside are kept, not clipped.
    dtype
        Value type of the images that the window is for, such as ``"uint8"``; another type is refused. Empty takes any.
    short_side
        Pixels of the short side at inference; the aspect ratio is kept. 0 takes `scale` instead.
    scale
        Fixed factor from image pixels to inference pixels, used where `short_side` and `side` are 0.
    side
        Root of an image's area at inference, in pixels, used where it is above 0: images of one kind, cut to various
        sizes, then look alike. For the view "image" only.
    scales
        Smallest and largest factor that `side` may give, those of the images that the model was made from. An image
        beyond them shows more, or less, than those did, and keeps their scale.
    resize
        Type that images of 8 bits are resized in, for the view "image": ``"float32"``, or ``"uint8"``, an eighth of the
        time for a third of a grey value of noise from rounding. Other images are resized as float32.
    multiple
        Both sides are padded up to a multiple of this, the network's total stride.
    tile
        Largest side of one window at inference, in pixels; larger images go through overlapping tiles.
    overlap
        Share of a tile that it shares with its neighbour, in [0, 1).
    view
        What the network looks at: ``"image"``, 2-D images; ``"slices"``, the planes of a volume (a 2-D image is a
        volume of one plane); ``"volume"``, blocks of a volume. All entries below are for the latter two.
    orientation
        Where x, y and z of the array point to before the network sees it, as three letters of L or R, P or A, S or I:
        ``"LPS"`` is a plain axial scan. Arrays are turned by whole axes, never resampled for it, so that the order in
        which a file stores its voxels changes nothing. Empty leaves them as stored.
    neighbours
        For ``"slices"``: planes on each side that the network sees too. The channels of plane -k come first, then those
        of -k + 1, and so on; beyond the volume its outermost plane is repeated.
    window_size
        Fixed size of one window, in index order, ``(h, w)`` for slices and ``(d, h, w)`` for volumes; smaller inputs
        are padded to it with zeros. Empty takes `tile` on every axis.
    blend
        How overlapping windows are joined: weights that fall linearly over the overlap, or a Gaussian over the window
        with a standard deviation of an eighth of it and a least weight of 0.001, as MONAI does.
    steps
        Where windows of a fixed `window_size` lie: ``"even"`` spreads them so that all overlaps are alike;
        ``"fixed"`` goes on by a window less the overlap and moves the last one back to the border, as MONAI does. The
        input is then padded to a window at most; for networks that give a value for every voxel.
    average
        What is averaged where windows of a network that segments overlap: ``"probabilities"``, or ``"logits"``, as
        pipelines do that put a softmax behind their sliding window.
    skip_background
        Do not look at windows without any foreground: voxels that are 0 in every channel after normalisation, with a
        margin. Where nothing was looked at is background; elsewhere results are the same.
    normalise
        ``"window"`` maps `window` to 0 and 1. ``"z-score"`` takes mean and standard deviation, ``"percentile"`` maps
        `percentiles` to 0 and 1, both of each channel of the volume at hand: for MR, whose values have no unit.
        ``"mean"`` takes the darkest values to 0 and the mean to 1, so that a head's surroundings stay at 0.
    percentiles
        Low and high, in [0, 100].
    foreground
        Voxels that these figures are taken from: ``"all"``; ``"nonzero"``, and then voxels of 0 stay 0; or
        ``"bright"``, those above a tenth of the way from the channel's darkest to its brightest values, which tells a
        head from noise around it.
    clip
        Clip to 0 and 1 after ``"window"`` and ``"percentile"``.
    crop
        Look only at the box around the foreground: what is not zero in any channel, or, for ``"bright"``, what is
        bright in at least half of them. Outside it is background.
    """

    window: tuple[float, float] = (0.0, 255.0)
    dtype: str = ""
    short_side: int = 256
    scale: float = 1.0
    side: float = 0.0
    scales: tuple[float, float] = (0.0, math.inf)
    resize: Literal["float32", "uint8"] = "float32"
    multiple: int = 32
    tile: int = 768
    overlap: float = 0.25
    view: Literal["image", "slices", "volume"] = "image"
    orientation: str = "LPS"
    neighbours: int = 0
    window_size: tuple[int, ...] = ()
    blend: Literal["linear", "gaussian"] = "linear"
    steps: Literal["even", "fixed"] = "even"
    average: Literal["probabilities", "logits"] = "probabilities"
    skip_background: bool = False
    normalise: Literal["window", "z-score", "percentile", "mean"] = "window"
    percentiles: tuple[float, float] = (0.5, 99.5)
    foreground: Literal["all", "nonzero", "bright"] = "all"
    clip: bool = False
    crop: bool = False

    def __post_init__(self) -> None:
        low, high = self.window
        if not (high > low and math.isfinite(high - low)):
            raise ModelError(f"An intensity window is (low, high), finite, with low < high. Got {self.window}.")
        if not 0 <= self.overlap < 1:
            raise ModelError(f"The overlap of tiles is in [0, 1). Got {self.overlap}.")
        if self.short_side < 0 or not 0 < self.scale < math.inf or self.multiple < 1 or self.tile < self.multiple:
            raise ModelError(
                "The inference size needs short_side >= 0, scale > 0 and tile >= multiple >= 1. "
                f"Got {self.short_side}, {self.scale}, {self.tile}, {self.multiple}."
            )
        low, high = self.scales
        if not (0 <= self.side < math.inf and low <= high and 0 <= low < math.inf and high > 0):
            raise ModelError(
                "The inference size needs side >= 0 and scales (low, high) with 0 <= low <= high, high above 0. "
                f"Got {self.side} and {self.scales}."
            )
        self._check_scans()

    def _check_scans(self) -> None:
        if self.view not in VIEWS:
            raise ModelError(f"A view is one of {list(VIEWS)}. Got {self.view!r}.")
        if self.orientation and sorted(WORLD_AXES.get(letter, 9) for letter in self.orientation) != [0, 1, 2]:
            raise ModelError(
                "An orientation is one letter each of L or R, P or A, and S or I, such as LPS, or empty. "
                f"Got {self.orientation!r}."
            )
        if self.neighbours < 0 or (self.neighbours and self.view != "slices"):
            raise ModelError(f'Neighbours are 0 or more, and of the view "slices". Got {self.neighbours}.')
        if self.window_size and (
            len(self.window_size) != VIEWS[self.view] or any(n < 1 or n % self.multiple for n in self.window_size)
        ):
            raise ModelError(
                f"The window of the view {self.view!r} has {VIEWS[self.view]} sides, multiples of {self.multiple}. "
                f"Got {list(self.window_size)}."
            )
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ModelError(f"Percentiles are (low, high) with 0 <= low < high <= 100. Got {self.percentiles}.")
        if self.steps == "fixed" and not self.window_size:
            raise ModelError('Windows with steps = "fixed" have a window_size. Got none.')
        tables = {"blend": BLENDS, "steps": SPACINGS, "average": AVERAGES, "resize": RESIZES}
        for name, known in (tables | {"normalise": NORMALISATIONS, "foreground": FOREGROUNDS}).items():
            if getattr(self, name) not in known:
                raise ModelError(f"{name} is one of {list(known)}. Got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class Policy:
    """How scores become verdicts.

    Parameters
    ----------
    kind
        ``"p-value"``: NG at a p-value up to `max_false_alarms`, REVIEW up to `review`. ``"band"``: REVIEW from a
        score of `low`, NG above `high`.
    max_false_alarms
        Share of good parts that may be called NG, in (0, 1).
    review
        Share of good parts that may be called NG or REVIEW, at least `max_false_alarms`.
    low, high
        Scores, for ``"band"`` only.
    voxel
        Of a network that segments: 1 - P(background) above which a voxel is of its most probable class. 0, the
        default, takes the most probable of all, the background among them.
    least
        Of a network that segments: the least calibrated confidence of a finding. What lies below is no finding, and
        leaves the mask. 0, the default, keeps all; a confidence that is not calibrated is never looked at.
    """

    kind: Literal["p-value", "band"] = "p-value"
    max_false_alarms: float = 0.05
    review: float = 0.10
    low: float = 0.5
    high: float = 0.5
    voxel: float = 0.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("p-value", "band"):
            raise ModelError(f'A threshold policy is "p-value" or "band". Got {self.kind!r}.')
        if not 0 < self.max_false_alarms < 1:
            raise ModelError(f"The share of false alarms is between 0 and 1. Got {self.max_false_alarms}.")
        if not self.max_false_alarms <= self.review <= 1:
            raise ModelError(
                f"The review share is between the share of false alarms, {self.max_false_alarms}, and 1. "
                f"Got {self.review}."
            )
        if not 0 <= self.voxel < 1:
            raise ModelError(f"The cut of a voxel is a probability in [0, 1). Got {self.voxel}.")
        if not 0 <= self.least < 1:
            raise ModelError(f"The least confidence of a finding is in [0, 1). Got {self.least}.")
        if not self.low <= self.high:  # nor NaN
            raise ModelError(f"A verdict band has low <= high. Got {self.low} and {self.high}.")


@dataclass(frozen=True)
class FindingCalibration:
    """A logistic regression that turns a finding's figures into the probability that it is a true lesion.

    Parameters
    ----------
    features
        What it looks at, of `inspection_core.confidence.FEATURES`; empty where nothing was fitted.
    weights, bias
        Coefficients of the features, one each, and the constant term.
    findings, true, patients
        What it was fitted on: findings, how many of them were lesions, and patients.
    """

    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    findings: int = 0
    true: int = 0
    patients: int = 0

    def __post_init__(self) -> None:
        if len(self.features) != len(self.weights) or not all(map(math.isfinite, (*self.weights, self.bias))):
            raise ModelError(
                "The calibration of findings has one finite weight a feature. "
                f"Got {list(self.features)} and {list(self.weights)}."
            )


@dataclass(frozen=True)
class InputCheck:
    """What the inputs of training looked like, so that others can be told from them.

    The distance of an input is the length of its features after `centre` is taken off and `whitening` applied: a
    Mahalanobis distance. See `inspection_core.input_check`.

    Parameters
    ----------
    features
        Names of the features; empty where there is no check.
    centre
        Mean of each feature.
    whitening
        ``(n, n)``, row by row: the square root of the inverse covariance.
    threshold
        Distance above which an input is called unlike; infinite where there were too few to set one.
    false_alarms
        Share of inputs like those of training that the threshold calls unlike, at most.
    images
        Studies that it was fitted on.
    """

    features: tuple[str, ...] = ()
    centre: tuple[float, ...] = ()
    whitening: tuple[tuple[float, ...], ...] = ()
    threshold: float = math.inf
    false_alarms: float = 0.0
    images: int = 0

    def __post_init__(self) -> None:
        n = len(self.features)
        if len(self.centre) != n or len(self.whitening) != n or any(len(row) != n for row in self.whitening):
            raise ModelError(f"An input check holds a mean a feature and a square matrix for its {n} features.")
        if math.isnan(self.threshold) or self.threshold < 0:
            raise ModelError(f"The threshold of an input check is a distance, 0 or more. Got {self.threshold}.")


@dataclass(frozen=True)
class ChannelOrder:
    """What each channel looked like in training, so that exchanged ones can be told.

    See `inspection_core.channel_order`.

    Parameters
    ----------
    features
        Names of the figures of one channel; empty where there is no check.
    weights
        ``(C, n)``: what each figure speaks for each channel of the model, in order.
    threshold
        How much better than the given order of channels the best one may fit; infinite where there were too few studies
        to set it.
    false_alarms
        Share of inputs like those of training that are called exchanged, at most.
    images
        Studies that it was fitted on.
    """

    features: tuple[str, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    threshold: float = math.inf
    false_alarms: float = 0.0
    images: int = 0

    def __post_init__(self) -> None:
        if any(len(row) != len(self.features) or not all(map(math.isfinite, row)) for row in self.weights):
            raise ModelError(f"The check of channels has a finite weight for each of {len(self.features)} features.")
        if math.isnan(self.threshold) or self.threshold < 0:
            raise ModelError(f"The threshold of the check of channels is 0 or more. Got {self.threshold}.")


@dataclass(frozen=True)
class Calibration:
    """Scores of good images that the model did not see, and so what a score is worth.

    Parameters
    ----------
    method
        How they were made, in words; ``"none"`` where there is no calibration.
    scores
        Image scores of good images, ascending.
    peaks
        Highest value of each good image's score map, ascending; for the p-values of single findings.
    pixel_low
        Score that a good image's pixels stay under, but for one in a thousand; a finding's outline is drawn there.
    temperature
        Of a network that segments: what the logarithms of its probabilities are divided by, fitted on patients that
        it did not see. 1 leaves them as they are.
    finding
        What the confidence of a finding of such a network is made of.
    inputs
        Which inputs are like those of training.
    order
        Whether their channels are in the same order.
    """

    method: str = "none"
    scores: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()
    pixel_low: float = 0.0
    temperature: float = 1.0
    finding: FindingCalibration = field(default_factory=FindingCalibration)
    inputs: InputCheck = field(default_factory=InputCheck)
    order: ChannelOrder = field(default_factory=ChannelOrder)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ModelError(f"A temperature is a finite number above 0. Got {self.temperature}.")
        if math.isnan(self.pixel_low) or not all(map(math.isfinite, (*self.scores, *self.peaks))):
            raise ModelError("Calibration scores are finite. Got NaN or infinity in the card; fit the model again.")
        object.__setattr__(self, "scores", tuple(sorted(self.scores)))
        object.__setattr__(self, "peaks", tuple(sorted(self.peaks)))


@dataclass(frozen=True)
class ModelCard:
    """Description of one version of a model.

    Parameters
    ----------
    id, version
        Name and version of the model; learning yields a new version, never weights changed in place.
    architecture
        Key of the model table, such as ``"patch-memory"``.
    task
        ``"anomaly"`` or ``"segmentation"``.
    channels
        Names of the channels that it takes, in order.
    score
        What the score means: range, direction, unit.
    classes
        Label names, without the background; label 1 first.
    site
        What is scanned, such as ``"brain"``, for coded reports; empty where it is not fixed.
    spacing
        Voxel spacing in mm that the network expects, in index order of the oriented array, for the views "slices"
        and "volume"; 0 keeps an axis as it is. Empty where it works in pixels.
    parameters
        The architecture's own settings; and for the task "anomaly", if wanted, `top`: the share of cells, the highest,
        whose mean is an image's score. 0 takes the highest alone.
    intended_use, limits, licence
        For people; shown where the model is chosen and in reports.
    training
        Data, number of images, split, hash of the data, seed, versions.
    metrics
        Measured figures, each with the data and the command that gave it.
    weights
        File name in the model's folder.
    weights_sha256
        Hash of that file, checked before loading.
    """

    id: str
    version: str
    architecture: str
    task: Literal["anomaly", "segmentation"]
    channels: tuple[str, ...]
    score: str
    classes: tuple[str, ...] = ("anomaly",)
    spacing: tuple[float, ...] = ()
    preparation: Preparation = field(default_factory=Preparation)
    policy: Policy = field(default_factory=Policy)
    calibration: Calibration = field(default_factory=Calibration)
    parameters: Mapping[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    intended_use: str = ""
    limits: str = ""
    licence: str = ""
    training: Mapping[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    weights: str = "weights.safetensors"
    weights_sha256: str = ""
    site: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not self.id or Path(self.id).name != self.id or self.id in (".", ".."):
            raise ModelError(f"A model's id is a plain name without slashes. Got {self.id!r}.")
        if Path(self.weights).name != self.weights or self.weights in (".", ".."):
            raise ModelError(f"The weights lie beside the card, under a plain file name. Got {self.weights!r}.")
        if self.task not in ("anomaly", "segmentation"):
            raise ModelError(f'A task is "anomaly" or "segmentation". Got {self.task!r}.')
        if not self.channels:
            raise ModelError("A model takes at least one channel. Got none in `channels`.")
        top: Any = self.parameters.get("top", 0.0)
        if self.task == "anomaly" and not (type(top) in (int, float) and 0 <= top <= 1):
            raise ModelError(f"The share of cells that makes an image's score, `top`, is in [0, 1]. Got {top!r}.")
        if self.preparation.view != "image" and (
            len(self.spacing) not in (0, 3) or any(not (math.isfinite(s) and s >= 0) for s in self.spacing)
        ):
            raise ModelError(f"A spacing is three numbers of mm, 0 to keep an axis, or empty. Got {self.spacing}.")
        for name in ("parameters", "training", "metrics"):  # own copies
            object.__setattr__(self, name, Table(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain data, without parts of the calibration that hold nothing."""
        data = dict(_plain(self))
        known = data["calibration"]
        nothing = Calibration()
        for name in ("temperature", "finding", "inputs", "order"):
            if getattr(self.calibration, name) == getattr(nothing, name):
                del known[name]
        return data

    def to_toml(self) -> str:
        """Return the card as TOML text."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str, source: str = "the card") -> ModelCard:
        """Read a card from TOML text; `source` names it in errors.

        Raises
        ------
        ModelError
            If the text is no TOML, or an entry is missing, unknown or of the wrong type.
        """
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or lists in lists
            raise ModelError(f"{source} is no valid TOML: {error}.") from error
        schema = data.get("schema_version", SCHEMA_VERSION)
        if isinstance(schema, int) and schema > SCHEMA_VERSION:  # before its new entries are called unknown
            raise ModelError(
                f"{source}: this version reads cards of schema {SCHEMA_VERSION} and older. Got {schema}; "
                "update inspection-suite."
            )
        return build(cls, data, source)

    @classmethod
    def load(cls, folder: Path) -> ModelCard:
        """Read ``card.toml`` in a model's folder."""
        path = Path(folder) / CARD_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ModelError(
                f"A model is a folder with {CARD_NAME} and its weights. Found no {CARD_NAME} in {folder}; "
                "make a model with `inspection fit`, or list what there is with `inspection models list`."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from error
        return cls.from_toml(text, str(path))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def build(cls: type[T], data: Any, where: str) -> T:
    """Make a (nested) frozen dataclass from plain data, with an error that names the entry."""
    if not isinstance(data, dict):
        raise ModelError(f"{where} must be a table. Got {type(data).__name__}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(fields)):
        raise ModelError(f"{where} has unknown entries {unknown}. Known are {sorted(fields)}.")
    needed = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in data
    ]
    if needed:
        raise ModelError(f"{where} lacks {needed}; see docs/add-a-model.md for what a card holds.")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ModelError(f"{where} must be a list. Got {value!r}.")
        of = args[0]
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ModelError(f"{where} must have {len(args)} entries. Got {value!r}.")
        return tuple(_convert(of, v, where) for v in value)
    if origin is Literal:
        if value not in args:
            raise ModelError(f"{where} must be one of {list(args)}. Got {value!r}.")
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ModelError(f"{where} must be a number below 1e308. Got a larger one.") from None
    if kind in (str, int) and (not isinstance(value, kind) or isinstance(value, bool)):
        raise ModelError(f"{where} must be {'text' if kind is str else 'a whole number'}. Got {value!r}.")
    if kind is bool and not isinstance(value, bool):
        raise ModelError(f"{where} must be true or false. Got {value!r}.")
    if kind is float:
        raise ModelError(f"{where} must be a number. Got {value!r}.")
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ModelError(f"{where} must be a table. Got {value!r}.")
        return {k: _scalars(v, f"{where}: {k}") for k, v in value.items()}
    return value


def _scalars(value: Any, where: str) -> Any:
    """Check one entry of a free table: a scalar or a list of scalars."""
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(v, (str, int, float, bool)) for v in entries):
        raise ModelError(f"{where} must be text, a number, true or false, or a list of those. Got {value!r}.")
    return tuple(entries) if isinstance(value, list) else value
