"""ModelCard: what goes into card.toml comes out of it, and every error."""

import copy
import dataclasses
import pickle
import typing

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection_core.card import CARD_NAME, SCHEMA_VERSION, Calibration, ModelCard, Policy, Preparation
from inspection_core.errors import ModelError

CARD = ModelCard("screws", "1", "patch-memory", "anomaly", ("grey",), "distance, higher is stranger")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # no surrogates: they are no text
NAMES = st.text("abcXYZ019_-. é欠", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
SCALARS = st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1), FLOATS, st.booleans())
TABLES = st.dictionaries(TEXT, st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(tuple)), max_size=3)


@st.composite
def preparations(draw):
    # Not so far apart that their difference is infinite: such a window is refused.
    low, high = sorted(draw(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=2, unique=True)))
    multiple = draw(st.integers(1, 64))
    return Preparation(
        window=(low, high),
        dtype=draw(st.sampled_from(["", "uint8", "uint16", "float32"])),
        short_side=draw(st.integers(0, 4096)),
        scale=draw(st.floats(0.01, 10)),
        multiple=multiple,
        tile=draw(st.integers(multiple, 4096)),
        overlap=draw(st.floats(0, 0.99)),
    )


@st.composite
def policies(draw):
    alarms, review = sorted(draw(st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=2)))
    low, high = sorted(draw(st.lists(FLOATS, min_size=2, max_size=2)))
    return Policy(draw(st.sampled_from(["p-value", "band"])), alarms, review, low, high)


CALIBRATIONS = st.builds(
    Calibration,
    TEXT,
    st.lists(FLOATS, max_size=5).map(tuple),
    st.lists(FLOATS, max_size=5).map(tuple),
    pixel_low=FLOATS,
)
CARDS = st.builds(
    ModelCard,
    id=NAMES,
    version=TEXT,
    architecture=TEXT,
    task=st.sampled_from(["anomaly", "segmentation"]),
    channels=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    score=TEXT,
    classes=st.lists(TEXT, max_size=3).map(tuple),
    spacing=st.lists(st.floats(0.1, 10), max_size=3).map(tuple),
    preparation=preparations(),
    policy=policies(),
    calibration=CALIBRATIONS,
    parameters=TABLES,
    intended_use=TEXT,
    limits=TEXT,
    licence=TEXT,
    training=TABLES,
    metrics=TABLES,
    weights=NAMES,
    weights_sha256=TEXT,
)


@given(CARDS)
@settings(max_examples=50, deadline=None)
def test_toml_round_trip(card):
    assert ModelCard.from_toml(card.to_toml()) == card


@given(CARDS)
@settings(max_examples=20, deadline=None)
def test_a_card_is_a_fixed_point(card):
    assert ModelCard.from_toml(card.to_toml()).to_toml() == card.to_toml()


def test_a_folder_gives_its_card(tmp_path):
    (tmp_path / CARD_NAME).write_text(CARD.to_toml(), encoding="utf-8")
    assert ModelCard.load(tmp_path) == CARD


def test_every_entry_has_its_default_from_the_noun():
    text = tomli_w.dumps(
        {"id": "a", "version": "1", "architecture": "x", "task": "anomaly", "channels": ["grey"], "score": "s"}
    )
    assert ModelCard.from_toml(text) == ModelCard("a", "1", "x", "anomaly", ("grey",), "s")


def test_whole_numbers_stand_for_floats():
    text = CARD.to_toml().replace("scale = 1.0", "scale = 2")
    scale = ModelCard.from_toml(text).preparation.scale
    assert (scale, type(scale)) == (2.0, float)


@given(st.lists(FLOATS, max_size=9))
def test_calibration_scores_ascend(scores):
    calibration = Calibration("split", tuple(scores), tuple(scores))
    assert calibration.scores == calibration.peaks == tuple(sorted(scores))


def test_tables_are_copies_that_refuse_writing():
    table = {"seed": 1}
    card = dataclasses.replace(CARD, training=table)
    table["seed"] = 2
    assert card.training == {"seed": 1}
    with pytest.raises(TypeError, match="does not support item assignment"):
        card.training["seed"] = 3


def test_a_card_travels_between_processes():
    card = dataclasses.replace(CARD, training={"seed": 1, "names": ("a", "b")})
    assert pickle.loads(pickle.dumps(card)) == copy.deepcopy(card) == card  # noqa: S301 - our own bytes


def test_every_field_has_a_type_that_toml_can_hold():
    for cls in (Preparation, Policy, Calibration, ModelCard):
        for kind in typing.get_type_hints(cls).values():
            assert kind is not typing.Any


