"""What every architecture that segments keeps. One without a fitter needs a maker here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inspection_core.card import ModelCard, Policy, Preparation
from inspection_core.device import Device
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import ModelError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.models import FITTERS, MODELS, load_predictor, monai_unet, timm_unet, weights
from inspection_core.models.exported import make as make_exported
from inspection_core.models.intensity_band import make
from inspection_core.prepare import prepare

CPU = Device("cpu")
VIEWS = {"image": (8, 8), "slices": (8, 8), "volume": (8, 8, 8)}


def card_of(view: str, **changes) -> ModelCard:
    preparation = Preparation(
        window=(0.0, 1.0), short_side=0, multiple=8, tile=8, view=view, neighbours=int(view == "slices")
    )
    given = {
        "id": "s", "version": "1", "architecture": "x", "task": "segmentation", "channels": ("a", "b"),
        "score": "1 - P(background)", "classes": ("low", "high"), "preparation": preparation,
        "policy": Policy(kind="band", low=0.3, high=0.7),
    }  # fmt: skip
    return ModelCard(**(given | changes))


def untrained(architecture, module):
    """Return what makes two networks with random weights."""

    def write(folder, card, _):
        parameters = {"members": 2} | ({"channels": (4, 8)} if architecture == "monai-unet" else {})
        card = replace(card, architecture=architecture, parameters=parameters)
        torch.manual_seed(0)
        tensors = {f"{k}.{n}": t for k in range(2) for n, t in module.build(card).state_dict().items()}
        return weights.save(folder, card, tensors)

    return write


def exported(kind: str):
    """Return what makes a model folder of a file of `kind`."""

    def write(folder, card, networks):
        channels = len(card.channels) * (2 * card.preparation.neighbours + 1)
        network = networks.convolution(channels, 1 + len(card.classes), len(VIEWS[card.preparation.view]))
        return make_exported(
            folder,
            replace(card, parameters={"activation": "softmax"}),
            networks.KINDS[kind](folder.with_name("net"), network, channels),
        )

    return write


# architecture: (what makes a model of two channels and two classes, the views that it has)
MAKERS = {
    "intensity-band": (lambda folder, card, networks: make(folder, card, [(0.3, 0.6), (0.6, 0.9)]), tuple(VIEWS)),
    "monai-unet": (untrained("monai-unet", monai_unet), ("volume",)),
    "timm-unet": (untrained("timm-unet", timm_unet), ("slices",)),
    **{kind: (exported(kind), tuple(VIEWS)) for kind in ("onnx", "openvino", "torchscript")},
}


@pytest.fixture(params=[(name, view) for name, (_, views) in MAKERS.items() for view in views], ids="-".join)
def loaded(request, tmp_path, networks):
    name, view = request.param
    card = MAKERS[name][0](tmp_path / "m", card_of(view), networks)
    return card, load_predictor(tmp_path / "m", card, CPU)


def batch(card: ModelCard, count: int = 2) -> torch.Tensor:
    preparation = card.preparation
    channels = len(card.channels) * (2 * preparation.neighbours + 1)
    return torch.rand((count, channels, *VIEWS[preparation.view]), generator=torch.Generator().manual_seed(0))


def test_every_architecture_is_tested_here_or_has_a_fitter():
    assert set(MODELS) == set(MAKERS) | set(FITTERS)


def test_probabilities_of_all_classes_and_the_background(loaded):
    card, network = loaded
    with torch.inference_mode():
        given = network(batch(card))
    cells = [n // network.stride for n in VIEWS[card.preparation.view]]
    classes = 1 + len(card.classes)
    assert given.shape == (2, classes + getattr(network, "spread", False), *cells)
    assert given.min() >= 0
    assert torch.allclose(given[:, :classes].sum(dim=1), torch.ones(()), atol=1e-5)


def test_company_in_a_batch_changes_nothing(loaded):
    card, network = loaded
    two = batch(card)
    alone = torch.zeros_like(two)
    alone[0] = two[0]
    with torch.inference_mode():
        assert torch.allclose(network(alone)[0], network(two)[0], rtol=1e-5, atol=1e-6)


def test_a_loaded_model_says_what_runs_it(tmp_path, networks):
    """A result's device is compared between runs, so it names a runtime, and where it is torch nothing more."""
    for number, (name, (make_one, views)) in enumerate(MAKERS.items()):
        folder = tmp_path / str(number)
        make_one(folder, card_of(views[-1]), networks)
        model = Engine("cpu/openvino").load(folder)
        own = name in ("monai-unet", "timm-unet")
        assert str(model.device) == ("cpu float32 openvino" if own else "cpu float32"), name
        assert model.lanes == 1, name  # what such a network gives is written over by its next call


def test_stride_fits_the_multiple(loaded):
    card, network = loaded
    assert card.preparation.multiple % network.stride == 0


