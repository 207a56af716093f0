"""The search at the end of a graph finds what the search by itself finds."""

import numpy as np
import pytest
import torch

from inspection_core.models.compiled import Compiled, convert
from inspection_core.models.compiled_search import GROUP, STEP, References, search_alone, with_search
from inspection_core.models.nearest import CHUNKS, Memory, principal

DIM = 24


class Features(torch.nn.Module):
    """Stands for a network: its input is the features, ``(B, d, h, w)``."""

    def forward(self, batch):
        return batch.permute(0, 2, 3, 1), (batch * 0.5).permute(0, 2, 3, 1)


def references(count: int, basis: bool, seed: int) -> References:
    torch.manual_seed(seed)
    vectors = torch.randn((count, DIM))
    return References(Memory(vectors, principal(torch.randn((40, DIM)), 8) if basis else None), torch.rand(count) + 0.5)


def searched(first: References, second: References, batch: torch.Tensor) -> list[np.ndarray]:
    return Compiled(with_search(convert(Features().eval(), batch), [first, second]))(batch.numpy())


@pytest.mark.parametrize("basis", [False, True], ids=["exact", "in a basis"])
@pytest.mark.parametrize(
    "count", [1, GROUP - 1, GROUP + 1, STEP, STEP + 5, 2 * STEP + GROUP, 256 * CHUNKS, (STEP + 9) * CHUNKS]
)
def test_scores_and_references_are_those_of_the_memory(count, basis):
    first, second = references(count, basis, 0), references(300, not basis, 1)
    batch = torch.randn((2, DIM, 5, 7))
    found = searched(first, second, batch)
    for one, values, (score, number) in zip((first, second), (batch, batch * 0.5), (found[:2], found[2:]), strict=True):
        distance, nearest = one.memory.search(values.permute(0, 2, 3, 1).reshape(-1, DIM))
        wanted = distance[:, 0] * one.density[nearest[:, 0]]
        assert score.shape == number.shape == (2, 5, 7)
        assert score.ravel() == pytest.approx(wanted.numpy(), rel=1e-5)
        assert np.array_equal(number.ravel(), nearest[:, 0].numpy())


@pytest.mark.parametrize("basis", [False, True], ids=["exact", "in a basis"])
def test_the_search_by_itself_gives_the_same_to_the_bit(basis):
    first, second = references(STEP + 5, basis, 0), references(300, not basis, 1)
    batch = torch.randn((1, DIM, 5, 7))
    found = searched(first, second, batch)
    features = [values.permute(0, 2, 3, 1).contiguous().numpy() for values in (batch, batch * 0.5)]
    for one, values, wanted in zip((first, second), features, (found[:2], found[2:]), strict=True):
        assert all(map(np.array_equal, Compiled(search_alone(one))(values), wanted))


def test_a_reference_finds_itself_at_distance_0():
    one = references(STEP + 40, False, 0)
    places = torch.tensor([[0, GROUP - 1], [GROUP, STEP + 39]])
    score, number, *_ = searched(one, one, one.memory.vectors[places].permute(2, 0, 1)[None])
    assert np.array_equal(number[0], places.numpy())
    assert score.max() == 0


@pytest.mark.parametrize("count", [GROUP + 1, 256 * CHUNKS])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_patch_that_is_no_number_is_given_a_reference_that_there_is_and_no_score(bad, count):
    one = references(count, True, 0)
    score, number, *_ = searched(one, one, torch.full((1, DIM, 2, 2), bad))
    assert ((number >= 0) & (number < len(one.memory))).all()
    assert not np.isfinite(score).any()


def test_the_graph_holds_the_references_once_whole_and_once_short_however_many_candidates():
    one = references(1000 * CHUNKS, True, 0)
    held = sum(node.data.nbytes for node in search_alone(one).get_ordered_ops() if node.get_type_name() == "Constant")
    assert held < 1.2 * 4 * len(one.memory) * (DIM + len(one.memory.columns) + 2)