# name: (function, message)
VALUE_ERRORS = {
    "window upside down": (
        lambda: Preparation(window=(2.0, 1.0)),
        "An intensity window is (low, high), finite, with low < high. Got (2.0, 1.0).",
    ),
    "window of nan": (lambda: Preparation(window=(0.0, float("nan"))), "An intensity window is (low, high), finite,"),
    "overlap of 1": (lambda: Preparation(overlap=1.0), "The overlap of tiles is in [0, 1). Got 1.0."),
    "negative overlap": (lambda: Preparation(overlap=-0.1), "The overlap of tiles is in [0, 1). Got -0.1."),
    "tile below multiple": (
        lambda: Preparation(tile=16),
        "The inference size needs short_side >= 0, scale > 0 and tile >= multiple >= 1. Got 256, 1.0, 16, 32.",
    ),
    "negative side": (lambda: Preparation(short_side=-1), "The inference size needs short_side >= 0, scale > 0 and"),
    "side that is no number": (lambda: Preparation(side=float("nan")), "The inference size needs side >= 0 and scales"),
    "scales in the wrong order": (lambda: Preparation(scales=(2.0, 1.0)), "The inference size needs side >= 0 and sc"),
    "scale of 0": (lambda: Preparation(scale=0.0), "The inference size needs short_side >= 0, scale > 0 and"),
    "scale without end": (lambda: Preparation(scale=float("inf")), "The inference size needs short_side >= 0, scale >"),
    "scale that is no number": (lambda: Preparation(scale=float("nan")), "The inference size needs short_side >= 0, "),
    "scales without end": (lambda: Preparation(scales=(float("inf"),) * 2), "The inference size needs side >= 0 and "),
    "multiple of 0": (lambda: Preparation(multiple=0), "The inference size needs short_side >= 0, scale > 0 and"),
    "policy of another kind": (
        lambda: Policy("guess"),
        'A threshold policy is "p-value" or "band". Got \'guess\'.',
    ),
    "no false alarms": (
        lambda: Policy(max_false_alarms=0.0),
        "The share of false alarms is between 0 and 1. Got 0.0.",
    ),
    "all false alarms": (
        lambda: Policy(max_false_alarms=1.0),
        "The share of false alarms is between 0 and 1. Got 1.0.",
    ),
    "review below the false alarms": (
        lambda: Policy(max_false_alarms=0.2, review=0.1),
        "The review share is between the share of false alarms, 0.2, and 1. Got 0.1.",
    ),
    "review above 1": (
        lambda: Policy(review=1.5),
        "The review share is between the share of false alarms, 0.05, and 1",
    ),
    "band upside down": (lambda: Policy("band", low=2.0, high=1.0), "A verdict band has low <= high. Got 2.0 and 1.0."),
    "band that is no number": (lambda: Policy("band", low=float("nan")), "A verdict band has low <= high. Got nan and"),
    "calibration that is no number": (
        lambda: Calibration(scores=(1.0, float("nan"))),
        "Calibration scores are finite. Got NaN or infinity in the card; fit the model again.",
    ),
    "peaks without end": (lambda: Calibration(peaks=(float("inf"),)), "Calibration scores are finite. Got NaN or inf"),
    "outline that is no number": (lambda: Calibration(pixel_low=float("nan")), "Calibration scores are finite. Got"),
    "top share above 1": (
        lambda: dataclasses.replace(CARD, parameters={"top": 5.0}),
        "The share of cells that makes an image's score, `top`, is in [0, 1]. Got 5.0.",
    ),
    "top share that is no number": (
        lambda: dataclasses.replace(CARD, parameters={"top": float("nan")}),
        "The share of cells that makes an image's score, `top`, is in [0, 1]. Got nan.",
    ),
    "top share of text": (
        lambda: dataclasses.replace(CARD, parameters={"top": "x"}),
        "The share of cells that makes an image's score, `top`, is in [0, 1]. Got 'x'.",
    ),
    "id with a slash": (
        lambda: dataclasses.replace(CARD, id="a/b"),
        "A model's id is a plain name without slashes. Got 'a/b'.",
    ),
    "id of dots": (
        lambda: dataclasses.replace(CARD, id=".."),
        "A model's id is a plain name without slashes. Got '..'",
    ),
    "no id": (lambda: dataclasses.replace(CARD, id=""), "A model's id is a plain name without slashes. Got ''."),
    "weights elsewhere": (
        lambda: dataclasses.replace(CARD, weights="../w.safetensors"),
        "The weights lie beside the card, under a plain file name. Got '../w.safetensors'.",
    ),
    "weights of dots": (
        lambda: dataclasses.replace(CARD, weights=".."),
        "The weights lie beside the card, under a plain file name. Got '..'.",
    ),
    "another task": (
        lambda: dataclasses.replace(CARD, task="guess"),
        'A task is "anomaly" or "segmentation". Got \'guess\'.',
    ),
    "no channels": (
        lambda: dataclasses.replace(CARD, channels=()),
        "A model takes at least one channel. Got none in `channels`.",
    ),
}


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_errors(name):
    make, message = VALUE_ERRORS[name]
    with pytest.raises(ModelError) as caught:
        make()
    assert str(caught.value).startswith(message)