def test_a_band_is_found_where_it_is(tmp_path):
    card = card_of("volume", channels=("CT",))
    make(tmp_path / "m", card, [(0.3, 0.6), (0.6, 0.9)])
    array = np.zeros((1, 9, 10, 11), np.float32)
    array[0, 2:4, 3:5, 4:6] = 0.45
    array[0, 6:8, 6:9, 7:9] = 0.75
    prediction = predict(
        Image(array, Geometry.from_spacing((9, 10, 11), (2, 1, 1)), ("CT",)), Engine("cpu").load(tmp_path / "m")
    )
    assert np.array_equal(prediction.mask, np.where(array[0] == 0.45, 1, 0) + np.where(array[0] == 0.75, 2, 0))
    assert sorted((f.label, f.size, f.size_unit) for f in prediction.findings) == [
        ("high", 24, "mm3"),
        ("low", 16, "mm3"),
    ]
    assert prediction.verdict == "NG"
    assert prediction.image_score == max(f.confidence for f in prediction.findings)
    assert not any(f.calibrated for f in prediction.findings)


# name: (bands, message)
BAD = {
    "another number": ([(0, 1)], r"Each class has one band .* Got \[\(0, 1\)\] for \['low', 'high'\]"),
    "turned round": ([(0, 1), (2, 1)], r"low < high"),
}


@pytest.mark.parametrize(("bands", "message"), BAD.values(), ids=BAD)
def test_bands_that_make_no_sense(tmp_path, bands, message):
    with pytest.raises(ModelError, match=message):
        make(tmp_path, card_of("volume"), bands)


def test_a_channel_that_is_not_there(tmp_path):
    card = make(tmp_path, card_of("volume", parameters={"channel": 2}), [(0, 1), (1, 2)])
    with pytest.raises(ModelError, match=r"looks at one of 2 channels, from 0\. Got 2 in parameters"):
        load_predictor(tmp_path, card, CPU)


def test_a_model_that_segments_needs_a_band(tmp_path):
    make(tmp_path, card_of("volume", channels=("CT",), policy=Policy()), [(0.3, 0.6), (0.6, 0.9)])
    image = Image(np.zeros((1, 8, 8, 8), np.float32), Geometry.pixels((8, 8, 8)), ("CT",))
    with pytest.raises(ModelError, match=r'segments, so its policy is "band"\. Got \'p-value\' on its card'):
        predict(image, Engine("cpu").load(tmp_path))


def test_pictures_can_be_segmented_too(tmp_path):
    card = make(tmp_path, card_of("image", channels=("grey",)), [(0.3, 0.6), (0.6, 0.9)])
    array = np.zeros((1, 20, 30), np.float32)
    array[0, 5:9, 10:20] = 0.45
    prediction = predict(Image(array, Geometry.pixels((20, 30)), ("grey",)), Engine("cpu").load(tmp_path))
    (finding,) = prediction.findings
    assert (finding.label, finding.size_unit, card.task) == ("low", "px", "segmentation")
    assert np.abs(np.array(finding.centroid_index) - (6.5, 14.5)).max() < 0.5


def test_blocks_in_openvino_are_those_of_torch(tmp_path):
    """Also on the way down the ladder, where a device is asked for that OpenVINO is not used on."""
    pytest.importorskip("openvino")
    card = card_of("volume")
    card = replace(card, preparation=replace(card.preparation, window_size=(16, 16, 16)))
    card = untrained("monai-unet", monai_unet)(tmp_path, card, None)
    batch = torch.rand(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    predictor = load_predictor(tmp_path, card, Device("cpu", runtime="openvino"))
    with torch.inference_mode():
        compiled = predictor(batch).clone()
        predictor.to(CPU)
        assert torch.allclose(predictor(batch), compiled, atol=1e-5)
        predictor.to(Device("cpu", runtime="openvino"))
        assert torch.equal(predictor(batch), compiled)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_lone_network_gives_logits_and_the_result_is_the_same(tmp_path, average, temperature):
    """Beside the same network asked for probabilities, over windows that overlap."""
    card = card_of("volume")
    card = replace(
        card,
        preparation=replace(card.preparation, window_size=(16, 16, 16), overlap=0.5, average=average),
        calibration=replace(card.calibration, temperature=temperature),
    )
    card = replace(card, architecture="monai-unet", parameters={"channels": (4, 8)})
    torch.manual_seed(0)
    network = monai_unet.build(card)
    card = weights.save(tmp_path, card, {f"0.{name}": t for name, t in network.state_dict().items()})
    predictor = load_predictor(tmp_path, card, CPU)
    assert predictor.logits

    class Probabilities:
        stride, offset = 1, 0.0

        def __call__(self, batch):
            return network.eval()(batch).softmax(dim=1)

        def to(self, device):
            pass

    rng = np.random.default_rng(0)
    image = Image(rng.random((2, 24, 20, 40), np.float32), Geometry.from_spacing((24, 20, 40), (1, 1, 1)), ("a", "b"))
    prepared = prepare(image, card)
    found, expected = (
        LoadedModel(card, tmp_path, one, CPU).run_foreground(prepared)[0] for one in (predictor, Probabilities())
    )
    assert np.allclose(found, expected, atol=1e-3)
    assert found.std() > 0.01
