"""Weights on disk: what goes in comes out, and what was tampered with is refused."""

import dataclasses
import os
import pickle
import sys

import pytest
import torch
from safetensors import SafetensorError

from inspection_core.card import CARD_NAME, ModelCard
from inspection_core.errors import ModelError
from inspection_core.models import weights

CARD = ModelCard("m", "1", "x", "anomaly", ("grey",), "s")
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def test_round_trip(tmp_path):
    card = weights.save(tmp_path / "m", CARD, TENSORS)
    assert ModelCard.load(tmp_path / "m") == card
    loaded = weights.load(tmp_path / "m", card)
    assert set(loaded) == set(TENSORS)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_the_card_holds_the_hash_of_the_file(tmp_path):
    card = weights.save(tmp_path, CARD, TENSORS)
    assert card.weights_sha256 == weights.sha256(tmp_path / card.weights)
    assert len(card.weights_sha256) == 64


def test_equal_tensors_make_equal_files(tmp_path):
    first = weights.save(tmp_path / "1", CARD, TENSORS)
    turned = {"a": TENSORS["a"].T.contiguous().T, "b": TENSORS["b"]}  # other strides, same values
    assert weights.save(tmp_path / "2", CARD, turned) == first


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
def test_others_may_read_a_model_as_far_as_the_card(tmp_path):
    """A group shares its models on one drive."""
    card = weights.save(tmp_path, CARD, TENSORS)
    assert (tmp_path / card.weights).stat().st_mode == (tmp_path / CARD_NAME).stat().st_mode


def test_a_crash_while_saving_leaves_no_card(tmp_path, monkeypatch):
    def crash(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "sha256", crash)
    with pytest.raises(KeyboardInterrupt):
        weights.save(tmp_path, CARD, TENSORS)
    assert list(tmp_path.iterdir()) == []


def tampered(folder, card):
    """Flip one bit of the last number."""
    path = folder / card.weights
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return card


def truncated(folder, card):
    path = folder / card.weights
    path.write_bytes(path.read_bytes()[:-5])
    return card


def missing(folder, card):
    (folder / card.weights).unlink()
    return card


def a_folder(folder, card):
    (folder / card.weights).unlink()
    (folder / card.weights).mkdir()
    return card


def of_another_kind(folder, card):
    """A file that the card was written for, but no safetensors."""
    (folder / card.weights).write_bytes(b"not tensors at all")
    return dataclasses.replace(card, weights_sha256=weights.sha256(folder / card.weights))


# name: (what happens to the folder, message)
DAMAGE = {
    "tampered": (
        tampered,
        r"for: expected SHA-256 [0-9a-f]{12}\.{3}, got [0-9a-f]{12}\.{3} Copy the model folder again, or fit it",
    ),
    "truncated": (truncated, r"are not those that the card was written for"),
    "missing": (missing, r"cannot be read: No such file or directory\. Copy the whole model folder\.$"),
    "folder": (a_folder, r"cannot be read: .*\. Copy the whole model folder\.$"),
    "no safetensors": (of_another_kind, r"weights\.safetensors are no valid safetensors file: .*\.$"),
}


def test_a_full_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    def full(tensors, path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        weights.save(tmp_path, CARD, {})
    assert caught.value.filename == str(tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(tmp_path, name):
    damage, message = DAMAGE[name]
    card = damage(tmp_path, weights.save(tmp_path, CARD, TENSORS))
    with pytest.raises(ModelError, match=message):
        weights.load(tmp_path, card)


def test_a_pickle_under_the_right_name_and_hash_is_not_run(tmp_path):
    """Whoever can change the weights can change the card too; still nothing is executed."""

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / CARD.weights).write_bytes(pickle.dumps(Hostile()))
    card = dataclasses.replace(CARD, weights_sha256=weights.sha256(tmp_path / CARD.weights))
    with pytest.raises(ModelError, match="no valid safetensors file"):
        weights.load(tmp_path, card)
    assert not (tmp_path / "executed").exists()


def test_take():
    assert weights.take(TENSORS, "a", 2) is TENSORS["a"]
    with pytest.raises(ModelError, match=r"^The weights lack 'c'\. They hold \['a', 'b'\]; fit the model anew\.$"):
        weights.take(TENSORS, "c", 2)
    with pytest.raises(ModelError, match=r"^The weights' 'a' should have 1 axes\. Got shape \(2, 3\)\.$"):
        weights.take(TENSORS, "a", 1)


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="rights do not bind here")
def test_weights_that_may_not_be_read(tmp_path):
    card = weights.save(tmp_path, CARD, TENSORS)
    (tmp_path / card.weights).chmod(0)
    with pytest.raises(ModelError, match=r"cannot be read: Permission denied"):
        weights.load(tmp_path, card)


def test_a_folder_with_a_card_is_whole(tmp_path):
    weights.save(tmp_path, CARD, TENSORS)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CARD_NAME, "weights.safetensors"]