def changed(old, new):
    """The card's text with one place replaced, which must be there."""
    text = CARD.to_toml()
    assert old in text
    return text.replace(old, new)


# name: (text, message)
TEXT_ERRORS = {
    "no toml": ("a = = b", "here.toml is no valid TOML: "),
    "an unknown entry": (
        'colour = "red"\n' + CARD.to_toml(),
        "here.toml has unknown entries ['colour']. Known are ['architecture', 'calibration', 'channels',",
    ),
    "an unknown entry inside": (
        changed("[policy]", '[policy]\ncolour = "red"'),
        "here.toml: policy has unknown entries ['colour']. Known are ['high', 'kind', 'least', 'low',",
    ),
    "a newer schema": (
        changed(f"schema_version = {SCHEMA_VERSION}", f"schema_version = {SCHEMA_VERSION + 1}\nnews = 1"),
        f"here.toml: this version reads cards of schema {SCHEMA_VERSION} and older. Got {SCHEMA_VERSION + 1};",
    ),
    "missing entries": (
        'id = "a"',
        (
            "here.toml lacks ['version', 'architecture', 'task', 'channels', 'score']; "
            "see docs/add-a-model.md for what a card holds."
        ),
    ),
    "no table": (
        "policy = 3\n" + CARD.to_toml().split("[preparation]")[0],
        "here.toml: policy must be a table. Got int.",
    ),
    "no list": (
        changed('channels = [\n    "grey",\n]', 'channels = "grey"'),
        "here.toml: channels must be a list. Got 'grey'.",
    ),
    "a list too long": (
        changed("window = [\n    0.0,", "window = [\n    0.0,\n    1.0,"),
        "here.toml: preparation: window must have 2 entries. Got [0.0, 1.0, 255.0].",
    ),
    "another choice": (
        changed('task = "anomaly"', 'task = "guess"'),
        "here.toml: task must be one of ['anomaly', 'segmentation']. Got 'guess'.",
    ),
    "a number for text": (changed('version = "1"', "version = 1"), "here.toml: version must be text. Got 1."),
    "text for a whole number": (
        changed("tile = 768", 'tile = "768"'),
        "here.toml: preparation: tile must be a whole number. Got '768'.",
    ),
    "a fraction for a whole number": (
        changed("tile = 768", "tile = 76.8"),
        "here.toml: preparation: tile must be a whole number. Got 76.8.",
    ),
    "yes for a whole number": (
        changed("tile = 768", "tile = true"),
        "here.toml: preparation: tile must be a whole number. Got True.",
    ),
    "text for a number": (
        changed("scale = 1.0", 'scale = "1"'),
        "here.toml: preparation: scale must be a number. Got '1'.",
    ),
    "a number of thousands of digits": ("a = " + "9" * 5000, "here.toml is no valid TOML: "),
    "lists in lists without end": ("a = " + "[" * 5000, "here.toml is no valid TOML: "),
    "a number that no float can hold": (
        changed("scale = 1.0", "scale = 1" + "0" * 400),
        "here.toml: preparation: scale must be a number below 1e308. Got a larger one.",
    ),
    "yes for a number": (
        changed("scale = 1.0", "scale = true"),
        "here.toml: preparation: scale must be a number. Got True.",
    ),
    "text in a list of numbers": (
        changed("window = [\n    0.0,", 'window = [\n    "a",'),
        "here.toml: preparation: window must be a number. Got 'a'.",
    ),
}


@pytest.mark.parametrize("name", TEXT_ERRORS)
def test_text_errors(name):
    text, message = TEXT_ERRORS[name]
    with pytest.raises(ModelError) as caught:
        ModelCard.from_toml(text, "here.toml")
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(".")


def test_no_card_in_a_folder(tmp_path):
    message = (
        f"A model is a folder with card.toml and its weights. Found no card.toml in {tmp_path}; "
        "make a model with `inspection fit`, or list what there is with `inspection models list`."
    )
    with pytest.raises(ModelError) as caught:
        ModelCard.load(tmp_path)
    assert str(caught.value) == message


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(ModelError, match=r"^A model is a folder with card\.toml"):
        ModelCard.load(tmp_path / "model")


def test_a_card_that_is_a_folder(tmp_path):
    (tmp_path / CARD_NAME).mkdir()
    with pytest.raises(ModelError, match=r"card\.toml cannot be read: .*\.$"):
        ModelCard.load(tmp_path)


def test_a_card_that_is_no_text(tmp_path):
    (tmp_path / CARD_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=r"card\.toml cannot be read: 'utf-8' codec .*\.$"):
        ModelCard.load(tmp_path)
